r"""What a trace tells of `step_bias`: how much of it the prior absorbs, and how far it may be wrong."""

from functools import partial

import jax
import numpy as np

from jaxllc.absorbed import Law, absorbed_along_chains
from jaxllc.error_bars import mean_and_error
from jaxllc.plan import Plan
from jaxllc.recording import Trace
from jaxllc.sampler import Sampler
from jaxllc.starts import kind_of

NUM_ITERATIONS = 32
"""At which a schedule is read."""
LEAST_DOUBT, MAX_DOUBT = 0.02, 0.25
"""The standard error of correcting the step bias, as a share of it: on every loss, and at most."""


def absorbed_noise(trace: Trace, good: np.ndarray, variance: np.ndarray, sampler: Sampler, plan: Plan, nbeta: np.ndarray) -> np.ndarray:
    r"""The gradient noise that `Info.step_bias` counts though the prior absorbs it, `[K]`, in units of $\hat\lambda$: at most all that is counted.

    Args:
        trace: of K checkpoints.
        good: which chains did not diverge, `[K, C]`.
        variance: `functional_variance`, `[K]`.
        sampler: one that says `counts_absorbed_noise`.
        plan: what the run does.
        nbeta: $n\beta$, `[K]`.
    """
    data, settings = plan.data, plan.settings
    gain = _gain(sampler, plan, nbeta) * nbeta**2 * settings.localization
    counted = np.maximum(_mean_of_chains(trace.step_bias, good), 0)
    return np.clip(gain * variance * (1 / data.batch_size - 1 / data.num_examples), 0, counted)


def functional_variance(between: np.ndarray, good: np.ndarray) -> np.ndarray:
    """$V$ at each checkpoint, `[K]`, over chains that are `good`, `[K, C]`; zero where these are fewer than two."""
    variance = np.zeros(len(good))
    for k in np.flatnonzero(good.sum(-1) > 1):
        of_chains = between[k][good[k]][:, good[k]]
        count = len(of_chains)
        variance[k] = (np.trace(of_chains) - of_chains.sum() / count) / (count - 1)
    return variance


def absorbed_in_sgld(trace: Trace, good: np.ndarray, sampler: Sampler, plan: Plan, nbeta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `jaxllc.absorbed` reads off the chains, `[K]`, and what each of them adds to it, `[K, C]`.

    It is read off a law that finite steps and noise have widened, by about the share that they add to the loss, which is taken off again.
    """
    assert trace.virial is not None
    assert trace.window is not None
    data, settings = plan.data, plan.settings
    step_size = 8 * _gain(sampler, plan, nbeta) if sampler.is_overdamped else [None] * len(nbeta)
    counted, whole = np.maximum(_mean_of_chains(trace.step_bias, good), 0), nbeta * _mean_of_chains(trace.excess_loss, good)
    absorbed, spread = np.zeros(len(nbeta)), np.zeros(good.shape)
    for k, chains in enumerate(good):
        of_chains = (trace.virial[k][chains], trace.excess_loss[k][chains], trace.window[k][chains])
        law = Law(nbeta[k], float(settings.localization), step_size[k], settings.thinning)
        mean, by_chain = absorbed_along_chains(*of_chains, law, num_examples=data.num_examples, batch_size=data.batch_size)
        mean = float(np.clip(mean, 0, counted[k]))
        llc = whole[k] - counted[k] + mean
        narrower = 1 / (1 + min((counted[k] - mean) / llc, 1)) if llc > 0 else 1.0
        absorbed[k], spread[k, chains] = narrower * mean, narrower * by_chain
    return absorbed, spread


def bias_error(trace: Trace, good: np.ndarray, absorbed: np.ndarray, sampler: Sampler, plan: Plan, nbeta: np.ndarray) -> np.ndarray:
    r"""A standard error of what correcting the step bias leaves of it, `[K]`, in units of $\hat\lambda$: at most a quarter of it. Zero where there is none.

    `step_bias` is derived for quadratics, where the virial $n\beta\, E[g \cdot (w - w^*)]$ is twice the mean of $n\beta\,(L - L(w^*))$. Of a loss that grows
    like the power $p$ of the distance it is $p$ times as large, and the bias is $2 / p$ of what is counted. So the difference of the two over the virial,
    less two standard errors, is the share that may be wrong, and of what is given back for the prior it is the share that the bias has in $\hat\lambda$.
    Half of it counts as a standard error, beside `LEAST_DOUBT` for what neither tells. A loss that slopes at $w^*$ has a larger virial too, and larger errors.
    """
    counted, whole = _mean_of_chains(trace.step_bias, good) - absorbed, nbeta * _mean_of_chains(trace.excess_loss, good)
    doubt = np.full(len(nbeta), LEAST_DOUBT)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if trace.virial is not None and sampler.is_overdamped:
            virial = trace.virial.mean(-1, dtype=float) / _gain(sampler, plan, nbeta)[:, None]
            twice = 2 * nbeta[:, None] * trace.excess_loss.mean(-1, dtype=float)
            difference, error = mean_and_error(np.where(good, virial - twice, np.nan))
            size = np.abs(mean_and_error(np.where(good, virial, np.nan))[0])
            doubt += np.nan_to_num(np.maximum(np.abs(difference) - 2 * np.nan_to_num(error), 0) / size) / 2
        of_absorbed = np.minimum(np.abs(counted) / np.maximum(whole - counted, 0), 0.5) / 2
    return np.abs(counted) * np.minimum(doubt, MAX_DOUBT) + absorbed * np.nan_to_num(of_absorbed)


def _mean_of_chains(values: np.ndarray, good: np.ndarray) -> np.ndarray:
    """The mean of `[K, C, T]` over draws of chains that did not diverge, `[K]`; zero where all did."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(good, values.mean(-1, dtype=float), 0).sum(-1) / np.maximum(good.sum(-1), 1)


def _gain(sampler: Sampler, plan: Plan, nbeta: np.ndarray) -> np.ndarray:
    """The mean of `Sampler.noise_gain` over the draws of each checkpoint, `[K]`."""
    settings = plan.settings
    iterations = np.linspace(settings.num_burn_in, settings.num_iterations - 1, NUM_ITERATIONS).astype(np.int32)
    stacked = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x, np.float32), nbeta.shape), sampler)
    return np.asarray(_mean_gain(stacked, np.float32(settings.localization), iterations, kind=kind_of(sampler)), float)


@partial(jax.jit, static_argnames="kind")
def _mean_gain(sampler: Sampler, localization: jax.Array, iterations: jax.Array, *, kind: str) -> jax.Array:
    """The mean of `Sampler.noise_gain` over iterations, of each sampler of a stack, `[K]`."""
    return jax.vmap(lambda one: jax.vmap(lambda t: one.noise_gain(localization, t))(iterations).mean())(sampler)
