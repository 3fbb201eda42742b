r"""How much of the noise that `Info.step_bias` counts the pull holds, from how far chains differ in the losses of single examples.

Noise of variance $n^2\beta^2 s^2$ along a direction of curvature $a = n\beta h + \gamma$ raises $U$: the loss by the share $n\beta h / a$ of it, the pull by
$\gamma / a$. Read off momenta, whose heat does not tell where it comes from, all of it counts as the loss's. What is counted too much goes with
$\gamma \sum_j s_j^2 / a_j$, and $1 / a_j$ is about the variance of the chains: the sum is the variance of a batch's loss along the chains' own spread,
$(\frac1B - \frac1n) V$ for batches of $B$. There $V$ is the mean over examples of the variance over chains of an example's loss, the functional variance
(Watanabe, arXiv:1004.2316), less the variance of the mean loss.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxllc._typing import Params
from jaxllc.data import InMemory
from jaxllc.devices import axes_of, fetch
from jaxllc.posterior import LocalPosterior

NUM_EXAMPLES = 1024
"""Whose losses are compared, at most."""
NUM_STEPS = 32
"""At which a schedule is read."""


def counts_held_noise(sampler: Any, data: InMemory, num_chains: int) -> bool:
    """Whether there is anything to take back: not on all data, and not for a single chain, which has no spread."""
    return getattr(sampler, "counts_held_noise", False) and num_chains > 1 and data.batch_size < data.num_examples


@partial(jax.jit, static_argnames="mesh")
def example_losses(position: Params, posterior: LocalPosterior, data: InMemory, *, mesh: Mesh) -> jax.Array:
    """Losses of the same examples at the positions of all chains, `[C, K, example]`, one chain after the other; `[C, K, 1]` where there are means only."""
    step_axis, chain_axis = axes_of(mesh)
    num_batches = min(-(-NUM_EXAMPLES // data.batch_size), data.num_examples // data.batch_size)
    starts = jnp.arange(num_batches, dtype=jnp.int32) * data.batch_size

    def here(position: Params, posterior: LocalPosterior, data: InMemory) -> jax.Array:
        def of_one(each: tuple[Params, LocalPosterior]) -> jax.Array:
            losses = jax.lax.map(lambda start: each[1].losses(each[0], data.batch(start)), starts)
            return losses.reshape(-1) if losses.ndim == 2 else losses[:1]

        return jax.lax.map(lambda chain: jax.lax.map(of_one, (chain, posterior)), position)

    by_chain = P(chain_axis, step_axis)
    return jax.shard_map(here, mesh=mesh, in_specs=(by_chain, P(step_axis), P()), out_specs=by_chain, check_vma=False)(position, posterior, data)


def functional_variance(losses: np.ndarray) -> np.ndarray:
    """$V$ at each checkpoint, `[K]`, of losses `[C, K, example]`, over the chains that are finite; zero where these are fewer than two, or means only."""
    found = np.zeros(losses.shape[1])
    for k, of_one in enumerate(np.moveaxis(losses, 1, 0)):
        good = of_one[np.isfinite(of_one).all(-1)].astype(float)
        if min(good.shape) > 1:
            apart = good - good.mean(0)
            found[k] = np.square(apart - apart.mean(-1, keepdims=True)).sum() / (len(good) - 1) / (good.shape[-1] - 1)
    return found


def held_noise(sampler: Any, posterior: LocalPosterior, data: InMemory, steps: range, variance: np.ndarray, mesh: Mesh, kind: str) -> np.ndarray:
    r"""What `Info.step_bias` counts too much, `[K]`, in units of $\hat\lambda$.

    Args:
        sampler: one that says `counts_held_noise`; its numbers have a leading axis K.
        posterior: K of them.
        data: what batches are taken from.
        steps: at which draws are kept.
        variance: `functional_variance`, `[K]`.
        mesh: devices.
        kind: the classes in the sampler, for the program's key.
    """
    some = jnp.asarray(np.linspace(steps[0], steps[-1], NUM_STEPS), jnp.int32)
    gain = fetch(_gain(sampler, posterior, some, mesh=mesh, kind=kind)).astype(float)
    return gain * variance * (1 / data.batch_size - 1 / data.num_examples)


@partial(jax.jit, static_argnames=("mesh", "kind"))
def _gain(sampler: Any, posterior: LocalPosterior, steps: jax.Array, *, mesh: Mesh, kind: str) -> jax.Array:
    r"""The mean of `noise_gain` over steps times $n^2\beta^2 \gamma$, `[K]`."""

    def here(sampler: Any, posterior: LocalPosterior) -> jax.Array:
        def of_one(sampler: Any, posterior: LocalPosterior) -> jax.Array:
            mean = jax.vmap(lambda t: sampler.noise_gain(posterior, t))(steps).mean()
            return mean * jnp.asarray(posterior.nbeta) ** 2 * posterior.localization

        return jax.vmap(of_one)(sampler, posterior)

    by_step = P(axes_of(mesh)[0])
    return jax.shard_map(here, mesh=mesh, in_specs=(by_step, by_step), out_specs=by_step, check_vma=False)(sampler, posterior)
