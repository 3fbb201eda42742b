"""How far a run is: a bar over iterations in a terminal or notebook, lines in the log elsewhere, and one for each group of places."""

import importlib.util
import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Any

_logger = logging.getLogger("jaxllc")
SECONDS_PER_LINE = 60.0
"""Time between two lines in the log, where there is no bar."""


def is_interactive() -> bool:
    """Whether someone looks on who can be shown a bar: in a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _tqdm() -> Any:
    """The bar of the place where it is shown, loaded when there is something to show; that of text in a notebook without widgets."""
    if "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is None:
        from tqdm import tqdm
    else:
        from tqdm.auto import tqdm
    return tqdm


class progress_bar:
    """How far the iterations of a run are, as a context that gives the function to call with iterations done.

    Args:
        total: iterations of the run.
        show: False for neither bar nor lines.
    """

    def __init__(self, total: int, show: bool) -> None:
        self._logs = show and not is_interactive()
        self._bar = _tqdm()(total=total, unit="step", unit_scale=True, leave=False) if show and not self._logs else None
        self._total, self._done, self._began = total, 0, time.monotonic()
        self._told = self._began

    def __enter__(self) -> Callable[[int], Any]:
        return self._log if self._bar is None else self._bar.update

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _log(self, count: int) -> None:
        """A line each `SECONDS_PER_LINE` seconds, where lines are wanted."""
        self._done, now = self._done + count, time.monotonic()
        if self._logs and self._done and now - self._told >= SECONDS_PER_LINE:
            self._told = now
            left = duration((self._total - self._done) * (now - self._began) / self._done)
            _logger.info("%d of %d steps done, %s left", self._done, self._total, left)


def announce(text: str, show: bool) -> None:
    """A line for what takes time without a bar: in the log, or above a bar where one can be shown and the log keeps silent."""
    _logger.info("%s", text)
    if show and is_interactive() and not _logger.isEnabledFor(logging.INFO):
        _tqdm().write(text, file=sys.stderr)


class Tally:
    """Counts places, and says in the log how many are done, how many an hour, and how long the others take.

    Args:
        total: places to do; a process that takes over those of others does more.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done, self._began = total, 0, time.monotonic()

    def add(self, count: int) -> None:
        """To be called when a group of so many places is written."""
        self._done += count
        total, hours = max(self._total, self._done), (time.monotonic() - self._began) / 3600
        left = duration(3600 * (total - self._done) * hours / self._done)
        _logger.info("%d of %d places done, %s an hour, %s left", self._done, total, rounded(self._done / hours), left)


def rounded(rate: float) -> str:
    """A rate to two digits below a hundred, else as a whole number: 0.32, 8.1, 240."""
    return f"{rate:.2g}" if rate < 99.5 else f"{rate:,.0f}".replace(",", " ")


def duration(seconds: float) -> str:
    """A time in its two largest units: 250 ms, 40 s, 3 min 20 s, 5 h 10 min, 2 d 4 h; `inf s` of one without end."""
    if 0 < seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if not math.isfinite(seconds):
        return f"{seconds} s"
    left, parts = round(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        parts.append((count, unit))
    first = next((i for i, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"
