"""Training runs on disk as lazy mappings from the training step to the weights."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllc._tree import named_leaves
from jaxllc._typing import Params


class OrbaxCheckpoints(Mapping[int, Params]):
    """The steps of an Orbax `CheckpointManager` directory, each restored when it is asked for, as numpy arrays.

    Steps are listed without reading arrays; folders of an unfinished save are passed over. Of a larger saved state only the
    weights are read.

    Args:
        directory: where the `CheckpointManager` wrote.
        like: a pytree with the structure, shapes and dtypes to restore to (arrays or `jax.ShapeDtypeStruct`); leaves are
            matched by their path and cast to its dtypes. None gives nested dictionaries as they are on disk.
        item: where the weights are in the saved state: a path such as `params` or `state/params`, whose first part may be
            a named item of the checkpoint. None takes what `like` describes, the whole state, one of its items, or `params`; without `like`
            the whole state if it is nothing but weights, else its `params`.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds no finished checkpoint.
    """

    def __init__(self, directory: str | os.PathLike[str], like: Params | None = None, item: str | None = None) -> None:
        self.directory = Path(directory).absolute()
        self.like = like
        self.item = item
        self._paths = _step_paths(self.directory)
        self._layout: tuple[str, tuple[str, ...], Any] | None = None

    def __iter__(self) -> Iterator[int]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __repr__(self) -> str:
        return f"OrbaxCheckpoints({str(self.directory)!r}: steps {format_steps(self)})"

    def __getitem__(self, step: int) -> Params:
        """The weights at a step.

        Raises:
            KeyError: no finished checkpoint at this step.
            ValueError: the checkpoint has no such item, its tree is not that of `like`, or it cannot be read.
        """
        if step not in self._paths:
            raise KeyError(f"no checkpoint at step {step} in {self.directory}; it holds {format_steps(self)}.")
        try:
            keys, saved = self._read(step)
        except ItemNotFoundError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds; what the reader needs is which folder
            raise ValueError(
                f"the checkpoint at step {step}, {self._paths[step]}, cannot be read ({type(error).__name__}: {error}); leave this step out or save it again."
            ) from error
        return saved if self.like is None else _as_like(saved, self.like, f"step {step} in {self.directory}" + (f", item {'/'.join(keys)}" if keys else ""))

    def _read(self, step: int) -> tuple[tuple[str, ...], Params]:
        """The path of the weights in the saved tree, and the weights; a run has one layout, so the last one found is tried first."""
        if self._layout is not None:
            name, keys, metadata = self._layout
            with contextlib.suppress(Exception):
                return keys, _restore(self._paths[step] / name, keys, metadata)
        self._layout = None
        name, keys, metadata = self._locate(step)
        saved = _restore(self._paths[step] / name, keys, metadata)
        self._layout = name, keys, metadata
        return keys, saved

    def _locate(self, step: int) -> tuple[str, tuple[str, ...], Any]:
        """The item of a checkpoint that holds the weights, their path in its tree, and their metadata."""
        items = {path.name: path for path in sorted(self._paths[step].iterdir()) if (path / "_METADATA").exists()}
        trees = {name: _metadata(path) for name, path in items.items()}

        def find(wanted: tuple[str, ...]) -> tuple[str, tuple[str, ...], Any] | None:
            """The item, the path in it and the metadata; the name of the item goes without saying where there is but one."""
            for name, tree in trees.items():
                for keys in ((wanted[1:],) if wanted[:1] == (name,) else ()) + ((wanted,) if len(trees) == 1 else ()):
                    if (metadata := _descend(tree, keys)) is not None:
                        return name, keys, metadata
            return None

        named = [(name,) for name in trees] if self.like is not None or len(trees) == 1 else []
        candidates = [(), *named, ("params",), ("state", "params")] if self.item is None else [tuple(self.item.strip("/").split("/"))]
        for wanted in candidates:
            found = find(wanted)
            if found is not None and (self.item is not None or wanted[-1:] == ("params",) or self._is_whole(found[2])):
                return found
        told = "; ".join(f"{name}: {', '.join(_children(tree))}" for name, tree in trees.items()) or "no tree of arrays"
        place = f"the checkpoint at step {step} in {self.directory}"
        if self.item is None and self.like is not None and len(trees) == 1:
            raise ItemNotFoundError(_mismatch(_names(next(iter(trees.values()))), _names(self.like), place))
        asked = f"item {self.item!r}" if self.item else "weights like those asked for, nor an item 'params'"
        raise ItemNotFoundError(f"{place} has no {asked}; it holds {told}. Pass item= one of these, or a path into it.")

    def _is_whole(self, metadata: Any) -> bool:
        """Whether a saved tree is all weights: the leaves that `like` names, or no `params` beside other things."""
        if self.like is not None:
            return set(_names(metadata)) == set(_names(self.like))
        return "params" not in _children(metadata)


class ItemNotFoundError(ValueError):
    """A readable checkpoint that does not hold what was asked for."""


def format_steps(steps: Mapping[int, Any] | list[int]) -> str:
    """Steps in a few words: all of them, or the first and last ones and how many there are."""
    ordered = sorted(steps)
    if len(ordered) <= 12:
        return ", ".join(map(str, ordered)) or "none"
    return f"{', '.join(map(str, ordered[:4]))}, ..., {', '.join(map(str, ordered[-2:]))} ({len(ordered)} steps)"


def _step_paths(directory: Path) -> dict[int, Path]:
    import orbax.checkpoint as ocp  # costs half a second: loaded when there is a directory to read

    if not directory.is_dir():
        raise FileNotFoundError(f"there is no checkpoint directory {directory}; pass the directory that the CheckpointManager wrote to.")
    finished = {int(ocp.utils.step_from_checkpoint_name(path.name)): Path(path) for path in ocp.utils.checkpoint_steps_paths(directory)}
    if not finished:
        there = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
        raise ValueError(f"{directory} holds no finished checkpoint; it holds {there}. Expected folders named by step, as a CheckpointManager writes them.")
    return dict(sorted(finished.items()))


def _metadata(path: Path) -> Any:
    import orbax.checkpoint as ocp
    from etils import epath

    metadata: Any = ocp.PyTreeCheckpointHandler().metadata(epath.Path(path))
    return metadata.tree


def _children(tree: Any) -> list[str]:
    return [str(key) for key in tree] if isinstance(tree, Mapping) else []


def _descend(tree: Any, keys: tuple[str, ...]) -> Any:
    """What lies at a path of dictionary keys, None if nothing does."""
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _names(tree: Any) -> dict[str, Any]:
    """Leaves by name, without the level `value` that Orbax gives to every variable of an nnx state."""
    leaves = named_leaves(tree)
    wrapped = leaves and all(name.endswith("/value") for name in leaves)
    return {name.removesuffix("/value"): leaf for name, leaf in leaves.items()} if wrapped else leaves


def _restore(place: Path, keys: tuple[str, ...], metadata: Any) -> Params:
    import orbax.checkpoint as ocp
    from etils import epath

    item = jax.tree.map(lambda _: 0, metadata)
    for key in reversed(keys):
        item = {key: item}
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    saved = ocp.PyTreeCheckpointHandler().restore(epath.Path(place), args=ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True))
    return _descend(saved, keys)


def _as_like(saved: Params, like: Params, place: str) -> Params:
    """The saved leaves in the structure and dtypes of `like`, matched by path."""
    there, wanted = _names(saved), _names(like)
    if set(there) != set(wanted):
        raise ItemNotFoundError(_mismatch(there, wanted, place))
    wrong = [f"{name} {np.shape(there[name])} instead of {np.shape(leaf)}" for name, leaf in wanted.items() if np.shape(there[name]) != np.shape(leaf)]
    if wrong:
        raise ItemNotFoundError(f"shapes at {place} do not match like: {', '.join(wrong[:6])}{', ...' if len(wrong) > 6 else ''}.")
    leaves = [np.asarray(there[name]).astype(jax.numpy.result_type(leaf)) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _mismatch(there: Mapping[str, Any], wanted: Mapping[str, Any], place: str) -> str:
    missing, extra = sorted(set(wanted) - set(there)), sorted(set(there) - set(wanted))
    told = [f"{word}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}" for word, names in (("not there", missing), ("not in like", extra)) if names]
    return f"the tree at {place} does not match like ({'; '.join(told)}); pass like= the weights as they were saved, or item= the path to them."
