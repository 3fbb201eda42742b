"""AdaptiveHMC: its law, its metric, and what burn-in adapts."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Quadratic, quadratic_loss
from sampler_cases import run_chains

import jaxllc
from jaxllc import AdaptiveHMC, InMemory, LocalPosterior
from jaxllc.full_data import center_hessian, losses_and_gradient
from jaxllc.samplers.adaptive_hmc import Metric
from jaxllc.spectrum import DENSE, Spectrum, leading_spectrum
from jaxllc.theory import quadratic_llc

SETTINGS = jaxllc.Settings(sampler=AdaptiveHMC(), batch_size=None, num_draws=300, num_burn_in=60, dispersion=0.5)


def estimate(loss, params, data, settings=SETTINGS, key=0, **options):
    return jaxllc.estimate(loss, params, data, settings, key=jax.random.key(key), progress=False, **options)


def linear_regression(scales, n=500):
    """Rows whose columns have these scales, noise of variance one, and the least-squares solution."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, len(scales))) * scales
    y = x @ rng.normal(size=len(scales)) / scales.max() + rng.normal(size=n)
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    curvatures = np.linalg.eigvalsh(x.T @ x / n)
    return jnp.asarray(weights, jnp.float32), (x.astype(np.float32), y.astype(np.float32)), curvatures


def squared_error(w, batch):
    return (batch[0] @ w - batch[1]) ** 2 / 2


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_llc_of_a_regression_with_one_large_column(scale):
    """Exact whatever the condition number, up to 1e6."""
    weights, data, curvatures = linear_regression(np.array([scale, 1, 1, 1, 1, 1]))
    nbeta = jaxllc.default_nbeta(500)
    est = estimate(squared_error, weights, data)
    exact = quadratic_llc(curvatures, nbeta, 1.0)
    assert abs(est.llc - exact) < 4 * est.std_error
    assert est.std_error < 0.05 * exact
    assert not est.findings


def test_llc_where_few_directions_are_led():
    """More weights than are led, so that the metric is only right along some of them, and a slope at w*."""
    scales = np.geomspace(1, 10, DENSE + 44)
    weights, data, curvatures = linear_regression(scales, n=1000)
    est = estimate(squared_error, weights, data, SETTINGS.replace(sampler=AdaptiveHMC(rank=8), num_draws=60, num_burn_in=30), localization=100.0)
    exact = quadratic_llc(curvatures, jaxllc.default_nbeta(1000), 100.0)
    assert abs(est.llc - exact) < 4 * est.std_error
    assert est.std_error < 0.05 * exact


def test_llc_where_the_loss_slopes_at_the_centre():
    problem = Quadratic(batch_size=Quadratic.num_examples)
    est = estimate(
        quadratic_loss, problem.params, problem.rows, SETTINGS.replace(num_draws=3000), nbeta=problem.nbeta, localization=problem.localization, num_chains=16
    )
    assert abs(est.llc - problem.exact_llc()) < 4 * est.std_error


def test_a_crossing_from_its_origin():
    """The Hessian at w* is zero there, and large in the arms: the step size finds it out."""
    nbeta = 300.0

    def loss(w, batch):
        return 0 * batch + w[0] ** 2 * w[1] ** 2

    est = estimate(loss, jnp.zeros(2), jnp.zeros(8), SETTINGS.replace(num_draws=2000, num_burn_in=200), nbeta=nbeta)

    grid = np.linspace(0, 7, 4001)
    energy = nbeta * grid[:, None] ** 2 * grid**2
    weight = np.exp(-energy - (grid[:, None] ** 2 + grid**2) / 2)
    exact = (weight * energy).sum() / weight.sum()
    assert abs(est.llc - exact) < 4 * est.std_error
    assert est.std_error < 0.1 * exact


