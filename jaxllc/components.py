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
from jaxllc.parts import Elements, Parts
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
    chosen = single if len(named) == 1 and whole else Leaves(*by_leaf)
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
        masks = jax.tree.leaves_with_path(component)
        leaves = {leaf.path: leaf for leaf in leaves_with_roles(params)}
        found: dict[str, np.ndarray] = {}
        for path, mask in masks:
            leaf = leaves.get(tuple(jax.tree_util.keystr((key,), simple=True) for key in path))
            if leaf is None:
                raise TypeError(f"a mask has a leaf at {jax.tree_util.keystr(path, simple=True, separator='/')!r}, where params have none.")
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.shape not in ((), np.shape(leaf.value)):
                raise ValueError(f"the mask of {leaf.name!r} must be bool, of shape {np.shape(leaf.value)} or (), got {mask.dtype} of shape {mask.shape}.")
            if mask.any():
                found[leaf.name] = np.broadcast_to(mask, np.shape(leaf.value))
        return as_free(Elements(found), params)
    names = [leaf.name for leaf in leaves_with_roles(params)]
    for part in parts_of(component) if isinstance(component, Free) else ():
        for pattern in part.patterns():
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"The pattern {pattern!r} in {part!r} matches no leaf; the leaves are: {', '.join(names[:20])}.")
    return as_free(component, params)


def parts_of(selection: Free) -> list[Parts]:
    """The parts of leaves of which a selection is composed, but for masks."""
    if isinstance(selection, Elements):
        return []
    if isinstance(selection, Parts):
        return [selection]
    return [part for inner in selection.operands() for part in parts_of(inner)]


def _is_elementwise(component: Any) -> bool:
    if component is None or isinstance(component, Free | str) or callable(component):
        return False
    return any(isinstance(leaf, np.ndarray | jax.Array) and leaf.ndim > 0 for leaf in jax.tree.leaves(component))


def _count(mask: bool | np.ndarray, value: Any) -> int:
    return int(np.broadcast_to(mask, np.shape(value)).sum())


def _stacked(masks: Sequence[bool | np.ndarray], value: Any) -> np.ndarray:
    """The masks of one leaf, `[M, ...]`, of shape `[M, 1, ...]` where each is True or False as a whole."""
    shape = np.shape(value)
    if all(np.all(mask) or not np.any(mask) for mask in masks):
        return np.array([bool(np.all(mask)) for mask in masks]).reshape(-1, *[1] * len(shape))
    return np.stack([np.broadcast_to(mask, shape) for mask in masks])
