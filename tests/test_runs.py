"""Several training runs at once are each run by itself."""

import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
import zarr
from problems import quadratic_loss, shifted
from trajectories import PROBLEM, RUN, RUNS, Counting, draws, follow, killed_before

import jaxllc
from jaxllc.reading import overview
from jaxllc.results import Place
from jaxllc.store import stored_attributes


def test_each_run_is_as_by_itself():
    """In groups that straddle runs. Seen to fail with the two axes swapped in the reshape."""
    together = follow(RUNS, group_size=4, reference_loss=9.0)
    assert together.data["posterior/llc"].dims == ("run", "step", "chain", "draw")
    assert list(together.data.coords["run"].values) == list(RUNS)
    for name, run in RUNS.items():
        alone = follow(run, reference_loss=9.0)
        for path in ("posterior/llc", "sample_stats/loss", "sample_stats/step_bias", "constant_data/full_center_loss", "constant_data/gaussian_llc"):
            np.testing.assert_allclose(together.data[path].sel(run=name), alone.data[path], rtol=1e-4, atol=1e-4, err_msg=f"{name} {path}")
        table, mine = together.table().loc[name], alone.table()
        assert list(table["findings"]) == list(mine["findings"])
        np.testing.assert_allclose(table.drop(columns="findings"), mine.drop(columns="findings"), rtol=2e-3, atol=1e-3)


def test_a_table_has_one_line_a_run_and_step():
    traj = follow(RUNS)
    table = traj.table()
    assert table.index.names == ["run", "step"]
    assert list(table.index) == [(run, step) for run in RUNS for step in RUN]
    assert list(table.columns) == list(follow().table().columns)
    found = dict(zip(table.index, traj.findings(), strict=True))
    # The run that is far off begins at a place with lower loss beside it; the first one begins at its minimum.
    assert "below-center" in {finding.code for finding in found["far", 40]}
    assert "below-center" not in {finding.code for finding in found["seed 7", 0]}


def test_one_named_run_keeps_its_axis():
    assert follow({"only": RUN}).data["posterior/llc"].sizes["run"] == 1


def test_runs_share_one_trace():
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=2)
    def loss_of_runs(params, batch):
        return quadratic_loss(params, batch)

    for runs in (RUNS, {"other": RUN} | RUNS):
        jaxllc.trajectory(
            loss_of_runs, runs, PROBLEM.data, key=jax.random.key(0), num_chains=4, num_draws=4, num_burn_in=0, group_size=5, progress=False
        )  # fmt: skip


def test_runs_share_their_random_numbers():
    """Two runs with the same weights have the same chains."""
    both = follow({"a": RUN, "b": RUN})
    np.testing.assert_allclose(both.data["posterior/llc"].sel(run="a"), both.data["posterior/llc"].sel(run="b"), rtol=1e-4, atol=1e-4)


