"""What a first call costs: compilation, start and import, each in fresh processes, and how often the engine's program is compiled."""

import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.timing import ROOT, ratios, row

ESTIMATE = """
import time, jax, tqdm.auto, xarray  # whose import is no compilation
from benchmarks.cases import CASES
import jaxllc
case = jax.block_until_ready(CASES[{name!r}]())
def run():
    began = time.perf_counter()
    jaxllc.estimate(case.loss_fn, case.params, case.data, key=jax.random.key(0), batch_size=case.batch_size, num_draws=16, num_burn_in=0, progress=False)
    return time.perf_counter() - began
print(run(), run())
"""
CALIBRATION = """
import jax, jaxllc
from benchmarks.cases import CASES
case, found = CASES[{name!r}](), []
def listen(event, seconds, **about):
    if event.endswith("backend_compile_duration"):
        found.append(about["fun_name"])
jax.monitoring.register_event_duration_secs_listener(listen)
calibration = jaxllc.calibrate(case.loss_fn, case.params, case.data, key=jax.random.key(0), budget={budget})
jaxllc.estimate(case.loss_fn, case.params, case.data, calibration.settings, key=jax.random.key(1), progress=False)
print(sum("_block" in name for name in found))
"""
IMPORT = """
import time
began = time.perf_counter()
import {name}
print(time.perf_counter() - began)
"""
BUDGETS = {"small": 5.0, "transformer": 60.0}
"""Seconds, small so that a run ends soon; both nets then get SGLD."""
UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


def compilation_rows(names: list[str], repeats: int) -> list[dict[str, Any]]:
    """All rows of the part `compilation`.

    Args:
        names: of `cases.CASES`.
        repeats: fresh processes, of which the median is taken; twice as many and one for imports.
    """
    rows = [_compile_row(name, repeats) for name in names]
    rows += [_first_row(repeats), _warm_row(repeats), _import_row(2 * repeats - 1)]
    return rows + [_programs_row(name, budget) for name, budget in BUDGETS.items()]


def _compile_row(name: str, repeats: int) -> dict[str, Any]:
    """A first estimate less a second one in the same process: tracing and compilation, with the step size found as well."""
    found = [first - second for first, second in (_seconds(ESTIMATE.format(name=name), UNCACHED) for _ in range(repeats))]
    return row(f"{_label(name)}: compilation of an estimate, seconds", 5.0, statistics.median(found), at_most=True, seconds=found)


def _first_row(repeats: int) -> dict[str, Any]:
    """A whole first estimate, imports aside."""
    found = [_seconds(ESTIMATE.format(name="transformer"), UNCACHED)[0] for _ in range(repeats)]
    return row("transformer: a first estimate in a fresh process, seconds", 4.0, statistics.median(found), at_most=True, seconds=found)


def _warm_row(repeats: int) -> dict[str, Any]:
    """The same where an earlier process left its programs in a cache on disk."""
    with tempfile.TemporaryDirectory() as folder:
        cached = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        found = [_seconds(ESTIMATE.format(name="transformer"), cached)[0] for _ in range(1 + repeats)][1:]
    return row("transformer: a first estimate with compiled programs on disk, seconds", 1.5, statistics.median(found), at_most=True, seconds=found)


def _import_row(repeats: int) -> dict[str, Any]:
    """The import of jaxllc beside that of jax, in turns."""
    found: dict[str, list[float]] = {"jaxllc": [], "jax": []}
    for _ in range(1 + repeats):
        for name, seconds in found.items():
            seconds.extend(_seconds(IMPORT.format(name=name), {}))
    ours, theirs = (seconds[1:] for seconds in found.values())
    return row("import jaxllc ÷ import jax", 1.3, ratios(ours, theirs), at_most=True, seconds=found)


def _programs_row(name: str, budget: float) -> dict[str, Any]:
    """How often the engine's loop is compiled for a calibration and the run after it."""
    count = _seconds(CALIBRATION.format(name=name, budget=budget), UNCACHED)[0]
    return row(f"{_label(name)}: compilations of the engine's loop for a calibration and the run after it", 1.0, count, at_most=True)


def _label(name: str) -> str:
    from benchmarks.cases import CASES  # which sets the devices of this process

    return CASES[name]().name


def _seconds(script: str, environment: dict[str, str]) -> list[float]:
    """What a script prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()[-2:]]
