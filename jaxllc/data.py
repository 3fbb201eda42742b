"""Data on the device: a batch as a function of a key."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxllc._tree import named_leaves
from jaxllc._typing import Batch, Key

_SHUFFLE_SEED = 0


@struct.dataclass
class InMemory:
    """Arrays on the device, shuffled once, of which a batch is a contiguous window that begins anywhere.

    A window costs a copy, less than a gather of rows at random. All windows are equally likely and wrap
    around the end, so each example is equally likely in a batch, and a batch never holds an example twice.
    The order is fixed (it does not depend on any key), so it is the same for all chains, checkpoints and calls.

    Build one with `InMemory.of(arrays, batch_size)`.
    """

    arrays: Batch
    """Shuffled examples, the first `batch_size - 1` of them again at the end."""
    num_examples: int = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)

    @classmethod
    def of(cls, arrays: Batch, batch_size: int | None = None) -> "InMemory":
        """Put arrays on the device.

        Args:
            arrays: a pytree of arrays with one leading axis, the examples.
            batch_size: examples a batch; None, or more than there are, takes all of them at each step.

        Raises:
            ValueError: no array, a leaf without a leading axis, leaves of different lengths, no example, or a batch size below one.
        """
        num_examples = _num_examples(arrays)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}; None takes all {num_examples} examples.")
        size = min(batch_size or num_examples, num_examples)
        order = np.random.default_rng(_SHUFFLE_SEED).permutation(num_examples) if size < num_examples else np.arange(num_examples)
        rows = np.concatenate([order, order[: size - 1]]) if size < num_examples else order
        return cls(jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[rows]), arrays), num_examples, size)

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


def _num_examples(arrays: Batch) -> int:
    leaves: dict[str, Any] = named_leaves(arrays)
    if not leaves:
        raise ValueError("data holds no array; pass a pytree of arrays with one leading axis, the examples.")
    lengths = {}
    for name, leaf in leaves.items():
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
