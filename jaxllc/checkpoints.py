"""Training runs on disk as lazy mappings from the training step to the weights."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllc._extras import require_file_system
from jaxllc._tree import leaves_with_roles, named_leaves
from jaxllc._typing import Params
from jaxllc.layout import is_split
from jaxllc.orbax_items import Subtree, at_path, children_of, descend, is_key, item_folders, matching, metadata_of, names_of, path_of, reading_alone, weights_in

URLS = ("gs", "s3", "az", "hf")
"""The schemes of object stores that `etils.epath` knows."""


class OrbaxCheckpoints(Mapping[int, Params]):
    """The checkpoints that Orbax or flax wrote by step into one directory, each restored when it is asked for, as numpy arrays or straight to its shards.

    Read are the step folders of a `CheckpointManager` (with or without a prefix and padding), of Orbax v1's `training.Checkpointer`, of
    `PyTreeCheckpointer` and `StandardCheckpointer`, and of `flax.training.checkpoints` with its Orbax backend.
    Steps are listed without reading arrays; folders of an unfinished save and folders without a checkpoint are passed over.
    Of a larger saved state only the weights are read.

    Args:
        directory: the directory of the step folders, or its URL, such as `gs://bucket/run`. Of `s3://`, `az://` and `hf://`, from which Orbax reads no
            arrays, each checkpoint is copied whole to a temporary directory when it is asked for.
        like: a pytree with the structure, shapes and dtypes to restore to (arrays or `jax.ShapeDtypeStruct`); leaves are
            matched by their path and cast to its dtypes. It may name a part of what was saved, such as the `nnx.Param`s of a full nnx state;
            the other leaves are not read. A leaf with a `NamedSharding` that splits it is read by each device as far as it holds it, and is a `jax.Array`
            of that sharding; the devices should be those of this process. A typed random key is restored as a typed key of the saved kind, a `jax.Array`.
            None gives nested dictionaries as they are on disk, with the data of a random key in its place.
        item: where the weights are in the saved state: a path such as `params` or `state/params`, whose first part may be
            a named item of the checkpoint. None takes what `like` describes: the whole state, one of its items or a part of one. Without `like`
            it takes `params`, else the whole state if there is no optimizer's state in it, else the only other item or part that holds arrays.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds no finished checkpoint, two of one step, or folders with several prefixes; a URL that is none of these; or shardings in `like`
            that do not divide their leaves.

    Examples:
        >>> import orbax.checkpoint as ocp, pathlib
        >>> with ocp.CheckpointManager(pathlib.Path("run").absolute()) as manager:
        ...     saved = manager.save(200, args=ocp.args.StandardSave({"params": params}))
        >>> jax.tree.map(jnp.shape, jaxllc.OrbaxCheckpoints("run")[200])
        {'linear': (2,), 'square': (2,)}
    """

    def __init__(self, directory: str | os.PathLike[str], like: Params | None = None, item: str | None = None) -> None:
        self.directory: Any = _as_path(directory)
        self.like = like
        check_shardings(like)
        self.item = item
        self._paths = _step_paths(self.directory)
        self._layout: Subtree | None = None

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
            ValueError: the checkpoint has no such item, several that could be the weights, a tree that is not that of `like`, or it cannot be read.
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
        return saved if self.like is None else as_like(saved, self.like, f"step {step} in {self.directory}" + (f", item {'/'.join(keys)}" if keys else ""))

    def _read(self, step: int) -> tuple[tuple[str, ...], Params]:
        """The path of the weights in the saved tree, and the weights. A run has one layout, so that of the step read last is tried first."""
        with _at_hand(self._paths[step]) as folder:
            if self._layout is not None:
                with contextlib.suppress(Exception):
                    return self._layout.keys, _restore(folder, self._layout, self.like)
            self._layout = None
            layout = self._locate(step, folder)
            saved = _restore(folder, layout, self.like)
            self._layout = layout
            return layout.keys, saved

    def _locate(self, step: int, folder: Path) -> Subtree:
        """The part of a checkpoint that holds the weights."""
        trees = {item.name if item != folder else "": metadata_of(item) for item in item_folders(folder)}
        if self.item is not None:
            matches = at_path(trees, tuple(self.item.strip("/").split("/")))[:1]
        else:
            matches = ([] if self.like is None else matching(trees, self.like)) or weights_in(trees)
        if len(matches) == 1:
            return matches[0]
        place = f"the checkpoint at step {step} in {self.directory}"
        if matches:
            names = ", ".join("/".join(path_of(trees, match)) for match in matches)
            raise ItemNotFoundError(f"{place} has several parts that could be the weights: {names}; pass item= one of these.")
        contents = "; ".join(f"{name}: {', '.join(children_of(tree))}".removeprefix(": ") for name, tree in trees.items()) or "no tree of arrays"
        missing = f"item {self.item!r}" if self.item else f"{'weights like those asked for, nor an ' if self.like is not None else ''}item 'params'"
        raise ItemNotFoundError(f"{place} has no {missing}; it holds {contents}. Pass item= one of these, or a path into it.")


class ItemNotFoundError(ValueError):
    """A readable checkpoint that does not hold what was asked for."""


def format_steps(steps: Mapping[int, Any] | list[int]) -> str:
    """Steps in a few words: all of them, or the first and last ones and how many there are."""
    ordered = sorted(steps)
    if len(ordered) <= 12:
        return ", ".join(map(str, ordered)) or "none"
    return f"{', '.join(map(str, ordered[:4]))}, ..., {', '.join(map(str, ordered[-2:]))} ({len(ordered)} steps)"


def check_shardings(like: Params | None) -> None:
    """Raise a ValueError for a leaf whose axes its sharding does not divide."""
    for name, leaf in {} if like is None else named_leaves(like).items():
        if is_split(leaf):
            try:
                leaf.sharding.shard_shape(leaf.shape)
            except ValueError as error:
                mesh, spec = leaf.sharding.mesh.shape, leaf.sharding.spec
                raise ValueError(
                    f"like: {name} of shape {leaf.shape} cannot be split as {spec} over a mesh of {dict(mesh)}; choose another sharding."
                ) from error


def _as_path(directory: str | os.PathLike[str]) -> Any:
    from etils import epath

    scheme, separator, path = os.fspath(directory).partition("://")
    if not separator or scheme == "file":
        return epath.Path(path or directory).absolute()
    if scheme not in URLS:
        raise ValueError(f"checkpoints can be read from a local directory or from {', '.join(f'{known}://' for known in URLS)}; got {directory}.")
    require_file_system(os.fspath(directory))
    return epath.Path(directory)


@contextlib.contextmanager
def _at_hand(folder: Path) -> Iterator[Path]:
    """The folder itself, or for a while its copy, where it lies in an object store that Orbax reads no arrays from: any but Google's."""
    url = os.fspath(folder)
    if "://" not in url or url.startswith("gs://"):
        yield folder
        return
    import fsspec

    files, root = fsspec.core.url_to_fs(url)
    with tempfile.TemporaryDirectory() as copy:
        files.get(root, f"{copy}/{folder.name}", recursive=True)
        yield Path(copy, folder.name)


