r"""Components: sets of weights whose $\hat\lambda$ is asked for each by itself, the refined coefficient of Wang et al. (arXiv:2410.02984).

A component is a selection of leaves (`jaxllc.select`), of parts of leaves (`jaxllc.parts`), a mask of the weights' shapes, or whatever `|`, `&`
and `~` make of these. The weights outside it stay at $w^*$ in the loss. The masks are data, so that all components run in one program.
"""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from jaxllc._tree import leaves_with_roles, split_objects
from jaxllc._typing import Params
from jaxllc.parts import Elements, Heads, Parts
from jaxllc.select import FreeLike, as_free
from jaxllc.selections import Free, Leaves

ComponentLike: TypeAlias = FreeLike
"""What a component is: a selection as `free` takes it, or a tree of bool arrays of the weights' shapes; None for all weights."""


@dataclasses.dataclass(frozen=True)
class Moving:
    """What a call says of the weights that move: `free`, or components by name."""

    free: FreeLike = None
    components: Mapping[str, ComponentLike] | None = None


class Selected(NamedTuple):
    """Which weights move, in each component."""

    free: Free
    """Leaves of which some component has a part."""
    masks: Params | None
    """`[M, ...]` bools in the structure of a position, of M components; an axis of a leaf that all have as a whole is 1 long. None where all move."""
    names: tuple[str, ...]
    """Of the components; none where `free` alone says what moves."""
    num_weights: tuple[int, ...]
    """Of each component, or of `free`."""
    descriptions: tuple[str, ...]
    """Of each component, or of `free`."""


def resolve(moving: Moving, params: Params) -> Selected:
    """What moves, as leaves and masks.

    Raises:
        TypeError: both are given, or components are no mapping from names to selections.
        ValueError: no components, or one that selects nothing.
    """
    free, components = moving.free, moving.components
    if components is None:
        named = {"": as_selection(free, params)}
    else:
        if free is not None:
            raise TypeError("free and components both say which weights move; pass one of them.")
        if not isinstance(components, Mapping) or not all(isinstance(name, str) and name for name in components):
            raise TypeError(f"components must be a mapping from names to selections, such as {{'head 1': Heads('layers_0/*', 1)}}, got {components!r}.")
        if not components:
            raise ValueError("components is empty; name one at least, or leave it out for all weights.")
        named = {}
        for name, component in components.items():
            try:
                named[name] = as_selection(component, params)
            except (TypeError, ValueError) as error:
                error.add_note(f"in the component {name!r}")
                raise
    center = split_objects(params)[0]
    leaves = leaves_with_roles(center)
    movable = [leaf for leaf in leaves if leaf.role == "weight" and any(leaf.name in selection for selection in named.values())]
    by_leaf = {leaf.name: [selection.mask(leaf.name, np.shape(leaf.value)) for selection in named.values()] for leaf in movable}
    counts = [sum(_count(by_leaf[leaf.name][i], leaf.value) for leaf in movable) for i in range(len(named))]
    for name, count in zip(named, counts, strict=True):
        if not count:
            what = f"the component {name!r}" if name else f"free={named[name]!r}"
            raise ValueError(f"{what} selects no weight; its parts have none in common, or its leaves are no weights.")
    whole = all(np.all(mask) for masks in by_leaf.values() for mask in masks)
    single = next(iter(named.values()))
    chosen = single if len(named) == 1 and whole and not _has_parts(single) else Leaves(*by_leaf)
    stacked = None if whole else [_stacked(by_leaf[leaf.name], leaf.value) if leaf.name in by_leaf else None for leaf in leaves]
    masks = None if stacked is None else jax.tree.structure(center).unflatten(stacked)
    names = () if components is None else tuple(named)
    return Selected(chosen, masks, names, tuple(counts), tuple(map(repr, named.values())))


