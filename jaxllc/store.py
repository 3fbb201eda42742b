"""Results on disk: one Zarr store, laid out whole at the start, one chunk a place, readable at any time.

A place counts once its `done` flag is set, which is written last; a run that is killed leaves whole places and unset flags.
Zarr's own metadata is never touched after the layout. When training has gone on, or there are more runs, a new store is laid out beside the old
one, takes over its places, and replaces it. Several training runs add a leading axis `run` to every array; one has none.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxllc import results
from jaxllc._tree import named_leaves, row_blocks
from jaxllc._typing import Params
from jaxllc.results import Name, Place

if TYPE_CHECKING:
    import xarray

UNKNOWN = -1
"""The checksum of weights that were not at hand when a result was saved."""
UNCOMPARED = ("versions", "loss_fn", "loss_dtype", "reference_loss", "default_step_size", "statistics", "fixed_statistics", "verb")
"""Attributes in which a resumed run may differ."""


class Store:
    """Results by place, at a path; nothing is on disk before the first one.

    Args:
        path: a directory that this class made, or one that does not exist.
        places: those to hold, every run at every step, beside those already there.
        attributes: every setting; those of a store that exists must be the same.

    Raises:
        ValueError: the store was made with other settings, for one nameless run where these have names or the other way round, or the
            directory is something else.
    """

    def __init__(self, path: str | os.PathLike[str], places: Sequence[Place], attributes: Mapping[str, Any]) -> None:
        self.path = Path(path).absolute()
        self._asked = places
        self._attributes = dict(attributes)
        self._arrays: _Arrays | None = None
        repair(self.path)
        stored = stored_attributes(self.path)
        if stored is not None:
            _check_same(self.path, stored, attributes)
            _check_runs(self.path, places)
            if attributes.get("reference_loss", stored.get("reference_loss")) != stored.get("reference_loss"):
                import zarr

                zarr.open_group(self.path, mode="r+").attrs["reference_loss"] = attributes["reference_loss"]

    def done(self) -> dict[Place, int]:
        """The places that are written, with the checksum of their weights."""
        if not self.path.exists():
            return {}
        arrays = _Arrays(self.path)
        sums = arrays["checksum"][:]
        return {place: int(sums[arrays.index[place]]) for place in arrays.done()}

    def write(self, place: Place, arrays: Mapping[Name, np.ndarray], weights: int) -> None:
        """Write the arrays of a place, and then its flag."""
        if self._arrays is None:
            if not self.path.exists():
                _lay_out(self.path, self._asked, self._attributes, {name: np.shape(values) for name, values in arrays.items()})
            elif set(self._asked) - set(_Arrays(self.path).index):
                _grow(self.path, self._asked)
            self._arrays = _Arrays(self.path)
        self._arrays.write(place, arrays, weights)

    def read(self, place: Place) -> dict[Name, np.ndarray]:
        """The arrays of a place that is done."""
        return (self._arrays or _Arrays(self.path)).read(place)


class _Arrays:
    """The arrays of a store that exists."""

    def __init__(self, path: Path) -> None:
        import zarr

        self.group = zarr.open_group(path, mode="r+")
        self._opened: dict[str, Any] = {}
        steps = [int(step) for step in self[results.STEP][:]]
        self.names = results.names(dict(self.group.attrs))
        self.index: dict[Place, tuple[int, ...]]
        if results.RUN in self.group:
            runs = [str(run) for run in self[results.RUN][:]]
            self.index = {Place(run, step): (r, i) for r, run in enumerate(runs) for i, step in enumerate(steps)}
        else:
            self.index = {Place(None, step): (i,) for i, step in enumerate(steps)}

    def __getitem__(self, name: str) -> Any:
        if name not in self._opened:
            self._opened[name] = self.group[name]
        return self._opened[name]

    def done(self) -> list[Place]:
        flags = self["done"][:]
        return [place for place, index in self.index.items() if flags[index]]

    def read(self, place: Place) -> dict[Name, np.ndarray]:
        return {(group, name): np.asarray(self[f"{group}/{name}"][self.index[place]]) for group, name in self.names}

    def write(self, place: Place, arrays: Mapping[Name, np.ndarray], weights: int) -> None:
        index = self.index[place]
        for (group, name), values in arrays.items():
            self[f"{group}/{name}"][index] = values
        self["checksum"][index] = weights
        self["done"][index] = 1


def checksum(params: Params) -> int:
    """63 bits of the names and bytes of all leaves: whether a step still holds the weights that it held."""
    digest = hashlib.blake2b(digest_size=8)
    for name, leaf in sorted(named_leaves(params).items()):
        digest.update(name.encode())
        if jax.numpy.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        for rows in row_blocks(leaf):
            digest.update(np.ascontiguousarray(jax.device_get(rows)).tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1


def stored_attributes(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The settings of the store at a path, None where there is nothing yet.

    Raises:
        ValueError: the path holds something that is no store of ours.
    """
    import zarr

    path = Path(path).absolute()
    if not path.exists():
        return None
    try:
        attributes = dict(zarr.open_group(path, mode="r").attrs)
    except Exception as error:
        raise ValueError(f"{path} exists and is no Zarr store ({type(error).__name__}); pass another store=, or remove it.") from error
    if "schema" not in attributes:
        raise ValueError(f"{path} is a Zarr store of something else; pass another store=.")
    return attributes