def _step_paths(directory: Path) -> dict[int, Path]:
    """The folders of the finished checkpoints by step. Names end in the step, as in `10`, `0010`, `model_10` and `checkpoint10`."""
    import orbax.checkpoint as ocp  # costs half a second: loaded when there is a directory to read

    if not directory.is_dir():
        raise FileNotFoundError(f"there is no checkpoint directory {directory}; pass the directory that holds the folders of the steps.")
    steps: dict[int, Path] = {}
    prefixes: dict[str, str] = {}
    for folder in sorted(directory.iterdir()):
        name = re.fullmatch(r"((?:.*[^\d.])?)(\d+)", folder.name)
        if name is None or not _is_checkpoint(folder) or not ocp.utils.is_checkpoint_finalized(folder):
            continue
        step = int(name[2])
        prefixes.setdefault(name[1], folder.name)
        if step in steps or len(prefixes) > 1:
            both = (steps[step].name, folder.name) if step in steps else tuple(prefixes.values())
            what = f"two checkpoints of step {step}" if step in steps else "checkpoints of several prefixes"
            raise ValueError(f"{directory} holds {what}, {both[0]} and {both[1]}; move or link the folders of one run into a directory of their own.")
        steps[step] = folder
    if steps:
        return dict(sorted(steps.items()))
    if (directory / "_CHECKPOINT_METADATA").exists() or (directory / "_METADATA").exists():
        raise ValueError(f"{directory} is itself one checkpoint; pass the directory above it, which holds the folders of the steps.")
    contents = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
    raise ValueError(
        f"{directory} holds no finished checkpoint; it holds {contents}. Expected folders named by step, as Orbax writes them; "
        "files such as checkpoint_10 are flax's msgpack format: read them with flax.training.checkpoints and pass a dictionary from the step to the weights."
    )


