"""The command line in processes of its own, on the example of `notebooks/batch`."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import zarr

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "notebooks" / "batch" / "run.toml"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
LONG = ("--set", "group_size=1", "--set", "settings.num_draws=20000")
"""Changes that make the example last some seconds, in groups of one."""


def jaxllc(*arguments, where=ROOT):
    """The command, when it has ended."""
    return subprocess.run([sys.executable, "-m", "jaxllc", *map(str, arguments)], cwd=where, capture_output=True, text=True, env=ENVIRONMENT, timeout=240)


def run(store, *arguments, config=EXAMPLE):
    """`jaxllc run` of the example on two devices, when it has ended."""
    return jaxllc("run", config, "--store", store, "--devices", 2, *arguments)


class Running:
    """`jaxllc run` of the example, while it runs."""

    def __init__(self, store, *arguments, config=EXAMPLE):
        command = [sys.executable, "-m", "jaxllc", "run", config, "--store", store, "--devices", 2, *arguments]
        self.process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        self._watch = threading.Timer(240, self.process.kill)
        self._watch.start()

    def until(self, words):
        """Read its log up to a line with these words."""
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if words in line:
                return self
        raise AssertionError(f"no line with {words!r}, but {''.join(lines)}")

    def ended(self):
        """Its exit code, and the rest of its log."""
        with self.process:
            rest = self.process.stderr.read()
        self._watch.cancel()
        return self.process.returncode, rest


def arrays(store):
    """All numbers of a store, by name."""
    return {name: array[...] for name, array in zarr.open_group(store, mode="r").members(max_depth=None) if isinstance(array, zarr.Array)}


def assert_same_numbers(store, other):
    """To the last bit, in every array but the notes, which have the times of writing."""
    mine, others = arrays(store), arrays(other)
    assert mine.keys() == others.keys()
    for name in mine.keys() - {"note"}:
        np.testing.assert_array_equal(mine[name], others[name], err_msg=name)
