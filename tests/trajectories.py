"""Small training runs on `problems.Quadratic`, and mappings that remember what was read of them."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from problems import Quadratic, quadratic_loss, shifted

import jaxllc
from jaxllc.store import Store

PROBLEM = Quadratic()
RUN = {10 * i: shifted(PROBLEM.params, 0.02 * i) for i in range(5)}
RUNS = {name: {step: shifted(params, by) for step, params in RUN.items()} for name, by in (("seed 7", 0.0), ("seed 1", 0.3), ("far", 2.0))}
"""Their number and that of their steps differ, so that no two axes can be mistaken."""
SHORT = dict(sampler=jaxllc.SGLD(2e-3), nbeta=50.0, localization=3.0, num_chains=4, num_draws=60, num_burn_in=10, progress=False)


def follow(checkpoints=RUN, data=PROBLEM.data, **options):
    """A short trajectory."""
    return jaxllc.trajectory(quadratic_loss, checkpoints, data, **({"key": jax.random.key(0)} | SHORT | options))


def draws(traj):
    """Of the coefficient."""
    return traj.data["posterior/llc"].values


class Counting(dict):
    """Checkpoints that remember which of them were read."""

    def __init__(self, *args):
        super().__init__(*args)
        self.read = []

    def __getitem__(self, step):
        self.read.append(step)
        return super().__getitem__(step)


def stop_before(count, monkeypatch):
    """Make stores fail, as at Control-C, when so many places are written."""
    write, written = Store.write, []

    def failing(self, place, *rest):
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(place)
        write(self, place, *rest)

    monkeypatch.setattr(Store, "write", failing)


def stopped(count, monkeypatch, checkpoints=RUN, **options):
    """A run that is stopped when so many places are written."""
    with monkeypatch.context() as patch:
        stop_before(count, patch)
        with pytest.raises(KeyboardInterrupt):
            follow(checkpoints, **options)


def killed_before(place, call):
    """The return code of a process that kills itself by SIGKILL before it writes a place; `call` is a call of `follow`, and `place` a tuple."""
    code = (
        "import jax; jax.config.update('jax_num_cpu_devices', 4)\n"
        "import os, signal, sys; sys.path.insert(0, 'tests')\n"
        "from trajectories import RUNS, follow\n"
        "from jaxllc.store import Store\n"
        "write = Store.write\n"
        "def fatal(self, place, *rest):\n"
        f"    if tuple(place) == {place!r}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(self, place, *rest)\n"
        "Store.write = fatal\n"
        f"{call}\n"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], env=os.environ | {"PYTHONWARNINGS": "ignore"}).returncode
