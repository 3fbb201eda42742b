"""Several real processes on one store: shares, deaths, second writers."""

import json
import signal
import time

import numpy as np
import pytest
from processes import ended, start, start_together
from trajectories import RUN, draws, follow, stopped

import jaxllc
from jaxllc import signs
from jaxllc.locations import Location
from jaxllc.store import Store
from jaxllc.writers import InUseError, Membership, Writer


def follow_in(store, extra=""):
    return f"traj = follow(store={str(store)!r}, group_size=1{extra})\n"


def test_two_processes_of_jax_share_the_work(tmp_path):
    """With two devices each: the numbers of one process and one device; each writes some places, and process 0 returns when all are written."""
    store = tmp_path / "llc.zarr"
    check = "assert len(traj.table()) == 5 or INDEX\nos._exit(0)\n"
    assert [ended(process) for process in start_together(2, follow_in(store) + check)] == [0, 0]
    np.testing.assert_allclose(draws(jaxllc.open(store)), draws(follow()), rtol=1e-5, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["llc.zarr"]


def test_eight_devices_of_one_process(tmp_path):
    """The numbers of four; a mesh of checkpoints and chains."""
    store = tmp_path / "llc.zarr"
    assert ended(start(f"follow(store={str(store)!r}, group_size=2, num_chains=4)\nassert jax.device_count() == 8\n", devices=8)) == 0
    np.testing.assert_allclose(draws(jaxllc.open(store)), draws(follow()), rtol=1e-5, atol=1e-4)


def test_one_of_two_is_killed_and_the_other_ends_the_work(tmp_path):
    """Also what the dead one had begun: process 0 stays until all is written."""
    store = tmp_path / "llc.zarr"
    deadly = "from jaxllc.store import Store\nStore.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n" + follow_in(store)
    codes = [ended(process) for process in start_together(2, [follow_in(store) + "os._exit(0)\n", deadly])]
    assert codes == [0, -signal.SIGKILL]
    np.testing.assert_allclose(draws(jaxllc.open(store)), draws(follow()), rtol=1e-5, atol=1e-5)


def test_what_one_process_left_three_end(tmp_path, monkeypatch):
    store = tmp_path / "llc.zarr"
    stopped(2, monkeypatch, store=store, group_size=1)
    assert [ended(process) for process in start_together(3, follow_in(store) + "os._exit(0)\n")] == [0, 0, 0]
    np.testing.assert_allclose(draws(jaxllc.open(store)), draws(follow()), rtol=1e-5, atol=1e-5)


def test_parts_need_no_jax_distributed(tmp_path):
    """As an array of jobs: in any order, at once or one after the other."""
    store = tmp_path / "llc.zarr"
    processes = [start(follow_in(store, f", part=({i}, 3)")) for i in (2, 0)]
    assert [ended(process) for process in processes] == [0, 0]
    follow(store=store, part=(1, 3), group_size=1)
    np.testing.assert_allclose(draws(jaxllc.open(store)), draws(follow()), rtol=1e-5, atol=1e-5)


def test_a_second_writer_is_refused_and_told_whom_it_meets(tmp_path):
    store = tmp_path / "llc.zarr"
    with Membership(Location(store), (0, 1)) as first:
        with pytest.raises(InUseError, match=rf"is being written by process {first.writer.pid} on .*; wait until it has ended"):
            follow(store=store)
        with pytest.raises(InUseError, match="is being written"):
            follow(store=store, part=(0, 2))
    assert len(follow(store=store).table()) == 5


def test_what_a_dead_writer_held_is_taken_over_at_once(tmp_path):
    """A process of this machine that was killed in the middle of a group."""
    store = tmp_path / "llc.zarr"
    process = start(
        "from jaxllc.store import Store\nStore.write = lambda self, place, *rest: print('here', flush=True) or time.sleep(600)\n" + follow_in(store)
    )
    assert process.stdout.readline() == "here\n"
    with pytest.raises(InUseError, match=f"process {process.pid}"):
        follow(store=store)
    process.kill()
    process.communicate()
    began = time.monotonic()
    assert len(follow(store=store).table()) == 5
    assert time.monotonic() - began < signs.SILENT


def test_a_writer_elsewhere_that_is_silent_is_dead_and_one_that_counts_is_not(tmp_path, monkeypatch):
    """Known by its file alone, as on another machine."""
    monkeypatch.setattr(signs, "SILENT", 1.0)
    folder = Location(tmp_path / "llc.zarr").beside("jaxllc")
    elsewhere = Writer("elsewhere", 1, (0, 1), "t", "elsewhere", "")
    folder.create("writers/1-of-1", elsewhere.text())
    with Membership(Location(tmp_path / "llc.zarr"), (0, 1)):
        pass
    folder.create("writers/1-of-1", elsewhere.text())
    counts = iter(range(1, 1000))
    read = Location.read

    def counting(self, name):
        text = read(self, name)
        return json.dumps(json.loads(text) | {"beat": next(counts)}) if name.startswith("writers") and text else text

    monkeypatch.setattr(Location, "read", counting)
    with pytest.raises(InUseError, match="process 1 on elsewhere"), Membership(Location(tmp_path / "llc.zarr"), (0, 1)):
        pass


def test_no_two_writers_take_on_a_place_and_a_dead_ones_are_free(tmp_path):
    store = Location(tmp_path / "llc.zarr")
    places = [jaxllc.results.Place(None, step) for step in RUN]
    with Membership(store, (0, 2)) as first:
        with Membership(store, (1, 2)) as second:
            assert first.take(first.untaken(places[:2]), 5) == places[:2]
            assert second.take(second.untaken(places), 5) == places[2:]
            assert first.abandoned(places) == {}
        claims = first.abandoned(places)
        assert list(claims) == places[2:]
        assert first.take(claims, 1) == places[2:3]
        assert first.take(claims, 1) == places[3:4]  # another one who saw the same had the first of them


def test_one_process_alone_does_not_wait_for_ever(tmp_path, monkeypatch):
    """The second of two, where the first was never started."""
    monkeypatch.setattr("jaxllc.store.PATIENCE", 1.0)
    with (
        pytest.raises(TimeoutError, match="was not laid out by process 0, of which nothing was heard for 1 s"),
        Store(tmp_path / "llc.zarr", (1, 2), first_lays_out=True) as store,
        store.laying_out([]),
    ):
        pass


def test_parts_are_checked():
    with pytest.raises(ValueError, match=r"part must be \(index, count\)"):
        follow(part=(2, 2), store="nowhere")
    with pytest.raises(ValueError, match="2 processes share the checkpoints through a store; pass store="):
        follow(part=(0, 2))


@pytest.mark.parametrize("part", [3, (0,), (1, 1), (-1, 2), "12", (0.5, 2)])
def test_a_part_that_is_none_is_told(part, tmp_path):
    with pytest.raises((ValueError, TypeError), match="part"):
        follow(store=tmp_path / "llc.zarr", part=part)


def test_a_part_that_finds_nothing_to_do_ends_well(tmp_path):
    """While the other one has all places in work: it waits for the first of them, and gives what is there."""
    store = tmp_path / "llc.zarr"
    slow = "from jaxllc.store import Store\nwrite = Store.write\n"
    slow += "Store.write = lambda *given: print('sampled', flush=True) or time.sleep(6) or write(*given)\n"
    first = start(slow + f"follow(store={str(store)!r}, part=(0, 2), group_size=5)\n", devices=1)
    assert first.stdout.readline() == "sampled\n"
    found = follow(store=store, part=(1, 2))
    assert len(found.table()) >= 1
    assert ended(first) == 0
    np.testing.assert_allclose(draws(jaxllc.open(store)), draws(follow()), rtol=1e-5, atol=1e-5)
