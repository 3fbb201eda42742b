"""What every sampler keeps to, whatever its law: states, programs, numbers that are traced, chains that depend on themselves alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import Quadratic, quadratic_loss, shifted
from sampler_cases import every_sampler, num_programs, problem_for, run_chains

import jaxllc
import jaxllc.theory
from jaxllc import MALA, MCLMC, SGHMC, SGLD, SGNHT, Adam, ControlVariate, RMSProp, engine


def test_programs_are_told_apart_by_the_classes_of_their_samplers():
    """JAX takes some of these for one structure (`SGHMC` and `SGNHT` among them), and then tells their programs apart by the luck of a hash.

    Seen, without the classes in the programs' keys, as a control variate that ran the program of a plain minibatch and missed its gradient at w*.
    """
    samplers = [SGLD(1.0), SGLD(1.0, gradient=ControlVariate()), SGLD(1.0, RMSProp()), SGLD(1.0, Adam()), SGHMC(1.0, 1.0), SGNHT(1.0, 1.0)]
    samplers += [SGHMC(1.0, 1.0, gradient=ControlVariate()), MALA(1.0), SGLD(1.0, noise="gaussian")]
    assert len({engine.kind_of(sampler) for sampler in samplers}) == len(samplers)
    assert engine.kind_of(SGLD(1.0)) == engine.kind_of(SGLD(2.0))


@pytest.mark.parametrize("kind", [SGHMC, SGNHT])
def test_without_localization_the_friction_must_be_told(kind, key):
    """Its default is 2√γ; with none at all the chain keeps the energy that it began with, and gave half of λ̂ without a finding."""
    posterior = Quadratic().posterior().replace(localization=0.0)
    with pytest.raises(ValueError, match=rf"{kind.__name__}\(friction=None\) takes its friction from the localization, which is 0.*pass friction="):
        jaxllc.sample(key, kind(2e-3), posterior, Quadratic().data, num_chains=2, num_draws=5)
    for friction in (0.0, 1.0):
        trace = jaxllc.sample(key, kind(2e-3, friction), posterior, Quadratic().data, num_chains=2, num_draws=5)
        assert np.isfinite(trace.excess_loss).all()


def test_step_sizes_are_float32_at_least():
    assert SGLD(jnp.bfloat16(1e-3)).step_size_at(jnp.asarray(0)).dtype == jnp.float32


def test_a_schedule_is_followed(key):
    """A constant schedule gives the chain of its number; one that drops to zero stops the chain."""
    problem = Quadratic()
    args = dict(num_chains=2, num_draws=50)
    plain = jaxllc.sample(key, SGLD(2e-3), problem.posterior(), problem.data, **args)
    constant = jaxllc.sample(key, SGLD(optax.constant_schedule(2e-3)), problem.posterior(), problem.data, **args)
    np.testing.assert_allclose(plain.excess_loss, constant.excess_loss, rtol=1e-5, atol=1e-6)
    states = run_chains(SGLD(optax.piecewise_constant_schedule(2e-3, {30: 0.0})), problem.posterior(), problem.data, 2, 50)
    moved = np.abs(np.diff(np.asarray(states.position["b"]), axis=1)).max((0, 2))
    assert (moved[:29] > 0).all()
    assert (moved[29:] == 0).all()


@every_sampler
def test_one_trace_for_any_values(sampler, key):
    """New values of every hyperparameter, other blocks of steps, other checkpoints and other groups of a size run the programs that the first call made.

    The loss is traced twice: where it is looked at before a chain moves, and for all programs.
    Seen to fail with a localization that stays an integer, which the number of traces of `loss_fn` alone does not show: it has a `jit` of its own.
    """
    problem = problem_for(sampler)
    chex.clear_trace_counter()  # it counts by name, over all parameters of this test

    @chex.assert_max_traces(n=2)
    def loss_fn(params, batch):
        return quadratic_loss(params, batch)

    options = dict(key=key, num_draws=300, num_burn_in=10, progress=False)  # two blocks
    first = jaxllc.estimate(loss_fn, problem.params, problem.data, sampler=sampler, nbeta=50.0, localization=3.0, **options)
    made = num_programs()
    halved = jax.tree.map(lambda x: x / 2, sampler)
    other = jaxllc.estimate(loss_fn, shifted(problem.params, 0.01), problem.data, sampler=halved, nbeta=20, localization=1, **options)
    assert num_programs() == made
    assert first.llc != other.llc
    checkpoints = {i: shifted(problem.params, 0.01 * i) for i in range(7)}
    traj = jaxllc.trajectory(loss_fn, checkpoints, problem.data, sampler=sampler, group_size=3, **options)
    assert len(traj.table()) == 7
    assert num_programs() == tuple(count + 1 for count in made)  # for a group of three in the place of one


@every_sampler
def test_zero_step_size_stays_at_the_center(sampler, key):
    """Explicit zeros mean zero."""
    problem = problem_for(sampler)
    trace = jaxllc.sample(key, sampler.replace(step_size=0.0), problem.posterior(), problem.data, num_chains=2, num_draws=20)
    np.testing.assert_allclose(trace.excess_loss, 0, atol=1e-6)


@every_sampler
def test_the_draws_of_a_chain_depend_on_that_chain_alone(sampler, key):
    """Of four chains and of eight the first four are the same, to rounding: what belongs to all chains is kept beside their draws.

    Seen to fail with the absorbed noise, which is of all chains together, taken off each draw of SGHMC (`estimator._arrays`).
    """
    problem = problem_for(sampler)
    options = dict(key=key, sampler=sampler, nbeta=50.0, localization=3.0, num_draws=25, num_burn_in=5, progress=False)
    few, many = (jaxllc.estimate(quadratic_loss, problem.params, problem.data, num_chains=count, **options) for count in (4, 8))
    for name in ("posterior/llc", "sample_stats/loss", "sample_stats/step_bias", "constant_data/gaussian_llc"):
        np.testing.assert_allclose(many.data[name][:4], few.data[name], rtol=2e-4, atol=2e-4, err_msg=name)
    assert not np.allclose(many.data["posterior/llc"][4:], few.data["posterior/llc"], atol=1e-2)


def test_absorbed_noise_is_kept_beside_the_draws(key):
    """SGHMC's, which takes all chains to know: of eight chains it is another than of four, and not nothing."""
    options = dict(key=key, sampler=SGHMC(2e-3), nbeta=50.0, localization=3.0, num_draws=300, num_burn_in=50, progress=False)
    few, many = (jaxllc.estimate(quadratic_loss, Quadratic().params, Quadratic().data, num_chains=count, **options) for count in (4, 8))
    corrections = [float(est.data["constant_data/llc_correction"]) for est in (few, many)]
    assert min(corrections) > 0
    assert corrections[0] != corrections[1]
    for est, correction in zip((few, many), corrections, strict=True):
        assert est.llc == pytest.approx(float(est.data["posterior/llc"].mean()) + correction, rel=1e-5)
        assert est.step_bias == pytest.approx(float(est.data["sample_stats/step_bias"].mean()) - correction, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: RMSProp(decay=1.0), r"RMSProp\(decay\) must be at least 0 and below 1, got 1\.0"),
        (lambda: RMSProp(decay=-0.1), r"RMSProp\(decay\) must be at least 0 and below 1, got -0\.1"),
        (lambda: RMSProp(decay=float("nan")), r"RMSProp\(decay\) must be at least 0 and below 1, got nan"),
        (lambda: RMSProp(eps=0), r"RMSProp\(eps\) must be above 0, got 0"),
        (lambda: Adam(b1=1.0), r"Adam\(b1\) must be at least 0 and below 1"),
        (lambda: Adam(eps=0.0), r"Adam\(eps\) must be above 0"),
        (lambda: MCLMC(1e-3, memory=0.0), r"MCLMC\(memory\) must be above 0, got 0\.0"),
    ],
)
def test_numbers_without_meaning_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()
