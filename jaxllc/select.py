"""Which weights move: selections of leaves by their path, for the refined coefficient of Wang et al. (arXiv:2410.02984).

A selection is a hashable value that names leaves as `/`-joined paths (`layers_0/attention/query`) and composes with `|`, `&` and `~`:

    early = Paths("layers_0/*") & ~Paths("*/bias")
"""

import dataclasses
import fnmatch
from typing import TypeAlias

import jax

from jaxllc._tree import is_real, path_name
from jaxllc._typing import Params


@dataclasses.dataclass(frozen=True)
class Free:
    """A selection of leaves; the base of `Paths` and of what `|`, `&` and `~` make of it."""

    def __contains__(self, name: str) -> bool:
        return True

    def __or__(self, other: "Free") -> "Free":
        return _Union(self, other)

    def __and__(self, other: "Free") -> "Free":
        return ~(~self | ~other)

    def __invert__(self) -> "Free":
        return _Complement(self)


@dataclasses.dataclass(frozen=True)
class Paths(Free):
    """Leaves whose path matches one of the shell patterns, where `*` crosses `/`."""

    patterns: tuple[str, ...]

    def __init__(self, *patterns: str) -> None:
        object.__setattr__(self, "patterns", patterns)

    def __contains__(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)


@dataclasses.dataclass(frozen=True)
class _Union(Free):
    left: Free
    right: Free

    def __contains__(self, name: str) -> bool:
        return name in self.left or name in self.right


@dataclasses.dataclass(frozen=True)
class _Complement(Free):
    inner: Free

    def __contains__(self, name: str) -> bool:
        return name not in self.inner


FreeLike: TypeAlias = Free | str | None
"""A selection, one pattern, or None for all weights."""


def as_free(free: FreeLike, params=None) -> Free:
    """The selection that `free` stands for."""
    if free is None:
        return Free()
    return Paths(free) if isinstance(free, str) else free


def take_free(free: Free, params: Params) -> Params:
    """The free leaves of `params` in its own structure, None where a leaf stays fixed.

    Leaves that hold no real numbers (counters, keys) are never free.

    Raises:
        ValueError: no leaf is selected.
    """
    chosen = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf if is_real(leaf) and path_name(path) in free else None, params)
    if not jax.tree.leaves(chosen):
        names = ", ".join(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)) or "none"
        raise ValueError(f"free={free!r} selects no weight that can move; the leaves are: {names}.")
    return chosen


def put_free(position: Params, params: Params) -> Params:
    """`params` with its free leaves replaced by those of `position`, in the dtype of `params`."""
    leaves, structure = jax.tree.flatten(params)
    moved = structure.flatten_up_to(position)
    return structure.unflatten([leaf if new is None else new.astype(leaf.dtype) for leaf, new in zip(leaves, moved, strict=True)])


def statistics(free, params):
    return ()
