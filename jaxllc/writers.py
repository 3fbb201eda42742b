"""Who writes a store: one process, or the parts of one job; signs of life, and which places each has taken on.

Everything is a small file in a hidden folder beside the store, made so that of two who try one wins; no process talks to another. A writer shows that it
lives by counting up in its file. One that stopped is dead after `SILENT` seconds, and at once where its process is seen to be gone from this machine.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jaxllc import stopping
from jaxllc.locations import Location
from jaxllc.results import Place

BEAT = 2.0
"""Seconds from one sign of life to the next."""
SILENT = 20.0
"""Seconds without one after which a writer counts as dead."""
STALLED = 3600.0
"""Seconds without progress after which a process gives no more signs of life, so that others do what it had taken on."""
POLL = 0.5
"""Seconds from one look to the next while waiting for others."""

Part = tuple[int, int]
"""Index of a process among those that share the places, and how many they are."""


class InUseError(RuntimeError):
    """Another process writes the store."""


@dataclasses.dataclass(frozen=True)
class Writer:
    """A process that writes a store, as its file tells."""

    host: str
    pid: int
    part: Part
    token: str
    """Of this writer alone."""
    started: str
    """When its process began, as the system counts; empty where it does not tell."""
    beat: int = 0

    def __str__(self) -> str:
        share = "" if self.part[1] == 1 else f", part {self.part[0] + 1} of {self.part[1]}"
        return f"process {self.pid} on {self.host}{share}"

    @classmethod
    def here(cls, part: Part) -> "Writer":
        """This process."""
        return cls(socket.gethostname(), os.getpid(), part, uuid.uuid4().hex, _started(os.getpid()))

    @classmethod
    def of(cls, text: str | None) -> "Writer | None":
        """That of a file; None where it is gone or half written."""
        try:
            fields = json.loads(text or "")
            return cls(**{**fields, "part": tuple(fields["part"])})
        except (ValueError, TypeError, KeyError):
            return None

    def text(self) -> str:
        """What its file holds."""
        return json.dumps(dataclasses.asdict(self))


class Signs:
    """When each writer was last heard of."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[int, float]] = {}

    def is_alive(self, writer: Writer) -> bool | None:
        """Whether a writer lives; None while that is not known."""
        if writer.host == socket.gethostname() and not _runs(writer):
            return False
        beat, since = self._heard.setdefault(writer.token, (writer.beat, time.monotonic()))
        if writer.beat != beat:
            self._heard[writer.token] = writer.beat, time.monotonic()
            return True
        if time.monotonic() - since > SILENT:
            return False
        return True if writer.host == socket.gethostname() else None


class Membership:
    """This process among the writers of a store, from `__enter__` to `__exit__`.

    Args:
        location: of the store.
        part: of this process.
    """

    def __init__(self, location: Location, part: Part) -> None:
        self.location = location
        self.folder = location.beside("jaxllc")
        self.writer = Writer.here(part)
        self.signs = Signs()
        self._file = f"writers/{part[0] + 1}-of-{part[1]}"
        self._progress = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Membership":
        self._join()
        _TOKENS.add(self.writer.token)
        self._thread = threading.Thread(target=self._show_life, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        _TOKENS.discard(self.writer.token)
        with contextlib.suppress(OSError):
            if self.is_member():
                self.folder.remove(self._file)
            if not self.folder.names("writers"):
                self.folder.remove("")

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
        """Hold a lock of this name, which a dead writer's is taken from."""
        while not self.folder.create(name, self.writer.token):
            holder = self.folder.read(name)
            if holder is not None and holder not in {writer.token for writer in self.living()}:
                self.folder.remove(name)
            else:
                stopping.check()
                time.sleep(POLL)
        try:
            yield
        finally:
            self.folder.remove(name)

    def take(self, places: Sequence[Place], most: int) -> list[Place]:
        """Some of these places, at most so many, which no other writer does after this."""
        taken: list[Place] = []
        for place in places:
            if len(taken) == most:
                break
            if self.folder.create(_claim(place), self.writer.token):
                taken.append(place)
        return taken

    def taken(self, places: Sequence[Place]) -> list[Place]:
        """Those of these places that some writer has taken on."""
        names = set(self.folder.names("places"))
        return [place for place in places if _name(place) in names]

    def release(self, places: Sequence[Place]) -> list[Place]:
        """Those of these places that a dead writer had taken on, and that are free after this."""
        tokens = {writer.token for writer in self.living()} | {self.writer.token}
        free = [place for place in places if (token := self.folder.read(_claim(place))) is not None and token not in tokens]
        for place in free:
            self.folder.remove(_claim(place))
        return free

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


_TOKENS: set[str] = set()
"""Of the writers in this process."""


def _runs(writer: Writer) -> bool:
    """Whether the process of a writer on this machine is there."""
    if writer.pid == os.getpid():
        return writer.token in _TOKENS
    try:
        os.kill(writer.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return writer.started == _started(writer.pid)


def _started(pid: int) -> str:
    """When a process began, where the system tells: a later process may have its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _name(place: Place) -> str:
    return f"{'' if place.run is None else quote(place.run, safe='')}@{place.step}"


def _claim(place: Place) -> str:
    return f"places/{_name(place)}"
