"""Data on the devices: a batch as a function of a key."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllc import _struct as struct
from jaxllc._tree import named_leaves
from jaxllc._typing import Batch, Key

_SHUFFLE_SEED = 0
STRETCH_BYTES = 2**26
"""Of an array that are on the host at once on their way to the devices."""


class Drawn(NamedTuple):
    """A batch, and where it begins in the shuffled order of the examples."""

    window: jax.Array
    batch: Batch


@struct.dataclass
class InMemory:
    """Arrays on the devices, shuffled once, of which a batch is a contiguous window that begins anywhere.

    A window costs a copy, less than a gather of rows at random. All windows are equally likely and wrap
    around the end, so each example is equally likely in a batch, and a batch never holds an example twice.
    The order is fixed (it does not depend on any key), so it is the same for all chains, checkpoints and calls.

    Build one with `InMemory.of(arrays, batch_size)`.

    Examples:
        >>> batches = jaxllc.InMemory.of(data, batch_size=256)
        >>> batches.num_examples, batches.batch_size
        (1000, 256)
        >>> round(jaxllc.estimate(loss_fn, params, batches, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0)).llc)
        2
    """

    arrays: Batch
    """Shuffled examples, the first `batch_size - 1` of them again at the end."""
    num_examples: int = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)

    @classmethod
    def of(cls, arrays: Batch, batch_size: int | None = None, mesh: Mesh | None = None) -> "InMemory":
        """Put arrays on the devices, once on each.

        Memory-mapped and Zarr arrays, and whatever else gives rows by slices, are read from front to end, some rows at a time, so that the host never
        holds them whole.

        Args:
            arrays: a pytree of arrays with one leading axis, the examples.
            batch_size: examples a batch; None, or more than there are, takes all of them at each step.
            mesh: the devices; None is JAX's default device, and a run copies to the others that it needs.

        Raises:
            TypeError: a leaf that is no array, but has items.
            ValueError: no array, a leaf without a leading axis, leaves of different lengths, no example, or a batch size below one.
        """
        n = count_examples(arrays)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}; None takes all {n} examples.")
        size = min(batch_size or n, n)
        order = shuffled_order(n) if size < n else np.arange(n)
        rows = np.concatenate([order, order[: size - 1]]) if size < n else order
        device = None if mesh is None else mesh.local_devices[0]
        data = cls(jax.tree.map(lambda leaf: _take(leaf, rows, n, device), arrays), n, size)
        return data if mesh is None else data.on(mesh)

    @property
    def resident(self) -> "InMemory":
        """The examples that lie on the devices: all of them."""
        return self

    @property
    def seen(self) -> None:
        """Nothing: a checksum of the arrays tells which batches a run has."""
        return None

    def on(self, mesh: Mesh) -> "InMemory":
        """The same on each device of a mesh. Devices that hold the arrays keep them, and the devices of one CPU share one copy."""
        return self.replace(arrays=jax.tree.map(lambda leaf: _everywhere(leaf, NamedSharding(mesh, P())), self.arrays))  # pyright: ignore[reportAttributeAccessIssue]

    def first(self, count: int) -> Batch:
        """The first examples in the shuffled order, on the host."""
        return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)[:count]), self.arrays)

    def longest_block(self, num_chains: int, most: int) -> int:
        """Iterations of a block for whose batches there is room on the devices, at most so many."""
        return most

    def blocks(self, key: Key, num_chains: int, blocks: Sequence[range], mesh: Mesh) -> Iterator[tuple[range, None]]:
        """Each block of iterations, and the batches that are drawn for it: none, since a program cuts its own."""
        return ((iterations, None) for iterations in blocks)

    def draw(self, key: Key) -> Drawn:
        """The batch of this key."""
        window = self.window(key)
        return Drawn(window, self.batch(window))

    def window(self, key: Key) -> jax.Array:
        """Where the batch of this key begins, `int[]`.

        The remainder of one random word, whose places differ in probability by less than n / 2³²; `jax.random.randint` draws two words and a key.
        """
        if self.batch_size == self.num_examples:
            return jnp.zeros((), jnp.int32)
        return (jax.random.bits(key, (), jnp.uint32) % jnp.uint32(self.num_examples)).astype(jnp.int32)

    def batch(self, start: jax.Array) -> Batch:
        """The batch that begins at `start`."""
        return jax.tree.map(lambda leaf: self.slice(leaf, start), self.arrays)

    def slice(self, values: jax.Array, start: jax.Array) -> jax.Array:
        """Of values laid out like `arrays` (see `wrap`), those of the batch that begins at `start`."""
        return jax.lax.dynamic_slice_in_dim(values, start, self.batch_size)

    def wrap(self, values: jax.Array) -> jax.Array:
        """Values of the `num_examples` shuffled examples, laid out like `arrays`."""
        if self.batch_size == self.num_examples:
            return values
        return jnp.concatenate([values, values[: self.batch_size - 1]])


def keys_at(key: Key, chain: jax.Array, iteration: jax.Array) -> tuple[Key, Key]:
    """The keys of the noise and of the batch of an iteration of a chain, by position."""
    noise_key, batch_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, chain), iteration))
    return noise_key, batch_key


def shuffled_order(num_examples: int) -> np.ndarray:
    """The order in which batches are cut from the examples, the same at each call."""
    return np.random.default_rng(_SHUFFLE_SEED).permutation(num_examples)


def count_examples(arrays: Batch) -> int:
    """The length that all leaves share.

    Raises:
        TypeError: a leaf that is no array, but has items.
        ValueError: no array, a leaf without a leading axis, leaves of different lengths, or no example.
    """
    leaves: dict[str, Any] = named_leaves(arrays)
    if not leaves:
        raise ValueError("data holds no array; pass a pytree of arrays with one leading axis, the examples.")
    lengths = {}
    for name, leaf in leaves.items():
        if hasattr(leaf, "__getitem__") and not hasattr(leaf, "shape"):
            where, kind = name or "(the only one)", type(leaf).__name__
            raise TypeError(f"data leaf {where} is no array but a {kind}; a source of examples goes into jaxllc.Stream(source, batch_size).")
        if not np.shape(leaf):
            raise ValueError(f"data leaf {name or '(the only one)'} has no leading axis; its value is {leaf!r}. Close over constants in loss_fn instead.")
        lengths[name or "(the only one)"] = np.shape(leaf)[0]
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"data leaves differ in length along the leading axis ({listed}); every leaf has one entry for each example.")
    num_examples = next(iter(lengths.values()))
    if num_examples == 0:
        raise ValueError("data holds no example: every leaf has length 0 along its leading axis.")
    return num_examples


def _take(leaf: Any, rows: np.ndarray, num_examples: int, device: Any) -> jax.Array:
    """Rows of an array on a device (None: the default one): each of its rows once, and the first of these again."""
    if isinstance(leaf, jax.Array):
        in_order = len(rows) == num_examples and bool((rows == np.arange(num_examples)).all())
        return leaf if in_order else jnp.take(leaf, jnp.asarray(rows), axis=0, mode="clip")
    stretch = max(1, STRETCH_BYTES // max(1, np.asarray(leaf[:1]).nbytes))
    if stretch >= num_examples:
        return jnp.asarray(np.asarray(leaf[:])[rows], device=device)
    return _filled(leaf, rows, num_examples, stretch, device)


def _filled(leaf: Any, rows: np.ndarray, num_examples: int, stretch: int, device: Any) -> jax.Array:
    """The rows of a large array, which is read in stretches of rows, each row of which is written where it belongs."""
    places = np.empty(num_examples, np.int32)
    places[rows[:num_examples]] = np.arange(num_examples, dtype=np.int32)
    row = np.asarray(leaf[:1])
    whole = jnp.zeros((len(rows), *row.shape[1:]), jax.dtypes.canonicalize_dtype(row.dtype), device=device)
    for start in range(0, num_examples, stretch):
        first = min(start, num_examples - stretch)  # the last stretch is as long as the others
        whole = _put(whole, np.asarray(leaf[first : first + stretch]), places[first : first + stretch])
        whole.block_until_ready()  # or the host would hold several stretches
    again = np.arange(num_examples, len(rows), dtype=np.int32)
    return _put(whole, whole[: len(again)], again) if len(again) else whole


@partial(jax.jit, donate_argnums=0)
def _put(whole: jax.Array, values: jax.Array, places: jax.Array) -> jax.Array:
    return whole.at[places].set(values, unique_indices=True, mode="promise_in_bounds")


def _everywhere(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """An array on each device, of which those that hold it keep it."""
    if leaf.sharding == sharding:
        return leaf
    if not leaf.is_fully_replicated:
        return jax.device_put(leaf, sharding)
    held = {shard.device: shard.data for shard in leaf.addressable_shards}
    device, source = next(iter(held.items()))
    # A host device uses the memory of a NumPy array as it is, and copies that of another host device.
    shared = np.asarray(source) if device.platform == "cpu" and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else source
    copies = [held[device] if device in held else jax.device_put(shared, device) for device in sharding.addressable_devices_indices_map(leaf.shape)]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, copies)