def _is_checkpoint(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "_CHECKPOINT_METADATA").exists() or bool(item_folders(folder)))


def _restore(folder: Path, part: Subtree, like: Params | None) -> Params:
    """The saved tree at a place; leaves that `like` lacks are not read, only marked."""
    import orbax.checkpoint as ocp
    from etils import epath

    template = {} if like is None else names_of(like)

    def arguments(name: str, leaf: Any) -> ocp.RestoreArgs:
        if is_key(template.get(name)):  # only as a jax.Array does Orbax make a key of the data
            return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
        if name in template and is_split(template[name]):
            return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=template[name].sharding, dtype=template[name].dtype)
        return ocp.RestoreArgs(restore_type=np.ndarray if hasattr(leaf, "dtype") else None)

    names = names_of(part.metadata, template)
    structure = jax.tree.structure(part.metadata)
    item: Any = structure.unflatten([0 if like is None or name in template else ocp.PLACEHOLDER for name in names])
    restore_args: Any = structure.unflatten([arguments(name, leaf) for name, leaf in names.items()])
    for key in reversed(part.keys):
        item, restore_args = {key: item}, {key: restore_args}
    request = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
    return descend(ocp.PyTreeCheckpointHandler(multiprocessing_options=reading_alone()).restore(epath.Path(folder / part.item), args=request), part.keys)


WAY_OUT = "pass like= the weights as they were saved, or item= the path to them"


def as_like(saved: Params, like: Params, place: str, way_out: str = WAY_OUT) -> Params:
    """The saved leaves in the structure and dtypes of `like`, matched by path; settings of a module, which are no weights, are those of `like`.

    Args:
        saved: the tree that was read.
        like: arrays, or what stands for them.
        place: of the checkpoint, for errors.
        way_out: what a reader may do where leaves are missing, for errors.

    Raises:
        ItemNotFoundError: leaves are missing, or have other shapes.
    """
    template = names_of(like)
    leaves = names_of(saved, template)
    objects = {leaf.name for leaf in leaves_with_roles(like) if leaf.role == "object"}
    given = {name: leaf for name, leaf in template.items() if name in objects}
    leaves = {**leaves, **given}
    if not template.keys() <= leaves.keys():
        raise ItemNotFoundError(_mismatch(leaves, template, place, way_out))
    wrong = [f"{name} {_form(leaves[name])} instead of {_form(leaf)}" for name, leaf in template.items() if _form(leaves[name]) != _form(leaf)]
    if wrong:
        raise ItemNotFoundError(f"shapes at {place} do not match like: {', '.join(wrong[:6])}{', ...' if len(wrong) > 6 else ''}.")
    as_saved = {name for name, leaf in template.items() if name in given or is_key(leaf) or is_split(leaf)}
    cast = [leaves[name] if name in as_saved else np.asarray(leaves[name]).astype(jnp.result_type(leaf)) for name, leaf in template.items()]
    return jax.tree.unflatten(jax.tree.structure(like), cast)


def _form(leaf: Any) -> str:
    return f"{np.shape(leaf)}{' of random keys' if is_key(leaf) else ''}"


def _mismatch(saved: Mapping[str, Any], template: Mapping[str, Any], place: str, way_out: str) -> str:
    missing, extra = sorted(set(template) - set(saved)), sorted(set(saved) - set(template))
    lists = [f"{word}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}" for word, names in (("not there", missing), ("not in like", extra)) if names]
    return f"the tree at {place} does not match like ({'; '.join(lists)}); {way_out}."
