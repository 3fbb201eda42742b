r"""What the estimator takes for granted of a loss function, looked at before a chain moves: the same call on some examples, cut into batches in two ways.

Losses at a draw are compared with those of the same examples at $w^*$, which were computed in other batches. That is right where the loss of an example
depends on that example alone. Batch normalisation in train mode, dropout under a fixed key and negatives taken from the batch break it.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxllc._tree import at_least_float32
from jaxllc._typing import Batch, LossFn, Params
from jaxllc.data import InMemory
from jaxllc.posterior import LocalPosterior

LEAST_EXAMPLES = 64
"""Of which the mean is taken: the mean of a few grows with their number where it is over all pairs."""
SAME, SAME_IN_LOW_PRECISION = 1e-3, 3e-2
"""Relative difference below which losses are called equal, in float32 and where loss or weights have fewer bits."""
IS_SUM = 0.05
"""Relative difference from the sum of its halves below which a loss is called a sum."""


@dataclasses.dataclass(frozen=True)
class MeanOverBatch:
    """A loss as the mean over its batch, which is all that is known where examples depend on each other."""

    loss_fn: LossFn

    def __call__(self, params: Params, batch: Batch) -> jax.Array:
        """The mean loss, `float[]`."""
        return at_least_float32(self.loss_fn(params, batch)).mean()


class LossKind(NamedTuple):
    """What was seen of a loss function."""

    by_example: bool
    """Whether it gives one loss an example, and not their mean."""
    depends_on_batch: bool
    """Whether the loss of an example depends on the others in its batch or on its place there; of a mean, whether that of a batch differs from its halves'."""
    dtype: str
    """Of the loss as it is returned."""


def check_loss(posterior: LocalPosterior, data: InMemory, mesh: Mesh) -> LossKind:
    """Look at a loss function near one checkpoint, a little beside it, where a layer of zeros hides nothing.

    Args:
        posterior: around one checkpoint.
        data: what batches are taken from.
        mesh: the devices of the chains, in whose context the loss is traced once for all programs.

    Raises:
        ValueError: the loss has a wrong shape (see `LocalPosterior.losses`), is a sum over the batch, or differs between two calls with the same arguments.
    """
    posterior = posterior.replace(center=posterior.params(_beside(posterior.position())))  # pyright: ignore[reportAttributeAccessIssue]
    size = data.batch_size

    def losses(start: int, size: int) -> np.ndarray:
        return np.asarray(_losses(posterior, data.arrays, jnp.asarray(start, jnp.int32), size=size, mesh=mesh)[0], float)

    shape, raw = jax.eval_shape(partial(_losses, size=size, mesh=mesh), posterior, data.arrays, jnp.zeros((), jnp.int32))
    weights = [leaf.dtype for leaf in jax.tree.leaves(posterior.center) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    tolerance = SAME_IN_LOW_PRECISION if min(dtype.itemsize for dtype in (raw.dtype, *weights)) < 4 else SAME
    if shape.ndim:
        half = size // 2
        if size == data.num_examples or half == 0:  # always the same batch, or one example
            return LossKind(True, False, str(raw.dtype))
        first, again, shifted = losses(0, size), losses(0, size), losses(half, size)
        _check_repeatable(first, again)
        differs = np.sqrt(np.mean((first[half:] - shifted[: size - half]) ** 2)) > tolerance * np.sqrt(np.mean(first**2))
        return LossKind(True, bool(differs), str(raw.dtype))
    half = min(max(size, LEAST_EXAMPLES), data.num_examples) // 2
    if half == 0 or _has_fixed_size(posterior, data.arrays, half, mesh):
        return LossKind(False, False, str(raw.dtype))
    whole, again, *parts = (float(losses(start, many)) for start, many in ((0, 2 * half), (0, 2 * half), (0, half), (half, half)))
    _check_repeatable(np.asarray(whole), np.asarray(again))
    if sum(parts) != 0 and abs(whole - sum(parts)) < IS_SUM * abs(sum(parts)):
        raise ValueError(
            f"loss_fn gives {whole:.6g} for {2 * half} examples and {parts[0]:.6g} and {parts[1]:.6g} for their halves, so it is a sum over the batch; "
            "return one loss an example, shape (batch,), or their mean."
        )
    return LossKind(False, bool(abs(whole - sum(parts) / 2) > tolerance * (abs(parts[0]) + abs(parts[1])) / 2), str(raw.dtype))


def _beside(position: Params) -> Params:
    """Weights a tenth away from the centre, the same at each call."""
    rng = np.random.default_rng(0)

    def move(w: jax.Array) -> jax.Array:
        values = np.asarray(w)
        width = 0.1 * (np.sqrt(np.mean(np.square(values), dtype=float)) or 1.0)
        return jnp.asarray((values + width * rng.normal(size=values.shape)).astype(values.dtype))

    return jax.tree.map(move, position)


@partial(jax.jit, static_argnames=("size", "mesh"))
def _losses(posterior: LocalPosterior, arrays: Batch, start: jax.Array, *, size: int, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    """Losses of a batch as they are used, and as `loss_fn` returns them."""

    def here(posterior: LocalPosterior, arrays: Batch, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), arrays)
        position = posterior.position()
        return posterior.losses(position, batch), jax.jit(posterior.loss_fn)(posterior.params(position), batch)

    return jax.shard_map(here, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)(posterior, arrays, start)


def _has_fixed_size(posterior: LocalPosterior, arrays: Batch, size: int, mesh: Mesh) -> bool:
    """Whether the loss takes batches of its own size only."""
    try:
        for many in (size, 2 * size):
            jax.eval_shape(partial(_losses, size=many, mesh=mesh), posterior, arrays, jnp.zeros((), jnp.int32))
    except (TypeError, ValueError):  # as JAX reports shapes that do not fit
        return True
    return False


def _check_repeatable(first: np.ndarray, again: np.ndarray) -> None:
    if not np.array_equal(first, again, equal_nan=True):
        raise ValueError(
            f"loss_fn gives other values for the same weights and batch in a second call ({first.ravel()[0]:.6g}, then {again.ravel()[0]:.6g}); it must be "
            "a pure function: switch dropout and other chance off."
        )
