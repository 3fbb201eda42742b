"""A trajectory on disk: one Zarr store, laid out whole at the start, one chunk a checkpoint, readable at any time.

A row counts once its `done` flag is set, which is written last; a run that is killed leaves whole rows and unset flags.
Zarr's own metadata is never touched after the layout. When training has gone on, or there are more runs, a new store is laid out beside the old
one, takes over its rows, and replaces it. Several training runs add a leading axis `run` to every array; one has none.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllc import results
from jaxllc._tree import named_leaves
from jaxllc._typing import Params
from jaxllc.results import Row

UNCOMPARED = ("versions", "loss_fn", "reference_loss", "default_step_size")
"""Attributes in which a resumed run may differ."""


class Store:
    """Results by checkpoint, at a path; nothing is on disk before the first row.

    Args:
        path: a directory that this class made, or one that does not exist.
        rows: checkpoints to hold, every run at every step, beside those already there.
        attributes: every setting; those of a store that exists must be the same.

    Raises:
        ValueError: the store was made with other settings, for one nameless run where these have names or the other way round, or the
            directory is something else.
    """

    def __init__(self, path: str | os.PathLike[str], rows: Sequence[Row], attributes: Mapping[str, Any]) -> None:
        self.path = Path(path).absolute()
        self._wanted = rows
        self._attributes = dict(attributes)
        self._rows: _Rows | None = None
        there = stored_attributes(self.path)
        if there is not None:
            _check_same(self.path, there, attributes)
            _check_runs(self.path, rows)

    def done(self) -> dict[Row, int]:
        """Checkpoints whose row is there, with the checksum of their weights."""
        if not self.path.exists():
            return {}
        rows = _Rows(self.path)
        sums = rows.array("checksum")[:]
        return {row: int(sums[rows.index[row]]) for row in rows.done()}

    def write(self, row: Row, arrays: Mapping[tuple[str, str], np.ndarray], weights: int) -> None:
        """Write the arrays of a checkpoint, and then its flag."""
        if self._rows is None:
            if not self.path.exists():
                _lay_out(self.path, self._wanted, self._attributes, {name: np.shape(values) for name, values in arrays.items()})
            elif set(self._wanted) - set(_Rows(self.path).index):
                _grow(self.path, self._wanted)
            self._rows = _Rows(self.path)
        self._rows.write(row, arrays, weights)

    def read(self, row: Row) -> dict[tuple[str, str], np.ndarray]:
        """The arrays of a checkpoint that is done."""
        return (self._rows or _Rows(self.path)).read(row)


class _Rows:
    """The rows of a store that exists."""

    def __init__(self, path: Path) -> None:
        import zarr

        self.group = zarr.open_group(path, mode="r+")
        self._arrays: dict[str, Any] = {}
        steps = [int(step) for step in self.array(results.STEP)[:]]
        self.names = results.names(dict(self.group.attrs))
        self.index: dict[Row, tuple[int, ...]]
        if results.RUN in self.group:
            runs = [str(run) for run in self.array(results.RUN)[:]]
            self.index = {Row(run, step): (r, i) for r, run in enumerate(runs) for i, step in enumerate(steps)}
        else:
            self.index = {Row(None, step): (i,) for i, step in enumerate(steps)}

    def array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = self.group[name]
        return self._arrays[name]

    def done(self) -> list[Row]:
        flags = self.array("done")[:]
        return [row for row, place in self.index.items() if flags[place]]

    def read(self, row: Row) -> dict[tuple[str, str], np.ndarray]:
        return {(group, name): np.asarray(self.array(f"{group}/{name}")[self.index[row]]) for group, name in self.names}

    def write(self, row: Row, arrays: Mapping[tuple[str, str], np.ndarray], weights: int) -> None:
        place = self.index[row]
        for (group, name), values in arrays.items():
            self.array(f"{group}/{name}")[place] = values
        self.array("checksum")[place] = weights
        self.array("done")[place] = 1


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


def _lay_out(
    path: Path,
    rows: Iterable[Row],
    attributes: Mapping[str, Any],
    shapes: Mapping[tuple[str, str], tuple[int, ...]],
    known: Mapping[Row, tuple[Mapping[tuple[str, str], np.ndarray], int]] | None = None,
) -> None:
    """Make the whole store, with rows that are known already, in a hidden folder beside it, and move it into place.

    `shapes` are those of the arrays of one checkpoint.
    """
    import zarr

    runs = list(dict.fromkeys(row.run for row in rows))
    steps = sorted({row.step for row in rows})
    coords = results.coordinates(steps, attributes["num_chains"], attributes["num_draws"], runs, attributes.get(results.ALONG_CHAINS, ()))
    axes = results.row_axes(coords)
    size = tuple(len(coords[axis]) for axis in axes)
    one = (1,) * len(axes)
    draft, replaced = _beside(path, "draft"), _beside(path, "replaced")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    root = zarr.open_group(draft, mode="w")
    for name, values in coords.items():
        if name == results.RUN:
            root.create_array(name, shape=values.shape, chunks=values.shape, dtype="str", dimension_names=(name,))[:] = values.astype(object)
        else:
            root.create_array(name, data=values, chunks=values.shape, dimension_names=(name,))
    for name, dtype in (("done", "int8"), ("checksum", "int64")):
        root.create_array(name, shape=size, chunks=one, dtype=dtype, fill_value=0, dimension_names=axes)
    for (group, name), shape in shapes.items():
        dims = (*axes, *results.row_dims(group, name, len(shape)))
        root.create_array(
            f"{group}/{name}", shape=(*size, *shape), chunks=(*one, *shape), compressors=None, dtype="float32", fill_value=np.nan, dimension_names=dims
        )
    root.attrs.update(dict(attributes))
    drafted = _Rows(draft)
    for row, (arrays, weights) in (known or {}).items():
        drafted.write(row, arrays, weights)
    if path.exists():
        path.rename(replaced)
    draft.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)


def _grow(path: Path, rows: Sequence[Row]) -> None:
    """Replace the store by one that holds more checkpoints, with the rows that are done."""
    old = _Rows(path)
    sums = old.array("checksum")[:]
    known = {row: (old.read(row), int(sums[old.index[row]])) for row in old.done()}
    shapes = {(group, name): old.array(f"{group}/{name}").shape[len(old.array("done").shape) :] for group, name in old.names}
    _lay_out(path, [*old.index, *rows], dict(old.group.attrs), shapes, known)


def _check_same(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    names = sorted({*there, *wanted} - {*UNCOMPARED})
    other = [f"{name} was {there.get(name)} and is {wanted.get(name)}" for name in names if there.get(name) != wanted.get(name)]
    if other:
        raise ValueError(f"the store {path} was made with other settings: {'; '.join(other)}. Use the same settings to resume, or another store=.")


def _check_runs(path: Path, rows: Iterable[Row]) -> None:
    there = dict.fromkeys(row.run for row in _Rows(path).index)
    if (None in there) != any(row.run is None for row in rows):
        runs = ", ".join(map(repr, there))
        way = "one training run without a name; pass its mapping alone" if None in there else f"the training runs {runs}; pass {{name: mapping}}"
        raise ValueError(f"the store {path} holds {way}, or use another store=.")
