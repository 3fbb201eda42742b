"""The writers of a store: one process, or the parts of one job; a lock, and which places each has taken on.

Everything is a small file in a hidden folder beside the store, made so that of two who try one wins; no process talks to another. A writer shows that it
lives by counting up in its file. One that stopped is dead after `SILENT` seconds, and at once where its process is seen to be gone from this machine.
"""

import contextlib
import dataclasses
import hashlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from jaxllc import stopping
from jaxllc.locations import Location
from jaxllc.results import Place
from jaxllc.signs import TOKENS, Part, Signs, Writer

BEAT = 2.0
"""Seconds from one sign of life to the next."""
STALLED = 3600.0
"""Seconds without progress after which a process gives no more signs of life, so that others do what it had taken on."""
POLL = 0.5
"""Seconds from one look to the next while waiting for others."""
TELL = 30.0
"""Seconds of waiting after which the log says so."""
FREE = "free"
"""In a file of a lock that nobody holds."""
LONGEST_NAME = 150
"""Bytes of a run's name in the name of a file."""

_LOG = logging.getLogger("jaxllc")


class InUseError(RuntimeError):
    """Another process writes the store."""


class Membership:
    """This process among the writers of a store, from `__enter__` to `__exit__`.

    Args:
        location: of the store.
        part: of this process.
    """

    def __init__(self, location: Location, part: Part) -> None:
        self.location = location
        self.folder: Location = location.beside("jaxllc")
        self.writer: Writer = Writer.here(part)
        self.signs: Signs = Signs()
        self._file = f"writers/{part[0] + 1}-of-{part[1]}"
        self._progress = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Membership":
        self._join()
        TOKENS.add(self.writer.token)
        self._thread = threading.Thread(target=self._show_life, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        TOKENS.discard(self.writer.token)
        with contextlib.suppress(OSError):
            if self.is_member():
                self.folder.remove(self._file)
            if not self.folder.names("writers"):
                self.folder.remove("places")
                for name in self.folder.names():
                    if name.rpartition(".")[2].isdecimal() and self.folder.read(name) == FREE:
                        self.folder.remove(name)
                self.folder.remove_empty("writers")

    def progressed(self, *_: Any) -> None:
        """To be called when something was done: a process that hangs gives no signs of life after a while."""
        self._progress = time.monotonic()

    def is_member(self) -> bool:
        """Whether no other writer has this one's part."""
        text = self.folder.read(self._file)
        if text is None:  # the last writer to leave removes the folder, and may have met this one coming
            return self.folder.create(self._file, self.writer.text())
        writer = Writer.of(text)
        return writer is None or writer.token == self.writer.token

    def others(self) -> list[Writer]:
        """All other writers whose files are there."""
        found = (Writer.of(self.folder.read(f"writers/{name}")) for name in self.folder.names("writers") if "." not in name)
        return [writer for writer in found if writer is not None and writer.token != self.writer.token]

    def living(self) -> list[Writer]:
        """The others that are not known to be dead."""
        return [writer for writer in self.others() if self.signs.is_alive(writer) is not False]

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Hold a lock of this name: the last of its files `name.1`, `name.2`, ..., each of which is made once, after the one before was freed, or by a dead
        writer. None is taken away from the one that holds it.
        """
        told = time.monotonic()
        while True:
            number = _last(self.folder.names(), name)
            holder = self.folder.read(f"{name}.{number}") if number else FREE
            if holder == FREE or (holder and holder not in self._tokens()):
                if self.folder.create(f"{name}.{number + 1}", self.writer.token):
                    break
                continue
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                _LOG.info("waiting for another process to lay out %s", self.location)
            self.progressed()
            stopping.check()
            time.sleep(POLL)
        try:
            yield
        finally:
            self.folder.write(f"{name}.{number + 1}", FREE)

    def untaken(self, places: Sequence[Place]) -> dict[Place, int]:
        """Those of these places that no writer has taken on, with the number of a first claim."""
        names = {name.rpartition(".")[0] for name in self.folder.names("places")}
        return {place: 1 for place in places if _name(place) not in names}

    def abandoned(self, places: Sequence[Place]) -> dict[Place, int]:
        """Those of these places that a dead writer had taken on, with the number of the next claim."""
        names, tokens = self.folder.names("places"), self._tokens()
        found: dict[Place, int] = {}
        for place in places:
            number = _last(names, _name(place))
            if number and (holder := self.folder.read(f"places/{_name(place)}.{number}")) and holder not in tokens:
                found[place] = number + 1
        return found

    def take(self, claims: Mapping[Place, int], most: int) -> list[Place]:
        """Some of the places, at most so many, which no other writer does after this.

        Args:
            claims: places, with the numbers of claims that nobody has made yet.
            most: places.
        """
        taken: list[Place] = []
        for place, number in claims.items():
            if len(taken) == most:
                break
            if self.folder.create(f"places/{_name(place)}.{number}", self.writer.token):
                taken.append(place)
        return taken

    def _tokens(self) -> set[str]:
        """Those of the living, this one among them."""
        return {writer.token for writer in self.living()} | {self.writer.token}

    def _join(self) -> None:
        """Be known to the store, unless another writer is in the way."""
        while not self.folder.create(self._file, self.writer.text()):
            self._wait_for_the_dead([writer for writer in self.others() if writer.part == self.writer.part])
        try:
            self._wait_for_the_dead([writer for writer in self.others() if writer.part[1] != self.writer.part[1]])
        except InUseError:
            self.folder.remove(self._file)
            raise
        if not self.living():
            self.folder.remove("places")

    def _wait_for_the_dead(self, in_the_way: list[Writer]) -> None:
        """Remove the files of writers that are dead; raise for one that lives."""
        for writer in in_the_way:
            file = f"writers/{writer.part[0] + 1}-of-{writer.part[1]}"
            now: Writer | None = writer
            while now is not None and now.token == writer.token:
                alive = self.signs.is_alive(now)
                if alive:
                    raise InUseError(
                        f"{self.location} is being written by {writer}; wait until it has ended, stop it, or pass another store=. Processes that are to "
                        "share a store take parts of it: --part 1/2 and --part 2/2, or part=(0, 2) and part=(1, 2)."
                    )
                if alive is False:
                    last = Writer.of(self.folder.read(file))
                    if last is not None and last.token == now.token:
                        self.folder.remove(file)
                    break
                stopping.check()
                time.sleep(POLL)
                now = Writer.of(self.folder.read(file))

    def _show_life(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT):
            if time.monotonic() - self._progress < STALLED:
                beat += 1
                with contextlib.suppress(OSError):  # the next sign may come through; a store that is gone is noticed at the next write
                    if self.is_member():
                        self.folder.write(self._file, dataclasses.replace(self.writer, beat=beat).text())


def _name(place: Place) -> str:
    run = "" if place.run is None else quote(place.run, safe="")
    if len(run) > LONGEST_NAME:
        run = f"{run[:LONGEST_NAME]}-{hashlib.blake2b(run.encode(), digest_size=8).hexdigest()}"
    return f"{run}@{place.step}"


def _last(names: Sequence[str], name: str) -> int:
    """The highest number of files `name.1`, `name.2`, ...; 0 where there is none."""
    return max((int(number) for first, _, number in (found.rpartition(".") for found in names) if first == name and number.isdecimal()), default=0)
