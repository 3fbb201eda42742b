"""What `benchmarks.precision` has measured: one JSON of all parts, and the traces of each part in a file beside it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import FORMAT, RESULTS
from benchmarks.timing import machine

STAGE_FIELDS = {"calls": ("calls", "without_settings"), "costs": ("costs",), "chains": ()}


def _path(quick: bool) -> Path:
    return RESULTS / f"precision{'-quick' if quick else ''}.json"


class Kept:
    """One part of the result, read from the file and written back to it."""

    def __init__(self, name: str, quick: bool) -> None:
        self.name, self.quick = name, quick
        self._traces_path = RESULTS / f"precision{'-quick' if quick else ''}" / f"{name}.npz"
        self.part: dict[str, Any] = self.everything(quick).get(name, {})
        self._traces: dict[str, np.ndarray] = {}
        if self._traces_path.exists():
            with np.load(self._traces_path) as stored:
                self._traces = dict(stored)

    @staticmethod
    def everything(quick: bool) -> dict[str, Any]:
        """All parts by name."""
        path = _path(quick)
        return json.loads(path.read_text())["parts"] if path.exists() else {}

    def has(self, sampler: str, share: float) -> bool:
        """Whether there is a trace."""
        return f"{sampler}|{share:g}" in self._traces

    def add(self, sampler: str, share: float, llc: np.ndarray) -> None:
        """Keep a trace, `[unit, block]`."""
        self._traces[f"{sampler}|{share:g}"] = np.asarray(llc, np.float32)
        self.save()

    def of(self, sampler: str) -> list[tuple[float, np.ndarray]]:
        """All traces of a sampler, by the share of the largest step."""
        found = [(float(name.split("|")[1]), np.asarray(llc, float)) for name, llc in self._traces.items() if name.split("|")[0] == sampler]
        return sorted(found, key=lambda one: one[0])

    def forget(self, stages: Sequence[str]) -> None:
        """Of these stages."""
        for stage in stages:
            for field in STAGE_FIELDS[stage]:
                self.part.pop(field, None)
        if "chains" in stages:
            self._traces = {}

    def forget_costs(self, samplers: Sequence[str]) -> None:
        """Of these samplers alone."""
        for name in samplers:
            self.part.get("costs", {}).pop(name, None)

    def save(self) -> None:
        """Write both files."""
        self.part["machine"] = machine()
        parts = self.everything(self.quick) | {self.name: self.part}
        self._traces_path.parent.mkdir(parents=True, exist_ok=True)
        command = " ".join(["python -m benchmarks.precision", *sys.argv[1:]])
        _path(self.quick).write_text(json.dumps({"format": FORMAT, "command": command, "machine": self.part["machine"], "parts": parts}, indent=1) + "\n")
        np.savez_compressed(self._traces_path, **self._traces)  # pyright: ignore[reportArgumentType]
