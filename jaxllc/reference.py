r"""What a centre alone tells: the losses and the gradient of all data there, and what a gradient-free Gaussian cloud around it gives."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllc._typing import Key, Params
from jaxllc.data import InMemory
from jaxllc.posterior import LocalPosterior
from jaxllc.samplers.noise import gaussian

CONTROL_DRAWS = 16
"""Gradient-free Gaussian draws a chain, for the control of `Trace.gaussian_llc`."""


class Reference(NamedTuple):
    """The losses at a centre."""

    by_example: jax.Array | None
    """Laid out like the data; None where `loss_fn` gives means only."""
    mean: jax.Array
    """$L_n(w^*)$, `float[]`."""


def _starts(data: InMemory, devices: int, axis: str | None) -> jax.Array:
    """Where the batches begin that cover all data, those of this device; the last ones may begin beyond the data."""
    share = math.ceil(math.ceil(data.num_examples / data.batch_size) / devices)
    first = 0 if axis is None else jax.lax.axis_index(axis) * share
    return (first + jnp.arange(share, dtype=jnp.int32)) * data.batch_size


def _inside(start: jax.Array, data: InMemory) -> jax.Array:
    return jnp.where(start < data.num_examples, start, jnp.zeros_like(start))


def center_losses(posterior: LocalPosterior, data: InMemory, devices: int, axis: str | None) -> Reference:
    """Losses of all examples at the centre, in batches as large as the chains', each of the `devices` along a mesh axis doing its share of them."""
    starts = _starts(data, devices, axis)
    losses = jax.lax.map(lambda start: posterior.losses(posterior.position(), data.batch(_inside(start, data))), starts)
    if axis is not None:
        losses = jax.lax.all_gather(losses, axis, tiled=True)
    if losses.ndim == 1:
        return Reference(None, _mean_of_means(losses, posterior, data))
    by_example = losses.reshape(-1)[: data.num_examples]
    return Reference(data.wrap(by_example), by_example.mean())


def _mean_of_means(means: jax.Array, posterior: LocalPosterior, data: InMemory) -> jax.Array:
    """The mean over all examples where only means of batches are known: the last, shorter batch is run by itself."""
    n, size = data.num_examples, data.batch_size
    whole, rest = divmod(n, size)
    total = size * means[:whole].sum()
    if rest:
        total += rest * posterior.losses(posterior.position(), jax.tree.map(lambda leaf: leaf[whole * size : n], data.arrays))
    return total / n


def center_gradient(posterior: LocalPosterior, data: InMemory, devices: int, axis: str | None) -> Params:
    r"""$\nabla L_n(w^*)$, in batches like `center_losses`."""
    n, size = data.num_examples, data.batch_size
    position = posterior.position()

    def weighted(position: Params, start: jax.Array) -> jax.Array:
        losses = posterior.losses(position, data.batch(_inside(start, data)))
        if losses.ndim:
            counted = (start + jnp.arange(size, dtype=jnp.int32)) < n
            return jnp.where(counted, losses, jnp.zeros_like(losses)).sum() / n
        return jnp.where(start + size <= n, losses * size, jnp.zeros_like(losses)) / n

    def add(total: Params, start: jax.Array) -> tuple[Params, None]:
        return jax.tree.map(jnp.add, total, jax.grad(weighted)(position, start)), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, position), _starts(data, devices, axis))
    if axis is not None:
        total = jax.lax.psum(total, axis)
    rest = n % size
    if rest and jax.eval_shape(lambda: posterior.losses(position, data.batch(jnp.zeros((), jnp.int32)))).ndim == 0:
        last = jax.tree.map(lambda leaf: leaf[n - rest : n], data.arrays)
        share = jax.grad(lambda position: posterior.losses(position, last) * (rest / n))(position)
        total = jax.tree.map(jnp.add, total, share)
    return total


def paired(losses: jax.Array, posterior: LocalPosterior, data: InMemory, window: jax.Array, by_example: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """What the losses of a batch exceed those of the same examples at the centre by, on average, and the mean loss there."""
    center = posterior.losses(posterior.position(), data.batch(window)) if by_example is None else data.slice(by_example, window)
    return (losses - center).mean(), center.mean()


def gaussian_llc(key: Key, chain: jax.Array, posterior: LocalPosterior, data: InMemory, by_example: jax.Array | None) -> jax.Array:
    r"""$n\beta\,(E[L(w^* + z)] - L(w^*))$ with $z \sim N(0, 1/\gamma)$, `float[]`: the control of a chain that no gradient went into."""

    def draw(key: Key) -> jax.Array:
        noise_key, batch_key = jax.random.split(key)
        window = data.window(batch_key)
        center = posterior.position()
        position = jax.tree.map(lambda w, z: w + z / jnp.sqrt(posterior.localization).astype(w.dtype), center, gaussian(noise_key, center))
        excess, _ = paired(posterior.losses(position, data.batch(window)), posterior, data, window, by_example)
        return jnp.asarray(posterior.nbeta) * excess

    # Steps count from 0 upwards; the control's keys lie far beyond any of them.
    places = jnp.uint32(2**32 - 1) - jnp.arange(CONTROL_DRAWS, dtype=jnp.uint32)
    return jax.lax.map(lambda t: draw(jax.random.fold_in(jax.random.fold_in(key, chain), t)), places).mean()
