"""How the benchmarks measure and what they keep: interleaved repeats, marginal cost, the machine, JSON."""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

Name = TypeVar("Name")

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What was measured on, with what, and when."""
    model = next((line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")), platform.processor())
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("jaxllc", "jax", "jaxlib", "numpy", "flax", "blackjax")},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call, to the end of all work on the devices."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def interleaved(runs: Mapping[Name, Callable[[], float]], repeats: int) -> dict[Name, list[float]]:
    """`repeats` figures of each, taken in turns, so that a slow minute of the machine is shared by all."""
    found: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(run())
    return found


def ratios(above: list[float], below: list[float]) -> float:
    """The median of the ratios within each turn."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


class Rival:
    """A script that runs in a virtual environment of its own and answers each line `num_steps` with the seconds that they took."""

    def __init__(self, environment: str, script: str, *arguments: str) -> None:
        here = Path(__file__).parent
        python = here.parent / ".rivals" / environment / "bin" / "python"
        if not python.exists():
            raise FileNotFoundError(f"there is no {python}; build the rivals' environments with `make rivals`.")
        self._process = subprocess.Popen(
            [str(python), str(here / "rivals" / script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.versions = self._answer()

    def __call__(self, num_steps: int) -> float:
        """Seconds of a run of `num_steps` steps of each chain, divided by the chains."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{num_steps}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"{self._process.args} ended with exit status {self._process.wait()}; run it by hand to see why.")

    def close(self) -> None:
        """End the process."""
        self._process.kill()


def marginal(run: Callable[[int], float], num_steps: int) -> float:
    """Seconds of one step: the slope between a run of `num_steps` steps and one of a quarter of them, without what a call costs once."""
    few = num_steps // 4
    return (run(num_steps) - run(few)) / (num_steps - few)


def save(name: str, result: Mapping[str, Any], quick: bool) -> Path:
    """Write `results/NAME.json`, or `NAME-quick.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{'-quick' if quick else ''}.json"
    path.write_text(json.dumps({"machine": machine(), "command": " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]]), **result}, indent=1) + "\n")
    return path
