"""Data that are read while chains run: the batches of a block of iterations, found by position, come to the devices while the block before is computed."""

import copy
import hashlib
import operator
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllc._tree import named_leaves
from jaxllc._typing import Batch, Key
from jaxllc.data import Drawn, InMemory, count_examples, keys_at, shuffled_order

BLOCK_BYTES = 2**27
"""Of the batches of a block of iterations; three blocks are held at most: one that is computed, one that waits for it, and one that is read."""
RESIDENT_BATCHES = 32
"""Whose examples lie on the devices throughout."""
MOST_EXAMPLES = 2**31 - 1
_AT_ONCE = 2**14
"""Iterations of a chain whose batches are found at once."""


class Source(Protocol):
    """Examples by their number, such as a Grain `MapDataset`, a dataset of PyTorch or of Hugging Face, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Stream:
    r"""Examples that are read when a batch needs them, for data that do not fit the memory of a device.

    A source has a length and gives one example, a pytree of arrays, as `source[i]`: a Grain MapDataset, for one. `Stream.of` takes memory-mapped or Zarr
    arrays, as `InMemory.of` does.

    Batches are those of `InMemory`, found by position: windows of the examples in one shuffled order. All checkpoints, and a run that is resumed, see the
    same ones. They are read by a thread, a block of iterations ahead; sources that have `__getitems__(indices)`, which gives the examples in a list, are
    asked for all examples of a block at once.

    What goes through all data differs: losses are paired by a second forward pass at $w^*$, $L_n(w^*)$ is the mean over the batches of the draws, with a
    standard error, and samplers that need all data are refused (`jaxllc.AdaptiveHMC`, BlackJAX's, `jaxllc.ControlVariate`). The first 32 batches in
    the shuffled order stay on the devices. They serve wherever any fixed batch will do: the curvature of a default step size, a look at the loss function,
    the loss of a fixed batch along the chains, the Gaussian prior alone, and a calibration's timing.

    Args:
        source: examples by their number, each of the same structure and shapes; it is read in one thread.
        batch_size: examples a batch, fewer than there are.
        shuffle: False leaves the examples in the order of the source, for one that is in random order already; a batch is then read in one stretch.

    Raises:
        TypeError: a source without a length or items, or one that is a tuple or a dict of arrays; an example that holds no numbers.
        ValueError: a batch size below 1, or one that is not below the number of examples; examples that differ in structure or shapes, as they are read.

    Examples:
        >>> import numpy as np
        >>> arrays = jax.tree.map(np.asarray, data)  # or memory-mapped ones
        >>> stream = jaxllc.Stream.of(arrays, batch_size=256)
        >>> round(jaxllc.estimate(loss_fn, params, stream, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0)).llc)
        2
    """

    def __init__(self, source: Source, batch_size: int, *, shuffle: bool = True) -> None:
        if isinstance(source, dict | tuple) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise TypeError(
                f"a source of examples has a length, and gives one example as source[i]; got {type(source).__name__}. For a pytree of arrays there is "
                "jaxllc.Stream.of(arrays, batch_size)."
            )
        self._begin(partial(_examples, source), len(source), batch_size, shuffle)

    @classmethod
    def of(cls, arrays: Batch, batch_size: int, *, shuffle: bool = True) -> "Stream":
        """Stream from memory-mapped arrays, Zarr arrays, or others that give rows by an array of increasing indices.

        Args:
            arrays: a pytree of arrays with one leading axis, the examples.
            batch_size: examples a batch.
            shuffle: see the class.
        """
        stream = cls.__new__(cls)
        stream._begin(partial(_rows, arrays), count_examples(arrays), batch_size, shuffle)
        return stream

    def _begin(self, fetch: Callable[[np.ndarray], Batch], num_examples: int, batch_size: int, shuffle: bool) -> None:
        try:
            size = operator.index(batch_size)
        except TypeError:
            raise TypeError(f"a Stream's batch_size must be a whole number, got {batch_size!r}; for all examples at each step use jaxllc.InMemory.") from None
        if not 1 <= size < num_examples <= MOST_EXAMPLES:
            raise ValueError(
                f"a Stream takes batches of 1 to n - 1 of n examples, at most {MOST_EXAMPLES} of them; got batch_size={size} and {num_examples} examples. "
                "All at once is jaxllc.InMemory.of(arrays), and a Grain dataset must not be repeated."
            )
        self.num_examples: int = num_examples
        self.batch_size: int = size
        self._fetch = fetch
        self._order = shuffled_order(num_examples).astype(np.int32) if shuffle else None
        count = min(RESIDENT_BATCHES, num_examples // size) * size
        places = np.arange(count) if count == size else np.concatenate([np.arange(count), np.arange(size - 1)])
        self.resident: InMemory = InMemory(jax.tree.map(jnp.asarray, self._at(places)), count, size)
        """The examples that lie on the devices, with batches of the same size."""
        self.seen: int | None = None
        """Checksum of the batches of the run that ended last."""

    def on(self, mesh: Mesh) -> "Stream":
        """The same, its resident examples on each device of a mesh."""
        placed = copy.copy(self)
        placed.resident = self.resident.on(mesh)
        return placed

    def longest_block(self, num_chains: int, most: int) -> int:
        """Iterations of a block whose batches fit `BLOCK_BYTES`, at most so many."""
        batch = sum(self.batch_size * leaf[0].size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.resident.arrays))
        return max(1, min(most, BLOCK_BYTES // (num_chains * batch)))

    def blocks(self, key: Key, num_chains: int, blocks: Sequence[range], mesh: Mesh) -> Iterator[tuple[range, Drawn]]:
        """Each block of iterations, and its batches, `[C, iteration, ...]`, on the devices of their chains.

        Args:
            key: of the run.
            num_chains: C.
            blocks: iterations from 0 on, one block after the other.
            mesh: whose axis `chain`, if any, chains are spread over.
        """
        windows = np.asarray(_windows(key, jnp.arange(num_chains), jnp.arange(blocks[-1].stop), num_examples=self.num_examples))
        by_chain = NamedSharding(mesh, P("chain" if "chain" in mesh.axis_names else None))
        digest = hashlib.blake2b(digest_size=8)

        def read(windows: np.ndarray) -> Drawn:
            drawn = self.read(windows)
            for leaf in jax.tree.leaves(drawn.batch):
                digest.update(np.ascontiguousarray(leaf).tobytes())
            return drawn

        with ThreadPoolExecutor(1, thread_name_prefix="jaxllc-stream") as reader:
            reads = (reader.submit(read, windows[:, block.start : block.stop]) for block in blocks)
            ahead = next(reads)
            for iterations in blocks:
                drawn = jax.device_put(ahead.result(), by_chain)  # by this thread, whose settings of JAX may be its own
                ahead = next(reads, ahead)
                yield iterations, drawn
        self.seen = int.from_bytes(digest.digest(), "big") >> 1

    def read(self, windows: np.ndarray) -> Drawn:
        """The batches that begin at `windows`, `[C, iteration]`, on the host."""
        batch = self._at((windows[..., None].astype(np.int64) + np.arange(self.batch_size)) % self.num_examples)
        return Drawn(cast(jax.Array, windows), jax.tree.map(lambda leaf, like: leaf.astype(like.dtype, copy=False), batch, self.resident.arrays))

    def _at(self, places: np.ndarray) -> Batch:
        """The examples at places of the shuffled order, in the shape of `places`; each is read once, in the order of the source."""
        rows, inverse = np.unique(places if self._order is None else self._order[places], return_inverse=True)
        return jax.tree.map(lambda leaf: leaf[inverse.reshape(places.shape)], self._fetch(rows))


Data: TypeAlias = InMemory | Stream
"""What batches are taken from."""


@partial(jax.jit, static_argnames="num_examples")
def _windows(key: Key, chains: jax.Array, iterations: jax.Array, *, num_examples: int) -> jax.Array:
    """Where the batch of each iteration of each chain begins, `[C, iteration]`."""
    data = InMemory((), num_examples, 1)

    def of_iteration(t: jax.Array) -> jax.Array:
        return jax.vmap(lambda chain: data.window(keys_at(key, chain, t)[1]))(chains)

    return jnp.transpose(jax.lax.map(of_iteration, iterations, batch_size=_AT_ONCE))


def _rows(arrays: Batch, rows: np.ndarray) -> Batch:
    """Rows of each of the arrays."""
    return jax.tree.map(lambda leaf: _as_numbers(np.asarray(leaf[rows]), "data"), arrays)


def _examples(source: Any, rows: np.ndarray) -> Batch:
    """Examples of a source, stacked."""
    indices = rows.tolist()
    index = indices[0]
    try:
        if hasattr(source, "__getitems__"):
            examples = source.__getitems__(indices)
        else:
            examples = []
            for index in indices:
                examples.append(source[index])
    except Exception as error:  # a source may raise anything
        count = f" or one of the {len(indices) - 1} that were asked for with it" if hasattr(source, "__getitems__") else ""
        raise ValueError(f"example {index}{count} of the source cannot be read ({type(error).__name__}: {error}); mend the source, and go on.") from error
    leaves, structures = zip(*(jax.tree.flatten(example) for example in examples), strict=True)
    try:
        if len(set(structures)) > 1 or not leaves[0]:
            raise ValueError
        stacked = [_as_numbers(np.stack(leaf), f"example {indices[0]}") for leaf in zip(*leaves, strict=True)]
    except ValueError:
        raise ValueError(_why_not_alike(indices, examples)) from None
    return structures[0].unflatten(stacked)


def _why_not_alike(indices: Sequence[int], examples: Sequence[Any]) -> str:
    """The message for examples that cannot be stacked, with the first that is unlike the others."""

    def shapes(example: Any) -> str:
        return ", ".join(f"{name or 'an array'} {np.shape(leaf)}" for name, leaf in named_leaves(example).items()) or "no array"

    odd = next((i for i, example in enumerate(examples) if shapes(example) != shapes(examples[0])), 0)
    return (
        f"example {indices[odd]} of the source has {shapes(examples[odd])}, and example {indices[0]} has {shapes(examples[0])}; all examples need the same "
        "arrays, at least one. A Grain dataset that was filtered has holes: filter before training, or keep all examples."
    )


def _as_numbers(values: np.ndarray, where: str) -> np.ndarray:
    """The values.

    Raises:
        TypeError: no numbers.
    """
    if values.dtype.kind in "OSUMm":
        raise TypeError(f"{where} holds values of dtype {values.dtype}, which are no numbers; leave them out of the source.")
    return values
