"""Which weights move: selections of leaves by their path, for the refined coefficient of Wang et al. (arXiv:2410.02984).

A selection is a hashable value that names leaves as `/`-joined paths (`layers_0/attention/query`) and composes with `|`, `&` and `~`:

    early = Paths("layers_0/*") & ~Paths("*/bias")

`as_free` makes one of whatever a user passes as `free`. Leaves that are no weights stay fixed in every selection: integers, bools, keys,
functions, a module's settings, and running statistics that their framework marks (`jaxllc._tree.leaves_with_roles`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxllc._tree import Leaf, leaves_with_roles, named_like_statistics
from jaxllc._typing import Params
from jaxllc.selections import Complement, Free, Leaves, Paths, Union

_WAYS = (
    "free takes a pattern such as 'layers_0/*', a list of patterns, a Free such as Paths('layers_0/*'), "
    "a function that takes a leaf's path and returns a bool, or a mask: a tree of bools of the structure of params, or a prefix of it."
)
_LISTED = 20  # names in a message


Mask: TypeAlias = Any
"""A pytree of bools of the structure of the weights, or a prefix of it, as `optax.masked` takes it."""

FreeLike: TypeAlias = Free | str | Sequence[Free | str] | Callable[[str], bool] | Mask | None
"""What `as_free` takes: a selection, a pattern, a list of these, a function of a leaf's path, a mask, or None for all weights."""


def as_free(free: FreeLike, params: Params) -> Free:
    """The selection that `free` stands for among the leaves of `params`.

    A mask or a function becomes the exact names of its leaves, so equal masks and equal functions give equal selections and nothing is compiled anew.

    Args:
        free: None for all weights; a pattern; a `Free`; a list or tuple of patterns and `Free`s, for their union; a mask, a pytree of bools of the
            structure of `params` or a prefix of it; or a function that takes a leaf's path and returns a bool.
        params: the weights, whole or as `split_objects` leaves them.

    Raises:
        TypeError: `free` is none of these, or a mask of another structure.
        ValueError: a pattern matches no leaf, nothing is free, or a complex leaf is.
    """
    leaves = leaves_with_roles(params)
    selection = _resolve(free, leaves, params)
    _moves(selection, leaves)
    return selection


def _resolve(free: FreeLike, leaves: list[Leaf], params: Params) -> Free:
    if free is None or isinstance(free, Free):
        return Free() if free is None else free
    if isinstance(free, str):
        return _union([free], leaves)
    if isinstance(free, list | tuple) and (not free or any(isinstance(entry, str | Free) for entry in free)):
        return _union(free, leaves)
    if isinstance(free, bool | np.bool_) or not jax.tree_util.all_leaves([free]):  # before callables: a mask may be a module, which is callable
        return _exactly(_mask_values(free, leaves, params), leaves, free)
    if callable(free) and not isinstance(free, type):
        return _exactly(_predicate_values(free, leaves), leaves, free)
    raise TypeError(f"free={_short(free)} has the type {type(free).__name__}; {_WAYS}")


def _union(entries: Sequence[Any], leaves: list[Leaf]) -> Free:
    """The union of patterns and selections, of which each pattern must match a leaf."""
    if not entries:
        raise ValueError(f"free={entries!r} leaves nothing free; pass free=None for all weights.")
    for entry in entries:
        if not isinstance(entry, str | Free):
            raise TypeError(f"free={_short(entries)} holds {_short(entry)} of type {type(entry).__name__}; {_WAYS}")
        if isinstance(entry, str) and not any(leaf.name in Paths(entry) for leaf in leaves):
            raise ValueError(f"The pattern {entry!r} in free matches no leaf; the leaves are: {_listed(leaf.name for leaf in leaves)}.")
    patterns = [entry for entry in entries if isinstance(entry, str)]
    parts = [Paths(*patterns)] if patterns else []
    parts += [entry for entry in entries if isinstance(entry, Free)]
    union = parts[0]
    for part in parts[1:]:
        union = union | part
    return union


def _mask_values(mask: Mask, leaves: list[Leaf], params: Params) -> dict[str, tuple[bool, bool]]:
    """For each inexact leaf whether the mask is True there, and whether it says so of that leaf alone and not of a node above it."""
    values = {leaf.path: leaf for leaf in leaves_with_roles(mask)}
    for leaf in values.values():
        if not _is_bool(leaf.value):
            raise TypeError(f"free is a mask that holds {_short(leaf.value)} at {leaf.name!r}, where a bool should stand. {_WAYS}")
    above = {leaf.path: leaf.path[:size] for leaf in leaves for size in range(len(leaf.path) + 1) if leaf.path[:size] in values}
    missing = [leaf.name for leaf in leaves if leaf.path not in above and leaf.role != "object"]  # a mask of the arrays alone will do
    unknown = set(values) - set(above.values())
    if unknown:  # a mask may speak of a place that holds no leaf: None, or an empty dict
        empty = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda node: not jax.tree.leaves(node))
        unknown -= {tuple(jax.tree_util.keystr((key,), simple=True) for key in path) for path, _ in empty}
    if missing or unknown:
        differ = [f"it says nothing of {_listed(missing)}"] * bool(missing)
        differ += [f"params have no leaf {_listed(sorted(values[path].name for path in unknown))}"] * bool(unknown)
        raise TypeError(f"free is a mask of another structure than params: {'; '.join(differ)}. {_WAYS}")
    return {leaf.name: (bool(values[above[leaf.path]].value), above[leaf.path] == leaf.path) for leaf in _inexact(leaves)}


