"""A long batch run: what it takes beside the sampling, whether its memory grows, and two processes beside one.

    python -m benchmarks.batch [--checkpoints 1000] [--quick]

Orbax checkpoints of a deep linear net of 70 000 weights, 8 chains of 250 iterations at each, a sixth of the default, into a store. Each run is a process
of its own. Beside the share of its time in which no compiled program runs stands the time of the same groups sampled from memory, with nothing read or
written, before and after.
"""

import argparse
import itertools
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

import jaxllc
from benchmarks.cases import deep_linear
from benchmarks.overhead import TimedMapping, Timers, patched
from benchmarks.report import RESULTS, goals
from benchmarks.timing import ROOT, ratios, row, save
from jaxllc.checkpoints import OrbaxCheckpoints
from jaxllc.estimator import estimate_group
from jaxllc.grouping import suitable_group_size
from jaxllc.models.train import Recipe, train
from jaxllc.plan import make_plan
from jaxllc.reading import overview

WIDTHS, BATCH_SIZE, NUM_CHAINS = (132, 132, 132, 132, 132), 64, 8
SETTINGS: Mapping[str, Any] = dict(num_chains=NUM_CHAINS, num_draws=200, num_burn_in=50, nbeta=1000.0)
BARE = 40
"""Groups that are sampled from memory, half of them before the run and half after it."""
SETTLED = 10
"""Checkpoints after which memory shall not grow."""
CORES = "BENCHMARK_CORES"
"""The variable that tells a process its cores."""
TURNS = 3
"""Of one process, and of two."""