def test_the_metric_is_the_hessian_and_its_functions_fit_together():
    weights, data, curvatures = linear_regression(np.array([30.0, 2, 1]))
    posterior = LocalPosterior(squared_error, weights, 100.0, 2.0)
    held = InMemory.of(data)
    posterior = posterior.replace(center_hessian=center_hessian(posterior, held, 64))
    np.testing.assert_allclose(np.sort(posterior.center_hessian.values), curvatures, rtol=1e-4)
    metric = Metric.of(posterior)
    v = jnp.asarray([0.3, -1.0, 2.0])
    np.testing.assert_allclose(metric.velocity(metric.velocity(v)), metric.inverse(v), rtol=1e-4)
    exact = 100 * np.asarray(data[0]).T @ data[0] / 500 + 2 * np.eye(3)
    np.testing.assert_allclose(metric.inverse(jnp.asarray(exact @ v, jnp.float32)), v, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(metric.square(v), v @ exact @ v, rtol=1e-3)


def test_leading_eigenpairs_of_many_weights():
    values = np.concatenate([[-300.0, 200.0, 100.0, 50.0], np.full(DENSE, 0.1)]).astype(np.float32)
    found = leading_spectrum(lambda tree: {"a": tree["a"] * values}, {"a": jnp.zeros(len(values))}, 8, jax.random.key(0))
    np.testing.assert_allclose(found.values[-4:], [50, 100, 200, -300], rtol=1e-3)
    assert found.vectors["a"].shape == (8, len(values))


def test_gradient_in_chunks_is_that_of_all_examples(monkeypatch):
    weights, data, _ = linear_regression(np.array([3.0, 1]), n=501)
    posterior = LocalPosterior(squared_error, weights, 1.0)
    batch = InMemory.of(data).batch(jnp.zeros((), jnp.int32))
    position = weights + 0.5
    whole = posterior.loss_and_grad(position, batch)
    monkeypatch.setattr("jaxllc.full_data.CHUNK", 100)
    chunked = losses_and_gradient(posterior, position, batch)
    np.testing.assert_allclose(chunked[0], whole[0], rtol=1e-5)
    np.testing.assert_allclose(chunked[1], whole[1], rtol=1e-5)


def test_step_size_is_adapted_in_burn_in_and_then_stays():
    weights, data, _ = linear_regression(np.array([30.0, 2, 1]))
    posterior = LocalPosterior(squared_error, weights, 100.0, 2.0)
    held = InMemory.of(data)
    posterior = posterior.replace(center_hessian=center_hessian(posterior, held, 64))
    states = run_chains(AdaptiveHMC(num_adaptation=40.0), posterior, held, num_chains=4, num_steps=60)
    log_steps = np.asarray(states.log_step)
    assert (np.diff(log_steps[:, :38]) != 0).any(-1).all()
    assert (np.diff(log_steps[:, 39:]) == 0).all()
    assert 0.5 < np.exp(log_steps[:, -1]).mean() < 2


@pytest.mark.slow
def test_every_second_chain_starts_dispersed():
    """Those at w* have a distance of zero from it; the others that of the law of the metric, and the next checkpoint shares their noise."""
    weights, data, curvatures = linear_regression(np.array([3.0, 1]), n=100)
    posterior = LocalPosterior(squared_error, jnp.stack([weights, weights]), 100.0, 2.0)
    run = dict(num_chains=2000, num_draws=1, stacked=True)
    trace = jaxllc.sample(jax.random.key(0), AdaptiveHMC(num_adaptation=0.0), posterior, InMemory.of(data), dispersion=0.5, **run)
    first = trace.squared_distance[..., 0]
    assert (first[:, ::2] == 0).all()
    assert (first[:, 1::2] > 0).all()
    np.testing.assert_array_equal(first[0], first[1])
    exact = 0.25 * (1 / (100 * curvatures + 2)).sum()
    assert abs(first[0, 1::2].mean() - exact) < 4 * first[0, 1::2].std() / 1000**0.5


@pytest.mark.slow
def test_dispersed_starts_of_other_samplers_are_those_of_the_prior():
    posterior = LocalPosterior(squared_error, jnp.zeros(2), 1.0, 4.0)
    data = InMemory.of((jnp.ones((20, 2)), jnp.zeros(20)), 5)
    trace = jaxllc.sample(jax.random.key(0), jaxllc.SGLD(1e-6), posterior, data, dispersion=0.5, num_chains=2000, num_draws=1)
    moved = trace.squared_distance[1::2, 0]
    assert (trace.squared_distance[::2] == 0).all()
    assert abs(moved.mean() - 2 * 0.25 / 4) < 4 * moved.std() / 1000**0.5


@pytest.mark.parametrize("wrong", [dict(num_adaptation=-1.0), dict(target_acceptance=1.0), dict(max_integration_steps=0.5), dict(rank=0)])
def test_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"AdaptiveHMC\\({next(iter(wrong))}\\)"):
        AdaptiveHMC(**wrong)


def test_what_it_needs_is_named():
    posterior, data = LocalPosterior(squared_error, jnp.zeros(2), 1.0), InMemory.of((jnp.ones((20, 2)), jnp.zeros(20)))
    with pytest.raises(ValueError, match="needs a number"):
        jaxllc.sample(jax.random.key(0), AdaptiveHMC(), posterior, data, num_chains=2, num_draws=2)
    sampler = AdaptiveHMC(num_adaptation=3.0)
    with pytest.raises(ValueError, match="needs LocalPosterior.center_hessian"):
        sampler.step(jax.random.key(0), sampler.init(posterior.position()), posterior, data.batch(jnp.zeros((), jnp.int32)))


