r"""What the estimator takes for granted of a loss function, looked at before a chain moves: some examples, cut into batches in several ways.

Losses at a draw are compared with those of the same examples at $w^*$, which were computed in other batches. That is right where the loss of an example
depends on that example alone. Batch normalisation in train mode, dropout under a fixed key and negatives taken from the batch break it.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxllc._tree import at_least_float32, is_real
from jaxllc._typing import Batch, LossFn, Params
from jaxllc.data import InMemory
from jaxllc.layout import is_split
from jaxllc.placement import on_devices
from jaxllc.posterior import LocalPosterior
from jaxllc.samplers.noise import gaussian

NARROW = ("bfloat16", "float16")
"""Dtypes of which a loss may make use inside, though it takes and returns wider ones."""
LEAST_VALUES = 4
"""Different values of which it is seen whether a narrow dtype holds them."""
LEAST_EXAMPLES = 64
"""Of which the mean is taken: the mean of a few grows with their number where it is over all pairs."""
SAME, SAME_IN_LOW_PRECISION = 1e-3, 3e-2
"""Relative difference below which losses are called equal, in float32 and where loss or weights have fewer bits."""
IS_SUM = 0.05
"""Relative difference from the sum of its halves below which a loss is one."""
GROWS = 1.8
"""Ratio of a loss of a batch to the larger of those of its halves, above which it grows with the batch: a sum has 2, a mean 1 at most."""
NUM_WINDOWS, NUM_AT_ZERO = 4, 32
"""Batches that are looked at, evenly spread over the data; and those whose mean loss is taken where all weights are zero."""


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
    """Of the loss as it is computed: that of what is returned, or the narrower one in which all values that were seen can be written."""
    weights_dtype: str | None
    """In which the model rounds its weights, though they are wider; None where it does not."""


def check_loss(posterior: LocalPosterior, data: InMemory, mesh: Mesh) -> LossKind:
    """Look at a loss function near one checkpoint, a little beside it, where a layer of zeros hides nothing.

    Args:
        posterior: around one checkpoint.
        data: what batches are taken from.
        mesh: the devices of the chains, in whose context the loss is traced once for all programs.

    Raises:
        ValueError: the loss has a wrong shape (see `LocalPosterior.losses`), grows with the batch as a sum does, differs between two calls with the same
            arguments, or takes batches of one size of which the data are no multiple.
    """
    beside = _beside(posterior.position()) if posterior.layout is None else _beside_on(posterior, mesh=mesh)
    posterior = posterior.replace(center=posterior.params(beside))  # pyright: ignore[reportAttributeAccessIssue]
    size, n = data.batch_size, data.num_examples

    def losses(start: int, size: int, at: LocalPosterior = posterior) -> np.ndarray:
        return np.asarray(_losses(at, data.arrays, np.int32(start), size=size, mesh=mesh)[0], float)

    shape, raw = jax.eval_shape(partial(_losses, size=size, mesh=mesh), posterior, data.arrays, jnp.zeros((), jnp.int32))
    weights = [leaf.dtype for leaf in jax.tree.leaves(posterior.center) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    tolerance = SAME_IN_LOW_PRECISION if min(dtype.itemsize for dtype in (raw.dtype, *weights)) < 4 else SAME
    starts = _starts(n - size)
    values = np.stack([losses(start, size) for start in starts])
    first, again = values[0], losses(0, size)
    if not np.array_equal(first, again, equal_nan=True):
        raise ValueError(
            f"loss_fn gives other values for the same weights and batch in a second call ({first.ravel()[0]:.6g}, then {again.ravel()[0]:.6g}); it must be "
            "a pure function: switch dropout and other chance off."
        )
    dtype = _narrowest(raw.dtype, values)
    weights_dtype = None
    if dtype == str(raw.dtype):  # else the losses themselves hide what the weights do
        rounded = {narrow: np.stack([losses(start, size, _rounded(posterior, narrow)) for start in starts]) for narrow in NARROW}
        weights_dtype = next((narrow for narrow in NARROW if np.array_equal(rounded[narrow], values)), None)
    if shape.ndim:
        half = size // 2
        shifted = losses(half, size)
        with np.errstate(invalid="ignore"):  # losses that are not finite, of which the run will tell
            off, whole = (np.sqrt(np.mean(values**2)) for values in (first[half:] - shifted[: size - half], first))
        differs = half > 0 and size < n and bool(off > tolerance * whole)
        return LossKind(True, differs, dtype, weights_dtype)
    half = min(max(size, LEAST_EXAMPLES), n) // 2
    if half == 0:
        return LossKind(False, False, dtype, weights_dtype)
    if _has_fixed_size(posterior, data.arrays, half, mesh):
        if rest := n % size:
            raise ValueError(
                f"loss_fn takes batches of {size} only, and {n} examples leave one of {rest}; return one loss an example, or pass {n - rest} of the examples."
            )
        return LossKind(False, False, dtype, weights_dtype)
    starts = _starts(n - 2 * half)
    seen = np.array([[losses(start, 2 * half), losses(start, half), losses(start + half, half)] for start in starts])
    _check_no_sum(seen, half)
    difference = np.abs(seen[:, 0] - seen[:, 1:].mean(1)) / np.maximum(np.abs(seen[:, 1:]).mean(1), np.finfo(float).tiny)
    return LossKind(False, bool(np.nanmax(difference, initial=0) > tolerance), dtype, weights_dtype)


def loss_of_zeros(posterior: LocalPosterior, data: InMemory, mesh: Mesh) -> float | None:
    """The mean loss of a model whose weights are all zero, nats per example; nearly all models then give the same for every input. None if it is not finite.

    Args:
        posterior: around one checkpoint.
        data: what batches are taken from, of which `NUM_AT_ZERO` are used.
        mesh: the devices of the chains.
    """
    zeros = jax.tree.map(lambda w: _eagerly(w).zeros_like(w) if is_real(w) else w, posterior.center)
    posterior = posterior.replace(center=zeros)  # pyright: ignore[reportAttributeAccessIssue]
    starts = _starts(data.num_examples - data.batch_size, NUM_AT_ZERO)
    values = [_losses(posterior, data.arrays, np.int32(start), size=data.batch_size, mesh=mesh)[0] for start in starts]
    loss = float(np.mean([np.mean(np.asarray(value), dtype=float) for value in values]))
    return loss if np.isfinite(loss) else None


def _starts(last: int, count: int = NUM_WINDOWS) -> list[int]:
    """Where so many batches begin that are looked at, the last one at `last`; all data are one batch."""
    return sorted({round(start) for start in np.linspace(0, last, count)})


def _check_no_sum(seen: np.ndarray, half: int) -> None:
    """Raise where the losses of all batches, `[window, 3]`, are much above those of their halves."""
    whole, total, larger = seen[:, 0], seen[:, 1:].sum(1), seen[:, 1:].max(1)
    is_sum = (total != 0) & (np.abs(whole - total) < IS_SUM * np.abs(total))
    if is_sum.all() or ((larger > 0) & (whole > GROWS * larger)).all():
        whole, *parts = seen[0]
        raise ValueError(
            f"loss_fn gives {whole:.6g} for {2 * half} examples and {parts[0]:.6g} and {parts[1]:.6g} for their halves: it grows with the batch, as a sum "
            "does; return one loss an example, shape (batch,), or their mean."
        )


def _rounded(posterior: LocalPosterior, dtype: str) -> LocalPosterior:
    """The posterior around weights that a narrow dtype can hold."""
    with np.errstate(over="ignore"):  # what float16 cannot hold is infinite in it
        moved = jax.tree.map(lambda w: _eagerly(w).asarray(w).astype(jnp.dtype(dtype)).astype(w.dtype), posterior.position())
    return posterior.replace(center=posterior.params(moved))  # pyright: ignore[reportAttributeAccessIssue]


def _eagerly(leaf: Any) -> Any:
    """NumPy, in which nothing is compiled, or JAX for a leaf that is split over devices."""
    return jnp if is_split(leaf) else np


def _narrowest(dtype: Any, values: np.ndarray) -> str:
    """The name of the dtype, or of a narrower one that holds all values, of which there must be some that differ."""
    if np.unique(values).size >= LEAST_VALUES:
        for narrow in NARROW:
            if np.array_equal(values.astype(narrow).astype(float), values):
                return narrow
    return str(dtype)


def _beside(position: Params) -> Params:
    """Weights a tenth away from the centre, the same at each call."""
    rng = np.random.default_rng(0)

    def move(w: jax.Array) -> jax.Array:
        values = np.asarray(w)
        width = 0.1 * (np.sqrt(np.mean(np.square(values, dtype=float))) or 1.0)
        return jnp.asarray((values + width * rng.normal(size=values.shape)).astype(values.dtype))

    return jax.tree.map(move, position)


@partial(jax.jit, static_argnames="mesh")
def _beside_on(posterior: LocalPosterior, *, mesh: Mesh) -> Params:
    """The same of weights that are split, on their devices."""

    def move(w: jax.Array, z: jax.Array) -> jax.Array:
        size = jnp.sqrt(jnp.mean(jnp.square(w)))
        return w + 0.1 * jnp.where(size > 0, size, 1.0).astype(w.dtype) * z

    def here(posterior: LocalPosterior) -> Params:
        position = posterior.position()
        return jax.tree.map(move, position, gaussian(jax.random.key(0), position))

    return on_devices(here, mesh, in_specs=P(), out_specs=P())(posterior)


@partial(jax.jit, static_argnames=("size", "mesh"))
def _losses(posterior: LocalPosterior, arrays: Batch, start: jax.Array, *, size: int, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    """Losses of a batch as they are used, and as `loss_fn` returns them."""

    def here(posterior: LocalPosterior, arrays: Batch, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), arrays)
        position = posterior.position()
        return posterior.losses(position, batch), jax.jit(posterior.loss_fn)(posterior.params(position), batch)

    return on_devices(here, mesh, in_specs=P(), out_specs=P())(posterior, arrays, start)


def _has_fixed_size(posterior: LocalPosterior, arrays: Batch, size: int, mesh: Mesh) -> bool:
    """Whether the loss takes batches of its own size only."""
    try:
        for many in (size, 2 * size):
            jax.eval_shape(partial(_losses, size=many, mesh=mesh), posterior, arrays, jnp.zeros((), jnp.int32))
    except (TypeError, ValueError):  # as JAX reports shapes that do not fit
        return True
    return False