class Memory(logging.Handler):
    """Megabytes that the process holds at each line of the log that says how many places are done."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note the place and the memory."""
        if record.msg.startswith("%d of %d places done") and isinstance(record.args, tuple):
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.seen.append((int(record.args[0]), int(fields["VmRSS"].split()[0]) / 1024))  # pyright: ignore[reportArgumentType]

    def growth(self) -> float:
        """The share by which the second half of the run held more than the first checkpoints, once settled."""
        settled = [megabytes for done, megabytes in self.seen if done >= SETTLED]
        count = max(1, len(settled) // 20)
        return statistics.median(settled[-count:]) / statistics.median(settled[:count]) - 1


class First(TimedMapping):
    """The first checkpoints of a run, each read when it is asked for, the time of it counted."""

    def __init__(self, of: Mapping[int, Any], count: int, timers: Timers) -> None:
        super().__init__(of, timers)
        self._steps = sorted(of)[:count]

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def train_run(folder: Path, count: int) -> None:
    """So many checkpoints of the net, a step from one to the next."""
    case = deep_linear(WIDTHS, BATCH_SIZE, 0)
    recipe = Recipe(case.loss_fn, lambda key, arrays: jax.tree.map(lambda leaf: leaf[:64], arrays), case.data, optax.sgd(1e-6))
    train(recipe, case.params, key=jax.random.key(0), steps=list(range(count)), directory=folder / "run")


def sample_run(folder: Path, store: str, count: int, part: tuple[int, int], whole: bool) -> dict[str, Any]:
    """A trajectory of the first checkpoints into a store, or a part of it; with `whole`, its memory, and where its time went."""
    case, timers, memory = deep_linear(WIDTHS, BATCH_SIZE, 0), Timers(), Memory()
    checkpoints = First(OrbaxCheckpoints(folder / "run", like=case.params, item="params"), count, timers)
    settings, key = jaxllc.Settings(jaxllc.SGLD(1e-6), batch_size=BATCH_SIZE, **SETTINGS), jax.random.key(0)
    data = jaxllc.InMemory.of(case.data, BATCH_SIZE)
    plan = make_plan(case.loss_fn, {"w": case.params}, data, settings, key=key, free=None, probes={}, mesh=None)
    size = suitable_group_size(plan, case.params, count) if whole else 1

    def bare() -> list[float]:
        """Seconds of a checkpoint in groups that are sampled from memory; the first group compiles and does not count."""
        found = []
        for _ in range(1 + BARE // 2):
            began = time.perf_counter()
            estimate_group(plan, dict(enumerate([case.params] * size)))
            found.append((time.perf_counter() - began) / size)
        return found[1:]

    logging.getLogger("jaxllc").addHandler(memory)
    logging.getLogger("jaxllc").setLevel(logging.INFO)
    alone = bare() if whole else []
    with patched(timers):
        began = time.perf_counter()
        jaxllc.trajectory(case.loss_fn, checkpoints, data, settings, key=key, store=store, part=part, group_size=size, progress=False)
        wall = time.perf_counter() - began
    if not whole:
        return {}
    alone = statistics.median(alone + bare()) * count
    return {"wall": wall, "seconds": dict(timers.seconds), "alone": alone, "group_size": size, "growth": memory.growth(), "megabytes": memory.seen[::50]}


def read_run(store: str) -> dict[str, float]:
    """Seconds in which a result is read, and pictured."""
    from matplotlib import pyplot

    found, began = {}, time.perf_counter()
    traj = jaxllc.open(store)
    for name in ("table", "stages", "plot"):
        getattr(traj, name)()
        found[name] = time.perf_counter() - began
        began = time.perf_counter()
    pyplot.close("all")
    return found


def rate(folder: Path, name: str, count: int, processes: int) -> float:
    """Checkpoints a second of so many processes on two cores, from the first checkpoint that each has written to the last of all."""
    store = str(folder / f"{name}.zarr")
    cores = sorted(os.sched_getaffinity(0))[:2]
    shares = [cores] if processes == 1 else [[core] for core in cores]
    started = [start(share, "sample", str(folder), store, str(count), f"{i}/{processes}", "part") for i, share in enumerate(shares)]
    for process in started:
        answer(process)
    written = sorted(overview(store).written.values())
    shutil.rmtree(store)
    return (count - processes) / (written[-1] - written[processes - 1])


def start(cores: Sequence[int] | None, *arguments: str) -> subprocess.Popen[str]:
    """A process of this module on some cores, as a scheduler gives them, with as many host devices; None takes two."""
    command = [sys.executable, "-m", "benchmarks.batch", *arguments]
    environment = os.environ | {"DEVICES": str(len(cores or (0, 1))), CORES: ",".join(map(str, cores or ()))}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> Any:
    """What a process says when it ends well."""
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with exit status {process.returncode}.")
    return json.loads(said.splitlines()[-1])


def main() -> None:
    """Measure, print the lines of the table, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--parts", nargs="+", choices=("run", "rates"), default=("run", "rates"), help="the others are kept as they were measured")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    count, few = (60, 20) if asked.quick else (asked.checkpoints, 100)
    path = RESULTS / "batch.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() and not asked.quick else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        answer(start(None, "train", temporary, str(count if "run" in asked.parts else few)))
        if "run" in asked.parts:
            store = str(folder / "whole.zarr")
            run = answer(start(None, "sample", temporary, store, str(count), "0/1", "whole"))
            kept |= {"run": {"checkpoints": count, **run}, "reading": answer(start(None, "read", store))}
        if "rates" in asked.parts:
            turns = range(1 if asked.quick else TURNS)
            rates = [{str(processes): rate(folder, f"{processes}-{turn}", few, processes) for processes in (1, 2)} for turn in turns]
            kept |= {"rates": rates}
    found = rows(kept["run"], kept["reading"], kept["rates"])
    print(goals(found))
    print(save("batch", {"rows": found, **{part: kept[part] for part in ("run", "reading", "rates")}}, asked.quick))


def rows(run: Mapping[str, Any], reading: Mapping[str, float], rates: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """The lines of the table."""
    name = f"{run['checkpoints']} checkpoints of {sum(a * b for a, b in itertools.pairwise(WIDTHS)):,} weights"
    programs = sum(seconds for part, seconds in run["seconds"].items() if part.startswith(("chain-steps", "start")))
    one, two = ([turn[processes] for turn in rates] for processes in ("1", "2"))
    return [
        row(f"{name}: share of the time in which the host waits for no program", 0.05, 1 - (programs / run["wall"]), at_most=True),
        row(f"{name}: time beside that of sampling from memory, less one", 0.05, run["wall"] / run["alone"] - 1, at_most=True),
        row(f"{name}: growth of memory after checkpoint {SETTLED}", 0.05, run["growth"], at_most=True),
        row("two processes, a core each: checkpoints a second beside one process of two devices", 0.95, ratios(two, one), at_most=False),
        row(f"{name}: seconds of table, stages and plot", 30.0, sum(reading.values()), at_most=True),
    ]


def work(what: str, *arguments: str) -> Any:
    """What a process of its own does."""
    if what == "train":
        folder, count = arguments
        return train_run(Path(folder), int(count))
    if what == "read":
        return read_run(*arguments)
    folder, store, count, part, kind = arguments
    index, processes = map(int, part.split("/"))
    return sample_run(Path(folder), store, int(count), (index, processes), kind == "whole")


if __name__ == "__main__":
    if cores := os.environ.get(CORES):
        os.sched_setaffinity(0, set(map(int, cores.split(","))))
    if len(sys.argv) > 1 and sys.argv[1] in ("train", "sample", "read"):
        print(json.dumps(work(*sys.argv[1:])))
    else:
        main()
