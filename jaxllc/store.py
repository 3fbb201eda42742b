"""Results on disk: one Zarr store, one chunk a place, readable at any time, written by one process or by many.

A place counts once its `done` flag is set, which is written last; a run that is killed leaves whole places and unset flags. A store is laid out before the
first place is sampled: first its arrays, then the attributes that make it a store of ours. It grows by making arrays longer, and then naming the new steps
and runs, so that no chunk ever moves. Several training runs add a leading axis `run` to every array; one has none.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxllc import stopping
from jaxllc._tree import named_leaves, row_blocks
from jaxllc._typing import Params
from jaxllc.locations import Location
from jaxllc.results import Name, Place
from jaxllc.source import made_by
from jaxllc.store_arrays import Arrays, failures, grow, lay_out
from jaxllc.writers import POLL, InUseError, Membership, Part

UNKNOWN = -1
"""The checksum of weights that were not at hand when a result was saved."""
BATCHES = "batches_checksum"
"""The attribute that tells which batches of a stream were read."""
FOUND = (BATCHES, "default_step_size", "calibration", "group_size", "loss_dtype", "loss_of_zeros", "statistics", "fixed_statistics")
"""Attributes that were found out when the store was begun."""
TOLD = ("versions", "loss_fn", "source", "config", "reference_loss", "verb", "id")
"""Attributes that tell where the numbers come from. A resumed run may differ in these and in those that were found."""
PATIENCE = 120.0
"""Seconds that a process waits for the one that lays the store out, and hears nothing of it."""
BEGUN = "begun"
"""The file that says that a store is being laid out."""

_LOG = logging.getLogger("jaxllc")


class Store:
    """Results by place, at a path, as one of its writers; a context, in which no other process has the same part.

    Args:
        path: a local folder or a URL that `fsspec` knows; one that this class made, or where nothing is.
        part: index of this process among those that share the places, and how many they are.
        first_lays_out: only part 0 lays out and grows the store; else whoever comes first.

    Raises:
        InUseError: another process writes the store.
        ValueError: the path holds something else.
    """

    def __init__(self, path: str | os.PathLike[str], part: Part = (0, 1), *, first_lays_out: bool = False) -> None:
        self.location: Location = Location(path)
        self.members: Membership = Membership(self.location, part)
        self._waits = first_lays_out and part[0] > 0
        self._arrays: Arrays | None = None
        stored_attributes(path)

    def __enter__(self) -> "Store":
        with _told(self.location, "written to"):
            self.members.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.members.__exit__(*error)

    @contextlib.contextmanager
    def laying_out(self, places: Sequence[Place]) -> Iterator[dict[str, Any] | None]:
        """A context in which no other process lays the store out; gives its settings, None where `lay_out` is to be called in it."""
        stored = stored_attributes(self.location)
        if stored is not None and self._holds(places):
            yield stored
        elif self._waits:
            self._wait(places)
            yield stored_attributes(self.location)
        else:
            with self.members.alone("layout"):
                yield stored_attributes(self.location)

    def compare(self, places: Sequence[Place], attributes: Mapping[str, Any]) -> None:
        """Raise a ValueError where the store was made with other settings, or for one nameless run where these places have names or the other way round."""
        stored = stored_attributes(self.location) or {}
        _check_same(self.location, stored, attributes)
        _warn_of_other_functions(stored, attributes)
        _check_runs(self.location, self._whole, places)

    def lay_out(self, places: Sequence[Place], attributes: Mapping[str, Any]) -> None:
        """Make the store, or make it hold more places."""
        stored = stored_attributes(self.location)
        with _told(self.location, "written to"):
            if stored is None:
                self.members.folder.write(BEGUN, self.members.writer.token)
                if self.location.exists():
                    self.location.remove("")
                lay_out(self.location, places, {**attributes, "id": uuid.uuid4().hex})
                self.members.folder.remove(BEGUN)
            else:
                if not self._holds(places):
                    grow(self.location, places)
                reference = attributes.get("reference_loss", stored.get("reference_loss"))
                if reference != stored.get("reference_loss"):
                    self._whole.group.attrs["reference_loss"] = reference
        self._arrays = Arrays(self.location)
        self._id = self._arrays.group.attrs.get("id")

    def done(self) -> dict[Place, int]:
        """The places that are written whole, with the checksum of their weights; those with a damaged file are to be made again."""
        done = {place: record.checksum for place, record in self._whole.records().items() if record.done}
        damaged = self._whole.damaged(list(done))
        return {place: checksum for place, checksum in done.items() if place not in damaged}

    def made_by(self) -> set[str]:
        """The software that the numbers of all places were computed by."""
        return {record.made_by for record in self._whole.records().values() if record.done and record.made_by}

    def failed(self) -> dict[Place, str]:
        """Why places have no numbers."""
        return failures(self._whole.records())

    def pending(self, places: Sequence[Place]) -> list[Place]:
        """Those of these places that are not written yet."""
        written = self._whole.written()
        return [place for place in places if place not in written]

    def write(self, place: Place, arrays: Mapping[Name, np.ndarray], weights: int) -> None:
        """Write the arrays of a place, and then its flag.

        Raises:
            OSError: it cannot be written, or the store is not what it was; what was written before stays.
        """
        with _told(self.location, f"written to for {place}"):
            self._check_there()
            self._whole.write(place, arrays, weights, made_by())

    def same_batches(self, seen: int | None) -> None:
        """Raise a ValueError where the batches of a stream are others than those of the places that are there."""
        attributes = self._whole.group.attrs
        if seen is not None and attributes.setdefault(BATCHES, seen) != seen:
            raise ValueError(
                f"the store {self.location} was made of other batches than the stream gives now; use another store=, or put its examples back as they were."
            )

    def fail(self, place: Place, reason: str) -> None:
        """Note why a place has no numbers; a later call tries again."""
        with _told(self.location, f"written to for {place}"):
            self._check_there()
            self._whole.fail(place, reason)

    def groups(self, places: Sequence[Place], size: int, *, stay: bool = False) -> Iterator[list[Place]]:
        """Groups of places for this process, each taken on when it is asked for, until every place is written or taken on by another living process.

        Args:
            places: what is to be done.
            size: places in a group, at most.
            stay: wait until the others have ended, to take on what one of them leaves when it dies.
        """
        index, count = self.members.writer.part
        begin = len(places) * index // count
        left = [*places[begin:], *places[:begin]]  # so that processes begin far from each other
        if count == 1:
            yield from (left[i : i + size] for i in range(0, len(left), size))
            return
        while left:
            taken = self.members.take(self.members.untaken(left), size)
            if not taken:
                left = self.pending(left)
                taken = self.members.take(self.members.abandoned(left), size)
            if taken:
                left = [place for place in left if place not in taken]
                yield taken
            elif not stay or not self.members.living():
                return
            else:
                self._sleep()

    def wait_for_first(self) -> None:
        """Until a place is written, as long as there are other writers."""
        while not self._whole.written() and self.members.living():
            self._sleep()

    def _sleep(self) -> None:
        self.members.progressed()
        stopping.check()
        time.sleep(POLL)

    def _holds(self, places: Sequence[Place]) -> bool:
        arrays = Arrays(self.location)
        return not set(places) - set(arrays.index) and arrays.are_even()

    def _wait(self, places: Sequence[Place]) -> None:
        """Until the first process has laid the store out."""
        heard = told = time.monotonic()
        while stored_attributes(self.location) is None or not self._holds(places):
            now = time.monotonic()
            if any(writer.part[0] == 0 for writer in self.members.living()):
                heard = now
            if now - heard > PATIENCE:
                raise TimeoutError(
                    f"the store {self.location} was not laid out by process 0, of which nothing was heard for {PATIENCE:.0f} s; start it with the others, and "
                    "let all of them see the same folder."
                )
            if now - told > PATIENCE / 4:
                told = now
                _LOG.info("waiting for process 0 to lay out %s", self.location)
            self._sleep()

    def _check_there(self) -> None:
        """Raise where the store is not the one that was laid out, or another process has this part."""
        content = self.location.get(["zarr.json"]).get("zarr.json", b"{}")
        if json.loads(content).get("attributes", {}).get("id") != self._id:
            raise FileNotFoundError("it was removed or replaced since this run began")
        if not self.members.is_member():
            raise InUseError(f"{self.location} was taken over by another process, since this one gave no sign of life for a long time.")

    @property
    def _whole(self) -> Arrays:
        if self._arrays is None:
            self._arrays = Arrays(self.location)
        return self._arrays


def checksum(params: Params) -> int:
    """63 bits of the names, dtypes, shapes and bytes of all leaves: whether a step still holds the weights that it held."""
    digest = hashlib.blake2b(digest_size=8)
    for name, leaf in sorted(named_leaves(params).items()):
        digest.update(name.encode())
        if jax.numpy.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        digest.update(f" {getattr(leaf, 'dtype', None) or np.result_type(leaf)} {np.shape(leaf)} ".encode())
        for rows in row_blocks(leaf):
            digest.update(np.ascontiguousarray(jax.device_get(rows)).tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1


def stored_attributes(path: str | os.PathLike[str] | Location) -> dict[str, Any] | None:
    """The settings of the store at a path, None where there is nothing yet, or a layout that was cut.

    Raises:
        ValueError: the path holds something that is no store of ours.
    """
    import zarr

    location = Location(path)
    if not location.exists():
        return None
    begun = location.beside("jaxllc").read(BEGUN) is not None
    try:
        attributes = dict(zarr.open_group(location.zarr(read_only=True), mode="r").attrs)
    except Exception as error:
        if begun:
            return None
        raise ValueError(f"{location} exists and is no Zarr store ({type(error).__name__}); pass another store=, or remove it.") from error
    if "schema" not in attributes:
        if begun:
            return None
        raise ValueError(f"{location} is a Zarr store of something else; pass another store=.")
    return attributes


@contextlib.contextmanager
def _told(location: Location, what: str) -> Iterator[None]:
    """Errors of files with the store and the way out."""
    try:
        yield
    except OSError as error:
        raise type(error)(f"the store {location} could not be {what}: {error}. What was written before stays; call again to go on.") from error


def _check_same(location: Location, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    names = sorted({*stored, *asked} - {*FOUND, *TOLD})
    other = [f"{name} was {stored.get(name)} and is {asked.get(name)}" for name in names if stored.get(name) != asked.get(name)]
    if other:
        raise ValueError(f"the store {location} was made with other settings: {'; '.join(other)}. Use the same settings to resume, or another store=.")


def _warn_of_other_functions(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Their texts may differ where they compute the same."""
    was, now = stored.get("source", {}), asked.get("source", {})
    if others := [name for name in now if was.get(name, now[name]) != now[name]]:
        warnings.warn(
            f"{', '.join(others)} is another function than the one that the store was made with, by its text or by what it closes over; numbers of both are in "
            "one result if it computes something else.",
            stacklevel=5,
        )


def _check_runs(location: Location, arrays: Arrays, places: Sequence[Place]) -> None:
    runs = dict.fromkeys(place.run for place in arrays.index)
    if runs and (None in runs) != any(place.run is None for place in places):
        names = ", ".join(map(repr, runs))
        way = "one training run without a name; pass its mapping alone" if None in runs else f"the training runs {names}; pass {{name: mapping}}"
        raise ValueError(f"the store {location} holds {way}, or use another store=.")
