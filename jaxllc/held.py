r"""How much of the noise that `Info.step_bias` counts the pull holds, from how far chains differ in the losses of single examples.

Noise of variance $n^2\beta^2 s^2$ along a direction of curvature $a = n\beta h + \gamma$ raises $U$: the loss by the share $n\beta h / a$ of it, the pull by
$\gamma / a$. Read off momenta, whose heat does not tell where it comes from, all of it counts as the loss's. What is counted too much goes with
$\gamma \sum_j s_j^2 / a_j$, and $1 / a_j$ is about the variance of the chains: the sum is the variance of a batch's loss along the chains' own spread,
$(\frac1B - \frac1n) V$ for batches of $B$. There $V$ is the mean over examples of the variance over chains of an example's loss, the functional variance
(Watanabe, arXiv:1004.2316), less the variance of the mean loss. It is known to first order: the heat itself widens the chains.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxllc._typing import Params
from jaxllc.batching import batched, even_width, side_by_side
from jaxllc.data import InMemory
from jaxllc.devices import axes_of, fetch
from jaxllc.posterior import LocalPosterior

NUM_EXAMPLES, NUM_BATCHES, NUM_MEANS = 1024, 32, 16
"""Whose losses are compared, in whole batches and not too many; or the means of so many batches, where `loss_fn` gives means only."""
NUM_STEPS = 32
"""At which a schedule is read."""


def is_known(sampler: Any, data: InMemory, num_chains: int) -> bool:
    """Whether there is anything to take back: not on all data, and not for a single chain, which has no spread."""
    return getattr(sampler, "counts_held_noise", False) and num_chains > 1 and data.batch_size < data.num_examples


@partial(jax.jit, static_argnames=("mesh", "by_example"))
def example_losses(position: Params, posterior: LocalPosterior, data: InMemory, *, mesh: Mesh, by_example: bool) -> jax.Array:
    r"""Losses of the same examples at the positions of all chains, `[C, K, example]`.

    Where they are not known `by_example`, means of batches times $\sqrt B$, which vary as much.
    """
    step_axis, chain_axis = axes_of(mesh)
    size = data.batch_size
    num_batches = min(min(-(-NUM_EXAMPLES // size), NUM_BATCHES) if by_example else NUM_MEANS, data.num_examples // size)
    starts = jnp.arange(num_batches, dtype=jnp.int32) * size

    def here(position: Params, posterior: LocalPosterior, data: InMemory) -> jax.Array:
        def of_one(position: Params, posterior: LocalPosterior) -> jax.Array:
            losses = jax.lax.map(lambda start: posterior.losses(position, data.batch(start)), starts)
            return losses.reshape(-1) if by_example else losses * jnp.sqrt(jnp.asarray(size, losses.dtype))

        chains, checkpoints = jax.tree.leaves(position)[0].shape[:2]
        first = jax.tree.map(lambda leaf: leaf[0], (jax.tree.map(lambda leaf: leaf[0], position), posterior))
        most = side_by_side(of_one, *first)

        def of_group(position: Params) -> jax.Array:
            return batched(of_one, even_width(checkpoints, most), position, posterior)

        return batched(of_group, even_width(chains, most // checkpoints), position)

    by_chain = P(chain_axis, step_axis)
    return jax.shard_map(here, mesh=mesh, in_specs=(by_chain, P(step_axis), P()), out_specs=by_chain, check_vma=False)(position, posterior, data)


def products(losses: np.ndarray) -> np.ndarray:
    """Of losses `[C, K, example]`, the covariances over examples of any two chains, `[K, C, C]`; NaN of a chain that broke."""
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.moveaxis(losses.astype(float), 1, 0)
        apart -= apart.mean(-1, keepdims=True)
        return np.einsum("kcx,kdx->kcd", apart, apart) / max(losses.shape[-1] - 1, 1)


def functional_variance(products: np.ndarray, good: np.ndarray) -> np.ndarray:
    """$V$ at each checkpoint, `[K]`, over chains that are `good`, `[K, C]`; zero where these are fewer than two.

    Args:
        products: `[time, K, C, C]`.
        good: which chains stayed finite to the end.
    """
    found = np.zeros(len(good))
    for k in np.flatnonzero(good.sum(-1) > 1):
        of_chains = products[:, k][:, good[k]][:, :, good[k]].mean(0)
        count = len(of_chains)
        found[k] = (np.trace(of_chains) - of_chains.sum() / count) / (count - 1)
    return found


def held_noise(
    sampler: Any, posterior: LocalPosterior, data: InMemory, steps: range, variance: np.ndarray, bias: np.ndarray, good: np.ndarray, mesh: Mesh, kind: str
) -> np.ndarray:
    r"""What `Info.step_bias` counts too much, `[K]`, in units of $\hat\lambda$: at most all that it counts.

    Args:
        sampler: one that says `counts_held_noise`; its numbers have a leading axis K.
        posterior: K of them.
        data: what batches are taken from.
        steps: at which draws are kept.
        variance: `functional_variance`, `[K]`.
        bias: `Info.step_bias` of all draws, `[K, C, T]`.
        good: which chains count, `[K, C]`.
        mesh: devices.
        kind: the classes in the sampler, for the program's key.
    """
    some = jnp.asarray(np.linspace(steps[0], steps[-1], NUM_STEPS), jnp.int32)
    gain = fetch(_gain(sampler, posterior, some, mesh=mesh, kind=kind)).astype(float)
    whole = np.where(good, bias.mean(-1, dtype=float), 0).sum(-1) / np.maximum(good.sum(-1), 1)
    return np.clip(gain * variance * (1 / data.batch_size - 1 / data.num_examples), 0, np.maximum(whole, 0))


@partial(jax.jit, static_argnames=("mesh", "kind"))
def _gain(sampler: Any, posterior: LocalPosterior, steps: jax.Array, *, mesh: Mesh, kind: str) -> jax.Array:
    r"""The mean of `noise_gain` over steps times $n^2\beta^2 \gamma$, `[K]`."""

    def here(sampler: Any, posterior: LocalPosterior) -> jax.Array:
        def of_one(sampler: Any, posterior: LocalPosterior) -> jax.Array:
            mean = jax.vmap(lambda t: sampler.noise_gain(posterior, t))(steps).mean()
            return mean * jnp.asarray(posterior.nbeta, mean.dtype) ** 2 * jnp.asarray(posterior.localization, mean.dtype)

        return jax.vmap(of_one)(sampler, posterior)

    by_step = P(axes_of(mesh)[0])
    return jax.shard_map(here, mesh=mesh, in_specs=(by_step, by_step), out_specs=by_step, check_vma=False)(sampler, posterior)
