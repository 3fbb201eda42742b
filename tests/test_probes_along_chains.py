"""Probes along the chains are those of the chains' positions, kept whole or as moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import CENTER, CURVATURE, Quadratic, quadratic_loss
from sampler_cases import run_chains
from test_probes import SOME, norm
from trajectories import PROBLEM, RUN, RUNS, SHORT, follow

import jaxllc
from jaxllc import Probe
from jaxllc.theory import sgld_variance, window_variance


def place(params):
    return jnp.concatenate([params["a"], params["b"]]) - jnp.asarray(CENTER, jnp.float32)


def test_along_the_chains_they_have_the_law_of_the_chains(key):
    """The mean square of the place, at two checkpoints, one of which slopes: the discretised law within 4 standard errors over chains."""
    problem, sampler = Quadratic(), jaxllc.SGLD(1.2e-2)
    checkpoints = {0: problem.params, 5: jax.tree.map(lambda leaf: leaf + 0.1, problem.params)}
    traj = jaxllc.trajectory(
        quadratic_loss, checkpoints, problem.data, key=key, sampler=sampler, nbeta=problem.nbeta, localization=problem.localization, num_chains=16,
        num_draws=8000, num_burn_in=1000, progress=False, probes={"place": Probe(place, every=50)},
    )  # fmt: skip
    found = traj.data["along_chains/place"]
    assert found.dims == ("step", "chain", "evaluation", "place_dim_0")
    assert found.shape == (2, 16, 161, 5)
    np.testing.assert_allclose(traj.data["probes/place"].values, [[0] * 5, [0.1] * 5], atol=1e-6)
    variance = sgld_variance(CURVATURE, problem.nbeta, problem.localization, 1.2e-2, window_variance(problem.shuffled, problem.batch_size))
    hold = problem.localization / (problem.nbeta * CURVATURE + problem.localization)
    for moved, squares in zip((0.0, 0.1), (found.values.astype(float) ** 2).mean(2), strict=True):
        slope = problem.nbeta * problem.rows.mean(0) / (problem.nbeta * CURVATURE + problem.localization)
        exact = variance + (hold * moved - slope) ** 2
        assert (np.abs(squares.mean(0) - exact) < 4 * squares.std(0, ddof=1) / 4).all()


def test_along_the_chains_of_any_group_and_after_a_stop(tmp_path):
    """Neither the group nor a store that is resumed changes them, to rounding, nor do they change the draws but for the blocks that these come in."""
    along = {name: Probe(function, every=3) for name, function in SOME.items()}
    whole = follow(probes=along, num_draws=9)
    follow({step: RUN[step] for step in (0, 30)}, probes=along, num_draws=9, store=tmp_path / "llc.zarr")
    resumed = follow(probes=along, num_draws=9, store=tmp_path / "llc.zarr", group_size=2)
    assert resumed.data.coords["evaluation"].values.tolist() == [12, 15, 18]
    for name in SOME:
        np.testing.assert_allclose(resumed.data[f"along_chains/{name}"], whole.data[f"along_chains/{name}"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(follow(num_draws=9).data["posterior/llc"], whole.data["posterior/llc"], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"probes was .*'evaluations': \[12, 15, 18\].* and is {"):
        follow(probes=SOME, num_draws=9, store=tmp_path / "llc.zarr")


@pytest.mark.parametrize("sampler", [jaxllc.SGLD(2e-3), jaxllc.SGHMC(2e-3)], ids=["sgld", "sghmc"])
def test_along_the_chains_they_are_of_the_position_after_so_many_steps(sampler, monkeypatch):
    """Against the sampler's own steps, with thinning, blocks shorter than `every`, a part of the weights free, and several runs.

    Seen to fail a step late.
    """
    monkeypatch.setattr(jaxllc.probes, "BLOCK", 5)
    free = jaxllc.Paths("b")
    traj = follow(RUNS, probes={"place": Probe(place, every=8)}, sampler=sampler, key=jax.random.key(5), free="b", num_draws=7, thinning=4)
    assert traj.data.coords["evaluation"].values.tolist() == [16, 24, 32]
    for run, step in (("far", 10), ("seed 7", 0)):
        posterior = PROBLEM.posterior().replace(center=RUNS[run][step], free=free)
        states = run_chains(sampler, posterior, PROBLEM.data, 4, 32)
        found = traj.data["along_chains/place"].sel(run=run, step=step).values
        for i, after in enumerate((16, 24, 32)):
            np.testing.assert_allclose(found[:, i, 2:], np.asarray(states.position["b"])[:, after - 1] - CENTER[2:], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[:, :, :2], np.broadcast_to(np.asarray(RUNS[run][step]["a"]) - CENTER[:2], (4, 3, 2)), atol=1e-5)


def test_along_the_chains_of_an_extrapolation_they_are_those_at_half_the_step():
    along = {"place": Probe(place, every=10)}
    both = follow(probes=along, sampler=jaxllc.SGLD(2e-3), extrapolate=True)
    half = follow(probes=along, sampler=jaxllc.SGLD(1e-3))
    np.testing.assert_allclose(both.data["along_chains/place"], half.data["along_chains/place"], rtol=1e-4, atol=1e-4)


def test_along_chains_that_are_too_short():
    with pytest.raises(
        ValueError, match=r"the probe 'norm', every=500, is evaluated nowhere in chains of 70 iterations, 10 of them burn-in; use a smaller every"
    ):
        follow(probes={"norm": Probe(norm, every=500)})


def test_the_former_name_of_probes_along_the_chains():
    with pytest.warns(DeprecationWarning, match=r"pass probes=\{name: jaxllc\.Probe"):
        along = jaxllc.AlongChains(SOME, every=7)
    assert {name: (probe.fn, probe.every, probe.reduce) for name, probe in along.items()} == {name: (function, 7, None) for name, function in SOME.items()}


POINTS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def distances(params, data):
    """Of the weights `b` from each row of the data, `[2, 3]`."""
    return jnp.sum((data - params["b"][None]) ** 2, -1).reshape(2, 3)


@pytest.mark.parametrize("verb", ["estimate", "trajectory"])
def test_moments_are_those_of_the_evaluations_that_are_kept_whole(verb, key):
    """Mean, variance and covariance of each chain, and covariances between chains, of a probe with data; of the same evaluations, to rounding.

    Seen to fail with the first evaluation left out of the reduced ones, and with the data of the chains in the place of the probe's.
    """
    kinds = {"whole": None, "small": "mean", "pairs": "covariance", "apart": "between_chains"}
    probes = {name: Probe(distances, POINTS, every=6, reduce=reduce) for name, reduce in kinds.items()}
    if verb == "estimate":
        data = jaxllc.estimate(quadratic_loss, RUN[20], PROBLEM.data, key=key, probes=probes, **SHORT).data
    else:
        data = follow(probes=probes, key=key, group_size=2).data.sel(step=20)
    along = data["along_chains"]
    whole = along["whole"].values.astype(float)
    assert along["whole"].dims == ("chain", "evaluation", "whole_dim_0", "whole_dim_1")
    assert whole.shape == (4, 10, 2, 3)
    assert along["pairs_covariance"].dims == ("chain", "pairs_element", "pairs_element_other")
    assert along["apart_between_chains"].dims == ("chain", "chain_other")
    np.testing.assert_allclose(along["small_mean"], whole.mean(1), rtol=1e-5)
    np.testing.assert_allclose(along["pairs_mean"], whole.mean(1), rtol=1e-5)
    np.testing.assert_allclose(along["small_variance"], whole.var(1, ddof=1), rtol=1e-4)
    exact = [np.cov(of_chain.reshape(10, 6).T) for of_chain in whole]
    np.testing.assert_allclose(along["pairs_covariance"], exact, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(along["apart_between_chains"], np.mean([np.cov(each.reshape(4, 6)) for each in whole.swapaxes(0, 1)], 0), rtol=1e-4)
    np.testing.assert_allclose(data["probes/pairs"], distances(RUN[20], jnp.asarray(POINTS)), rtol=1e-5)


def test_moments_are_kept_in_a_store_and_opened(tmp_path):
    probes = {"pairs": Probe(distances, POINTS, every=6, reduce="covariance"), "whole": Probe(norm, every=10), "often": Probe(norm, every=5)}
    follow({0: RUN[0], 20: RUN[20]}, probes=probes, store=tmp_path / "llc.zarr")
    grown = follow(probes=probes, store=tmp_path / "llc.zarr")
    opened = jaxllc.open(tmp_path / "llc.zarr")
    for name in ("pairs_mean", "pairs_covariance", "whole", "often"):
        np.testing.assert_array_equal(opened.data[f"along_chains/{name}"].values, grown.data[f"along_chains/{name}"].values)
        assert opened.data[f"along_chains/{name}"].dims == grown.data[f"along_chains/{name}"].dims
    # Probes of different times have an axis each.
    assert grown.data.coords["whole_evaluation"].values.tolist() == [10, 20, 30, 40, 50, 60, 70]
    assert grown.data.coords["often_evaluation"].values.tolist() == list(range(10, 75, 5))


def test_a_probe_does_not_depend_on_the_mesh(key):
    probes = {"pairs": Probe(distances, POINTS, every=6, reduce="covariance")}
    one, four = (
        follow({0: RUN[0], 10: RUN[10]}, probes=probes, mesh=jax.make_mesh(shape, ("step", "chain"), axis_types=(jax.sharding.AxisType.Auto,) * 2))
        for shape in ((1, 1), (2, 2))
    )
    np.testing.assert_allclose(one.data["along_chains/pairs_covariance"], four.data["along_chains/pairs_covariance"], rtol=1e-3, atol=1e-5)
