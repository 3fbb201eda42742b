"""Gradient noise that the prior absorbs, as SGLD's chains tell it: against exact laws of quadratics, and the part that it has in error bars."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampler_cases import monte_carlo_error

import jaxllc
from jaxllc import SGLD, Adam, ControlVariate, InMemory, LocalPosterior, RMSProp, Settings, step_bias
from jaxllc.absorbed import Law, absorbed_along_chains
from jaxllc.theory import quadratic_llc, window_variance

SIX = np.array([0.0, 0.05, 0.3, 1.0, 3.0, 6.0])
PLAIN = SGLD(2.4e-4)
SIXTY = np.repeat([0.0, 0.02, 0.2, 2.0], 15)
"""With nbeta 50 the posterior has curvatures 0, 1, 10 and 100 beside the prior's."""


def six_directions(params, batch):
    return 0.5 * jnp.vdot(jnp.asarray(SIX, jnp.float32), params**2) + batch @ params


def sixty_directions(params, batch):
    return 0.5 * jnp.vdot(jnp.asarray(SIXTY, jnp.float32), params**2) + batch @ params


def rows(num_examples, curvature, noise, slope=0.0):
    z = np.random.default_rng(7).normal(size=(num_examples, len(curvature))) * noise
    return (z - z.mean(0) + slope).astype(np.float32)


def estimate_six(key, sampler=PLAIN, **options):
    run = dict(nbeta=300.0, localization=40.0, batch_size=50, num_chains=32, num_draws=4000, num_burn_in=500, progress=False) | options
    return jaxllc.estimate(six_directions, jnp.zeros(6), rows(400, SIX, 1.0), key=key, sampler=sampler, **run)


def correction(est):
    return float(est.data["constant_data/llc_correction"])


@pytest.mark.parametrize("sampler", [SGLD(2.4e-4), SGLD(1e-4, RMSProp())], ids=["plain", "rmsprop"])
def test_six_directions_in_which_the_prior_matters(sampler, key):
    """Within 3 errors of the posterior's own value at a `step_bias` of a fifth of it, which is off by more than 3 without what is given back."""
    est = estimate_six(key, sampler)
    exact = quadratic_llc(SIX, 300.0, 40.0)
    assert est.step_bias > 0.1 * exact
    assert abs(est.llc - exact) < 3 * monte_carlo_error(est)
    assert abs(est.llc - correction(est) - exact) > 3 * monte_carlo_error(est)


def along_chains(localization, slope=0.0, step_size=2e-3, num_chains=64, num_draws=1000, num_burn_in=500, thinning=1, num_examples=2000, size=20):
    """What chains on sixty directions tell in groups of eight, `[group]`, its own errors, and the exact value of all iterations of the draws."""
    data = InMemory.of(rows(num_examples, SIXTY, 0.5, slope), size)
    posterior = LocalPosterior(sixty_directions, jnp.zeros(60), 50.0, localization)
    counts = dict(num_chains=num_chains, num_draws=num_draws, num_burn_in=num_burn_in, thinning=thinning)
    trace = jaxllc.sample(jax.random.key(3), SGLD(step_size), posterior, data, **counts)
    law = Law(50.0, localization, step_size, thinning)
    groups = [slice(i, i + 8) for i in range(0, num_chains, 8)]
    found = [
        absorbed_along_chains(*(x[s] for x in (trace.virial, trace.excess_loss, trace.window)), law, num_examples=num_examples, batch_size=size) for s in groups
    ]
    a, times = 50.0 * SIXTY + localization, num_burn_in + thinning * np.arange(num_draws)
    share = (50.0 * SIXTY / a * (1 - (1 - step_size * a / 2) ** (2 * times[:, None]))).mean(0)
    exact = step_size / 8 * 50.0**2 * np.sum(window_variance(np.asarray(data.arrays)[:num_examples], size) * (1 - share))
    return np.array([one.mean for one in found]), np.array([one.by_chain.std(ddof=1) / np.sqrt(8) for one in found]), exact


CASES = {
    "plain": {},
    "a slope at w*": dict(slope=0.1),
    "thinned": dict(thinning=5, num_draws=400),
    "not in equilibrium": dict(localization=1.0, step_size=4e-4),
    "few batches of the data": dict(slope=0.1, num_examples=160),
    "half of the data": dict(num_examples=400, size=200),
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_what_chains_tell_is_the_exact_share(options):
    """On average over groups of eight chains, within 4 errors and a tenth (the law of finite steps is wider); the errors told are those seen, to a half.

    Seen to fail: "a slope at w*" without the mean position, "few batches" with pairs of batches at any distance, "not in equilibrium" without the second term.
    """
    found, own, exact = along_chains(**(dict(localization=10.0) | options))
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - exact) < 4 * error + 0.1 * exact
    assert error < 0.15 * exact
    assert 0.5 < np.sqrt(np.mean(own**2)) / found.std(ddof=1) < 2


