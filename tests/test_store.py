"""Stores: what they keep, how they grow, what they refuse, and what is left of a run that was killed."""

import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zarr
from problems import WITH_A_STATE, quadratic_loss, shifted
from trajectories import PROBLEM, RUN, Counting, draws, follow, killed_before

import jaxllc
from jaxllc.store import stored_attributes


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


def test_a_second_call_samples_nothing(tmp_path, monkeypatch):
    first = follow(store=tmp_path / "llc.zarr")
    monkeypatch.setattr(sys.modules["jaxllc.pipeline"], "estimate_group", lambda *_: pytest.fail("sampled again"))
    again = follow(store=tmp_path / "llc.zarr")
    np.testing.assert_array_equal(draws(first), draws(again))


def test_a_run_that_grew_keeps_its_places(tmp_path):
    part = {step: RUN[step] for step in (0, 20, 30)}
    follow(part, store=tmp_path / "llc.zarr")
    checkpoints = Counting(RUN)
    grown = follow(checkpoints, store=tmp_path / "llc.zarr")
    # All to rounding: the places of the first call ran in a group of three, the others in one of two.
    np.testing.assert_allclose(draws(grown), draws(follow()), rtol=1e-4, atol=1e-4)
    assert sorted(checkpoints.read) == list(RUN)  # those of the first call to compare them
    assert [path.name for path in tmp_path.iterdir()] == ["llc.zarr"]


@pytest.mark.parametrize(
    "sampler", [pytest.param(sampler, id=name, marks=() if name.startswith("sg") else pytest.mark.slow) for name, sampler in WITH_A_STATE.items()]
)
def test_a_run_that_grew_is_one_run_for_any_sampler(sampler, tmp_path):
    """The places of both calls, and those of one call, by one program for groups of two."""
    options = dict(sampler=sampler, data=jaxllc.InMemory.of(PROBLEM.rows, None), num_draws=12, group_size=2)
    follow({0: RUN[0], 20: RUN[20]}, store=tmp_path / "llc.zarr", **options)
    grown = follow(store=tmp_path / "llc.zarr", **options)
    np.testing.assert_allclose(draws(grown), draws(follow(**options)), rtol=1e-4, atol=1e-4)
    assert np.ptp(draws(grown), axis=-1).min() > 0


def test_killed_between_checkpoints_the_result_is_the_same(tmp_path):
    """A process that kills itself with SIGKILL after the second checkpoint; the next one ends what it began, with the same numbers."""
    store = tmp_path / "llc.zarr"
    assert killed_before((None, 20), f"follow(store={str(store)!r}, group_size=2)") == -signal.SIGKILL
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["done"][:], [1, 1, 0, 0, 0])
    resumed = follow(store=store, group_size=2)
    np.testing.assert_allclose(draws(resumed), draws(follow(group_size=2)), rtol=1e-4, atol=1e-4)


def test_other_settings_data_or_weights_are_refused(tmp_path):
    store = tmp_path / "llc.zarr"
    before = draws(follow(store=store))
    with pytest.raises(ValueError, match=r"other settings: nbeta was 50\.0 and is 20\.0"):
        follow(store=store, nbeta=20.0)
    with pytest.raises(ValueError, match=r"sampler was {.*'step_size': 0\.002.*and is {.*'step_size': 0\.001"):
        follow(store=store, sampler=jaxllc.SGLD(1e-3))
    with pytest.raises(ValueError, match="holds step 0, step 10, step 20, step 30, step 40 of other weights"):
        follow({step: shifted(params, 1.0) for step, params in RUN.items()}, store=store)
    other = jaxllc.InMemory.of(PROBLEM.rows + 1, PROBLEM.batch_size)
    with pytest.raises(ValueError, match="data_checksum was"):
        follow(data=other, store=store)
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
    with pytest.raises(ValueError, match="these weights are not finite: a"):
        follow(bad, store=tmp_path / "llc.zarr", group_size=2, strict=True)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "llc.zarr", mode="r")["done"][:], [1, 1, 1, 0, 0])
    assert len(follow(store=tmp_path / "llc.zarr").table()) == 5


