"""The arrays of a store: how they lie in Zarr, how they grow, and what is noted of each place.

Each array has one chunk a place, with a checksum (CRC-32C) of its bytes. Beside those of the result (`jaxllc.results`) there are `done` and a `note`.
Steps and runs stand in the order in which they came; a slot without a step is one that was made for a step that was not named, when the growth was cut.
"""

import json
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxllc import chunks, results
from jaxllc.locations import Location
from jaxllc.results import Name, Place

NO_STEP = np.iinfo(np.int64).min
"""In a slot that no step was named for."""
NAMES = 4096
"""Steps, or runs, of one chunk."""
NOTES: Mapping[str, Mapping[str, Any]] = {"done": chunks.FLAGS, "note": chunks.TEXTS}
"""What is kept of each place beside its arrays: whether they are whole, and a `Record` as JSON."""
READ_BYTES = 2**30
"""Of the arrays of a store that are read at once; of more each is read when it is needed."""
STRETCH = 64
"""Places that are read at once."""


class DamagedError(ValueError):
    """A store that lacks files of its own, or holds them cut."""


class Record(NamedTuple):
    """What is noted of a place."""

    done: bool = False
    checksum: int = 0
    """Of its weights."""
    written: float = math.nan
    """Unix seconds."""
    made_by: str = ""
    failure: str = ""
    """Why it has no numbers."""


class Arrays:
    """The arrays of a store that exists."""

    def __init__(self, location: Location) -> None:
        import zarr

        self.location = location
        self.group: zarr.Group = zarr.open_group(location.zarr(), mode="r+")
        self._opened: dict[str, Any] = {}
        self.names: list[results.Name] = results.names(dict(self.group.attrs))
        steps = [(i, int(step)) for i, step in enumerate(self.labels(results.STEP)) if step != NO_STEP]
        self.index: dict[Place, tuple[int, ...]]
        if results.RUN in self.group:
            runs = [(r, str(run)) for r, run in enumerate(self.labels(results.RUN)) if run]
            self.index = {Place(run, step): (r, i) for r, run in runs for i, step in steps}
        else:
            self.index = {Place(None, step): (i,) for i, step in steps}

    def __getitem__(self, name: str) -> Any:
        if name not in self._opened:
            try:
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
        """What is noted of every place; one whose note is damaged or missing is not done, and says so.

        Raises:
            DamagedError: numbers are there of steps or runs whose names are not.
        """
        files = {_chunk("done", at): place for place, at in self.index.items()}
        done = {f"done/c/{file}": size for file, size in self.location.sizes("done/c").items()}
        if done.keys() - files.keys():
            raise self._damaged(f"{results.STEP}/c/0", "it lacks names of steps that are done")
        names = {place: _chunk("note", self.index[place]) for place in self.index}
        notes = self.location.get(list(names.values()))
        return {place: _record(done.get(flag), notes.get(names[place]), names[place]) for flag, place in files.items()}

    def written(self) -> set[Place]:
        """The places that are done, by the files that are there."""
        files = self.location.sizes("done/c")
        return {place for place, at in self.index.items() if "/".join(map(str, at)) in files}

    def write(self, place: Place, arrays: Mapping[Name, np.ndarray], checksum: int, made_by: str) -> None:
        """Write the arrays of a place, and its flag last."""
        at = self.index[place]
        files = {_chunk(f"{group}/{name}", at, values.shape): chunks.encoded(values) for (group, name), values in arrays.items()}
        self.location.put(files | self._noted(at, Record(True, checksum, time.time(), made_by)))
        self.location.put({_chunk("done", at): chunks.FLAG})

    def fail(self, place: Place, failure: str) -> None:
        """Note why a place has no numbers."""
        self.location.put(self._noted(self.index[place], Record(failure=failure)))

    def are_few(self, places: Collection[Place]) -> bool:
        """Whether the arrays of places may be read at once."""
        return len(places) * sum(chunks.num_bytes(shape) for shape in self._shapes().values()) <= READ_BYTES

    def read(self, places: Sequence[Place]) -> Iterator[tuple[Place, dict[Name, np.ndarray] | str]]:
        """The arrays of places that are done, or which of their files is missing, cut or not as its checksum says."""
        shapes = self._shapes()
        for i in range(0, len(places), STRETCH):
            files = {place: {name: _chunk("/".join(name), self.index[place], shape) for name, shape in shapes.items()} for place in places[i : i + STRETCH]}
            contents = self.location.get([file for some in files.values() for file in some.values()])
            for place, some in files.items():
                yield place, _read(some, contents, shapes)

    def damaged(self, done: Sequence[Place]) -> dict[Place, str]:
        """The places, of those that are done, that have a file that is missing or cut, or in a local folder not as its checksum says."""
        if self.location.is_local and self.are_few(done):
            return {place: found for place, found in self.read(done) if isinstance(found, str)}
        sizes, found = self.location.sizes(), {}
        for place in done:
            for name, shape in self._shapes().items():
                file = _chunk("/".join(name), self.index[place], shape)
                if sizes.get(file) != chunks.num_bytes(shape):
                    found[place] = _told(file, "cut" if file in sizes else "missing")
        return found

    def _shapes(self) -> dict[Name, tuple[int, ...]]:
        """Of each array at one place."""
        axes = 2 if results.RUN in self.group else 1
        return {(group, name): self[f"{group}/{name}"].shape[axes:] for group, name in self.names}

    def _noted(self, at: tuple[int, ...], record: Record) -> dict[str, bytes]:
        return {_chunk("note", at): chunks.text_encoded(json.dumps(record._asdict()))}

    def _damaged(self, file: str, why: object) -> DamagedError:
        what = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
        return DamagedError(f"the file {file} of the store {self.location} is missing or damaged ({what}); put it back, or pass another store=.")


