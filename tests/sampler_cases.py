"""All samplers by name, in three tables by what is known of their law, and how tests run them on `problems.Quadratic`."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import CURVATURE, Frozen, Quadratic, quadratic_loss

import jaxllc
from jaxllc import HMC, MALA, MCLMC, NUTS, SGHMC, SGLD, SGNHT, Adam, BlackJAX, ControlVariate, RMSProp, engine, starts

ON_MINIBATCHES = {
    "sgld": SGLD(2e-3),
    "sgld, large steps": SGLD(1.2e-2),
    "sgld, gaussian noise": SGLD(2e-3, noise="gaussian"),
    "sgld, gaussian noise, large steps": SGLD(1.2e-2, noise="gaussian"),
    "sgld, control variate": SGLD(1.2e-2, gradient=ControlVariate()),
    "sgld, frozen preconditioner": SGLD(4e-3, Frozen()),
    "sghmc": SGHMC(2e-3),
    "sghmc, large steps, strong friction": SGHMC(1.2e-2, friction=20.0),
    "sghmc, weak friction": SGHMC(2e-3, friction=1.0),
    "sghmc, gaussian noise": SGHMC(1.2e-2, noise="gaussian"),
    "sghmc, control variate": SGHMC(1.1e-2, gradient=ControlVariate()),
}
"""Samplers whose discretised law on a quadratic is known exactly, noise of minibatches included."""

CORRECTED = {
    "mala": MALA(8e-3),
    "hmc": HMC(4e-3, num_integration_steps=7),
    "nuts": NUTS(4e-3, max_num_doublings=6),
    "blackjax, barker": BlackJAX(blackjax.barker, step_size=0.08),
    "blackjax, hmc with masses": BlackJAX(blackjax.hmc, step_size=0.7, inverse_mass_matrix=1 / (50 * CURVATURE + 3), num_integration_steps=3),
}
"""Samplers on all data that keep the continuous law."""

INEXACT = {
    "sgld, rmsprop": SGLD(2e-3, RMSProp()),
    "sgld, adam": SGLD(2e-3, Adam()),
    "sgld, schedule": SGLD(optax.exponential_decay(4e-3, 100, 0.9)),
    "sgnht": SGNHT(2e-3),
    "mclmc": MCLMC(1e-3),
}
"""Samplers without a law in closed form; single tests hold each to what can be said of it."""

EVERY = ON_MINIBATCHES | CORRECTED | INEXACT

on_minibatches = pytest.mark.parametrize("sampler", ON_MINIBATCHES.values(), ids=ON_MINIBATCHES)

OTHER_CODE = ("sgld", "sgld, control variate", "sghmc", "sghmc, control variate", "mala", "sgld, rmsprop", "sgld, adam", "sgld, schedule", "sgnht")
"""Of all samplers those that run different code; the protocol of the others is tried among the long tests."""

every_sampler = pytest.mark.parametrize(
    "sampler", [pytest.param(sampler, id=name, marks=[] if name in OTHER_CODE else [pytest.mark.slow]) for name, sampler in EVERY.items()]
)


def problem_for(sampler):
    """All data at each step where the sampler asks for it."""
    return Quadratic(batch_size=Quadratic.num_examples) if sampler is not None and sampler.full_batch else Quadratic()


def quadratic_estimate(sampler, key, problem, num_draws=8000, **options):
    """An estimate on the quadratic, with chains long enough for errors below 2 %."""
    counts = dict(num_chains=16, num_draws=num_draws, num_burn_in=2000, progress=False)
    law = dict(sampler=sampler, nbeta=problem.nbeta, localization=problem.localization)
    return jaxllc.estimate(quadratic_loss, problem.params, problem.data, key=key, **law, **(counts | options))


def monte_carlo_error(est):
    """The part of the standard error that is not of correcting the step bias: tests against exact laws are as sharp as that."""
    return float(np.sqrt(est.std_error**2 - est.summary["bias_error"].values[0] ** 2))


def run_chains(sampler, posterior, data, num_chains, num_steps):
    """The states of all chains at each step, from the sampler alone."""

    def chain(index):
        def step(state, t):
            noise_key, batch_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(5), index), t))
            state, _ = sampler.step(noise_key, state, posterior, data.batch(data.window(batch_key)))
            return state, state

        return jax.lax.scan(step, sampler.init(posterior.position()), jnp.arange(num_steps))[1]

    return jax.jit(jax.vmap(chain))(jnp.arange(num_chains))


def num_programs():
    """Traces that the engine's two programs have made so far."""
    return starts.start_chains._cache_size(), engine._block._cache_size()
