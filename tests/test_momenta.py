"""Samplers with momentum: their temperature, their thermostat, and their energy without friction."""

import jax
import numpy as np
import pytest
from problems import CENTER, CURVATURE, Quadratic
from sampler_cases import problem_for, quadratic_estimate, run_chains

import jaxllc
import jaxllc.theory
from jaxllc import HMC, SGHMC, SGNHT


@pytest.mark.parametrize("nbeta", [2.0, 20.0, 200.0])
@pytest.mark.parametrize("sampler", [SGHMC(3e-3), SGHMC(3e-3, friction=10.0), SGNHT(1e-3)], ids=["sghmc", "sghmc, strong friction", "sgnht"])
def test_momenta_have_the_temperature_at_every_nbeta(sampler, nbeta, key):
    """On all data: the positions' law, exact for SGHMC at any step and for SGNHT at small ones; seen to fail with momenta of temperature 1 / nbeta."""
    problem = Quadratic(batch_size=Quadratic.num_examples, nbeta=nbeta, slope=(0.0,) * len(CURVATURE))
    est = quadratic_estimate(sampler, key, problem)
    exact = problem.exact_llc()
    assert abs(est.llc - exact) < 4 * est.std_error
    assert est.std_error < 0.02 * exact


def test_the_thermostat_moves_and_holds_the_temperature():
    r"""The mean of $\lVert v\rVert^2 / d$ over both sides of the O step is one within 4 standard errors, also with noisy minibatches, where SGHMC runs hot.

    A stationary thermostat makes that exact at any step. Seen to fail with the thermostat standing still.
    """
    problem = Quadratic()
    time = 1e-3**0.5
    excess = {}
    for sampler in (SGNHT(1e-3, friction=1.0), SGHMC(1e-3, friction=1.0)):
        states = run_chains(sampler, problem.posterior(), problem.data, num_chains=32, num_steps=20_000)
        after = np.concatenate([np.asarray(leaf)[:, 4001:] for leaf in jax.tree.leaves(states.momentum)], -1)
        moved = np.concatenate([np.diff(np.asarray(leaf)[:, 4000:], axis=1) for leaf in jax.tree.leaves(states.position)], -1)
        before = 2 * moved / time - after  # half a drift with each
        by_chain = ((after**2 + before**2) / 2).mean((-2, -1)) - 1
        excess[type(sampler).__name__] = by_chain.mean() / (by_chain.std(ddof=1) / np.sqrt(len(by_chain)))
        if isinstance(sampler, SGNHT):
            thermostat = np.asarray(states.thermostat)[:, 4000:]
            assert thermostat.std() > 0.1
            assert thermostat.mean() > 0.1  # it takes up the noise of the gradients
    assert abs(excess["SGNHT"]) < 4
    assert excess["SGHMC"] > 10


def test_momenta_that_are_not_drawn_yet_are_not_cold(key):
    """`step_bias` of the first step is not that of momenta of zero, which is -d / 2."""
    problem = problem_for(HMC(1.0, 1))  # on all data, where the prior absorbs no noise
    trace = jaxllc.sample(key, SGHMC(2e-3), problem.posterior(), problem.data, num_chains=3, num_draws=2)
    np.testing.assert_array_equal(trace.step_bias[:, 0], 0)
    assert (trace.step_bias[:, 1] != 0).all()


def test_zero_friction_keeps_the_energy():
    """On all data a step without friction is a kick and a drift, which keep v² + a x² - h a x v along each axis, exactly, whatever the noise is."""
    problem = Quadratic(batch_size=Quadratic.num_examples, slope=(0.0,) * 5, noise=0.0)
    posterior, epsilon, a = problem.posterior(), 2e-3, problem.nbeta * CURVATURE + problem.localization
    for kind in (SGHMC, SGNHT):
        sampler = kind(epsilon, friction=0.0)
        state, _ = sampler.step(jax.random.key(1), sampler.init(problem.params), posterior, problem.data.arrays)

        @jax.jit
        def run(state, seed, sampler=sampler):
            keys = jax.random.split(jax.random.key(seed), 1000)
            return jax.lax.scan(lambda state, key: (sampler.step(key, state, posterior, problem.data.arrays)[0],) * 2, state, keys)[1]

        states = run(state, 1)
        np.testing.assert_array_equal(states.position["b"], run(state, 2).position["b"])
        if kind is SGHMC:
            x, v = (np.concatenate([np.asarray(tree[name], float) for name in "ab"], -1) for tree in (states.position, states.momentum))
            energy = v**2 + a * (x - CENTER) ** 2 - epsilon**0.5 * a * (x - CENTER) * v
            np.testing.assert_allclose(energy, np.broadcast_to(energy[0], energy.shape), rtol=1e-3)
            assert np.ptp(v, axis=0).min() > 0.1
