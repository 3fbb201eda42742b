"""A process that writes a store, as its file tells, and whether it lives: its signs of life, and where it can be seen its number in the system."""

import contextlib
import dataclasses
import functools
import json
import os
import socket
import time
import uuid
from pathlib import Path

SILENT = 20.0
"""Seconds without a sign of life after which a writer counts as dead."""

Part = tuple[int, int]
"""Index of a process among those that share the places, and how many they are."""

TOKENS: set[str] = set()
"""Of the writers in this process."""


@dataclasses.dataclass(frozen=True)
class Writer:
    """A process that writes a store, as its file tells."""

    host: str
    pid: int
    part: Part
    token: str
    """Of this writer alone."""
    machine: str
    """Where its number counts: containers of one host name number their processes each for itself."""
    started: str
    """When its process began, as the system counts; empty where it does not tell."""
    beat: int = 0

    def __str__(self) -> str:
        share = "" if self.part[1] == 1 else f", part {self.part[0] + 1} of {self.part[1]}"
        return f"process {self.pid} on {self.host}{share}"

    @classmethod
    def here(cls, part: Part) -> "Writer":
        """This process."""
        return cls(socket.gethostname(), os.getpid(), part, uuid.uuid4().hex, _machine(), _started(os.getpid()))

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
        is_here = writer.machine == _machine()
        if is_here and not _runs(writer):
            return False
        beat, since = self._heard.setdefault(writer.token, (writer.beat, time.monotonic()))
        if writer.beat != beat:
            self._heard[writer.token] = writer.beat, time.monotonic()
            return True
        if time.monotonic() - since > SILENT:
            return False
        return True if is_here else None


def _runs(writer: Writer) -> bool:
    """Whether the process of a writer on this machine is there."""
    if writer.pid == os.getpid():
        return writer.token in TOKENS
    try:
        os.kill(writer.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return writer.started == _started(writer.pid) and _status(writer.pid)[:1] not in (["Z"], ["X"])  # one that was killed stays until its parent looks


@functools.cache
def _machine() -> str:
    """The host, its boot and the space of process numbers, where the system tells."""
    boot, space = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()} {boot} {space}"


def _started(pid: int) -> str:
    """When a process began, where the system tells: a later process may have its number."""
    return "".join(_status(pid)[19:20])


def _status(pid: int) -> list[str]:
    """What Linux tells of a process, from its state on; nothing elsewhere."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
