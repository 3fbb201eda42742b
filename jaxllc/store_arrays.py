"""The arrays of a store: how they lie in Zarr, how they grow, and what is noted of each place.

Each array has one chunk a place, with a checksum (CRC-32C) of its bytes. Beside those of the result (`jaxllc.results`) there are, by place, `done`, the
`checksum` of the weights, `made_by`, `written` (Unix seconds) and `failure` (why a place has no numbers). Steps and runs stand in the order in which they came;
a slot without a step is one that was made for a step that was not named, when the growth was cut.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllc import results
from jaxllc.locations import Location
from jaxllc.results import Name, Place

NO_STEP = np.iinfo(np.int64).min
"""In a slot that no step was named for."""
NAMES = 4096
"""Steps, or runs, of one chunk."""
NOTES: Mapping[str, tuple[str, Any]] = {
    "done": ("int8", 0),
    "checksum": ("int64", 0),
    "written": ("float64", math.nan),
    "made_by": ("str", ""),
    "failure": ("str", ""),
}
"""What is noted of each place: dtype, and the value where nothing is."""
CRC_BYTES = 4


VERIFIED_BYTES = 2**30
"""Of a store whose files are compared with their checksums before they are needed."""


class DamagedError(ValueError):
    """A store that lacks files of its own, or holds them cut."""


class Record(NamedTuple):
    """What is noted of a place."""

    done: bool
    checksum: int
    written: float
    made_by: str
    failure: str


class Arrays:
    """The arrays of a store that exists."""

    def __init__(self, location: Location) -> None:
        import zarr

        self.location = location
        with zarr.config.set({"array.write_empty_chunks": True}):  # of a place whose chains all diverged too
            self.group = zarr.open_group(location.zarr(), mode="r+")
        self._opened: dict[str, Any] = {}
        self._unreadable: dict[Place, str] = {}
        self.names = results.names(dict(self.group.attrs))
        steps = [(i, int(step)) for i, step in enumerate(self.labels(results.STEP)) if step != NO_STEP]
        self.index: dict[Place, tuple[int, ...]]
        if results.RUN in self.group:
            runs = [(r, str(run)) for r, run in enumerate(self.labels(results.RUN)) if run]
            self.index = {Place(run, step): (r, i) for r, run in runs for i, step in steps}
        else:
            self.index = {Place(None, step): (i,) for i, step in steps}

    def __getitem__(self, name: str) -> Any:
        import zarr

        if name not in self._opened:
            try:
                with zarr.config.set({"array.write_empty_chunks": True}):
                    self._opened[name] = self.group[name]
            except Exception as error:  # as Zarr and the reader of its JSON raise them
                raise self._damaged(f"{name}/zarr.json", error) from error
        return self._opened[name]

    def are_even(self) -> bool:
        """Whether no growth was cut: all arrays are as long as the names of steps and runs."""
        size = tuple(self[axis].shape[0] for axis in (results.RUN, results.STEP) if axis in self.group)
        return all(self[name].shape[: len(size)] == size for name in (*NOTES, *(f"{group}/{name}" for group, name in self.names)))

    def labels(self, axis: str) -> list[Any]:
        """The names of an axis, as they are stored."""
        try:
            return self[axis][:].tolist()
        except DamagedError:
            raise
        except Exception as error:  # as codecs raise them
            raise self._damaged(f"{axis}/c/0", error) from error

    def records(self) -> dict[Place, Record]:
        """What is noted of every place; one of which a note cannot be read is not done, and says why.

        Raises:
            DamagedError: numbers are there of steps or runs whose names are not.
        """
        notes: dict[str, np.ndarray] = {}
        damaged: dict[Place, str] = {}
        for name in NOTES:
            try:
                notes[name] = self[name][:]
            except DamagedError:
                raise
            except Exception:  # as codecs raise them
                notes[name], found = self._by_place(name)
                damaged |= found
        named = np.zeros(notes["done"].shape, bool)
        for at in self.index.values():
            named[at] = True
        if (notes["done"].astype(bool) & ~named).any():
            raise self._damaged(f"{results.STEP}/c/0", "it lacks names of steps that are done")
        kinds = {"done": bool, "checksum": int, "written": float, "made_by": str, "failure": str}
        records = {place: Record(**{name: kinds[name](notes[name][at]) for name in NOTES}) for place, at in self.index.items()}
        self._unreadable = damaged
        return records | {place: records[place]._replace(done=False, failure=why) for place, why in damaged.items()}

    def written(self) -> set[Place]:
        """The places that are done, by the files that are there."""
        files = self.location.sizes("done/c")
        return {place for place, at in self.index.items() if "/".join(map(str, at)) in files}

    def read(self, place: Place) -> dict[Name, np.ndarray]:
        """The arrays of a place that is done."""
        return {(group, name): np.asarray(self[f"{group}/{name}"][self.index[place]]) for group, name in self.names}

    def write(self, place: Place, arrays: Mapping[Name, np.ndarray], checksum: int, made_by: str) -> None:
        """Write the arrays of a place, and its flag last."""
        at = self.index[place]
        for (group, name), values in arrays.items():
            self[f"{group}/{name}"][at] = values
        for name, value in (("checksum", checksum), ("made_by", made_by), ("written", time.time()), ("failure", ""), ("done", 1)):
            self[name][at] = value

    def note(self, place: Place, failure: str) -> None:
        """Note why a place has no numbers."""
        self["failure"][self.index[place]] = failure

    def damaged(self, records: Mapping[Place, Record], sizes: Mapping[str, int]) -> dict[Place, str]:
        """The places that are done, but of which a file is missing, cut or, in a local folder, not as its checksum says.

        Args:
            records: of all places, as they were when the files were listed or before.
            sizes: of all files of the store, by path.
        """
        found = dict(self._unreadable)
        verifies = self.location.is_local and sum(sizes.values()) <= VERIFIED_BYTES
        expected = {f"{group}/{name}": (self[f"{group}/{name}"].shape, self[f"{group}/{name}"].dtype.itemsize) for group, name in self.names}
        for place, at in self.index.items():
            if not records[place].done:
                continue
            for name in ("checksum", "made_by", "written"):
                if (file := _chunk(name, at, ())) not in sizes:
                    found[place] = _told(file, "missing")
            for name, (shape, itemsize) in expected.items():
                file = _chunk(name, at, shape[len(at) :])
                if sizes.get(file) != itemsize * math.prod(shape[len(at) :]) + CRC_BYTES:
                    found[place] = _told(file, "cut" if file in sizes else "missing")
                elif verifies and not _is_whole(Path(self.location.url, file)):
                    found[place] = _told(file, "damaged")
        return found

    def _by_place(self, name: str) -> tuple[np.ndarray, dict[Place, str]]:
        """A note of all places, each read by itself, and the places where it cannot be."""
        array = self[name]
        values, damaged = np.full(array.shape, NOTES[name][1], object), {}
        for place, at in self.index.items():
            try:
                values[at] = array[at]
            except Exception:  # as codecs raise them
                damaged[place] = _told(_chunk(name, at, ()), "damaged")
        return values, damaged

    def _damaged(self, file: str, why: object) -> DamagedError:
        what = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
        return DamagedError(f"the file {file} of the store {self.location} is missing or damaged ({what}); put it back, or pass another store=.")


def _chunk(name: str, at: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """The file of a place in an array."""
    return f"{name}/c/{'/'.join(map(str, (*at, *[0] * len(shape))))}"


def _told(file: str, what: str) -> str:
    return f"the file {file} of the store is {what}; the next call of jaxllc.trajectory makes it again"


def _is_whole(path: Path) -> bool:
    """Whether a file ends with the checksum of what is before."""
    import google_crc32c  # with which Zarr wrote it

    content = path.read_bytes()
    return int.from_bytes(content[-CRC_BYTES:], "little") == google_crc32c.value(content[:-CRC_BYTES])


def failures(records: Mapping[Place, Record]) -> dict[Place, str]:
    """Why places have no numbers."""
    return {place: record.failure for place, record in records.items() if record.failure and not record.done}


def lay_out(location: Location, places: Sequence[Place], attributes: Mapping[str, Any]) -> None:
    """Make the arrays of a store, and then its attributes.

    Args:
        location: where nothing is.
        places: every run at every step.
        attributes: every setting.
    """
    import zarr
    from zarr.codecs import Crc32cCodec

    store = location.zarr()
    coords = results.coordinates(list(places), attributes)
    axes = results.place_axes(coords)
    size, one = tuple(len(coords[axis]) for axis in axes), (1,) * len(axes)
    group = zarr.open_group(store, mode="a")
    for name, values in coords.items():
        is_run, is_place = name == results.RUN, name in axes
        fill: Any = "" if is_run else NO_STEP if name == results.STEP else 0
        group.create_array(
            name, shape=values.shape, chunks=(NAMES,) if is_place else values.shape, dtype="str" if is_run else values.dtype, fill_value=fill,
            dimension_names=(name,),
        )[:] = values.astype(object) if is_run else values  # fmt: skip
    for name, (dtype, fill) in NOTES.items():
        group.create_array(name, shape=size, chunks=one, dtype=dtype, fill_value=fill, dimension_names=axes)
    for (folder, name), shape in results.shapes(attributes).items():
        dims = (*axes, *results.dims((folder, name), len(shape), attributes))
        group.create_array(
            f"{folder}/{name}", shape=(*size, *shape), chunks=(*one, *shape), compressors=(Crc32cCodec(),), dtype="float32", fill_value=np.nan,
            dimension_names=dims,
        )  # fmt: skip
    group.attrs.update(dict(attributes))


def grow(location: Location, places: Sequence[Place]) -> None:
    """Make a store hold more places: longer arrays first, and then the names of the new steps and runs."""
    arrays = Arrays(location)
    asked = {results.STEP: list(dict.fromkeys(place.step for place in places))}
    if results.RUN in arrays.group:
        asked = {results.RUN: list(dict.fromkeys(place.run for place in places)), **asked}
    names: dict[str, list[Any]] = {}
    for axis, new in asked.items():
        known = [name for name in arrays[axis][:].tolist() if name not in (NO_STEP, "")]
        names[axis] = known + [name for name in new if name not in known]
    size = tuple(len(values) for values in names.values())
    for name in (*NOTES, *(f"{group}/{name}" for group, name in arrays.names)):
        array = arrays[name]
        if array.shape[: len(size)] != size:
            array.resize((*size, *array.shape[len(size) :]))
    for axis, values in names.items():
        arrays[axis].resize((len(values),))
        arrays[axis][:] = np.asarray(values, object if axis == results.RUN else np.int64)
