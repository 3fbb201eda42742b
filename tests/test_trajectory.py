"""A run of checkpoints: grouping, stores, resumption."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zarr
from problems import WITH_A_STATE, Quadratic, quadratic_loss, shifted

import jaxllc
from jaxllc.store import stored_attributes

PROBLEM = Quadratic()
RUN = {10 * i: shifted(PROBLEM.params, 0.02 * i) for i in range(5)}


def follow(checkpoints=RUN, data=PROBLEM.data, **options):
    settings = dict(key=jax.random.key(0), sampler=jaxllc.SGLD(2e-3), nbeta=50.0, localization=3.0, num_chains=4, num_draws=60, num_burn_in=10, progress=False)
    return jaxllc.trajectory(quadratic_loss, checkpoints, data, **(settings | options))


def draws(traj):
    return traj.data["posterior/llc"].values


@pytest.mark.parametrize("over", [True, "nbeta"])
def test_extrapolations_are_kept_and_resumed(over, tmp_path):
    """From the store come the draws of both rungs, by a step size that is left to the curvature and larger in burn-in too."""
    options = dict(sampler=jaxllc.SGLD(None, burn_in_factor=4.0), extrapolate=over)
    follow({0: RUN[0], 20: RUN[20]}, store=tmp_path / "llc.zarr", **options)
    grown = follow(store=tmp_path / "llc.zarr", **options)
    plain = follow(**options)
    np.testing.assert_allclose(draws(grown), draws(plain), rtol=1e-4, atol=1e-4)
    name = {True: "half_step_llc", "nbeta": "twice_nbeta_llc"}[over]
    np.testing.assert_allclose(grown.data[f"sample_stats/{name}"].values, plain.data[f"sample_stats/{name}"].values, rtol=1e-4, atol=1e-4)
    assert grown.table()["findings"].to_list() == plain.table()["findings"].to_list()
    assert grown.data.attrs["extrapolate"] == over


def test_the_numbers_do_not_depend_on_the_group():
    for size in (1, 2, 3):
        np.testing.assert_allclose(draws(follow(group_size=size)), draws(follow(group_size=5)), rtol=1e-4, atol=1e-4)


def test_a_trajectory_is_its_estimates():
    traj = follow()
    est = jaxllc.estimate(
        quadratic_loss,
        RUN[20],
        PROBLEM.data,
        key=jax.random.key(0),
        sampler=jaxllc.SGLD(2e-3),
        nbeta=50.0,
        localization=3.0,
        num_chains=4,
        num_draws=60,
        num_burn_in=10,
        progress=False,
    )
    np.testing.assert_allclose(traj.data["posterior/llc"].sel(step=20), est.data["posterior/llc"], rtol=1e-4, atol=1e-4)
    assert traj.table().loc[20, "llc"] == pytest.approx(est.llc, rel=1e-4)


def test_common_random_numbers_make_changes_sharp():
    """Five centres on a line: chains share all their noise, so the error of a change is far below that of a value."""
    table = follow(num_draws=500).table()
    assert (table["change_error"][1:] < table["std_error"][1:] / 5).all()


def test_table_has_one_row_a_step():
    table = follow().table()
    assert list(table.index) == [0, 10, 20, 30, 40]
    assert {"llc", "std_error", "loss", "mean_loss", "rhat", "ess", "change", "change_error", "findings"} <= set(table.columns)


def test_a_store_gives_what_memory_gives(tmp_path):
    stored, plain = follow(store=tmp_path / "llc.zarr"), follow()
    np.testing.assert_array_equal(draws(stored), draws(plain))
    assert stored.data.attrs["sampler"] == plain.data.attrs["sampler"]
    assert [path.name for path in tmp_path.iterdir()] == ["llc.zarr"]


def test_a_store_opens_with_xarray_alone(tmp_path):
    import xarray as xr

    traj = follow(store=tmp_path / "llc.zarr")
    with xr.open_datatree(tmp_path / "llc.zarr", engine="zarr", consolidated=False) as tree:
        np.testing.assert_array_equal(tree["posterior/llc"].values, draws(traj))
        assert tree["posterior/llc"].dims == ("step", "chain", "draw")
        np.testing.assert_array_equal(tree["posterior"].coords["step"], list(RUN))


class Counting(dict):
    """Checkpoints that remember which of them were read."""

    def __init__(self, *args):
        super().__init__(*args)
        self.read = []

    def __getitem__(self, step):
        self.read.append(step)
        return super().__getitem__(step)


def test_a_second_call_samples_nothing(tmp_path, monkeypatch):
    first = follow(store=tmp_path / "llc.zarr")
    monkeypatch.setattr(sys.modules["jaxllc.trajectory"], "run_group", lambda *_: pytest.fail("sampled again"))
    again = follow(store=tmp_path / "llc.zarr")
    np.testing.assert_array_equal(draws(first), draws(again))


def test_a_run_that_grew_keeps_its_rows(tmp_path):
    part = {step: RUN[step] for step in (0, 20, 30)}
    follow(part, store=tmp_path / "llc.zarr")
    checkpoints = Counting(RUN)
    grown = follow(checkpoints, store=tmp_path / "llc.zarr")
    # All rows to rounding: the rows of the first call ran in a group of three, the others in one of two.
    np.testing.assert_allclose(draws(grown), draws(follow()), rtol=1e-4, atol=1e-4)
    assert {10, 40} <= set(checkpoints.read)
    assert 20 not in checkpoints.read
    assert [path.name for path in tmp_path.iterdir()] == ["llc.zarr"]


@pytest.mark.parametrize("sampler", WITH_A_STATE.values(), ids=WITH_A_STATE)
def test_a_run_that_grew_is_one_run_for_any_sampler(sampler, tmp_path):
    """The rows of both calls, and those of one call, by one program for groups of two."""
    options = dict(sampler=sampler, data=jaxllc.InMemory.of(PROBLEM.rows, None), num_draws=12, group_size=2)
    follow({0: RUN[0], 20: RUN[20]}, store=tmp_path / "llc.zarr", **options)
    grown = follow(store=tmp_path / "llc.zarr", **options)
    np.testing.assert_allclose(draws(grown), draws(follow(**options)), rtol=1e-4, atol=1e-4)
    assert np.ptp(draws(grown), axis=-1).min() > 0


def test_a_replacement_that_was_cut_is_repaired(tmp_path):
    """Killed between the two renames: the old store lies beside its place."""
    first = follow(store=tmp_path / "llc.zarr")
    (tmp_path / "llc.zarr").rename(tmp_path / ".llc.zarr.jaxllc-replaced")
    np.testing.assert_array_equal(draws(follow(store=tmp_path / "llc.zarr")), draws(first))


def test_killed_between_checkpoints_the_result_is_the_same(tmp_path):
    """A process that kills itself with SIGKILL after the second checkpoint; the next one ends what it began, with the same numbers."""
    code = (
        "import jax; jax.config.update('jax_num_cpu_devices', 4)\n"
        "import os, signal, sys; sys.path.insert(0, 'tests')\n"
        "from test_trajectory import follow\n"
        "from jaxllc.store import Store\n"
        "write = Store.write\n"
        "def fatal(self, row, *rest):\n"
        "    if row.step == 20: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(self, row, *rest)\n"
        "Store.write = fatal\n"
        f"follow(store={str(tmp_path / 'llc.zarr')!r}, group_size=2)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], env=os.environ | {"PYTHONWARNINGS": "ignore"})
    assert killed.returncode == -signal.SIGKILL
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "llc.zarr", mode="r")["done"][:], [1, 1, 0, 0, 0])
    checkpoints = Counting(RUN)
    resumed = follow(checkpoints, store=tmp_path / "llc.zarr", group_size=2)
    np.testing.assert_allclose(draws(resumed), draws(follow(group_size=2)), rtol=1e-4, atol=1e-4)


def test_other_settings_data_or_weights_are_refused(tmp_path):
    store = tmp_path / "llc.zarr"
    before = draws(follow(store=store))
    with pytest.raises(ValueError, match=r"other settings: nbeta was 50\.0 and is 20\.0"):
        follow(store=store, nbeta=20.0)
    with pytest.raises(ValueError, match=r"sampler was SGLD\(step_size=0\.002.*and is SGLD\(step_size=0\.001"):
        follow(store=store, sampler=jaxllc.SGLD(1e-3))
    with pytest.raises(ValueError, match="holds step 0 of other weights"):
        follow({step: shifted(params, 1.0) for step, params in RUN.items()}, store=store)
    other = jaxllc.InMemory.of(PROBLEM.rows + 1, PROBLEM.batch_size)
    with pytest.raises(ValueError, match="data_checksum was"):
        jaxllc.trajectory(
            quadratic_loss,
            RUN,
            other,
            key=jax.random.key(0),
            sampler=jaxllc.SGLD(2e-3),
            nbeta=50.0,
            localization=3.0,
            num_chains=4,
            num_draws=60,
            num_burn_in=10,
            store=store,
            progress=False,
        )
    np.testing.assert_array_equal(draws(follow(store=store)), before)


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        (optax.constant_schedule(1e-2), optax.constant_schedule(1e-6), r"schedule\(0: 0\.01, .*and is SGLD.*schedule\(0: 1e-06"),
        (optax.piecewise_constant_schedule(1e-3, {30: 0.1}), optax.piecewise_constant_schedule(1e-3, {31: 0.1}), r"69: 0\.0001, mean: 0\.00049857\)"),
    ],
    ids=["all steps", "one step"],
)
def test_another_schedule_is_refused(was, now, told, tmp_path):
    """Schedules made by one function, which differ at all steps or at one of 70."""
    first = follow({0: RUN[0]}, sampler=jaxllc.SGLD(was), store=tmp_path / "llc.zarr")
    with pytest.raises(ValueError, match=told):
        follow({0: RUN[0], 10: RUN[10]}, sampler=jaxllc.SGLD(now), store=tmp_path / "llc.zarr")
    np.testing.assert_array_equal(draws(follow({0: RUN[0]}, sampler=jaxllc.SGLD(was), store=tmp_path / "llc.zarr")), draws(first))


def test_what_is_no_store_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no Zarr store"):
        follow(store=tmp_path)
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(ValueError, match="store of something else"):
        follow(store=tmp_path / "other.zarr")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_bad_checkpoint_is_named_and_the_good_ones_are_kept(tmp_path):
    bad = RUN | {30: PROBLEM.params | {"a": jnp.full(2, jnp.nan)}}
    with pytest.raises(ValueError, match=r"the loss at w\* \(step 30\) is not finite; these weights are not finite: a"):
        follow(bad, store=tmp_path / "llc.zarr", group_size=2)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "llc.zarr", mode="r")["done"][:], [1, 1, 0, 0, 0])
    assert len(follow(store=tmp_path / "llc.zarr").table()) == 5


@pytest.mark.parametrize("options", [{"num_draws": 0}, {"num_chains": 0}, {"group_size": 0}, {"free": "nothing"}, {"nbeta": -1.0}])
def test_bad_options_leave_no_store_behind(options, tmp_path):
    with pytest.raises(ValueError, match="at least 1|selects no weight|must be finite and positive"):
        follow(store=tmp_path / "llc.zarr", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_steps_of_another_run_are_refused(tmp_path):
    follow({0: RUN[0], 10: RUN[10]}, store=tmp_path / "llc.zarr")
    with pytest.raises(ValueError, match="holds none of the steps of these checkpoints but 0, 10"):
        follow({5: RUN[40]}, store=tmp_path / "llc.zarr")
    assert list(follow({10: RUN[10]}, store=tmp_path / "llc.zarr").table().index) == [10]


def test_files_of_others_beside_a_store_are_left_alone(tmp_path):
    (tmp_path / "llc.zarr.old").mkdir()
    follow({0: RUN[0]}, store=tmp_path / "llc.zarr")
    follow(store=tmp_path / "llc.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llc.zarr", "llc.zarr.old"]


def test_what_a_killed_replacement_left_is_cleared(tmp_path):
    follow({0: RUN[0]}, store=tmp_path / "llc.zarr")
    (tmp_path / ".llc.zarr.jaxllc-replaced" / "posterior").mkdir(parents=True)
    assert len(follow(store=tmp_path / "llc.zarr").table()) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["llc.zarr"]


@pytest.mark.parametrize(
    ("checkpoints", "told"), [("run/checkpoints", r"wrap a directory in jaxllc\.OrbaxCheckpoints"), ([PROBLEM.params], "got list; use a dictionary")]
)
def test_what_is_no_mapping_is_named(checkpoints, told):
    with pytest.raises(TypeError, match=told):
        follow(checkpoints)


def test_bad_data_leaves_no_store_behind(tmp_path):
    with pytest.raises(ValueError, match="x: 3, y: 4"):
        jaxllc.trajectory(
            quadratic_loss, RUN, {"x": np.ones(3), "y": np.ones(4)}, key=jax.random.key(0), sampler=jaxllc.SGLD(1e-3), store=tmp_path / "llc.zarr"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sampler", [None, jaxllc.SGLD(None, burn_in_factor=4.0)], ids=["constant", "larger in burn-in"])
def test_a_default_step_size_survives_resumption(sampler, tmp_path):
    """A run that grew keeps the step size of its first rows, which the new ones have too."""
    part = {step: RUN[step] for step in (0, 10)}
    follow(part, sampler=sampler, store=tmp_path / "llc.zarr")
    kept = stored_attributes(tmp_path / "llc.zarr")["default_step_size"]
    grown = follow(sampler=sampler, store=tmp_path / "llc.zarr")
    assert stored_attributes(tmp_path / "llc.zarr")["default_step_size"] == kept
    fresh = follow(sampler=sampler)
    assert fresh.data.attrs["default_step_size"] == pytest.approx(kept, rel=1e-6)
    np.testing.assert_allclose(grown.data["posterior/llc"], fresh.data["posterior/llc"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("checkpoints", "told"),
    [
        ({}, "no checkpoints"),
        ({"a": PROBLEM.params}, "keyed by training step, an int; got 'a'"),
        (RUN | {50: {"a": jnp.ones(2), "b": jnp.ones(4)}}, "step 50 have another structure or other shapes than those at step 0"),
    ],
)
def test_bad_checkpoints_are_named(checkpoints, told):
    with pytest.raises(ValueError, match=told):
        follow(checkpoints, group_size=6)


def test_the_loss_at_initialisation_is_the_reference():
    falling = {step: shifted(PROBLEM.params, (40 - step) * 0.02) for step in RUN}
    assert follow(falling).data.attrs["reference_loss"] == pytest.approx(float(follow(falling).table().loc[0, "loss"]))
    assert "reference_loss" not in follow().data.attrs  # the loss rises from step 0: it is no uninformed model
    assert follow(reference_loss=3.5).data.attrs["reference_loss"] == 3.5
