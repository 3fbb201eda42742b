r"""Full-data quantities: losses and gradient of all examples, the Hessian at $w^*$, and the loss in clouds around it that no gradient went into."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllc._typing import Batch, Key, Params
from jaxllc.data import InMemory
from jaxllc.posterior import LocalPosterior
from jaxllc.samplers.noise import gaussian, rademacher
from jaxllc.select import take_free
from jaxllc.spectrum import DENSE, Spectrum, leading_spectrum

CLOUD_DRAWS = 16
"""Draws of a cloud for each chain."""
CHUNK = 2048
"""Examples whose activations are held at once by the gradient of all data."""
HESSIAN_EXAMPLES, MOST_HESSIAN_EXAMPLES = 256, 2048
"""Examples, evenly spread over the data, that the Hessian is taken of: it makes a metric, which need not be exact. Small models can afford the most."""
REACH = 1e-2
"""Of a difference of gradients in the place of a derivative."""


class CenterLosses(NamedTuple):
    r"""The losses at $w^*$."""

    by_example: jax.Array | None
    """Laid out like the data; None where `loss_fn` gives means of batches only."""
    mean: jax.Array
    """$L_n(w^*)$, `float[]`."""


def _starts(data: InMemory, devices: int, axis: str | None) -> jax.Array:
    """Where the batches begin that cover all data, those of this device; the last ones may begin beyond the data."""
    share = math.ceil(math.ceil(data.num_examples / data.batch_size) / devices)
    first = 0 if axis is None else jax.lax.axis_index(axis) * share
    return (first + jnp.arange(share, dtype=jnp.int32)) * data.batch_size


def _inside(start: jax.Array, data: InMemory) -> jax.Array:
    return jnp.where(start < data.num_examples, start, jnp.zeros_like(start))


def center_losses(posterior: LocalPosterior, data: InMemory, devices: int, axis: str | None) -> CenterLosses:
    """Losses of all examples at the centre, in batches as large as the chains', each of the `devices` along a mesh axis doing its share of them."""
    starts = _starts(data, devices, axis)
    losses = jax.lax.map(lambda start: posterior.losses(posterior.position(), data.batch(_inside(start, data))), starts)
    if axis is not None:
        losses = jax.lax.all_gather(losses, axis, tiled=True)
    if losses.ndim == 1:
        return CenterLosses(None, _mean_of_means(losses, posterior, data))
    by_example = losses.reshape(-1)[: data.num_examples]
    return CenterLosses(data.wrap(by_example), by_example.mean())


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


def losses_and_gradient(posterior: LocalPosterior, position: Params, batch: Batch) -> tuple[jax.Array, Params]:
    """`LocalPosterior.loss_and_grad` of a large batch, `CHUNK` examples at a time where the loss is given by example."""
    size = jax.tree.leaves(batch)[0].shape[0]
    if size <= CHUNK or jax.eval_shape(posterior.losses, position, batch).ndim == 0:
        return posterior.loss_and_grad(position, batch)
    num_chunks = math.ceil(size / CHUNK)
    length = math.ceil(size / num_chunks)
    starts = jnp.minimum(jnp.arange(num_chunks, dtype=jnp.int32) * length, size - length)
    first_new = jnp.arange(num_chunks, dtype=jnp.int32) * length - starts  # the last chunk begins among the examples of the one before

    def summed(position: Params, start: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
        chunk = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, length), batch)
        losses = posterior.losses(position, chunk)
        return jnp.where(jnp.arange(length, dtype=jnp.int32) >= first, losses, jnp.zeros_like(losses)).sum(), losses

    def add(total: Params, chunk: tuple[jax.Array, jax.Array]) -> tuple[Params, jax.Array]:
        grad, losses = jax.grad(summed, has_aux=True)(position, *chunk)
        return jax.tree.map(jnp.add, total, grad), losses

    total, losses = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, position), (starts, first_new))
    in_order = jnp.concatenate([losses[:-1].reshape(-1), losses[-1][-(size - (num_chunks - 1) * length) :]])
    return in_order, jax.tree.map(lambda g: g / size, total)


def center_hessian(posterior: LocalPosterior, data: InMemory, rank: int) -> Spectrum:
    r"""The leading eigenpairs of the Hessian of $L$ at $w^*$, over some of the examples.

    Products are by the reverse mode alone, which functions with a gradient of their own have too; where that gradient has none, they are differences.
    """
    position = posterior.position()
    small = sum(leaf.size for leaf in jax.tree.leaves(position)) <= DENSE
    rows = np.unique(np.linspace(0, data.num_examples - 1, MOST_HESSIAN_EXAMPLES if small else HESSIAN_EXAMPLES).astype(int))
    batch = jax.tree.map(lambda leaf: leaf[rows], data.arrays)

    def gradient(position: Params) -> Params:
        return jax.grad(lambda position: posterior.losses(position, batch).mean())(position)

    def product(vector: Params) -> Params:
        def along(position: Params) -> jax.Array:
            products = [jnp.vdot(*pair) for pair in zip(jax.tree.leaves(gradient(position)), jax.tree.leaves(vector), strict=True)]
            return jnp.asarray(sum(x.astype(products[0].dtype) for x in products))

        return jax.grad(along)(position)

    def difference(vector: Params) -> Params:
        ahead = gradient(jax.tree.map(lambda w, v: w + REACH * v, position, vector))
        behind = gradient(jax.tree.map(lambda w, v: w - REACH * v, position, vector))
        return jax.tree.map(lambda a, b: (a - b) / (2 * REACH), ahead, behind)

    try:
        jax.eval_shape(product, position)
    except Exception:  # whatever a function without second derivatives raises
        product = difference
    return leading_spectrum(product, position, rank, jax.random.key(0))