def _predicate_values(predicate: Callable[[str], Any], leaves: list[Leaf]) -> dict[str, tuple[bool, bool]]:
    """For each inexact leaf what a function says of its path."""
    values = {}
    for leaf in _inexact(leaves):
        try:
            value = predicate(leaf.name)
        except Exception as error:
            raise TypeError(f"free={_short(predicate)} failed for the leaf {leaf.name!r}: {type(error).__name__}: {error}. {_WAYS}") from error
        if not _is_bool(value):
            raise TypeError(f"free={_short(predicate)} returned {_short(value)} for the leaf {leaf.name!r}, where it should return a bool. {_WAYS}")
        values[leaf.name] = (bool(value), True)
    return values


def _exactly(values: dict[str, tuple[bool, bool]], leaves: list[Leaf], free: FreeLike) -> Free:
    """The leaves with True by their names. A statistic is named only where True is said of it alone, for `fixed_statistics`."""
    if all(value for value, _ in values.values()):
        return Free()
    chosen = [leaf.name for leaf in _inexact(leaves) if values[leaf.name] == (True, True) or (leaf.role != "statistic" and values[leaf.name][0])]
    if not chosen:
        raise ValueError(f"free={_short(free)} leaves nothing free: it is True for none of the weights {_listed(_weights(leaves))}.")
    return Leaves(*chosen)


def _is_bool(value: Any) -> bool:
    if isinstance(value, np.ndarray | jax.Array) and not isinstance(value, Tracer):
        return value.shape == () and value.dtype == jnp.bool_
    return isinstance(value, bool | np.bool_)


def _moves(free: Free, leaves: list[Leaf]) -> list[bool]:
    """For each leaf whether it moves."""
    for leaf in leaves:
        if leaf.role == "complex" and leaf.name in free:
            raise ValueError(
                f"The leaf {leaf.name!r} of params is complex, and chains move real weights only; keep its real and imaginary parts as two real leaves, "
                f"or leave it out by free=~Paths({leaf.name!r})."
            )
    moves = [leaf.role == "weight" and leaf.name in free for leaf in leaves]
    if not any(moves):
        fixed = _listed(leaf.name for leaf in leaves if leaf.role != "weight")
        raise ValueError(
            f"free={free!r} selects no weight that can move; the weights are: {_listed(_weights(leaves))}. "
            f"What is no weight (integers, keys, functions, running statistics) stays fixed: {fixed}."
        )
    return moves


def take_free(free: Free, params: Params) -> Params:
    """The free leaves of `params` in its own structure, None where a leaf stays fixed.

    Leaves that are no real weights (integers, keys, functions, marked running statistics) are never free.

    Raises:
        ValueError: no weight is selected, or a complex leaf is.
    """
    leaves = leaves_with_roles(params)
    chosen = [leaf.value if move else None for leaf, move in zip(leaves, _moves(free, leaves), strict=True)]
    return jax.tree.structure(params).unflatten(chosen)


def put_free(position: Params, params: Params) -> Params:
    """`params` with its free leaves replaced by those of `position`, in the dtype of `params`."""
    leaves, structure = jax.tree.flatten(params)
    moved = structure.flatten_up_to(position)
    return structure.unflatten([leaf if new is None else new.astype(jnp.result_type(leaf)) for leaf, new in zip(leaves, moved, strict=True)])


def free_statistics(free: Free, params: Params) -> tuple[str, ...]:
    """Names of leaves that move although they look like running statistics, which no framework marks in a plain dict.

    Such are `running_mean` and `moving_var`, haiku's `mean_ema/average`, and `mean` and `var` where both stand beside a scale or a bias, or in a node
    named like a normalisation; a weight that is merely called `mean` is none.
    """
    leaves = leaves_with_roles(params)
    suspects = named_like_statistics(leaves)
    return tuple(leaf.name for leaf in leaves if leaf.role == "weight" and leaf.name in free and leaf.name in suspects)


def fixed_statistics(free: Free, params: Params) -> tuple[str, ...]:
    """Names of leaves that a selection names, and that stay fixed because their framework marks them as running statistics.

    A pattern names them if it matches no weight that moves (`bn/mean`, and not `bn/*`); a mask or a function if it is True for that leaf, and not for all.
    """
    leaves = leaves_with_roles(params)
    weights = _weights(leaves)
    named = [atom for atom in _atoms(free, True) if isinstance(atom, Leaves) or not any(name in atom for name in weights)]
    return tuple(leaf.name for leaf in leaves if leaf.role == "statistic" and leaf.name in free and any(leaf.name in atom for atom in named))


def _atoms(free: Free, positive: bool) -> Iterator[Free]:
    """The patterns and names of which a selection is composed, without those that it takes away."""
    if isinstance(free, Complement):
        yield from _atoms(free.inner, not positive)
    elif isinstance(free, Union):
        yield from _atoms(free.left, positive)
        yield from _atoms(free.right, positive)
    elif positive:
        yield from map(Paths, free.patterns) if isinstance(free, Paths) else (free,)


def _inexact(leaves: list[Leaf]) -> list[Leaf]:
    return [leaf for leaf in leaves if leaf.role in ("weight", "complex", "statistic")]


def _weights(leaves: list[Leaf]) -> list[str]:
    return [leaf.name for leaf in leaves if leaf.role in ("weight", "complex")]


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return (", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")) or "none"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
