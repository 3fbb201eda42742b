"""Observables at checkpoints are what their functions give there, in memory and on disk."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from problems import CENTER, CURVATURE, Quadratic, quadratic_loss
from test_every_sampler import run_chains
from test_runs import RUNS
from test_trajectory import PROBLEM, RUN, follow

import jaxllc
from jaxllc.store import Store
from jaxllc.theory import sgld_variance, window_variance


def norm(params):
    return jnp.sqrt(jnp.sum(params["a"] ** 2) + jnp.sum(params["b"] ** 2))


def outer(params):
    return params["a"][:, None] * params["b"][None]


def num_positive(params):
    return jnp.sum(params["b"] > 0)


WATCHED = {"norm": norm, "outer": outer, "num_positive": num_positive}


def assert_are_those_of(checkpoints, found):
    """A data set without an axis `run` holds what the functions give."""
    for name, function in WATCHED.items():
        np.testing.assert_allclose(found[name], [function(params) for params in checkpoints.values()], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("group_size", [2, 5])
def test_they_are_what_the_functions_give(group_size):
    """A group of two leaves one that is filled up. Seen to fail with the group in reverse."""
    traj = follow(observables=WATCHED, group_size=group_size)
    found = traj.data["observables"]
    assert found["outer"].dims == ("step", "outer_dim_0", "outer_dim_1")
    assert_are_those_of(RUN, found)
    assert all(array.dtype == np.float32 for array in found.data_vars.values())


def test_of_several_runs():
    traj = follow(RUNS, observables=WATCHED, group_size=4)
    assert traj.data["observables/outer"].dims == ("run", "step", "outer_dim_0", "outer_dim_1")
    for name, run in RUNS.items():
        assert_are_those_of(run, traj.data["observables"].to_dataset().sel(run=name))
    np.testing.assert_allclose(traj.table().loc[("far", 10), "norm"], norm(RUNS["far"][10]), rtol=1e-6)


def test_a_table_shows_those_that_are_one_number():
    table = follow(observables=WATCHED).table()
    assert list(table.columns[-3:]) == ["norm", "num_positive", "findings"]
    np.testing.assert_allclose(table["norm"], [norm(params) for params in RUN.values()], rtol=1e-6)


def test_they_change_nothing_else():
    with_them, without = follow(observables=WATCHED).data, follow().data
    assert "observables" not in without.children
    np.testing.assert_array_equal(with_them["posterior/llc"], without["posterior/llc"])


@pytest.mark.parametrize("checkpoints", [RUN, RUNS], ids=["one run", "three runs"])
def test_resumed_in_the_middle(checkpoints, tmp_path, monkeypatch):
    """What was done before is read, not computed: on resumption the function has become another."""
    write, written = Store.write, []

    def failing(self, row, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(row)
        write(self, row, *rest)

    monkeypatch.setattr(Store, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        follow(checkpoints, observables=WATCHED, store=tmp_path / "llc.zarr", group_size=2)
    monkeypatch.undo()
    whole = follow(checkpoints, observables=WATCHED | {"norm": lambda params: -norm(params)}, store=tmp_path / "llc.zarr", group_size=2)
    straight = follow(checkpoints, observables=WATCHED, group_size=2)
    sign = np.where(np.arange(straight.data["observables/norm"].size) < 2, 1, -1)
    np.testing.assert_allclose(whole.data["observables/norm"].values.ravel(), sign * straight.data["observables/norm"].values.ravel(), rtol=1e-6)
    np.testing.assert_allclose(whole.data["observables/outer"], straight.data["observables/outer"], rtol=1e-6)
    with xr.open_datatree(tmp_path / "llc.zarr", engine="zarr", consolidated=False) as tree:
        assert tree["observables/outer"].dims == straight.data["observables/outer"].dims
        np.testing.assert_array_equal(tree["observables/outer"].values, whole.data["observables/outer"].values)


def test_a_store_that_grows_keeps_them(tmp_path):
    follow({step: RUN[step] for step in (0, 30)}, observables=WATCHED, store=tmp_path / "llc.zarr")
    assert_are_those_of(RUN, follow(observables=WATCHED, store=tmp_path / "llc.zarr").data["observables"])


def test_other_observables_are_other_settings(tmp_path):
    follow(observables={"norm": norm}, store=tmp_path / "llc.zarr")
    for other, told in (
        (None, r"observables was {'norm': \[\]} and is None"),
        ({"outer": outer}, r"and is {'outer': \[2, 3\]}"),
        ({"norm": outer}, r"was {'norm': \[\]} and is {'norm': \[2, 3\]}"),
    ):
        with pytest.raises(ValueError, match=told):
            follow(observables=other, store=tmp_path / "llc.zarr")


def test_one_trace():
    """Three groups and a second call: the function is traced once."""
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def counted_norm(params):
        return norm(params)

    for key in (0, 1):
        follow(observables={"norm": counted_norm}, group_size=2, num_draws=4 + key)


@pytest.mark.parametrize(
    ("observables", "error", "told"),
    [
        ([norm], TypeError, "must be a mapping from names to functions"),
        ({"a/b": norm}, ValueError, "identifier such as 'prefix_matching', got 'a/b'"),
        ({1: norm}, ValueError, "got 1"),
        ({"llc": norm}, ValueError, "'llc' has the name of something else"),
        ({"evaluation": norm}, ValueError, "'evaluation' has the name of something else"),
        ({"chain": norm}, ValueError, "'chain' has the name of something else"),
        ({"outer_dim_0": norm}, ValueError, "'outer_dim_0' has the name of something else"),
        ({"norm": 3.0}, TypeError, r"'norm' must be a function fn\(params\), got float"),
        ({"both": lambda params: (norm(params), outer(params))}, TypeError, "'both' must give one array, got tuple"),
        ({"wave": lambda params: jax.lax.complex(params["a"], params["a"])}, TypeError, "'wave' must give real numbers, got complex64"),
        ({"none": lambda params: params["a"][:0]}, ValueError, r"'none' gives an array of shape \(0,\)"),
    ],
)
def test_bad_observables_are_named(observables, error, told, tmp_path):
    with pytest.raises(error, match=told):
        follow(observables=observables, store=tmp_path / "llc.zarr")
    assert list(tmp_path.iterdir()) == []


def test_an_observable_that_fails_is_named():
    with pytest.raises(KeyError) as caught:
        follow(observables={"norm": norm, "lost": lambda params: params["c"]})
    assert "in the observable 'lost', which was given the weights of the first checkpoint" in caught.value.__notes__


def place(params):
    return jnp.concatenate([params["a"], params["b"]]) - jnp.asarray(CENTER, jnp.float32)


def test_along_the_chains_they_have_the_law_of_the_chains(key):
    """The mean square of the place, at two centres, one of which slopes: the discretised law within 4 standard errors over chains."""
    problem, sampler = Quadratic(), jaxllc.SGLD(1.2e-2)
    checkpoints = {0: problem.params, 5: jax.tree.map(lambda leaf: leaf + 0.1, problem.params)}
    traj = jaxllc.trajectory(
        quadratic_loss, checkpoints, problem.data, key=key, sampler=sampler, nbeta=problem.nbeta, localization=problem.localization, num_chains=16,
        num_draws=8000, num_burn_in=1000, progress=False, observables=jaxllc.AlongChains({"place": place}, every=50),
    )  # fmt: skip
    found = traj.data["along_chains/place"]
    assert found.dims == ("step", "chain", "evaluation", "place_dim_0")
    assert found.shape == (2, 16, 161, 5)
    np.testing.assert_allclose(traj.data["observables/place"].values, [[0] * 5, [0.1] * 5], atol=1e-6)
    variance = sgld_variance(CURVATURE, problem.nbeta, problem.localization, 1.2e-2, window_variance(problem.shuffled, problem.batch_size))
    pull = problem.localization / (problem.nbeta * CURVATURE + problem.localization)
    for centre, squares in zip((0.0, 0.1), (found.values.astype(float) ** 2).mean(2), strict=True):
        slope = problem.nbeta * problem.rows.mean(0) / (problem.nbeta * CURVATURE + problem.localization)
        exact = variance + (pull * centre - slope) ** 2
        assert (np.abs(squares.mean(0) - exact) < 4 * squares.std(0, ddof=1) / 4).all()


def test_along_the_chains_of_any_group_and_after_a_stop(tmp_path):
    """Neither the group nor a store that is resumed changes them, to rounding, nor do they change the draws but for the blocks that these come in."""
    watched = jaxllc.AlongChains(WATCHED, every=3)
    whole = follow(observables=watched, num_draws=9)
    follow({step: RUN[step] for step in (0, 30)}, observables=watched, num_draws=9, store=tmp_path / "llc.zarr")
    resumed = follow(observables=watched, num_draws=9, store=tmp_path / "llc.zarr", group_size=2)
    assert resumed.data.coords["evaluation"].values.tolist() == [12, 15, 18]
    for name in WATCHED:
        np.testing.assert_allclose(resumed.data[f"along_chains/{name}"], whole.data[f"along_chains/{name}"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(follow(num_draws=9).data["posterior/llc"], whole.data["posterior/llc"], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"along_chains was \[12, 15, 18\] and is None"):
        follow(observables=WATCHED, num_draws=9, store=tmp_path / "llc.zarr")


@pytest.mark.parametrize("sampler", [jaxllc.SGLD(2e-3), jaxllc.SGHMC(2e-3)], ids=["sgld", "sghmc"])
def test_along_the_chains_they_are_of_the_position_after_so_many_steps(sampler, monkeypatch):
    """Against the sampler's own steps, with thinning, blocks shorter than `every`, a part of the weights free, and several runs.

    Seen to fail a step late.
    """
    monkeypatch.setattr(jaxllc.engine, "BLOCK", 5)
    free = jaxllc.Paths("b")
    traj = follow(RUNS, observables=jaxllc.AlongChains({"place": place}, every=8), sampler=sampler, key=jax.random.key(5), free="b", num_draws=7, thinning=4)
    assert traj.data.coords["evaluation"].values.tolist() == [16, 24, 32]
    for run, step in (("far", 10), ("seed 7", 0)):
        posterior = PROBLEM.posterior().replace(center=RUNS[run][step], free=free)
        states = run_chains(sampler, posterior, PROBLEM.data, 4, 32)
        found = traj.data["along_chains/place"].sel(run=run, step=step).values
        for i, after in enumerate((16, 24, 32)):
            np.testing.assert_allclose(found[:, i, 2:], np.asarray(states.position["b"])[:, after - 1] - CENTER[2:], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[:, :, :2], np.broadcast_to(np.asarray(RUNS[run][step]["a"]) - CENTER[:2], (4, 3, 2)), atol=1e-5)


def test_along_the_chains_of_an_extrapolation_they_are_those_at_half_the_step():
    watched = jaxllc.AlongChains({"place": place}, every=10)
    both = follow(observables=watched, sampler=jaxllc.SGLD(2e-3), extrapolate=True)
    half = follow(observables=watched, sampler=jaxllc.SGLD(1e-3))
    np.testing.assert_allclose(both.data["along_chains/place"], half.data["along_chains/place"], rtol=1e-4, atol=1e-4)


def test_along_chains_that_are_too_short():
    with pytest.raises(ValueError, match=r"AlongChains\(every=500\) evaluates nothing in chains of"):
        follow(observables=jaxllc.AlongChains(WATCHED, every=500))
    with pytest.raises(ValueError, match=r"AlongChains\(every\) must be at least 1, got 0"):
        jaxllc.AlongChains(WATCHED, every=0)