@jax.custom_vjp
def _without_second_derivative(x):
    return x**2 / 2


def _forward(x):
    return x**2 / 2, x


def _backward(x, g):
    return (g * jax.pure_callback(lambda x: np.asarray(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential"),)


_without_second_derivative.defvjp(_forward, _backward)


def test_hessian_of_a_loss_whose_gradient_has_no_derivative():
    weights, data, curvatures = linear_regression(np.array([3.0, 2, 1]))

    def loss(w, batch):
        return _without_second_derivative(batch[0] @ w - batch[1])

    found = center_hessian(LocalPosterior(loss, weights, 1.0), InMemory.of(data), 64)
    np.testing.assert_allclose(np.sort(found.values), curvatures, rtol=2e-2)


@pytest.mark.parametrize("sampler", [AdaptiveHMC(num_adaptation=0.0), pytest.param(jaxllc.SGLD(1e-6), marks=pytest.mark.slow)], ids=["hmc", "sgld"])
def test_a_dispersed_start_does_not_leave_the_basin(sampler):
    """Flat at w*, a wall not far from it: the start is taken nearer, or it would have thousands of nats."""

    def loss(w, batch):
        return 0 * batch + (w**2).sum() ** 4

    posterior = LocalPosterior(loss, jnp.zeros(8), 1000.0, 1.0)
    trace = jaxllc.sample(jax.random.key(0), sampler, posterior, InMemory.of(jnp.zeros(10)), dispersion=1.0, num_chains=40, num_draws=1)
    starts = trace.squared_distance[:, 0]
    assert (starts[1::2] > 0).all()
    assert (1000 * trace.excess_loss[:, 0] + starts / 2 < 30).all()


def test_kinetic_energies_beyond_the_numbers_stay_positive():
    """Of velocities that a step far too long has made: one of minus infinity would be accepted."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(18, 18)))[0].astype(np.float32)
    spectrum = Spectrum(jnp.asarray(np.geomspace(1, 1e6, 18), jnp.float32), jnp.asarray(rotation))
    velocities = 1e25 * jax.random.normal(jax.random.key(0), (200, 18))
    assert (jax.vmap(lambda v: spectrum.square(jnp.ones(()), v))(velocities) > 0).all()
    assert not (jax.vmap(lambda v: jnp.vdot(v, spectrum.apply(lambda a: a, jnp.ones(()), v)))(velocities) > 0).all()


def test_a_gain_out_of_all_proportion_is_refused():
    """Neither a gain nor a loss of so much energy is that of a trajectory, which keeps it: the chain stays where it is."""

    def loss(w, batch):
        return 0 * batch + jnp.where((w**2).sum() > 1, -1e30, 0.0)  # a cliff without a slope

    posterior = LocalPosterior(loss, jnp.zeros(2), 1.0, 1.0)
    trace = jaxllc.sample(jax.random.key(0), AdaptiveHMC(num_adaptation=0.0), posterior, InMemory.of(jnp.zeros(10)), num_chains=8, num_draws=50)
    assert trace.squared_distance.max() <= 1
    assert (trace.acceptance_rate == 0).any()
    assert (trace.acceptance_rate > 0.5).any()


def test_many_checkpoints_in_one_program_on_several_host_devices(tmp_path):
    """In a process of two host devices: LAPACK on batches of factorisations would wait for ever. Seen to hang with the Hessians of a group in one vmap."""
    code = (
        "import sys, jax; jax.config.update('jax_num_cpu_devices', 2)\n"
        "sys.path.insert(0, 'tests')\n"
        "import jax.numpy as jnp, numpy as np, jaxllc\n"
        "x = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)\n"
        "loss = lambda w, batch: jnp.square(jnp.tanh(batch @ w['a']) @ w['b'])\n"
        "w = {'a': jnp.ones((40, 16)) / 40, 'b': jnp.ones(16) / 16}\n"
        "sampler = jaxllc.AdaptiveHMC(max_integration_steps=8.0)\n"
        "settings = jaxllc.Settings(sampler=sampler, localization=100.0, batch_size=None, num_draws=16, num_burn_in=16)\n"
        "traj = jaxllc.trajectory(loss, dict.fromkeys(range(12), w), x, settings, key=jax.random.key(0), group_size=12, progress=False)\n"
        "print(len(traj.table()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=150)
    assert done.stdout == "12\n", done.stderr
