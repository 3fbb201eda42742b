"""Runs of several real processes, for the tests of what they share."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

PROLOGUE = """
import os, signal, sys, threading, time
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", {devices})
{distributed}
sys.path.insert(0, "tests")
import numpy as np
import jaxllc
from trajectories import PROBLEM, RUN, draws, follow
"""

DISTRIBUTED = """
from jaxllc.launch import Cluster, join
join(Cluster("127.0.0.1:{port}", {count}, {index}))
"""


def start(body, *, devices=2, distributed=""):
    """A process that runs some lines of Python after the prologue."""
    code = PROLOGUE.format(devices=devices, distributed=distributed) + body
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_together(count, body, *, devices=2):
    """As many processes of `jax.distributed` on the loopback, with `INDEX` of each; `body` may be one for each."""
    bodies = [body] * count if isinstance(body, str) else body
    port = free_port()
    return [
        start(f"INDEX = {index}\n{lines}", devices=devices, distributed=DISTRIBUTED.format(port=port, count=count, index=index))
        for index, lines in enumerate(bodies)
    ]


def free_port():
    """A port on the loopback that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ended(process, timeout=240):
    """Its return code, after its output where that is not 0."""
    out, err = process.communicate(timeout=timeout)
    if process.returncode:
        sys.stderr.write(f"{out}\n{err[-3000:]}\n")
    return process.returncode
