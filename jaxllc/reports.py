"""What a store says: how far it is, and its numbers, as `jaxllc status` and `jaxllc table` print them."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxllc.estimate import Estimate
from jaxllc.progress import duration, rounded
from jaxllc.reading import Overview, SeenWriter, overview
from jaxllc.trajectory import Trajectory, open_store
from jaxllc.views import with_steps

if TYPE_CHECKING:
    import pandas

WINDOW = 100
"""Places written last, of which a rate is taken."""
BURST = 0.05
"""Share of the time that these took within which places count as written together with the first."""


def status(path: str | os.PathLike[str]) -> str:
    """Places done, rate, time left, findings, failures and who writes.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is no store of this library.
    """
    seen, now = overview(path), time.time()
    lines = [("done", _done(seen)), *_speed(seen, now), ("findings", _findings(path) if seen.done else "none yet")]
    lines += [("failed", f"{place}: {reason}") for place, reason in seen.failed.items()]
    lines += [("writer", _writer(writer)) for writer in seen.writers] or [("writer", "none")]
    return "\n".join([str(path), *(f"  {name:11}{text}" for name, text in lines)])


def table(path: str | os.PathLike[str]) -> "pandas.DataFrame":
    """One line a checkpoint (see `Trajectory.table`), also of a single estimate.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is no store of this library, or holds no place yet.
    """
    opened = open_store(path)
    return (Trajectory(with_steps(opened.data)) if isinstance(opened, Estimate) else opened).table()


def rate(written: Sequence[float], now: float) -> float | None:
    """Places a second, of the last `WINDOW` that were written; None of fewer than two.

    Places are written in bursts, one a group. The time from the first burst to the last one is that of all but the first; and no more are done in an hour
    than were written in the time since the first, which is the better bound while there is a single burst.

    Args:
        written: when each place was, in seconds.
        now: the present time.
    """
    times = sorted(written)[-WINDOW:]
    if len(times) < 2 or now <= times[0]:
        return None
    span = times[-1] - times[0]
    later = sum(moment > times[0] + BURST * span for moment in times)
    return min(later / span if span else float("inf"), len(times) / (now - times[0]))


def _done(seen: Overview) -> str:
    failed = f", {len(seen.failed)} failed" if seen.failed else ""
    return f"{len(seen.done)} of {len(seen.places)} places{failed}"


def _writer(writer: SeenWriter) -> str:
    index, count = writer.part
    return f"part {index + 1} of {count}, pid {writer.pid} on {writer.host}{'' if writer.alive else ', dead'}"


def _speed(seen: Overview, now: float) -> list[tuple[str, str]]:
    """Rate and time left of a store that is not finished."""
    left = len(seen.places) - len(seen.done) - len(seen.failed)
    speed = rate(list(seen.written.values()), now)
    if not left or speed is None:
        return []
    last = duration(now - max(seen.written.values()))
    return [("rate", f"{rounded(3600 * speed)} places an hour, the last one written {last} ago"), ("time left", f"{duration(left / speed)} at this rate")]


def _findings(path: str | os.PathLike[str]) -> str:
    """Codes of the findings so far, each with the number of places."""
    opened = open_store(path)
    found = [opened.findings] if isinstance(opened, Estimate) else opened.findings()
    counts = Counter(finding.code for some in found for finding in some)
    return ", ".join(f"{code} {count}" for code, count in counts.most_common()) or "none"
