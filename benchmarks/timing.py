"""How the benchmarks measure and what they keep: interleaved turns, marginal cost, workers in processes of their own, the machine, JSON."""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax

from benchmarks.report import FORMAT, RESULTS

Name = TypeVar("Name")
Run = Callable[[int], float]
"""Seconds of so many steps of each chain, divided by the chains."""

ROOT = Path(__file__).parents[1]

PAUSE = 0.2
"""Seconds between two measurements: threads of the last one may still spin for work."""


def machine() -> dict[str, Any]:
    """What was measured, on what, with what, and when."""
    model = next((line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")), platform.processor())
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("jaxllc", "jax", "jaxlib", "numpy", "flax", "blackjax")},
        "commit": subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=ROOT, capture_output=True, text=True).stdout.strip(),
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


def marginal(run: Run, num_steps: int) -> float:
    """Seconds of one step: the slope between a run of `num_steps` steps and one of a quarter of them, without what a call costs once."""
    few = num_steps // 4
    return (run(num_steps) - run(few)) / (num_steps - few)


def slope(run: Run, num_steps: int) -> Callable[[], float]:
    """The marginal microseconds of a step."""
    return lambda: 1e6 * marginal(run, num_steps)


def interleaved(runs: Mapping[Name, Callable[[], float]], repeats: int) -> dict[Name, list[float]]:
    """`repeats` figures of each, taken in turns, so that a slow minute of the machine is shared by all.

    A whole turn before them compiles and warms up, and does not count.
    """
    found: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(1 + repeats):
        for name, run in runs.items():
            time.sleep(PAUSE)
            found[name].append(run())
    return {name: figures[1:] for name, figures in found.items()}


def ratios(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios within each turn."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def cheapest(found: Mapping[Name, Sequence[float]]) -> Name:
    """Whose median is least."""
    return min(found, key=lambda name: statistics.median(found[name]))


def enough_steps(run: Run, target: float, least: int = 64) -> int:
    """A number of steps whose marginal cost is about `target` seconds a chain, found by trying more and more; at least `least`."""
    run(least)
    num_steps = least
    while (cost := marginal(run, num_steps)) * num_steps < target / 4:
        num_steps *= 4
    return max(least, 4 * round(target / cost / 4))


class Worker:
    """A process of its own that first tells of itself and then answers each line, where it is timed a `num_steps`, with the seconds that they took, divided
    by its chains.
    """

    def __init__(self, command: Sequence[str], **environment: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=ROOT, env=os.environ | environment
        )
        self.about: dict[str, Any] = self.answer()

    def __call__(self, num_steps: int) -> float:
        """Ask and wait."""
        self.ask(num_steps)
        return float(self.answer())

    def ask(self, question: int | str) -> None:
        """Have the steps run, or whatever the process answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """What the process says next.

        Raises:
            RuntimeError: it ended; with the last that it wrote on its standard error.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read()[-2000:]
        self.close()
        raise RuntimeError(f"{self._process.args} ended with exit status {status}:\n{said}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


class Rival:
    """A script of `rivals/` in its own environment, in as many processes at once with as many threads each as make it fastest.

    Args:
        environment: below `.rivals/`.
        script: in `rivals/`.
        arguments: of the script, after the number of threads.
        arrangements: processes and threads to try, each pair once.
        target: seconds of a timed run; the number of steps follows from it.
        least: steps of a timed run at least.

    Raises:
        FileNotFoundError: the environment was not built.
    """

    def __init__(self, environment: str, script: str, *arguments: str, arrangements: Sequence[tuple[int, int]], target: float = 1.2, least: int = 64) -> None:
        python = ROOT / ".rivals" / environment / "bin" / "python"
        if not python.exists():
            raise FileNotFoundError(f"there is no {python}; build the rivals' environments with `make rivals`.")
        script = str(ROOT / "benchmarks" / "rivals" / script)
        tried: dict[tuple[int, int], float] = {}
        started: dict[tuple[int, int], list[Worker]] = {}
        for processes, threads in arrangements:
            command = [str(python), script, str(threads), *arguments]
            started[processes, threads] = self._workers = [Worker(command, OMP_NUM_THREADS=str(threads)) for _ in range(processes)]
            steps = enough_steps(self, target / 2 / self._workers[0].about["chains"])
            tried[processes, threads] = 1e6 * marginal(self, steps)
        fastest = min(tried, key=lambda pair: tried[pair])
        for pair, workers in started.items():
            self._workers = workers
            if pair != fastest:
                self.close()
        self._workers = started[fastest]
        about = self._workers[0].about
        self.num_steps = max(least, 4 * round(target / about["chains"] / tried[fastest] * 1e6 / 4 / len(self._workers)))
        self.about = about | {"processes": fastest[0], "steps": self.num_steps, "tried_us": {f"{p} × {t}": us for (p, t), us in tried.items()}}

    def __call__(self, num_steps: int) -> float:
        """Seconds of the slowest of the processes, which run at once, divided by the chains of all."""
        for worker in self._workers:
            worker.ask(num_steps)
        return max(float(worker.answer()) for worker in self._workers) / len(self._workers)

    def close(self) -> None:
        """End its processes."""
        for worker in self._workers:
            worker.close()


def row(what: str, goal: float, measured: float, *, at_most: bool, **more: Any) -> dict[str, Any]:
    """One line of a table of goals."""
    return {"what": what, "goal": goal, "measured": measured, "at_most": at_most, **more}


def faster(what: str, found: Mapping[str, Sequence[float]], ours: str, other: str, goal: float) -> dict[str, Any]:
    """How many times our cost is theirs."""
    return _against(what, found, ours, other) | row(what, goal, ratios(found[other], found[ours]), at_most=False)


def costs(what: str, found: Mapping[str, Sequence[float]], ours: str, other: str, goal: float) -> dict[str, Any]:
    """How many times theirs our cost is."""
    return _against(what, found, ours, other) | row(what, goal, ratios(found[ours], found[other]), at_most=True)


def _against(what: str, found: Mapping[str, Sequence[float]], ours: str, other: str) -> dict[str, Any]:
    medians = {"ours_us": statistics.median(found[ours]), "other_us": statistics.median(found[other])}
    return {"what": what, "goal": None, "measured": None, "at_most": None, "ours": ours, "other": other, **medians}


def save(name: str, result: Mapping[str, Any], quick: bool) -> Path:
    """Write `results/NAME.json`, or `NAME-quick.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{'-quick' if quick else ''}.json"
    command = " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]])
    path.write_text(json.dumps({"format": FORMAT, "command": command, "machine": machine(), **result}, indent=1) + "\n")
    return path
