"""Weights in safetensors files, such as those of Hugging Face, as lazy mappings from the training step to the weights."""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllc._extras import require
from jaxllc._typing import Params
from jaxllc.checkpoints import as_like, check_shardings, format_steps
from jaxllc.layout import is_split
from jaxllc.orbax_items import names_of

_SHARD = re.compile(r"-(\d+)-of-(\d+)$")


class SafetensorsCheckpoints(Mapping[int, Params]):
    """The checkpoints in safetensors files below one directory, each read when it is asked for, as numpy arrays.

    Read are folders named by step (`step1000`, `checkpoint-1000`, `1000`) that hold `model.safetensors`, its shards, or a single file of another name; files
    named by step (`model-1000.safetensors`); the folder of a repository in the cache of `huggingface_hub`, whose revisions are named by step; and one
    file or one model's folder without steps, which is step 0. Where there are steps, a model beside them is passed over.
    Steps are listed without reading arrays. Folders without a safetensors file, and those whose index names files that are missing, are unfinished and
    passed over: `repr` names them, and `[step]` says what they lack. Needs the package `safetensors` (`pip install 'jaxllc[hf]'`).

    Args:
        directory: of the folders or files of the steps, or a single model.
        like: a pytree with the structure, shapes and dtypes to give (arrays or `jax.ShapeDtypeStruct`); leaves are matched by their path and cast to
            its dtypes. It may name a part of what was saved; without `convert` the other tensors are not read. A leaf with a `NamedSharding` that splits it
            becomes a `jax.Array` of that sharding. None gives all, in the dtypes of the file.
        convert: `convert(tensors)`, the model's weights from a dictionary `{name: array}` of the file's tensors, such as
            `functools.partial(jaxllc.models.gpt_neox.params_from, config=config)`.
            None gives nested dictionaries, with the names split at their points: `h.0.attn` is `["h"]["0"]["attn"]`.
        flat: give `{name: array}` as it is in the file, without nesting; of no use beside `convert`.

    Raises:
        FileNotFoundError: there is no such directory or file.
        ValueError: it holds no finished checkpoint, two of one step, or names with several prefixes; a URL; or shardings in `like` that do not divide
            their leaves.
        ModuleNotFoundError: `safetensors` is not installed.

    Examples:
        >>> import pathlib, safetensors.flax
        >>> pathlib.Path("run").mkdir()
        >>> safetensors.flax.save_file(params, "run/model-200.safetensors")
        >>> jax.tree.map(jnp.shape, jaxllc.SafetensorsCheckpoints("run")[200])
        {'linear': (2,), 'square': (2,)}
    """

    def __init__(
        self, directory: str | os.PathLike[str], like: Params | None = None, convert: Callable[[dict[str, Any]], Params] | None = None, flat: bool = False
    ) -> None:
        if "://" in os.fspath(directory):
            raise ValueError(f"safetensors files are read from a local directory; got {os.fspath(directory)}. Download it first.")
        _safe_open()
        check_shardings(like)
        self.directory: Path = Path(directory).absolute()
        self.like: Params | None = like
        self.convert: Callable[[dict[str, Any]], Params] | None = convert
        self.flat: bool = flat
        self._files, self._unfinished = _files_by_step(self.directory)

    def __iter__(self) -> Iterator[int]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        unfinished = f"; unfinished {format_steps(list(self._unfinished))}" if self._unfinished else ""
        return f"SafetensorsCheckpoints({str(self.directory)!r}: steps {format_steps(self)}{unfinished})"

    def __getitem__(self, step: int) -> Params:
        """The weights at a step.

        Raises:
            KeyError: no finished checkpoint at this step.
            ValueError: a file that is damaged or lacks a tensor, weights that are not as `like` has them, or that `convert` does not take.
        """
        if step not in self._files:
            why = f" Unfinished: {self._unfinished[step]}." if step in self._unfinished else ""
            raise KeyError(f"no checkpoint at step {step} in {self.directory}; it holds {format_steps(self)}.{why}")
        files = self._files[step]
        place = f"step {step}, {next(iter(files)) if len(files) == 1 else next(iter(files)).parent}"
        if self.convert is not None:
            saved = _converted(_read(files), self.convert, place)
        else:
            tensors = _read(files, None if self.like is None else names_of(self.like).keys())
            saved = tensors if self.flat else _nested(tensors, place)
        if self.like is None:
            return saved
        way_out = (
            "pass like= the weights as convert= gives them" if self.convert else "pass like= a part of what is there, or a convert= that renames the tensors"
        )
        return _placed(as_like(saved, self.like, place, way_out), self.like)


def _safe_open() -> Any:
    require("safetensors", "SafetensorsCheckpoints")
    from safetensors import safe_open

    return safe_open


def _read(files: Mapping[Path, Collection[str] | None], wanted: Collection[str] | None = None) -> dict[str, Any]:
    """The tensors of a checkpoint by name.

    Args:
        files: those of the checkpoint, each with the tensors that an index expects in it, if there is one.
        wanted: paths of the tensors to read, with `/` or `.` between their parts; None reads all.
    """
    tensors: dict[str, Any] = {}
    for file, expected in files.items():
        try:
            with _safe_open()(file, framework="numpy") as handle:
                names = list(handle.keys())
                missing, name = sorted(set(expected or ()) - set(names)), None
                for name in () if missing else names:
                    if wanted is None or name in wanted or name.replace(".", "/") in wanted:
                        if name in tensors:
                            raise ValueError(f"the tensor {name!r} of {file} is in another file of this checkpoint too; leave one of them out.")
                        tensors[name] = _get(handle, name, file)
        except (ValueError, FileNotFoundError):
            raise
        except Exception as error:  # safetensors raises an error of its own; what the reader needs is which file
            raise ValueError(
                f"{file} cannot be read: it is damaged, cut off or no safetensors file ({error}); download or save it again, or leave this step out."
            ) from error
        if missing:
            raise ValueError(f"{file} lacks the tensor {missing[0]!r} that the index expects there, one of {len(missing)}; download both again.")
    return tensors


