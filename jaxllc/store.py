"""A trajectory on disk: one Zarr store, laid out whole at the start, one chunk a checkpoint, readable at any time.

A row counts once its `done` flag is set, which is written last; a run that is killed leaves whole rows and unset flags.
Zarr's own metadata is never touched after the layout. When a training run has grown, a new store is laid out beside the old one, takes over
its rows, and replaces it.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllc import results
from jaxllc._tree import named_leaves
from jaxllc._typing import Params

UNCOMPARED = ("versions", "loss_fn", "reference_loss", "default_step_size")
"""Attributes in which a resumed run may differ."""


class Store:
    """Rows of results by training step, at a path; nothing is on disk before the first row.

    Args:
        path: a directory that this class made, or one that does not exist.
        steps: training steps to hold, beside those already there.
        attributes: every setting; those of a store that exists must be the same.

    Raises:
        ValueError: the store was made with other settings, or the directory is something else.
    """

    def __init__(self, path: str | os.PathLike[str], steps: list[int], attributes: Mapping[str, Any]) -> None:
        self.path = Path(path).absolute()
        self._steps = steps
        self._attributes = dict(attributes)
        self._rows: _Rows | None = None
        there = stored_attributes(self.path)
        if there is not None:
            _check_same(self.path, there, attributes)

    def done(self) -> dict[int, int]:
        """Steps whose row is there, with the checksum of their weights."""
        if not self.path.exists():
            return {}
        rows = _Rows(self.path)
        sums = rows.array("checksum")[:]
        return {step: int(sums[rows.index[step]]) for step in rows.done()}

    def write(self, step: int, arrays: Mapping[tuple[str, str], np.ndarray], weights: int) -> None:
        """Write the row of a step, `arrays` without their axis `step`, and then its flag."""
        if self._rows is None:
            if not self.path.exists():
                _lay_out(self.path, self._steps, self._attributes)
            elif set(self._steps) - set(_Rows(self.path).index):
                _grow(self.path, self._steps)
            self._rows = _Rows(self.path)
        self._rows.write(step, {f"{group}/{name}": values for (group, name), values in arrays.items()} | {"checksum": weights})

    def read(self, step: int) -> dict[tuple[str, str], np.ndarray]:
        """The arrays of a step that is done, without their axis `step`."""
        rows = self._rows or _Rows(self.path)
        return {(v.group, v.name): rows.read(f"{v.group}/{v.name}", step) for v in results.VARIABLES}


class _Rows:
    """The rows of a store that exists, by step."""

    def __init__(self, path: Path) -> None:
        import zarr

        self.group = zarr.open_group(path, mode="r+")
        self._arrays: dict[str, Any] = {}
        self.index = {int(step): i for i, step in enumerate(self.array(results.STEP)[:])}

    def array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = self.group[name]
        return self._arrays[name]

    def done(self) -> list[int]:
        flags = self.array("done")[:]
        return [step for step, i in self.index.items() if flags[i]]

    def read(self, name: str, step: int) -> Any:
        return np.asarray(self.array(name)[self.index[step]])

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.array(name)[self.index[step]] = value
        self.array("done")[self.index[step]] = 1


def checksum(params: Params) -> int:
    """63 bits of the names and bytes of all leaves: whether a step still holds the weights that it held."""
    digest = hashlib.blake2b(digest_size=8)
    for name, leaf in sorted(named_leaves(params).items()):
        digest.update(name.encode())
        if jax.numpy.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1


def stored_attributes(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The settings of the store at a path, None where there is nothing yet.

    Raises:
        ValueError: the path holds something that is no store of ours.
    """
    import zarr

    path = Path(path).absolute()
    replaced = _beside(path, "replaced")
    if not path.exists() and replaced.exists():  # a replacement was cut between its two renames
        replaced.rename(path)
    if not path.exists():
        return None
    try:
        attributes = dict(zarr.open_group(path, mode="r").attrs)
    except Exception as error:
        raise ValueError(f"{path} exists and is no Zarr store ({type(error).__name__}); pass another store=, or remove it.") from error
    if "data_checksum" not in attributes:
        raise ValueError(f"{path} is a Zarr store of something else; pass another store=.")
    return attributes


def _beside(path: Path, word: str) -> Path:
    return path.with_name(f".{path.name}.jaxllc-{word}")


def _lay_out(path: Path, steps: list[int], attributes: Mapping[str, Any], rows: Mapping[int, Mapping[str, Any]] | None = None) -> None:
    """Make the whole store, with rows that are known already, in a hidden folder beside it, and move it into place."""
    import zarr

    coords = results.coordinates(sorted(steps), attributes["num_chains"], attributes["num_draws"])
    draft, replaced = _beside(path, "draft"), _beside(path, "replaced")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    root = zarr.open_group(draft, mode="w")
    for name, values in coords.items():
        root.create_array(name, data=values, chunks=values.shape, dimension_names=(name,))
    for name, dtype in (("done", "int8"), ("checksum", "int64")):
        root.create_array(name, shape=(len(steps),), chunks=(1,), dtype=dtype, fill_value=0, dimension_names=(results.STEP,))
    for v in results.VARIABLES:
        shape = tuple(len(coords[dim]) for dim in v.dims)
        root.create_array(
            f"{v.group}/{v.name}", shape=shape, chunks=(1, *shape[1:]), compressors=None, dtype="float32", fill_value=np.nan, dimension_names=v.dims
        )
    root.attrs.update(dict(attributes))
    for step, values in (rows or {}).items():
        _Rows(draft).write(step, values)
    if path.exists():
        path.rename(replaced)
    draft.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)


def _grow(path: Path, steps: list[int]) -> None:
    """Replace the store by one that holds more steps, with the rows that are done."""
    old = _Rows(path)
    names = [f"{v.group}/{v.name}" for v in results.VARIABLES] + ["checksum"]
    rows = {step: {name: old.read(name, step) for name in names} for step in old.done()}
    _lay_out(path, sorted({*steps, *old.index}), dict(old.group.attrs), rows)


def _check_same(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    names = sorted({*there, *wanted} - {*UNCOMPARED})
    other = [f"{name} was {there.get(name)} and is {wanted.get(name)}" for name in names if there.get(name) != wanted.get(name)]
    if other:
        raise ValueError(f"the store {path} was made with other settings: {'; '.join(other)}. Use the same settings to resume, or another store=.")
