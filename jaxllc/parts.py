"""Selections of parts of leaves: attention heads, neurons, and any other slice."""

import dataclasses
import fnmatch
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllc.selections import Free

OUTPUTS = ("out", "output", "o", "out_proj", "o_proj", "c_proj", "dense")
"""Names of leaves, or of the nodes that hold them, that map from heads to the residual stream: their first axis is that of the heads."""


@dataclasses.dataclass(frozen=True)
class Parts(Free):
    """Parts of the leaves whose path matches one of the patterns."""

    def patterns(self) -> tuple[str, ...]:
        """Of the leaves' paths."""
        raise NotImplementedError

    def where(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Which elements of a leaf that matches, `bool[shape]`."""
        raise NotImplementedError

    def __contains__(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns())

    def covers(self, name: str) -> bool:
        """None of the leaves as a whole."""
        return False

    def mask(self, name: str, shape: tuple[int, ...]) -> bool | np.ndarray:
        """Which elements of a leaf are selected."""
        return self.where(name, shape) if name in self else False


@dataclasses.dataclass(frozen=True)
class Heads(Parts):
    """One attention head, or several: their part of each leaf of an attention layer.

    Args:
        pattern: of the leaves' paths, or several; each leaf must have an axis of heads.
        head: its index, or several.
        axis: of the heads. By default the last but one, as in `[width, heads, head width]` and `[heads, head width]`, and the first of leaves that are named
            like an output projection (`out`, `output`, `o_proj`, ...), as in `[heads, head width, width]`. Or by pattern: `{"*/output": 0, "*": 1}`.
        num_heads: where the axis holds all heads one after the other, how many these are; None where it has one entry a head.

    Raises:
        TypeError: an index that is no whole number.
        ValueError: when it is used: a leaf without that axis, or a head that it does not have; leaves with other numbers of heads; the bias of an output
            projection, or a leaf named `weight`, whose layout only `axis` can tell.

    Examples:
        >>> head = jaxllc.Heads("layers_0/*", 1)  # head 1 of layer 0
        >>> several = jaxllc.Heads("h_0/attn/*", (0, 3))  # heads 0 and 3
        >>> columns = jaxllc.Heads("*/q_proj/kernel", 2, axis=-1, num_heads=4)  # of a matrix whose columns hold the heads one after the other
        >>> int(head.where("layers_0/query", (32, 4, 8)).sum())  # of a leaf [width, heads, head width]
        256
    """

    pattern: str | Sequence[str]
    head: int | Sequence[int]
    axis: int | Mapping[str, int] | None = None
    num_heads: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", _whole("head", self.head))

    def patterns(self) -> tuple[str, ...]:
        """Of the leaves' paths."""
        return (self.pattern,) if isinstance(self.pattern, str) else tuple(self.pattern)

    def where(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The heads' elements of a leaf."""
        axis = self._axis(name, shape)
        if self.num_heads is None:
            return _along(self, name, shape, axis, self.head)
        size = shape[axis] if -len(shape) <= axis < len(shape) else 0
        if not size or size % self.num_heads:
            raise ValueError(f"{self!r}: axis {axis} of the leaf {name!r} of shape {shape} does not hold {self.num_heads} heads of one width; pass axis=.")
        width = size // self.num_heads
        heads = _checked(self, name, shape, self.num_heads, self.head)
        return _along(self, name, shape, axis, [head * width + i for head in heads for i in range(width)])

    def _axis(self, name: str, shape: tuple[int, ...]) -> int:
        if isinstance(self.axis, Mapping):
            found = [axis for pattern, axis in self.axis.items() if fnmatch.fnmatchcase(name, pattern)]
            if not found:
                raise ValueError(f"{self!r}: axis says nothing of the leaf {name!r}; add a pattern for it.")
            return found[0]
        if self.axis is not None:
            return self.axis
        if name.split("/")[-1] == "weight":
            raise ValueError(f"{self!r}: the leaf {name!r} is named as in PyTorch, whose layouts differ; pass axis= (and num_heads=), by pattern.")
        is_output = any(part in OUTPUTS for part in name.split("/")[-2:])
        if is_output and len(shape) == 1:
            raise ValueError(f"{self!r}: the leaf {name!r} of shape {shape} is the bias of an output projection, which is of no head; leave it out.")
        if self.num_heads is not None:
            return 0 if is_output else -1
        return 0 if is_output else -2

    def size(self, name: str, shape: tuple[int, ...]) -> int | None:
        """How many heads a leaf has by its shape; None where `num_heads` says it."""
        axis = self._axis(name, shape)
        return shape[axis] if self.num_heads is None and -len(shape) <= axis < len(shape) else None


@dataclasses.dataclass(frozen=True)
class Neurons(Parts):
    """One neuron, or several: their weights into and out of a hidden layer.

    Args:
        axes: the axis of the neurons in each leaf, by pattern, of which the first that matches counts.
        index: of the neuron, or several.

    Raises:
        ValueError: when it is used: a leaf without that axis, or a neuron that it does not have.

    Examples:
        >>> neuron = jaxllc.Neurons({"mlp/in/kernel": -1, "mlp/in/bias": -1, "mlp/out/kernel": 0}, 5)
        >>> int(neuron.where("mlp/in/kernel", (32, 64)).sum())
        32
    """

    axes: Mapping[str, int]
    index: int | Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", _whole("index", self.index))

    def patterns(self) -> tuple[str, ...]:
        """Of the leaves' paths."""
        return tuple(self.axes)

    def where(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The neurons' elements of a leaf."""
        axis = next(axis for pattern, axis in self.axes.items() if fnmatch.fnmatchcase(name, pattern))
        return _along(self, name, shape, axis, self.index)


@dataclasses.dataclass(frozen=True)
class Slice(Parts):
    """Any part of the leaves that match, as numpy indexes it.

    Args:
        pattern: of the leaves' paths, or several.
        index: what stands in the brackets of `array[index]`: numbers, slices, lists of numbers, or a tuple of these.

    Raises:
        ValueError: when it is used: an index that does not fit the leaf.

    Examples:
        >>> import numpy as np
        >>> first = jaxllc.Slice("embedding", np.s_[:100])
        >>> int(first.where("embedding", (500, 8)).sum())
        800
    """

    pattern: str | Sequence[str]
    index: Any

    def patterns(self) -> tuple[str, ...]:
        """Of the leaves' paths."""
        return (self.pattern,) if isinstance(self.pattern, str) else tuple(self.pattern)

    def __repr__(self) -> str:
        return f"Slice({self.pattern!r}, {_described(self.index)})"

    def where(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The elements of a leaf."""
        mask = np.zeros(shape, bool)
        try:
            mask[self.index] = True
        except (IndexError, ValueError) as error:
            raise ValueError(f"{self!r} does not fit the leaf {name!r} of shape {shape}: {error}") from error
        return mask


@dataclasses.dataclass(frozen=True)
class Elements(Parts):
    """Single weights, by masks of their leaves; what a tree of bool arrays stands for."""

    masks: Mapping[str, np.ndarray]

    def patterns(self) -> tuple[str, ...]:
        """The names of the leaves."""
        return tuple(self.masks)

    def __contains__(self, name: str) -> bool:
        return name in self.masks

    def where(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The elements of a leaf."""
        return self.masks[name]

    def __repr__(self) -> str:
        digest = hashlib.sha256()
        for name, mask in sorted(self.masks.items()):
            digest.update(name.encode() + np.packbits(mask).tobytes())
        return f"Elements({sum(int(mask.sum()) for mask in self.masks.values())} weights, sha256 {digest.hexdigest()[:16]})"


def _whole(name: str, index: Any) -> int | tuple[int, ...]:
    """One whole number or several, as plain ones."""
    values = np.asarray(index)
    if values.ndim > 1 or values.size == 0 or not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"{name} must be a whole number or several, got {index!r}.")
    return int(values) if values.ndim == 0 else tuple(int(value) for value in values)


def _described(index: Any) -> str:
    """An index in full, arrays by their shape and a digest."""
    if isinstance(index, tuple):
        return f"({', '.join(map(_described, index))})"
    if hasattr(index, "shape") and np.ndim(index):
        digest = hashlib.sha256(np.ascontiguousarray(index).tobytes()).hexdigest()[:16]
        return f"array of shape {np.shape(index)}, sha256 {digest}"
    return repr(index)


def _along(part: Free, name: str, shape: tuple[int, ...], axis: int, index: int | Sequence[int]) -> np.ndarray:
    """The elements of a leaf at some places of an axis."""
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{part!r}: the leaf {name!r} of shape {shape} has no axis {axis}; name the right leaves, or pass their axis.")
    mask = np.zeros(shape, bool)
    np.moveaxis(mask, axis, 0)[list(_checked(part, name, shape, shape[axis], index))] = True
    return mask


def _checked(part: Free, name: str, shape: tuple[int, ...], size: int, index: int | Sequence[int]) -> tuple[int, ...]:
    found = (index,) if isinstance(index, int | np.integer) else tuple(index)
    if bad := [i for i in found if not -size <= i < size]:
        raise ValueError(f"{part!r}: the leaf {name!r} of shape {shape} has {size} of them, so there is no {bad[0]}.")
    return tuple(int(i) % size for i in found)