def _get(handle: Any, name: str, file: Path) -> np.ndarray:
    try:
        return handle.get_tensor(name)
    except Exception as error:  # such as a dtype that NumPy has not
        raise ValueError(
            f"the tensor {name!r} of {file} cannot be read ({type(error).__name__}: {error}); save it as float32, bfloat16 or float16, or without it."
        ) from error


def _nested(tensors: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Dictionaries of dictionaries, by the parts of the names between points."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *above, last = name.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last in node:
            raise ValueError(f"the tensor {name!r} at {place} cannot be nested: another tensor's name ends where it goes on; pass flat=True.")
        node[last] = tensor
    return tree


def _converted(tensors: dict[str, Any], convert: Callable[[dict[str, Any]], Params], place: str) -> Params:
    try:
        return convert(tensors)
    except Exception as error:  # the reader's own function may raise anything
        what = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"convert= fails for {place}: {what}") from error


def _placed(saved: Params, like: Params) -> Params:
    """Leaves that `like` splits over devices, on these."""
    return jax.tree.map(lambda leaf, value: jax.device_put(np.asarray(value).astype(leaf.dtype), leaf.sharding) if is_split(leaf) else value, like, saved)


def _files_by_step(directory: Path) -> tuple[dict[int, dict[Path, Any]], dict[int, str]]:
    """The files of the finished checkpoints by step, and why others are unfinished."""
    if directory.is_file():
        return {0: {directory: None}}, {}
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory or file {directory}; pass that of the steps, or of one model.")
    steps: dict[int, dict[Path, Any]] = {}
    unfinished: dict[int, str] = {}
    names: dict[int, str] = {}
    prefixes: dict[str, str] = {}
    for name, path in _candidates(directory):
        parts = re.fullmatch(r"((?:.*[^\d.])?)(\d+)", name)
        if parts is None:
            continue
        step, files = int(parts[2]), _files_of(path)
        if isinstance(files, str):
            unfinished[step] = files
            continue
        prefixes.setdefault(parts[1], name)
        if step in steps or len(prefixes) > 1:
            both = (names[step], name) if step in steps else tuple(prefixes.values())
            what = f"two checkpoints of step {step}" if step in steps else "checkpoints of several prefixes"
            raise ValueError(f"{directory} holds {what}, {both[0]} and {both[1]}; move or link those of one run into a directory of their own.")
        steps[step], names[step] = files, name
    if steps:
        return dict(sorted(steps.items())), {step: why for step, why in sorted(unfinished.items()) if step not in steps}
    alone = _files_of(directory)
    if not unfinished and not isinstance(alone, str):
        return {0: alone}, {}
    why = "; ".join(list(unfinished.values())[:3]) or alone
    raise ValueError(
        f"{directory} holds no finished safetensors checkpoint: {why}. Expected folders or files named by step, such as step1000/model.safetensors or "
        "model-1000.safetensors, or one model; files such as pytorch_model.bin must be converted to safetensors first."
    )


def _candidates(directory: Path) -> Iterator[tuple[str, Path]]:
    """Names that may end in a step, with the folders or files that they stand for."""
    if (directory / "refs").is_dir() and (directory / "snapshots").is_dir():  # a repository in the cache of huggingface_hub
        for reference in sorted(path for path in (directory / "refs").iterdir() if path.is_file()):
            yield reference.name, directory / "snapshots" / reference.read_text().strip()
        return
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            yield path.name, path
        elif path.suffix == ".safetensors" and not _SHARD.search(path.stem):
            yield path.stem, path


def _files_of(path: Path) -> dict[Path, Any] | str:
    """The files of one model, each with the tensors that an index expects in it; or why there are none."""
    if path.is_file():
        return {path: None}
    if (path / "model.safetensors").is_file():
        return {path / "model.safetensors": None}
    indices = sorted(path.glob("*.safetensors.index.json"))
    if indices:
        return _files_of_index(indices[0])
    files = sorted(path.glob("*.safetensors"))
    shards = {file: _SHARD.search(file.stem) for file in files}
    if len(files) > 1 and all(shards.values()):
        counts = {int(found[2]) for found in shards.values() if found}
        return dict.fromkeys(files) if counts == {len(files)} else f"{path} has {len(files)} of {max(counts)} shards"
    if len(files) == 1 and not shards[files[0]]:
        return {files[0]: None}
    if not files:
        return f"{path} holds no safetensors file"
    return f"{path} holds {', '.join(file.name for file in files[:3])} without an index or a model.safetensors"


def _files_of_index(index: Path) -> dict[Path, Any] | str:
    try:
        places: dict[str, str] = json.loads(index.read_text())["weight_map"]
        expected = {index.parent / file: {name for name, other in places.items() if other == file} for file in sorted(set(places.values()))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{index} is no index of safetensors files ({type(error).__name__}: {error})"
    missing = [file.name for file in expected if not file.is_file()]
    return f"{index} names {missing[0]}, which is missing" if missing else expected or f"{index} names no file"