@pytest.mark.slow
def test_nothing_is_given_back_where_nothing_is_known(key):
    """A single chain, and all data at each step; less for control variates, whose noise is smaller; batches of means tell the same as examples."""
    short = dict(num_draws=500, num_chains=4)
    assert correction(estimate_six(key, **short)) > 0.03
    assert correction(estimate_six(key, num_draws=500, num_chains=1)) == 0
    assert correction(estimate_six(key, batch_size=None, **short)) == 0
    assert correction(estimate_six(key, SGLD(2.4e-4, gradient=ControlVariate()), **short)) < 0.01
    assert correction(estimate_six(key, SGLD(1e-4, Adam()), **short)) > 0.01
    means = jaxllc.estimate(
        lambda p, b: six_directions(p, b).mean(), jnp.zeros(6), rows(400, SIX, 1.0), key=key, sampler=SGLD(2.4e-4), nbeta=300.0, localization=40.0,
        batch_size=50, num_burn_in=500, progress=False, **short,
    )  # fmt: skip
    assert correction(means) == pytest.approx(correction(estimate_six(key, **short)), rel=1e-2)


def doubt(power, noise=0.0, absorbed=0.0):
    """Of made chains whose loss grows like a power of the distance: mean loss 2 at nbeta = 1, step bias 0.5."""
    rng = np.random.default_rng(0)
    excess = 2 + noise * rng.normal(size=(1, 8, 400))
    trace = SimpleNamespace(excess_loss=excess, step_bias=np.full_like(excess, 0.5), virial=(power * 2 + noise * rng.normal(size=excess.shape)) * 0.1 / 8)
    plan = SimpleNamespace(settings=Settings(SGLD(0.1), localization=1.0, num_chains=8, num_draws=400), data=None)
    good = np.ones((1, 8), bool)
    return float(step_bias.bias_error(trace, good, np.array([absorbed]), plan.settings.sampler, plan, np.ones(1))[0])


def test_what_is_in_doubt_of_a_bias_by_hand():
    """A fiftieth on a quadratic; of a quartic, whose bias is half of what is counted, a quarter; noise alone is no doubt. And of what was given back."""
    assert doubt(2) == pytest.approx(0.02 * 0.5, rel=1e-4)
    assert doubt(3) == pytest.approx((1 / 6 + 0.02) * 0.5, rel=1e-4)
    assert doubt(4) == pytest.approx(0.25 * 0.5, rel=1e-4)
    assert doubt(2, noise=5.0) < 0.1 * 0.5
    assert doubt(2, absorbed=0.2) == pytest.approx(0.02 * 0.3 + 0.2 * 0.3 / 1.7 / 2, rel=1e-4)


def one_well(params, batch):
    return jnp.broadcast_to(jnp.sum(params**2 / 2 + params**3 / 2 + params**4), batch.shape[:1])


def test_error_bars_cover_where_the_loss_is_not_quadratic(key):
    """A well with cubic and quartic parts at a `step_bias` of a fifth: off by five Monte-Carlo errors and more, by less than two errors."""
    x = np.linspace(-6, 6, 200_001)
    energy = 20 * (x**2 / 2 + x**3 / 2 + x**4)
    density = np.exp(-energy - x**2 / 2)
    exact = 8 * (density * energy).sum() / density.sum()
    est = jaxllc.estimate(
        one_well, jnp.zeros(8), np.zeros((4, 1), np.float32), key=key, sampler=SGLD(2e-2), nbeta=20.0, localization=1.0, num_chains=16, num_draws=4000,
        num_burn_in=500, thinning=2, progress=False,
    )  # fmt: skip
    assert abs(est.llc - exact) > 4 * monte_carlo_error(est)
    assert abs(est.llc - exact) < 2 * est.std_error


@pytest.mark.slow
def test_intervals_cover():
    """Of 100 keys with eight chains the share within 1.96 errors is 92 % to 100 %, and it was far less without what is given back."""
    exact, found = quadratic_llc(SIXTY, 50.0, 10.0), []
    for seed in range(100):
        run = dict(key=jax.random.key(seed), sampler=SGLD(2e-3), nbeta=50.0, localization=10.0, batch_size=20, num_draws=1000, num_burn_in=500)
        est = jaxllc.estimate(sixty_directions, jnp.zeros(60), rows(2000, SIXTY, 0.5), progress=False, **run)
        found.append((est.llc - exact, est.std_error, correction(est)))
    error, own, given = np.array(found).T
    assert np.mean(np.abs(error) < 1.96 * own) >= 0.92
    assert np.mean(np.abs(error - given) < 1.96 * own) < 0.85
