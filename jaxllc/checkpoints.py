"""Training runs on disk as lazy mappings from the training step to the weights."""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllc._tree import named_leaves, path_name
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
            a named item of the checkpoint. None takes the whole state if that is what `like` describes, else its `params`.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds no finished checkpoint.
    """

    def __init__(self, directory: str | os.PathLike[str], like: Params | None = None, item: str | None = None) -> None:
        self.directory = Path(directory).absolute()
        self.like = like
        self.item = item
        self._paths = _step_paths(self.directory)

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
            keys, read = self._locate(step)
            saved = read()
        except _NotThereError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds; what the reader needs is which folder
            raise ValueError(
                f"the checkpoint at step {step}, {self._paths[step]}, cannot be read ({type(error).__name__}: {error}); leave this step out or save it again."
            ) from error
        return saved if self.like is None else _as_like(saved, self.like, f"step {step} in {self.directory}" + (f", item {'/'.join(keys)}" if keys else ""))

    def _locate(self, step: int) -> tuple[tuple[str, ...], Callable[[], Params]]:
        """The path of the weights in the saved tree, and what reads them."""
        items = {path.name: path for path in sorted(self._paths[step].iterdir()) if (path / "_METADATA").exists()}
        trees = {name: _metadata(path) for name, path in items.items()}

        def find(wanted: tuple[str, ...]) -> tuple[str, tuple[str, ...], Any] | None:
            """The item, the path in it and the metadata; the name of the item goes without saying where there is but one."""
            for name, tree in trees.items():
                for keys in ((wanted[1:],) if wanted[:1] == (name,) else ()) + ((wanted,) if len(trees) == 1 else ()):
                    if (metadata := _descend(tree, keys)) is not None:
                        return name, keys, metadata
            return None

        candidates = [tuple(self.item.strip("/").split("/"))] if self.item is not None else [(), ("state",), ("params",), ("state", "params")]
        for wanted in candidates:
            found = find(wanted)
            if found is not None and (wanted == candidates[-1] or wanted[-1:] == ("params",) or self._is_whole(found[2])):
                name, keys, metadata = found
                return keys, partial(_restore, items[name], keys, metadata)
        told = "; ".join(f"{name}: {', '.join(_children(tree))}" for name, tree in trees.items()) or "no tree of arrays"
        asked = f"item {self.item!r}" if self.item else "weights like those asked for, nor an item 'params'"
        raise _NotThereError(f"the checkpoint at step {step} in {self.directory} has no {asked}; it holds {told}. Pass item= one of these, or a path into it.")

    def _is_whole(self, metadata: Any) -> bool:
        """Whether a saved tree is all weights: the leaves that `like` names, or no `params` beside other things."""
        if self.like is not None:
            return set(named_leaves(metadata)) == set(named_leaves(self.like))
        return "params" not in _children(metadata) or len(_children(metadata)) == 1


class _NotThereError(ValueError):
    """A readable checkpoint without the item asked for."""


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
    return [str(key) for key in (tree if isinstance(tree, Mapping) else range(len(tree)) if isinstance(tree, list | tuple) else ())]


def _descend(tree: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if isinstance(tree, Mapping) and key in tree:
            tree = tree[key]
        elif isinstance(tree, list | tuple) and key.isdigit() and int(key) < len(tree):
            tree = tree[int(key)]
        else:
            return None
    return tree


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
    there, wanted = named_leaves(saved), named_leaves(like)
    missing, extra = sorted(set(wanted) - set(there)), sorted(set(there) - set(wanted))
    if missing or extra:
        told = [
            f"{word}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}" for word, names in (("not there", missing), ("not in like", extra)) if names
        ]
        raise ValueError(f"the tree at {place} does not match like ({'; '.join(told)}); pass like= the weights as they were saved, or item= the path to them.")
    wrong = [f"{name} {np.shape(there[name])} instead of {np.shape(leaf)}" for name, leaf in wanted.items() if np.shape(there[name]) != np.shape(leaf)]
    if wrong:
        raise ValueError(f"shapes at {place} do not match like: {', '.join(wrong[:6])}{', ...' if len(wrong) > 6 else ''}.")
    return jax.tree_util.tree_map_with_path(lambda path, leaf: np.asarray(there[path_name(path)]).astype(jax.numpy.result_type(leaf)), like)
