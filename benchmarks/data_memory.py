"""What data cost in memory beside the arrays that were handed over, in copies of them.

    python -m benchmarks.data_memory [--mebibytes 2048] [--quick]

Each line is a process of its own, with so many host devices, that runs a trajectory into a store: once on some of the rows, so that everything is
compiled, and once on all of them. Counted is the peak of its anonymous memory (of which pages of a memory-mapped file are no part) in the second run,
less what it held before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxllc
from benchmarks.report import data_copies
from benchmarks.timing import ROOT, save

WIDTH = 256
"""Float32 numbers of an example: a kibibyte."""
BATCH_SIZE = 64
CASES: Mapping[str, tuple[int, str, str]] = {
    "`InMemory`, one device": (1, "InMemory", "in memory"),
    "`InMemory`, eight host devices": (8, "InMemory", "in memory"),
    "`InMemory`, memory-mapped, eight host devices": (8, "InMemory", "memory-mapped"),
    "`Stream`, memory-mapped, one device": (1, "Stream", "memory-mapped"),
}
"""Devices, how the data are held, and what is handed over, by what a line says."""


def loss_fn(params: jax.Array, batch: jax.Array) -> jax.Array:
    """Of a linear model, by example."""
    return 0.5 * jnp.square(batch @ params)


def anonymous_bytes() -> int:
    """What the process holds in memory and could not be read again from a file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def peak_of(call: Callable[[], Any]) -> int:
    """The most that the process holds during a call, looked at every two milliseconds, less what it held before."""
    before, done, seen = anonymous_bytes(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(seen) - before


def measure(devices: int, kind: str, source: str, rows: int) -> float:
    """Copies of the data that a run adds, in this process."""
    jax.config.update("jax_num_cpu_devices", devices)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        whole = np.lib.format.open_memmap(path, "w+", np.float32, (rows, WIDTH))
        for start in range(0, rows, 2**16):
            whole[start : start + 2**16] = np.random.default_rng(start).normal(size=whole[start : start + 2**16].shape)
        whole = np.load(path) if source == "in memory" else np.load(path, mmap_mode="r")

        def run(rows: np.ndarray, name: str) -> None:
            data = jaxllc.Stream.of(rows, BATCH_SIZE) if kind == "Stream" else jaxllc.InMemory.of(rows, BATCH_SIZE)
            jaxllc.trajectory(
                loss_fn, {0: jnp.ones(WIDTH), 1: jnp.zeros(WIDTH)}, data, key=jax.random.key(0), sampler=jaxllc.SGLD(1e-7), nbeta=100.0,
                num_draws=50, num_burn_in=0, store=Path(folder) / name, group_size=1, progress=False,
            )  # fmt: skip

        run(whole[: rows // 16], "some")
        return peak_of(lambda: run(whole, "all")) / whole.nbytes


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=2048, help="of the data")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of them")
    parser.add_argument("--one", nargs=3, metavar=("DEVICES", "KIND", "SOURCE"), help="measure in this process, and print")
    options = parser.parse_args()
    rows = options.mebibytes * 2**20 // (4 * WIDTH)
    if options.one:
        devices, kind, source = options.one
        print(json.dumps(measure(int(devices), kind, source, rows)))
        return
    size = options.mebibytes // 16 if options.quick else options.mebibytes
    lines = [{"what": what, "copies": in_a_process(case, size)} for what, case in CASES.items()]
    result = {"mebibytes": size, "rows": lines}
    print(data_copies(result))
    print(save("data_memory", result, options.quick))


def in_a_process(case: Sequence[Any], mebibytes: int) -> float:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data_memory", "--mebibytes", str(mebibytes), "--one", *map(str, case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ})
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