def repair(path: str | os.PathLike[str]) -> None:
    """Put back a store whose replacement was cut between its two renames; for the one process that writes."""
    path = Path(path).absolute()
    replaced = _beside(path, "replaced")
    if not path.exists() and replaced.exists():
        replaced.rename(path)


def open_tree(path: str | os.PathLike[str]) -> "xarray.DataTree":
    """The result in a store, read as it is needed; `done` says which places are written, and steps of which none is are left out.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is no store of ours, of another version of this library, or holds no place yet.
    """
    import xarray as xr

    path = Path(path).absolute()
    replaced = _beside(path, "replaced")
    if not path.exists() and replaced.exists():  # between the two renames of a store that grows, or cut there: the old one is whole
        path = replaced
    attributes = stored_attributes(path)
    if attributes is None:
        raise FileNotFoundError(f"there is no store at {path}; pass the path that was given as store= or to save().")
    if attributes["schema"] != results.SCHEMA:
        raise ValueError(
            f"{path} was written with schema {attributes['schema']}, and this version of jaxllc reads {results.SCHEMA}; read it with the version that wrote "
            f"it, {attributes.get('versions', {}).get('jaxllc', 'unknown')}."
        )
    tree = xr.open_datatree(path, engine="zarr", consolidated=False, chunks=None)
    done = np.asarray(tree["done"].values).astype(bool)
    steps = done.any(0) if done.ndim > 1 else done
    if not steps.any():
        raise ValueError(f"no place of {path} is written yet; open it again when the first group has ended.")
    tree = tree.isel({results.STEP: np.flatnonzero(steps)})
    tree = tree.isel({results.STEP: np.argsort(np.asarray(tree[results.STEP].values))})  # a store that grew holds later steps in the order in which they came
    root = tree.to_dataset().drop_vars("checksum")
    return xr.DataTree.from_dict({"/": root, **{name: child.to_dataset(inherit=False) for name, child in tree.children.items()}})


def _beside(path: Path, word: str) -> Path:
    return path.with_name(f".{path.name}.jaxllc-{word}")


def _lay_out(
    path: Path,
    places: Iterable[Place],
    attributes: Mapping[str, Any],
    shapes: Mapping[Name, tuple[int, ...]],
    known: Mapping[Place, tuple[Mapping[Name, np.ndarray], int]] | None = None,
) -> None:
    """Make the whole store, with places that are known already, in a hidden folder beside it, and move it into place.

    `shapes` are those of the arrays of one place.
    """
    import zarr

    coords = results.coordinates(list(places), attributes)
    axes = results.place_axes(coords)
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
        dims = (*axes, *results.dims((group, name), len(shape), attributes))
        root.create_array(
            f"{group}/{name}", shape=(*size, *shape), chunks=(*one, *shape), compressors=None, dtype="float32", fill_value=np.nan, dimension_names=dims
        )
    root.attrs.update(dict(attributes))
    drafted = _Arrays(draft)
    for place, (arrays, weights) in (known or {}).items():
        drafted.write(place, arrays, weights)
    if path.exists():
        path.rename(replaced)
    draft.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)


def _grow(path: Path, places: Sequence[Place]) -> None:
    """Replace the store by one that holds more checkpoints, with the places that are done.

    The old places keep their indices, so that a result that was opened before reads the same chunks as it did.
    """
    old = _Arrays(path)
    sums = old["checksum"][:]
    known = {place: (old.read(place), int(sums[old.index[place]])) for place in old.done()}
    shapes = {(group, name): old[f"{group}/{name}"].shape[len(old["done"].shape) :] for group, name in old.names}
    _lay_out(path, [*old.index, *places], dict(old.group.attrs), shapes, known)


def _check_same(path: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    names = sorted({*stored, *asked} - {*UNCOMPARED})
    other = [f"{name} was {stored.get(name)} and is {asked.get(name)}" for name in names if stored.get(name) != asked.get(name)]
    if other:
        raise ValueError(f"the store {path} was made with other settings: {'; '.join(other)}. Use the same settings to resume, or another store=.")


def _check_runs(path: Path, places: Iterable[Place]) -> None:
    runs = dict.fromkeys(place.run for place in _Arrays(path).index)
    if (None in runs) != any(place.run is None for place in places):
        names = ", ".join(map(repr, runs))
        way = "one training run without a name; pass its mapping alone" if None in runs else f"the training runs {names}; pass {{name: mapping}}"
        raise ValueError(f"the store {path} holds {way}, or use another store=.")