@pytest.mark.parametrize("options", [{"num_draws": 0}, {"num_chains": 0}, {"group_size": 0}, {"free": "nothing"}, {"nbeta": -1.0}])
def test_bad_options_leave_no_store_behind(options, tmp_path):
    with pytest.raises(ValueError, match="at least 1|matches no leaf|must be finite and positive"):
        follow(store=tmp_path / "llc.zarr", **options)
    assert list(tmp_path.iterdir()) == []


def test_one_half_of_the_steps_after_the_other_half(tmp_path):
    """As two calls share the work by hand: the store holds all, each result its own."""
    store = tmp_path / "llc.zarr"
    follow({step: RUN[step] for step in (0, 20, 40)}, store=store)
    assert list(follow({step: RUN[step] for step in (10, 30)}, store=store).table().index) == [10, 30]
    np.testing.assert_allclose(draws(jaxllc.open(store)), draws(follow()), rtol=1e-4, atol=1e-4)


def test_the_weights_of_every_stored_place_are_compared(tmp_path):
    """Those of a middle step too; seen to fail where only the first and the last step of a run were compared."""
    store = tmp_path / "llc.zarr"
    follow({step: RUN[step] for step in (0, 10, 20)}, store=store)
    with pytest.raises(ValueError, match="holds step 10 of other weights"):
        follow(RUN | {10: shifted(RUN[10], 1e-3)}, store=store)


def test_files_of_others_beside_a_store_are_left_alone(tmp_path):
    (tmp_path / "llc.zarr.old").mkdir()
    follow({0: RUN[0]}, store=tmp_path / "llc.zarr")
    follow(store=tmp_path / "llc.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llc.zarr", "llc.zarr.old"]


def test_bad_data_leaves_no_store_behind(tmp_path):
    with pytest.raises(ValueError, match="x: 3, y: 4"):
        jaxllc.trajectory(
            quadratic_loss, RUN, {"x": np.ones(3), "y": np.ones(4)}, key=jax.random.key(0), sampler=jaxllc.SGLD(1e-3), store=tmp_path / "llc.zarr"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sampler", [None, jaxllc.SGLD(None, burn_in_factor=4.0)], ids=["constant", "larger in burn-in"])
def test_a_default_step_size_survives_resumption(sampler, tmp_path):
    """A run that grew keeps the step size of its first places, which the new ones have too."""
    part = {step: RUN[step] for step in (0, 10)}
    follow(part, sampler=sampler, store=tmp_path / "llc.zarr")
    kept = stored_attributes(tmp_path / "llc.zarr")["default_step_size"]
    grown = follow(sampler=sampler, store=tmp_path / "llc.zarr")
    assert stored_attributes(tmp_path / "llc.zarr")["default_step_size"] == kept
    fresh = follow(sampler=sampler)
    assert fresh.data.attrs["default_step_size"] == pytest.approx(kept, rel=1e-6)
    np.testing.assert_allclose(grown.data["posterior/llc"], fresh.data["posterior/llc"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("over", [True, "nbeta"])
def test_extrapolations_are_kept_and_resumed(over, tmp_path):
    """From the store come the draws of both sets of chains, by a step size that is left to the curvature and larger in burn-in too."""
    options = dict(sampler=jaxllc.SGLD(None, burn_in_factor=4.0), extrapolate=over)
    follow({0: RUN[0], 20: RUN[20]}, store=tmp_path / "llc.zarr", **options)
    grown = follow(store=tmp_path / "llc.zarr", **options)
    plain = follow(**options)
    np.testing.assert_allclose(draws(grown), draws(plain), rtol=1e-4, atol=1e-4)
    name = {True: "half_step_llc", "nbeta": "twice_nbeta_llc"}[over]
    np.testing.assert_allclose(grown.data[f"sample_stats/{name}"].values, plain.data[f"sample_stats/{name}"].values, rtol=1e-4, atol=1e-4)
    assert grown.table()["findings"].to_list() == plain.table()["findings"].to_list()
    assert grown.settings.extrapolate == {True: "step_size"}.get(over, over)