def as_selection(component: ComponentLike, params: Params) -> Free:
    """The selection that a component stands for: as `as_free` makes it, or of single weights.

    Raises:
        TypeError: none of what a component may be, or a mask of another structure.
        ValueError: a pattern that matches no leaf, a mask of other shapes, or nothing is selected.
    """
    if _is_elementwise(component):
        return as_free(_elements(component, params), params)
    names = [leaf.name for leaf in leaves_with_roles(params)]
    for part in parts_of(component) if isinstance(component, Free) else ():
        for pattern in part.patterns():
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"The pattern {pattern!r} in {part!r} matches no leaf; the leaves are: {', '.join(names[:20])}.")
        if isinstance(part, Heads):
            _same_heads(part, params)
    return as_free(component, params)


def _elements(masks: Any, params: Params) -> Elements:
    """The single weights that a tree of masks selects."""
    leaves, given = ({leaf.path: leaf for leaf in leaves_with_roles(tree)} for tree in (params, masks))
    if unknown := [leaf.name for path, leaf in given.items() if path not in leaves]:
        raise TypeError(f"a mask has a leaf at {unknown[0]!r}, where params have none.")
    if missing := [leaf.name for path, leaf in leaves.items() if leaf.role == "weight" and path not in given]:
        raise TypeError(f"the mask says nothing of {missing[0]!r}; give every weight a bool or a bool array of its shape.")
    found: dict[str, np.ndarray] = {}
    for path, one in given.items():
        leaf, mask = leaves[path], np.asarray(one.value)
        if mask.dtype != bool or mask.shape not in ((), np.shape(leaf.value)):
            raise ValueError(f"the mask of {leaf.name!r} must be bool, of shape {np.shape(leaf.value)} or (), got {mask.dtype} of shape {mask.shape}.")
        if mask.any():
            found[leaf.name] = np.broadcast_to(mask, np.shape(leaf.value))
    return Elements(found)


def _same_heads(heads: Heads, params: Params) -> None:
    """Raise a ValueError where leaves have other numbers of heads along what is taken for the axis of heads."""
    found = {leaf.name: heads.size(leaf.name, np.shape(leaf.value)) for leaf in leaves_with_roles(params) if leaf.role == "weight" and leaf.name in heads}
    sizes = {size: name for name, size in found.items() if size is not None}
    if len(sizes) > 1:
        (one, first), (two, second) = list(sizes.items())[:2]
        raise ValueError(f"{heads!r}: {first!r} has {one} heads and {second!r} has {two}, so one of these axes is not that of heads; pass axis= or num_heads=.")


def _has_parts(selection: Free) -> bool:
    """Whether it names parts of leaves, of which the static fields of a program hold nothing."""
    return isinstance(selection, Parts) or any(_has_parts(inner) for inner in selection.operands())


def parts_of(selection: Free) -> list[Parts]:
    """The parts of leaves of which a selection is composed, but for masks."""
    if isinstance(selection, Elements):
        return []
    if isinstance(selection, Parts):
        return [selection]
    return [part for inner in selection.operands() for part in parts_of(inner)]


def _is_elementwise(component: Any) -> bool:
    if component is None or isinstance(component, Free | str):
        return False
    arrays = [leaf for leaf in jax.tree.leaves(component) if isinstance(leaf, np.ndarray | jax.Array) and leaf.ndim > 0]
    patterns = isinstance(component, list | tuple) and any(isinstance(entry, str | Free) for entry in component)
    return bool(arrays) and not patterns


def _count(mask: bool | np.ndarray, value: Any) -> int:
    return int(np.broadcast_to(mask, np.shape(value)).sum())


def _stacked(masks: Sequence[bool | np.ndarray], value: Any) -> np.ndarray:
    """The masks of one leaf, `[M, ...]`, of shape `[M, 1, ...]` where each is True or False as a whole."""
    shape = np.shape(value)
    if all(np.all(mask) or not np.any(mask) for mask in masks):
        return np.array([bool(np.all(mask)) for mask in masks]).reshape(-1, *[1] * len(shape))
    return np.stack([np.broadcast_to(mask, shape) for mask in masks])
