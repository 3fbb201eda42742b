"""Selections of weights: hashable values that name leaves as `/`-joined paths, and compose with `|`, `&` and `~`."""

import dataclasses
import fnmatch
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Free:
    """A selection of leaves; the base of `Paths` and of what `|`, `&` and `~` make of it.

    Examples:
        >>> free = jaxllc.Paths("layers_*") & ~jaxllc.Paths("*/bias")
        >>> "layers_0/kernel" in free, "layers_0/bias" in free
        (True, False)
    """

    def __contains__(self, name: str) -> bool:
        """Whether it has a part of the leaf."""
        return True

    def covers(self, name: str) -> bool:
        """Whether it has the leaf as a whole."""
        return name in self

    def mask(self, name: str, shape: tuple[int, ...]) -> bool | np.ndarray:
        """Which elements of a leaf of this shape it has, or whether it has all or none."""
        return name in self

    def operands(self) -> "tuple[Free, ...]":
        """The selections that it is composed of."""
        return ()

    def __or__(self, other: "Free | str") -> "Free":
        return Union(self, _selection(other))

    def __and__(self, other: "Free | str") -> "Free":
        return ~(~self | ~_selection(other))

    def __invert__(self) -> "Free":
        return Complement(self)


def _selection(value: Free | str) -> Free:
    """A pattern or a selection, as a selection."""
    if not isinstance(value, Free | str):
        raise TypeError(f"a selection goes with another one or with a pattern such as 'layers_0/*', got {type(value).__name__}.")
    return Paths(value) if isinstance(value, str) else value


@dataclasses.dataclass(frozen=True)
class Paths(Free):
    """Leaves whose path matches one of the shell patterns, where `*` crosses `/`.

    Examples:
        >>> parts = {"linear": jaxllc.Paths("lin*"), "all": None}
        >>> est = jaxllc.estimate(loss_fn, params, data, components=parts, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
        >>> round(est.component("linear").llc)
        1
    """

    patterns: tuple[str, ...]

    def __init__(self, *patterns: str) -> None:
        object.__setattr__(self, "patterns", patterns)

    def __contains__(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)


@dataclasses.dataclass(frozen=True)
class Leaves(Free):
    """Leaves by their exact names, which may hold the characters of a pattern; what a mask or a function stands for."""

    names: frozenset[str]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", frozenset(names))

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __repr__(self) -> str:
        names = sorted(self.names)
        if len(names) <= 8:
            return f"Leaves({', '.join(map(repr, names))})"
        digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]
        return f"Leaves({', '.join(map(repr, names[:3]))}, ...: {len(names)} leaves, sha256 {digest})"


@dataclasses.dataclass(frozen=True)
class Union(Free):
    """What `|` makes of two."""

    left: Free
    right: Free

    def __contains__(self, name: str) -> bool:
        return name in self.left or name in self.right

    def covers(self, name: str) -> bool:
        """Whether it has the leaf as a whole."""
        return self.left.covers(name) or self.right.covers(name)

    def mask(self, name: str, shape: tuple[int, ...]) -> bool | np.ndarray:
        """Which elements of a leaf of this shape it has, or whether it has all or none."""
        return self.left.mask(name, shape) | self.right.mask(name, shape)

    def operands(self) -> tuple[Free, ...]:
        """The selections that it is composed of."""
        return self.left, self.right


@dataclasses.dataclass(frozen=True)
class Complement(Free):
    """What `~` makes of one."""

    inner: Free

    def __contains__(self, name: str) -> bool:
        return not self.inner.covers(name)

    def covers(self, name: str) -> bool:
        """Whether it has the leaf as a whole."""
        return name not in self.inner

    def mask(self, name: str, shape: tuple[int, ...]) -> bool | np.ndarray:
        """Which elements of a leaf of this shape it has, or whether it has all or none."""
        return np.logical_not(self.inner.mask(name, shape))

    def operands(self) -> tuple[Free, ...]:
        """The selections that it is composed of."""
        return (self.inner,)
