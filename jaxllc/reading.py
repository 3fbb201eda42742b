"""A store as a result, whose arrays are read at once where they are few, and how far a store is."""

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxllc import results
from jaxllc.locations import Location
from jaxllc.results import Place
from jaxllc.store import stored_attributes
from jaxllc.store_arrays import NOTES, Arrays, failures
from jaxllc.writers import Membership, Part

if TYPE_CHECKING:
    import xarray

GROWING = 5.0
"""Seconds within which a store that is growing has grown."""


class Overview(NamedTuple):
    """How far a store is."""

    attributes: dict[str, Any]
    places: list[Place]
    done: list[Place]
    failed: dict[Place, str]
    """Why a place has no numbers."""
    written: dict[Place, float]
    """Unix seconds."""
    writers: list["SeenWriter"]


class SeenWriter(NamedTuple):
    """A process that writes a store, or wrote it when it died."""

    host: str
    pid: int
    part: Part
    alive: bool


def overview(path: str | os.PathLike[str]) -> Overview:
    """How far the store at a path is, and who writes it; nothing is changed.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is no store of ours.
    """
    attributes = stored_attributes(path)
    if attributes is None:
        raise FileNotFoundError(f"there is no store at {path}; pass the path that was given as store=.")
    location = Location(path)
    records = Arrays(location).records()
    found = Membership(location, (0, 1))
    living = found.living()
    return Overview(
        attributes, list(records), [place for place, record in records.items() if record.done],
        failures(records),
        {place: record.written for place, record in records.items() if record.done},
        [SeenWriter(writer.host, writer.pid, writer.part, writer in living) for writer in found.others()],
    )  # fmt: skip


def open_tree(path: str | os.PathLike[str] | Location, places: Sequence[Place] | None = None) -> "xarray.DataTree":
    """The result in a store; `done` says which places are written, and steps of which none is are left out. Why places have no numbers is an attribute.

    Args:
        path: of the store.
        places: those of the result; default all.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is no store of ours, of another version of this library, damaged as a whole, or holds no place yet.
    """
    location = Location(path)
    attributes = stored_attributes(location)
    if attributes is None:
        raise FileNotFoundError(f"there is no store at {location}; pass the path that was given as store= or to save().")
    if attributes["schema"] != results.SCHEMA:
        raise ValueError(
            f"{location} was written with schema {attributes['schema']}, and this version of jaxllc reads {results.SCHEMA}; read it with the version that "
            f"wrote it, {attributes.get('versions', {}).get('jaxllc', 'unknown')}."
        )
    arrays = Arrays(location)
    records = arrays.records()
    asked = dict.fromkeys(records if places is None else places)
    done = [place for place, record in records.items() if record.done and place in asked]
    found: dict[Place, Any] = dict(arrays.read(done)) if arrays.are_few(done) else {}
    damaged = {place: why for place, why in found.items() if isinstance(why, str)} if found else arrays.damaged(done)
    failed = {place: why for place, why in (failures(records) | damaged).items() if place in asked}
    good = set(done) - damaged.keys()
    if not good:
        why = f"; {next(iter(failed.values()))}" if failed else ""
        raise ValueError(f"no place of {location} is written yet{why}; open it again when the first group has ended.")
    steps, runs = sorted({place.step for place in good}), {place.run for place in good}
    whole = [Place(run, step) for run in dict.fromkeys(place.run for place in asked) if run in runs for step in steps]
    del attributes["id"]
    attributes |= {"failures": results.listed(failed)} if failed else {}
    if damaged and not found:  # whose files would be met where the others are read
        found = dict(arrays.read([place for place in done if place in good]))
    if found:
        return results.gathered({place: found[place] for place in whole if place in good}, whole, attributes)
    return _lazily(location, whole, good, attributes)


def _lazily(location: Location, places: Sequence[Place], done: set[Place], attributes: dict[str, Any]) -> "xarray.DataTree":
    """The places of a store, run after run, whose arrays are read when they are needed."""
    import xarray as xr

    labels = {results.STEP: list(dict.fromkeys(place.step for place in places)), results.RUN: list(dict.fromkeys(place.run for place in places))}
    tree = _opened(location)
    tree = tree.sel({axis: labels[axis] for axis in results.place_axes(tree.coords)})
    root = results.with_done(tree, [place in done for place in places]).to_dataset().drop_vars([name for name in NOTES if name != "done"])
    root.attrs = attributes
    return xr.DataTree.from_dict({"/": root, **{name: child.to_dataset(inherit=False) for name, child in tree.children.items()}})


def _opened(location: Location) -> Any:
    """The whole store by xarray, when a writer that makes its arrays longer has made all of them longer."""
    import xarray as xr

    began = time.monotonic()
    while True:
        try:
            return xr.open_datatree(location.zarr(read_only=True), engine="zarr", consolidated=False, chunks=None)
        except ValueError as error:
            if time.monotonic() - began > GROWING:
                raise ValueError(
                    f"the arrays of {location} differ in length: the process that made it grow was stopped; the next call of jaxllc.trajectory mends it."
                ) from error
            time.sleep(GROWING / 50)
