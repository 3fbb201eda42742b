"""What holds for all samplers, from one table: the exact law on quadratics, and the manners of the protocol."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import CENTER, CURVATURE, Quadratic, quadratic_loss, shifted

import jaxllc
import jaxllc.theory
from jaxllc import SGLD, LocalPosterior
from jaxllc.diagnostics import summary
from jaxllc.models import linear

SAMPLERS = {
    "sgld": SGLD(2e-3),
    "sgld, large steps": SGLD(1.2e-2),
    "sgld, gaussian noise": SGLD(2e-3, noise="gaussian"),
    "sgld, gaussian noise, large steps": SGLD(1.2e-2, noise="gaussian"),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@every_sampler
def test_llc_of_a_quadratic(sampler, key):
    """Lies within 4 standard errors of the law of the discretised chain, so no tolerance is guessed.

    Seen to fail, as the first test of the suite, with each of these planted in `SGLD.step`: the pull's sign turned; the pull left out, or towards
    the origin; noise √(ε/2) or √(2ε) in the place of √ε; nβ applied twice (all chains diverge); ε in the place of ε/2. And with nβ applied twice to λ̂
    in `results`, one key for noise and batch in `engine` (key-reuse checking), and one key for all chains (the error bar no longer covers).
    """
    problem = Quadratic()
    est = jaxllc.estimate(
        quadratic_loss, problem.params, problem.data, key=key, sampler=sampler, nbeta=problem.nbeta, localization=problem.localization,
        num_chains=16, num_draws=8000, num_burn_in=2000, progress=False,
    )  # fmt: skip
    exact = problem.exact_llc(float(sampler.step_size))
    assert abs(est.llc - exact) < 4 * est.std_error
    assert est.std_error < 0.02 * exact


@every_sampler
def test_llc_of_quadratics_in_a_group(sampler, key):
    """Three centres in one program; away from the minimum the exact answer is that of a sloping quadratic."""
    problem = Quadratic()
    moves = (0.0, 0.05, -0.1)
    traj = jaxllc.trajectory(
        quadratic_loss, {10 * i: shifted(problem.params, by) for i, by in enumerate(moves)}, problem.data, key=key, sampler=sampler,
        nbeta=problem.nbeta, localization=problem.localization, num_chains=16, num_draws=8000, num_burn_in=2000, progress=False, group_size=3,
    )  # fmt: skip
    table = summary(traj.data)
    rows = np.asarray(problem.data.arrays)[: problem.num_examples]
    variance = jaxllc.theory.window_variance(rows, problem.batch_size)
    for i, by in enumerate(moves):
        exact = jaxllc.theory.quadratic_llc(
            CURVATURE,
            problem.nbeta,
            problem.localization,
            step_size=float(sampler.step_size),
            gradient_variance=variance,
            gradient=rows.mean(0) + CURVATURE * by,
        )
        assert abs(table["llc"].values[i] - exact) < 4 * table["std_error"].values[i], f"centre moved by {by}"


def test_rademacher_and_gaussian_noise_agree_where_the_loss_is_not_quadratic(key):
    """A deep linear net: the two means differ by less than 4 of their standard errors, which are below 1 %."""
    params = linear.teacher(jax.random.key(1), (6, 8, 5), 3)
    data = jaxllc.InMemory.of(linear.examples(jax.random.key(2), params, 5000), 200)
    both = [
        jaxllc.estimate(
            linear.squared_loss, params, data, key=key, sampler=SGLD(4e-5, noise=noise), localization=10.0, num_draws=6000, num_burn_in=2000, progress=False
        )
        for noise in ("rademacher", "gaussian")
    ]
    assert abs(both[0].llc - both[1].llc) < 4 * np.hypot(both[0].std_error, both[1].std_error)
    assert max(est.std_error / est.llc for est in both) < 0.01


@every_sampler
def test_structure_and_dtype_stay(sampler, key):
    params = {"a": (jnp.ones((2, 3)), jnp.ones(4, jnp.bfloat16)), "b": {"c": jnp.asarray(1.0)}, "n": jnp.asarray(3)}
    posterior = LocalPosterior(lambda p, batch: sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(p)) * batch, params, 2.0)
    state = sampler.init(posterior.position())
    after, info = jax.jit(sampler.step)(key, state, posterior, jnp.ones(5))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert info.losses.shape == (5,)
    assert not np.allclose(after.position["a"][0], state.position["a"][0])


@every_sampler
def test_one_trace_for_any_values(sampler, key):
    """New values of every hyperparameter, and a whole trajectory in groups, run one trace of `loss_fn`, the one that the first call made."""
    problem = Quadratic()

    chex.clear_trace_counter()  # it counts by name, over all parameters of this test

    @chex.assert_max_traces(n=1)
    def loss_fn(params, batch):
        return quadratic_loss(params, batch)

    def run(sampler, **options):
        return jaxllc.estimate(loss_fn, problem.params, problem.data, key=key, sampler=sampler, num_draws=64, num_burn_in=10, progress=False, **options)

    first = run(sampler, nbeta=50.0, localization=3.0)
    other = run(jax.tree.map(lambda x: x / 2, sampler), nbeta=20, localization=1)
    assert first.llc != other.llc
    checkpoints = {i: shifted(problem.params, 0.01 * i) for i in range(7)}
    traj = jaxllc.trajectory(loss_fn, checkpoints, problem.data, key=key, sampler=sampler, num_draws=64, num_burn_in=10, progress=False, group_size=3)
    assert len(traj.table()) == 7


@every_sampler
def test_zero_step_size_stays_at_the_center(sampler, key):
    """Explicit zeros mean zero."""
    problem = Quadratic()
    trace = jaxllc.sample(key, sampler.replace(step_size=0.0), problem.posterior(), problem.data, num_chains=2, num_draws=20)
    np.testing.assert_allclose(trace.excess_loss, 0, atol=1e-6)


def test_center_is_the_center_of_the_problem():
    np.testing.assert_allclose(np.concatenate(jax.tree.leaves(Quadratic().params)), CENTER, rtol=1e-6)
