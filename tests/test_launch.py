"""One process of many: which share it takes, and that it depends on no other."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from batch_runs import ENVIRONMENT, EXAMPLE, LONG, ROOT, Running, assert_same_numbers, jaxllc, run

from jaxllc import cli, launch
from jaxllc.config import RunConfig


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_part_is_counted_from_one():
    assert cli._part("3/8") == (2, 8)
    assert cli._part("1/1") == (0, 1)
    for text in ("0/8", "9/8", "3", "3/", "a/b", "-1/2", "1/0"):
        with pytest.raises(cli.argparse.ArgumentTypeError, match=re.escape(f"{text!r} is no part; write 3/8")):
            cli._part(text)


def test_a_part_reaches_the_trajectory(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(launch, "trajectory", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr(launch, "overview", lambda _: ({}, [], [], {}, {}, []))
    config = RunConfig.from_toml(EXAMPLE).with_store(str(tmp_path / "llc.zarr"))
    launch.run(config, part=(2, 8), progress=False)
    launch.run(config, progress=False)
    assert [call.get("part") for call in calls] == [(2, 8), None]
    assert calls[0]["store"] == str(tmp_path / "llc.zarr")


def test_two_parts_are_the_whole(tmp_path):
    """At once: each ends with 0 when nothing is left for it, and the numbers are those of one process."""
    whole, shared = tmp_path / "whole.zarr", tmp_path / "shared.zarr"
    assert run(whole, *LONG).returncode == 0
    parts = [Running(shared, *LONG, "--part", f"{part}/2") for part in (1, 2)]
    logs = [part.ended() for part in parts]
    assert [code for code, _ in logs] == [0, 0], logs
    assert sum(log.count("places done") for _, log in logs) == 9
    assert min(log.count("places done") for _, log in logs) > 0
    assert_same_numbers(whole, shared)


def test_two_processes_of_a_cluster_are_the_whole(tmp_path):
    """The same by `jax.distributed`; both end with 0 though no one waits for the other."""
    whole, shared, port = tmp_path / "whole.zarr", tmp_path / "shared.zarr", free_port()
    assert run(whole, *LONG).returncode == 0
    cluster = ("--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--process-id")
    logs = [process.ended() for process in [Running(shared, *LONG, *cluster, index) for index in range(2)]]
    assert [code for code, _ in logs] == [0, 0], logs
    assert "9 of 9 places of" in logs[0][1]
    assert_same_numbers(whole, shared)


def test_parts_and_distributed_exclude_each_other(tmp_path):
    refused = run(tmp_path / "llc.zarr", "--part", "1/2", "--distributed")
    assert refused.returncode == 2
    assert "not allowed with" in refused.stderr
    assert "--distributed, which is missing" in jaxllc("run", EXAMPLE, "--num-processes", 2).stderr


ALONE = ("--distributed", "--num-processes", 1, "--process-id", 0)


def test_sigterm_reaches_a_process_of_a_cluster(tmp_path):
    """JAX's preemption service would swallow it. Seen to fail with that service left on."""
    running = Running(tmp_path / "llc.zarr", *LONG, *ALONE, "--coordinator", f"127.0.0.1:{free_port()}").until("1 of 9 places done")
    asked = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    code, log = running.ended()
    assert code == 75, log
    assert time.monotonic() - asked < 15


def test_an_error_in_a_cluster_ends_the_process(tmp_path):
    failed = run(tmp_path / "llc.zarr", *ALONE, "--coordinator", f"127.0.0.1:{free_port()}", "--set", 'data="regression:none"')
    assert failed.returncode == 1
    assert "data: the module 'regression' has no 'none'" in failed.stderr


MEMBER = """
import sys, time
import jax
from jaxllc.launch import Cluster, join

port, index, dies, seconds = map(int, sys.argv[1:])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
join(Cluster(f"127.0.0.1:{port}", 2, index))
print(jax.process_count(), jax.process_index(), len(jax.local_devices()), flush=True)
time.sleep(300 if dies else seconds)
mesh = jax.sharding.Mesh(jax.local_devices(), ("x",))
total = jax.jit(jax.shard_map(lambda x: jax.lax.psum(x, "x"), mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P()))
print(int(jax.device_get(total(jax.device_put(jax.numpy.arange(2), jax.NamedSharding(mesh, jax.P("x")))))[0]), flush=True)
"""


@pytest.mark.parametrize("dies", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_process_dies_with_another(dies):
    """Of the second one's death the first would hear when its heartbeats have been missed long enough.

    Seen to fail without the shutdown in `join`, without recoverable tasks, and with Gloo, which looks for the service when two devices first add up.
    """
    port, seconds = free_port(), (5, launch.HEARTBEAT_TIMEOUT + 15)[dies]
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, *map(str, (port, index, int(index == dies), seconds))],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=ENVIRONMENT,
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        assert [member.stdout.readline().split() for member in members] == [["2", str(index), "2"] for index in range(2)]
        members[dies].kill()
        assert members[1 - dies].communicate(timeout=120)[0] == "1\n"
        assert members[1 - dies].returncode == 0
    finally:
        for member in members:
            with member:
                member.kill()


def test_a_process_alone_uses_the_cores_it_may(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 7}, raising=False)
    assert cli._cores() == 3