def test_killed_between_groups_the_result_is_the_same(tmp_path):
    """SIGKILL before the place (seed 1, 20); the next process ends what it began."""
    store = tmp_path / "llc.zarr"
    assert killed_before(("seed 1", 20), f"follow(RUNS, store={str(store)!r}, group_size=3)") == -signal.SIGKILL
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["done"][:], [[1] * 5, [1, 1, 0, 0, 0], [0] * 5])
    checkpoints = {name: Counting(run) for name, run in RUNS.items()}
    resumed = follow(checkpoints, store=store, group_size=3)
    np.testing.assert_allclose(draws(resumed), draws(follow(RUNS, group_size=3)), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(draws(follow(RUNS, store=store)), draws(resumed))
    with xr.open_datatree(store, engine="zarr", consolidated=False) as tree:
        np.testing.assert_array_equal(tree["posterior/llc"].sel(run="far").values, resumed.data["posterior/llc"].sel(run="far").values)
        assert tree["posterior/llc"].dims == ("run", "step", "chain", "draw")


def test_a_store_grows_by_steps_and_runs(tmp_path):
    store = tmp_path / "llc.zarr"
    first = {name: {step: RUNS[name][step] for step in (0, 30)} for name in ("seed 7", "far")}
    follow(first, store=store)
    grown = follow(RUNS, store=store)
    np.testing.assert_allclose(draws(grown), draws(follow(RUNS)), rtol=1e-4, atol=1e-4)
    # A part of what is stored, in another order.
    part = follow({name: RUNS[name] for name in ("far", "seed 1")}, store=store)
    np.testing.assert_array_equal(draws(part), draws(grown)[[2, 1]])


def test_the_layout_of_one_run_has_no_axis_for_runs(tmp_path):
    follow(store=tmp_path / "one.zarr")
    follow(RUNS, store=tmp_path / "three.zarr")
    one, three = (zarr.open_group(tmp_path / name, mode="r") for name in ("one.zarr", "three.zarr"))
    assert "run" not in one
    assert "probes" not in one
    assert "probes" not in one.attrs
    for name, dims, shape, chunks in (
        ("posterior/llc", ("step", "chain", "draw"), (5, 4, 60), (1, 4, 60)),
        ("constant_data/full_center_loss", ("step",), (5,), (1,)),
        ("done", ("step",), (5,), (1,)),
        ("note", ("step",), (5,), (1,)),
    ):
        assert (one[name].metadata.dimension_names, one[name].shape, one[name].chunks) == (dims, shape, chunks)
        assert (three[name].metadata.dimension_names, three[name].shape, three[name].chunks) == (("run", *dims), (3, *shape), (1, *chunks))


def test_a_store_of_one_run_is_not_one_of_several(tmp_path):
    follow(store=tmp_path / "one.zarr")
    follow(RUNS, store=tmp_path / "three.zarr")
    with pytest.raises(ValueError, match="holds one training run without a name; pass its mapping alone"):
        follow(RUNS, store=tmp_path / "one.zarr")
    with pytest.raises(ValueError, match="holds the training runs 'seed 7', 'seed 1', 'far'; pass"):
        follow(RUN, store=tmp_path / "three.zarr")


def test_other_weights_of_a_run_are_refused(tmp_path):
    follow(RUNS, store=tmp_path / "llc.zarr")
    with pytest.raises(ValueError, match="holds step 0 of run 'seed 1', .* of other weights than the checkpoints do, of 15"):
        follow(RUNS | {"seed 1": RUN}, store=tmp_path / "llc.zarr")


@pytest.mark.parametrize(
    ("checkpoints", "error", "told"),
    [
        ({"a": RUN, "b": {0: RUN[0], 40: RUN[40]}}, ValueError, "run 'b' has no checkpoint at 10, 20, 30 where run 'a' has one"),
        ({"a": RUN, "b": RUN | {50: RUN[40]}}, ValueError, "run 'a' has no checkpoint at 50 where run 'b' has one"),
        ({"a": RUN, "b": {}}, ValueError, "no checkpoints in the training run 'b'"),
        ({"a": RUN, "b": [RUN[0]]}, TypeError, "the training run 'b' must be a mapping from the training step to the weights, got list"),
        ({"a": {"0": RUN[0]}}, ValueError, "checkpoints of run 'a' must be keyed by training step, an int; got '0'"),
        ({"a": RUN, 3: RUN[0]}, ValueError, "keyed by training step, an int; got 'a'"),
        ({"a": RUN, "b": RUN | {20: {"a": jnp.ones(2)}}}, ValueError, "step 20 of run 'b' have another structure .* than those at step 0 of run 'a'"),
        ({"a": RUN, "b": RUN | {20: PROBLEM.params | {"b": jnp.full(3, jnp.nan)}}}, ValueError, "step 20 of run 'b': these weights are not finite: b"),
    ],
)  # fmt: skip
def test_bad_runs_are_named(checkpoints, error, told):
    with pytest.raises(error, match=told):
        follow(checkpoints, group_size=10, strict=True)


def quartic_loss(params, batch):
    """Curvature 3 w²: the sharper, the further from zero."""
    return 0.25 * jnp.sum(params**4) + 0 * batch


def test_a_default_step_size_suits_all_runs(tmp_path):
    """Seen to fail when only the first run is probed."""

    def default(checkpoints):
        name = f"{len(list(tmp_path.iterdir()))}.zarr"
        jaxllc.trajectory(
            quartic_loss, checkpoints, np.zeros(8, np.float32), key=jax.random.key(0), num_chains=4, num_draws=4, num_burn_in=0, store=tmp_path / name,
            progress=False,
        )  # fmt: skip
        return stored_attributes(tmp_path / name)["default_step_size"]

    flat, sharp = ({step: jnp.full(3, at) for step in (0, 1)} for at in (0.1, 1.0))
    assert default({"flat": flat, "sharp": sharp}) == pytest.approx(default(sharp))
    assert default(flat) > 1.5 * default(sharp)


def test_the_least_loss_at_initialisation_is_the_reference():
    """Of the runs that begin with one; a run whose loss rises does not."""
    falling = {name: {step: shifted(PROBLEM.params, top * (40 - step)) for step in RUN} for name, top in (("high", 0.03), ("low", 0.02))}
    traj = follow(falling | {"rising": RUN})
    assert traj.reference_loss == pytest.approx(float(traj.table().loc[("low", 0), "loss"]))
    assert traj.table().loc[("rising", 0), "loss"] < traj.reference_loss
    rising = follow({"rising": RUN})
    assert rising.reference_loss == rising.data.attrs["loss_of_zeros"]


def test_a_checkpoint_that_was_replaced_by_one_of_another_tree_or_shape_is_told(tmp_path):
    """Or of the same bytes in another dtype."""
    store, zeros = tmp_path / "llc.zarr", {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    follow({0: zeros, 10: zeros}, store=store)
    for other in ({"a": zeros["a"]}, {"a": jnp.zeros(2, jnp.int32), "b": zeros["b"]}, {"a": jnp.zeros((2, 1)), "b": zeros["b"]}):
        with pytest.raises(ValueError, match="holds step 10 of other weights than the checkpoints do"):
            follow({0: zeros, 10: other}, store=store)


def test_a_call_that_is_refused_changes_nothing(tmp_path):
    """Neither its steps nor its settings are added."""
    store = tmp_path / "llc.zarr"
    follow({0: RUN[0]}, store=store)
    for options in ({}, {"nbeta": 7.0}):
        with pytest.raises(ValueError, match="other weights|other settings"):
            follow({0: RUN[10], 10: RUN[10]}, store=store, **options)
    assert overview(store).places == [Place(None, 0)]


def test_a_run_needs_a_name():
    with pytest.raises(ValueError, match="a training run has an empty name"):
        follow({"": RUN, "b": RUN})


def test_processes_share_runs_of_long_names(tmp_path):
    """Longer than the name of a file may be, and alike but for their ends."""
    runs = {name * 60 + str(i): RUN for i, name in enumerate(("学", "学", "a/b "))}
    shared = follow(runs, store=tmp_path / "llc.zarr", part=(0, 2))
    assert [str(run) for run in shared.data["run"].values] == list(runs)
    assert len(shared.table()) == 3 * len(RUN)
