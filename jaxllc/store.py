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
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxllc import results
from jaxllc._tree import named_leaves
from jaxllc._typing import Params

if TYPE_CHECKING:
    import xarray
    import zarr

UNCOMPARED = ("versions", "loss_fn", "reference_loss", "default_sampler")
"""Attributes in which a resumed run may differ."""


class Store:
    """Rows of results by training step, at a path.

    Args:
        path: a directory that this class made, or one that does not exist.
        steps: training steps to hold, beside those already there.
        attributes: every setting; those of a store that exists must be the same.

    Raises:
        ValueError: the store was made with other settings, or the directory is something else.
    """

    def __init__(self, path: str | os.PathLike[str], steps: list[int], attributes: Mapping[str, Any]) -> None:
        self.path = Path(path).absolute()
        there = stored_attributes(self.path)
        if there is None:
            _lay_out(self.path, sorted(steps), attributes)
        else:
            _check_same(self.path, there, attributes)
            held = [int(step) for step in np.asarray(_array(_open(self.path), results.STEP)[:])]
            if set(steps) - set(held):
                _grow(self.path, sorted({*steps, *held}), there)
        self._group = _open(self.path)
        self._index = {int(step): i for i, step in enumerate(np.asarray(_array(self._group, results.STEP)[:]))}

    def done(self) -> dict[int, int]:
        """Steps whose row is there, with the checksum of their weights."""
        flags, sums = np.asarray(_array(self._group, "done")[:]), np.asarray(_array(self._group, "checksum")[:])
        return {step: int(sums[i]) for step, i in self._index.items() if flags[i]}

    def write(self, step: int, arrays: Mapping[tuple[str, str], np.ndarray], weights: int) -> None:
        """Write the row of a step, `arrays` without their axis `step`, and then its flag."""
        i = self._index[step]
        for (group, name), values in arrays.items():
            _array(self._group, f"{group}/{name}")[i] = values
        _array(self._group, "checksum")[i] = weights
        _array(self._group, "done")[i] = 1

    def tree(self) -> "xarray.DataTree":
        """All rows that are there, in memory."""
        rows = np.flatnonzero(np.asarray(_array(self._group, "done")[:]))
        values = {(v.group, v.name): np.asarray(_array(self._group, f"{v.group}/{v.name}")[:])[rows] for v in results.VARIABLES}
        coords = {name: np.asarray(_array(self._group, name)[:]) for name in (results.STEP, results.CHAIN, results.DRAW)}
        return results.to_tree(values, coords | {results.STEP: coords[results.STEP][rows]}, dict(self._group.attrs))


def checksum(params: Params) -> int:
    """63 bits of the names and bytes of all leaves: whether a step still holds the weights that it held."""
    digest = hashlib.blake2b(digest_size=8)
    for name, leaf in sorted(named_leaves(params).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1


def stored_attributes(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The settings of the store at a path, None where there is nothing yet.

    Raises:
        ValueError: the path holds something that is no store of ours.
    """
    path = Path(path).absolute()
    old = _beside(path, "old")
    if not path.exists() and old.exists():  # a replacement was cut between its two renames
        old.rename(path)
    if not path.exists():
        return None
    try:
        attributes = dict(_open(path).attrs)
    except Exception as error:
        raise ValueError(f"{path} exists and is no Zarr store ({type(error).__name__}); pass another store=, or remove it.") from error
    if "data_checksum" not in attributes:
        raise ValueError(f"{path} is a Zarr store of something else; pass another store=.")
    return attributes


def _open(path: Path) -> "zarr.Group":
    import zarr

    return zarr.open_group(path, mode="r+")


def _array(group: "zarr.Group", name: str) -> Any:
    return group[name]


def _beside(path: Path, word: str) -> Path:
    return path.with_name(f"{path.name}.{word}")


def _lay_out(path: Path, steps: list[int], attributes: Mapping[str, Any]) -> None:
    """Make the whole store in a folder beside it, and move it into place."""
    import zarr

    coords = results.coordinates(steps, attributes["num_chains"], attributes["num_draws"])
    draft = _beside(path, "new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    root = zarr.open_group(draft, mode="w")
    for name, values in coords.items():
        root.create_array(name, data=values, chunks=values.shape, dimension_names=(name,))
    for name, dtype in (("done", "int8"), ("checksum", "int64")):
        root.create_array(name, shape=(len(steps),), chunks=(1,), dtype=dtype, fill_value=0, dimension_names=(results.STEP,))
    for v in results.VARIABLES:
        shape = tuple(len(coords[dim]) for dim in v.dims)
        root.create_array(f"{v.group}/{v.name}", shape=shape, chunks=(1, *shape[1:]), dtype="float32", fill_value=np.nan, dimension_names=v.dims)
    root.attrs.update(dict(attributes))
    draft.rename(path)


def _check_same(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    other = [
        f"{name} was {there.get(name)} and is {wanted.get(name)}" for name in sorted({*there, *wanted} - {*UNCOMPARED}) if there.get(name) != wanted.get(name)
    ]
    if other:
        raise ValueError(f"the store {path} was made with other settings: {'; '.join(other)}. Use the same settings to resume, or another store=.")


def _grow(path: Path, steps: list[int], attributes: Mapping[str, Any]) -> None:
    """Replace the store by one that holds more steps, with the rows that are done."""
    old = Store.__new__(Store)
    old._group = _open(path)
    old._index = {int(step): i for i, step in enumerate(np.asarray(_array(old._group, results.STEP)[:]))}
    draft = _beside(path, "grown")
    shutil.rmtree(draft, ignore_errors=True)
    new = Store(draft, steps, attributes)
    for step, weights in old.done().items():
        i = old._index[step]
        new.write(step, {(v.group, v.name): np.asarray(_array(old._group, f"{v.group}/{v.name}")[i]) for v in results.VARIABLES}, weights)
    path.rename(_beside(path, "old"))
    draft.rename(path)
    shutil.rmtree(_beside(path, "old"))
