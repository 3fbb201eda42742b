"""The parts of a checkpoint that Orbax saved, and which of them hold the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllc._tree import named_leaves
from jaxllc._typing import Params

_OPTIMIZER_NAMES = frozenset({"opt", "optim", "opt_state", "optimizer", "optimizer_state"})


class Subtree(NamedTuple):
    """A part of a saved checkpoint: the folder of its item, the path in the item's tree, and the metadata of the arrays below."""

    item: str
    keys: tuple[str, ...]
    metadata: Any


def item_folders(folder: Path) -> list[Path]:
    """The folders with a tree of arrays in a checkpoint: the folder itself if it was written without items."""
    if (folder / "_METADATA").exists():
        return [folder]
    return [path for path in sorted(folder.iterdir()) if (path / "_METADATA").exists() and not (path / "_CHECKPOINT_METADATA").exists()]


def metadata_of(folder: Path) -> Any:
    """The saved tree of a folder, with what is known of each array in its place."""
    import orbax.checkpoint as ocp
    from etils import epath

    metadata: Any = ocp.PyTreeCheckpointHandler(multiprocessing_options=reading_alone()).metadata(epath.Path(folder))
    return metadata.tree


def reading_alone() -> Any:
    """Options by which this process reads without waiting for others, which read other checkpoints."""
    import orbax.checkpoint as ocp

    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process_{process}")


def children_of(tree: Any) -> list[str]:
    """The keys of a dictionary; none of anything else."""
    return [str(key) for key in tree] if isinstance(tree, Mapping) else []


def descend(tree: Any, keys: tuple[str, ...]) -> Any:
    """What lies at a path of dictionary keys, None if nothing does."""
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def path_of(trees: Mapping[str, Any], part: Subtree) -> tuple[str, ...]:
    """The path of a part as `item=` takes it: without the name of the item where there is but one."""
    return part.keys or (part.item,) if len(trees) == 1 else (part.item, *part.keys)


def at_path(trees: Mapping[str, Any], path: tuple[str, ...]) -> list[Subtree]:
    """The parts of a checkpoint that a path can mean."""
    places = [(name, path[1:]) for name in trees if path[:1] == (name,)] + [(name, path) for name in trees if len(trees) == 1]
    parts = [Subtree(name, keys, descend(trees[name], keys)) for name, keys in places]
    return [part for part in parts if part.metadata is not None]


def _conventional(trees: Mapping[str, Any]) -> list[Subtree]:
    return at_path(trees, ("params",)) + at_path(trees, ("state", "params"))


def matching(trees: Mapping[str, Any], like: Params) -> list[Subtree]:
    """The parts that have all leaves of `like`: those with no other leaves if there are any, `params` before all others, whole items before parts."""
    names = names_of(like)
    parts = [Subtree(name, keys, descend(tree, keys)) for name, tree in trees.items() for keys in ((), *((key,) for key in children_of(tree)))]
    parts += [part for part in _conventional(trees) if len(part.keys) == 2]
    parts = [part for part in parts if not _OPTIMIZER_NAMES.intersection(path_of(trees, part))]
    shapes = [{name: getattr(leaf, "shape", ()) for name, leaf in names_of(part.metadata, names).items()} for part in parts]
    complete = [(part, shape) for part, shape in zip(parts, shapes, strict=True) if names.keys() <= shape.keys()]
    exact = [(part, shape) for part, shape in complete if names.keys() == shape.keys()] or complete
    same = [part for part, shape in exact if all(is_key(leaf) or shape[name] == np.shape(leaf) for name, leaf in names.items())]
    matches = same or [part for part, _ in exact]
    return [part for part in _conventional(trees) if part in matches][:1] or [part for part in matches if not part.keys] or matches


def weights_in(trees: Mapping[str, Any]) -> list[Subtree]:
    """The parts that can be the weights where no `like` describes them."""
    conventional = _conventional(trees)
    if conventional:
        return conventional[:1]
    if len(trees) == 1:
        ((name, tree),) = trees.items()
        children = children_of(tree)
        if not _OPTIMIZER_NAMES.intersection(children):
            return [Subtree(name, (), tree)]
        parts = [Subtree(name, (key,), tree[key]) for key in children if key not in _OPTIMIZER_NAMES and not hasattr(tree[key], "dtype")]
    else:
        parts = [Subtree(name, (), tree) for name, tree in trees.items() if name not in _OPTIMIZER_NAMES]
    parts = [part for part in parts if any(map(_is_float_array, jax.tree.leaves(part.metadata)))]
    return [part._replace(keys=(*part.keys, "params"), metadata=part.metadata["params"]) if "params" in children_of(part.metadata) else part for part in parts]


def _is_float_array(leaf: Any) -> bool:
    """Whether a leaf was saved as an array of floats; single numbers of Python have no storage of their own."""
    return getattr(leaf, "storage", None) is not None and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed random key."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def names_of(tree: Any, template: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Leaves by name, without the level `value` that Orbax gives to every variable of an nnx state; leaves of `template` are named as it does."""
    leaves = named_leaves(tree)
    short = {name: name.removesuffix("/value") for name in leaves}
    if all(name.endswith("/value") for name in leaves):
        return {short[name]: leaf for name, leaf in leaves.items()}
    return {short[name] if template and name not in template and short[name] in template else name: leaf for name, leaf in leaves.items()}
