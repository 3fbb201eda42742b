"""Locks and claims of writers, and whether a writer lives."""

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from trajectories import RUN

from jaxllc import signs, writers
from jaxllc.locations import Location
from jaxllc.results import Place
from jaxllc.signs import Signs, Writer
from jaxllc.writers import InUseError, Membership

PLACES = [Place(None, step) for step in RUN]


@pytest.mark.parametrize("dead", [False, True], ids=["fresh", "held by a dead one"])
@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_one_writer_at_a_time_holds_a_lock(kind, dead, tmp_path, monkeypatch):
    """Six that try at once, with a system that is slow to tell who lives. Seen to fail where the lock of a dead one is removed before it is taken."""
    location = Location(tmp_path / "llc.zarr" if kind == "folder" else f"memory://{tmp_path.name}-{dead}/llc.zarr")
    monkeypatch.setattr(writers, "POLL", 0.01)
    living = Membership.living

    def slow(self):
        found = living(self)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(Membership, "living", slow)
    if dead:
        location.beside("jaxllc").create("layout.1", "one who died")
    inside, most, errors = [], [], []

    def work(index):
        try:
            with Membership(location, (index, 6)) as member, member.alone("layout"):
                inside.append(index)
                most.append(len(inside))
                time.sleep(0.03)
                inside.remove(index)
        except Exception as error:  # of a thread, to be seen
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert most == [1] * 6
    if kind == "folder" and not dead:
        assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_beside_a_store(tmp_path):
    """By the last of its writers."""
    location = Location(tmp_path / "llc.zarr")
    with Membership(location, (0, 2)) as first:
        with Membership(location, (1, 2)) as second, second.alone("layout"):
            second.take(second.untaken(PLACES), 2)
        with first.alone("layout"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_waiting_writer_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(writers, "TELL", 0.0)
    monkeypatch.setattr(writers, "POLL", 0.01)
    location = Location(tmp_path / "llc.zarr")
    caplog.set_level("INFO", logger="jaxllc")
    with Membership(location, (0, 2)) as first, Membership(location, (1, 2)) as second:
        lock = first.alone("layout")
        lock.__enter__()
        waiting = threading.Thread(target=lambda: second.alone("layout").__enter__())
        waiting.start()
        time.sleep(0.1)
        lock.__exit__(None, None, None)
        waiting.join()
    assert f"waiting for another process to lay out {location}" in caplog.text


def test_a_writer_of_another_container_is_not_dead_since_its_number_is_not_here():
    """Of the same host name: numbers of processes count within one container. One of this machine whose number is gone is."""
    here = Writer.here((0, 1))
    gone = dataclasses.replace(here, pid=2**22 + 1, token="another")
    assert Signs().is_alive(gone) is False
    assert Signs().is_alive(dataclasses.replace(gone, machine="another container")) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell")
def test_a_killed_writer_that_its_parent_has_not_looked_at_is_dead():
    """It keeps its number until then. Seen to count as alive for as long as it gave no sign."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    writer = dataclasses.replace(Writer.here((0, 1)), pid=process.pid, started=signs._started(process.pid))
    assert Signs().is_alive(writer)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays
    assert Signs().is_alive(writer) is False
    process.wait()


def test_a_writer_that_came_in_between_is_not_removed(tmp_path, monkeypatch):
    """Two that find a dead one of their part: the second sees the first, and is refused."""
    location = Location(tmp_path / "llc.zarr")
    folder, file = location.beside("jaxllc"), "writers/1-of-1"
    dead = dataclasses.replace(Writer.here((0, 1)), pid=2**22 + 1, token="dead")
    folder.create(file, dead.text())
    alive = Signs.is_alive

    def comes_in_between(self, writer):
        found = alive(self, writer)
        if writer.token == "dead":
            folder.write(file, dataclasses.replace(Writer.here((0, 1)), token="first").text())
        return found

    monkeypatch.setattr(Signs, "is_alive", comes_in_between)
    signs.TOKENS.add("first")
    try:
        with pytest.raises(InUseError), Membership(location, (0, 1)):
            pass
    finally:
        signs.TOKENS.discard("first")
    assert "first" in folder.read(file)