def paired(losses: jax.Array, posterior: LocalPosterior, batch: Batch, known: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    r"""The mean over a batch of the loss minus the loss of the same example at $w^*$, and the mean of the latter; both `float[]`, nats per example.

    The noise of the minibatch that both losses share drops out of the difference. Where the losses at $w^*$ are not `known`, it costs a second forward pass.
    """
    center = posterior.losses(posterior.position(), batch) if known is None else known
    return (losses - center).mean(), center.mean()


def known_losses(by_example: jax.Array | None, data: InMemory, window: jax.Array) -> jax.Array | None:
    """Of the losses `by_example` those of a batch; None where only means of batches are known."""
    return None if by_example is None else data.slice(by_example, window)


def probe_loss(position: Params, posterior: LocalPosterior, data: InMemory, by_example: jax.Array | None) -> jax.Array:
    """The excess loss over $w^*$ of one batch that is always the same, the first in the order of the data, `float[]`: without the noise of batches."""
    window = jnp.zeros((), jnp.int32)
    batch = data.batch(window)
    return paired(posterior.losses(position, batch), posterior, batch, known_losses(by_example, data, window))[0]


def gaussian_cloud(key: Key, chain: jax.Array, posterior: LocalPosterior, data: InMemory, by_example: jax.Array | None) -> jax.Array:
    r"""$E[L(w^* + z)] - L(w^*)$ with $z \sim N(0, 1/\gamma)$, `float[]`: the excess loss of the prior alone, for comparison with that of a chain."""

    def move(key: Key, center: Params) -> Params:
        return jax.tree.map(lambda w, z: w + z / jnp.sqrt(posterior.localization).astype(w.dtype), center, gaussian(key, center))

    return _cloud(jax.random.fold_in(key, chain), move, posterior, data, by_example)


def rounding_cloud(key: Key, posterior: LocalPosterior, data: InMemory, by_example: jax.Array | None) -> jax.Array:
    r"""$E[L(w^* + z)] - L(w^*)$ with $z$ as wide as the rounding of the model's own dtype, `float[]`: what low-precision weights add to the loss.

    A rounded weight lies uniformly within half a spacing of the exact one. Its variance is a twelfth of that of a whole spacing to either side, which
    the dtype can represent.
    """

    def move(key: Key, center: Params) -> Params:
        return jax.tree.map(lambda w, step, sign: w + step.astype(w.dtype) * sign, center, _spacings(posterior), rademacher(key, center))

    return _cloud(key, move, posterior, data, by_example) / 12


def has_low_precision(posterior: LocalPosterior) -> bool:
    """Whether some free weights have fewer than 32 bits, or are rounded to fewer by the model."""
    return posterior.weights_dtype is not None or any(leaf.dtype.itemsize < 4 for leaf in jax.tree.leaves(take_free(posterior.free, posterior.center)))


def _spacings(posterior: LocalPosterior) -> Params:
    """The distance of each free weight from the next number of its dtype; zero for weights of 32 bits or more, and for those that are zero."""

    def spacing(leaf: jax.Array) -> jax.Array:
        dtype = leaf.dtype if leaf.dtype.itemsize < 4 else posterior.weights_dtype
        if dtype is None:
            return jnp.zeros(leaf.shape, jnp.float32)
        exponent = jnp.frexp(leaf.astype(jnp.float32))[1]
        distance = jnp.ldexp(jnp.full(leaf.shape, float(jnp.finfo(dtype).eps), jnp.float32), exponent - 1)
        return jnp.where(leaf == 0, jnp.zeros_like(distance), distance)

    return jax.tree.map(spacing, take_free(posterior.free, posterior.center))


def _cloud(key: Key, move: Callable[[Key, Params], Params], posterior: LocalPosterior, data: InMemory, by_example: jax.Array | None) -> jax.Array:
    """The mean excess loss at positions that `move` makes of the centre."""

    def draw(key: Key) -> jax.Array:
        noise_key, batch_key = jax.random.split(key)
        window, batch = data.draw(batch_key)
        position = move(noise_key, posterior.position())
        return paired(posterior.losses(position, batch), posterior, batch, known_losses(by_example, data, window))[0]

    # Iterations count from 0 upwards; the keys of clouds lie far beyond any of them.
    places = jnp.uint32(2**32 - 1) - jnp.arange(CLOUD_DRAWS, dtype=jnp.uint32)
    return jax.lax.map(lambda t: draw(jax.random.fold_in(key, t)), places).mean()