def _chunk(name: str, at: tuple[int, ...], shape: tuple[int, ...] = ()) -> str:
    """The file of a place in an array."""
    return f"{name}/c/{'/'.join(map(str, (*at, *[0] * len(shape))))}"


def _record(flag: int | None, note: bytes | None, file: str) -> Record:
    """What is noted of a place: bytes of the file of its flag, and its note, each None where it is not there."""
    if note is None:
        return Record() if flag is None else Record(failure=_told(file, "missing"))
    try:
        record = Record(**json.loads(chunks.text_decoded(note)))
    except (ValueError, TypeError):
        return Record(failure=_told(file, "damaged"))
    if flag not in (None, len(chunks.FLAG)):
        return Record(failure=_told(file.replace("note", "done", 1), "cut"))
    return record._replace(done=flag is not None)


def _read(files: Mapping[Name, str], contents: Mapping[str, bytes], shapes: Mapping[Name, tuple[int, ...]]) -> dict[Name, np.ndarray] | str:
    """The arrays of a place, or which file is not as it should be."""
    found: dict[Name, np.ndarray] = {}
    for name, file in files.items():
        try:
            found[name] = chunks.decoded(contents[file], shapes[name])
        except KeyError:
            return _told(file, "missing")
        except ValueError as error:
            return _told(file, str(error))
    return found


def _told(file: str, what: str) -> str:
    return f"the file {file} of the store is {what}; the next call of jaxllc.trajectory makes it again"


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
        is_text, is_place = name in (results.RUN, results.COMPONENT), name in axes
        fill: Any = "" if is_text else NO_STEP if name == results.STEP else 0
        group.create_array(
            name, shape=values.shape, chunks=(NAMES,) if is_place else values.shape, dtype="str" if is_text else values.dtype, fill_value=fill,
            dimension_names=(name,),
        )[:] = values.astype(object) if is_text else values  # fmt: skip
    for name, kind in NOTES.items():
        group.create_array(name, shape=size, chunks=one, dimension_names=axes, **kind)
    for (folder, name), shape in results.shapes(attributes).items():
        dims = (*axes, *results.dims((folder, name), len(shape), attributes))
        group.create_array(
            f"{folder}/{name}", shape=(*size, *shape), chunks=(*one, *shape), compressors=(Crc32cCodec(),), dimension_names=dims, **chunks.NUMBERS
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
