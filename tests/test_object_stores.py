"""Stores and checkpoints that are no local folders: in memory, and on a real S3 server on the loopback."""

import numpy as np
import orbax.checkpoint as ocp
import pytest
from object_stores import bucket as bucket
from processes import ended, start
from trajectories import RUN, draws, follow, stopped

import jaxllc
from jaxllc.checkpoints import OrbaxCheckpoints
from jaxllc.locations import Location


def test_a_store_in_memory(monkeypatch):
    url = "memory://runs/llc.zarr"
    stopped(2, monkeypatch, {0: RUN[0], 20: RUN[20], 30: RUN[30]}, store=url, group_size=1)
    np.testing.assert_array_equal(draws(follow(store=url, group_size=1)), draws(follow(group_size=1)))
    assert len(jaxllc.open(url).table()) == 5


def test_a_store_on_s3_is_filled_stopped_grown_and_read(bucket, monkeypatch):
    url = f"{bucket}/deep/llc.zarr"
    stopped(2, monkeypatch, {0: RUN[0], 20: RUN[20], 30: RUN[30]}, store=url, group_size=1)
    np.testing.assert_array_equal(draws(follow(store=url, group_size=1)), draws(follow(group_size=1)))
    opened = jaxllc.open(url)
    assert list(opened.table().index) == list(RUN)
    assert Location(f"{bucket}/deep").names() == ["llc.zarr"]
    opened.save(f"{bucket}/saved.zarr")
    assert len(jaxllc.open(f"{bucket}/saved.zarr").table()) == 5
    with pytest.raises(ValueError, match="exists; save to a new path"):
        opened.save(f"{bucket}/saved.zarr")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # TensorStore may end a read after Orbax has given up on another
def test_checkpoints_on_s3_are_read_one_by_one(bucket, tmp_path):
    """Into a store on S3. One that lacks a file there is told with its URL, and the others go on."""
    import s3fs

    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step, params in RUN.items():
            manager.save(step, args=ocp.args.StandardSave(params))
    files = s3fs.S3FileSystem()
    files.put(str(tmp_path / "run"), f"{bucket}/run", recursive=True)
    checkpoints = OrbaxCheckpoints(f"{bucket}/run")
    assert list(checkpoints) == list(RUN)
    whole = follow(checkpoints, store=f"{bucket}/llc.zarr")
    np.testing.assert_array_equal(draws(whole), draws(follow()))
    files.rm(f"{bucket}/run/20/default/d", recursive=True)
    failed = follow(OrbaxCheckpoints(f"{bucket}/run"))
    assert [place.step for place in failed.failures] == [20]
    assert f"{bucket}/run/20" in next(iter(failed.failures.values()))


def test_checkpoints_elsewhere_are_refused():
    with pytest.raises(ValueError, match=r"from a local directory or from gs://, s3://, az://, hf://; got ftp://host/run\."):
        OrbaxCheckpoints("ftp://host/run")


def test_a_bucket_that_is_not_there_is_an_error(bucket):
    with pytest.raises(OSError, match="s3://nobody-made-it/llc.zarr could not be written to"):
        follow(store="s3://nobody-made-it/llc.zarr")


def test_of_two_who_make_a_file_on_s3_one_is_told_so(bucket):
    place = Location(f"{bucket}/llc.zarr")
    assert [place.create("lock", "first"), place.create("lock", "second")] == [True, False]
    assert place.read("lock") == "first"
    place.remove("lock")
    assert place.read("lock") is None
    assert place.names() == []


def test_two_processes_on_s3(bucket):
    url = f"{bucket}/llc.zarr"
    processes = [start(f"follow(store={url!r}, group_size=1, part=({i}, 2))\n", devices=1) for i in range(2)]
    assert [ended(process) for process in processes] == [0, 0]
    np.testing.assert_allclose(draws(jaxllc.open(url)), draws(follow()), rtol=1e-5, atol=1e-5)


def test_a_writer_on_s3_that_is_killed_is_taken_over(bucket):
    url = f"{bucket}/llc.zarr"
    process = start("from jaxllc.store import Store\nStore.write = lambda *_: print('here', flush=True) or time.sleep(600)\n" + f"follow(store={url!r})\n")
    assert process.stdout.readline() == "here\n"
    process.kill()
    process.communicate()
    np.testing.assert_allclose(draws(follow(store=url)), draws(follow()), rtol=1e-5, atol=1e-5)
