"""Runs that are killed again and again, at random moments: in layout, in growth, while they write, as one process or two, in a folder or on S3."""

import random
import time

import numpy as np
import pytest
from object_stores import bucket as bucket
from processes import ended, start
from trajectories import RUN, follow

import jaxllc

SECONDS = 3.0, 9.0
"""From the start of a process to the moment at which it is killed: from before it lays the store out to after its end."""
GROWS = "for steps in ((0, 20), (0, 10, 20), tuple(RUN)):\n    follow({{s: RUN[s] for s in steps}}, store={store!r}, group_size=1{part})\n"


def places_of(store):
    """The coefficients of the places that are written; none where there is no store yet, no place in it, or a growth was cut."""
    try:
        return dict(jaxllc.open(store).table().llc)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        if "no place" in str(error) or "differ in length" in str(error):
            return {}
        raise


def kill_often(folder, kills, processes=1):
    """Kill all processes of a run so many times; places that are written stay as they are. A store that is whole is followed by another one."""
    moments, expected, stores = random.Random(processes), dict(follow(group_size=1).table().llc), 0
    seen = {}
    for _ in range(kills):
        store = f"{folder}/{stores}.zarr"
        parts = [""] if processes == 1 else [f", part=({i}, {processes})" for i in range(processes)]
        running = [start(GROWS.format(store=store, part=part), devices=1) for part in parts]
        for process in running:
            time.sleep(moments.uniform(*SECONDS) / processes)
            process.kill()
        for process in running:
            process.communicate()
        now = places_of(store)
        assert seen.items() <= now.items()
        for step, llc in now.items():
            np.testing.assert_allclose(llc, expected[step], rtol=1e-4)
        seen = now
        if len(now) == len(RUN):
            seen, stores = {}, stores + 1
    assert ended(start(GROWS.format(store=f"{folder}/{stores}.zarr", part=""), devices=1)) == 0
    return [places_of(f"{folder}/{number}.zarr") for number in range(stores + 1)]


@pytest.mark.slow
def test_fifty_kills_of_one_process_lose_nothing(tmp_path):
    """Of so many stores fewer were made than there were kills, else these came after the end."""
    stores = kill_often(tmp_path, 50)
    assert len(stores) <= 40
    assert all(places.keys() == set(RUN) for places in stores)


@pytest.mark.slow
def test_kills_of_two_processes_lose_nothing(tmp_path):
    assert all(places.keys() == set(RUN) for places in kill_often(tmp_path, 10, processes=2))


@pytest.mark.slow
def test_kills_of_a_run_on_s3_lose_nothing(bucket):
    assert all(places.keys() == set(RUN) for places in kill_often(bucket, 10))
