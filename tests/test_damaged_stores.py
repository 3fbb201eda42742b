"""Files of a store that are missing, cut or changed: other places are as they were, the next call makes anew what it can, and says what it cannot."""

import json

import numpy as np
import pytest
from trajectories import RUN, RUNS, draws, follow

import jaxllc
from jaxllc import store_arrays
from jaxllc.reading import overview

STEPS = list(RUN)


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file):
    file.write_bytes(file.read_bytes()[:-3])


def empty(file):
    file.write_bytes(b"")


def remove(file):
    file.unlink()


@pytest.mark.parametrize("damage", [flip, cut, empty, remove])
@pytest.mark.parametrize("name", ["posterior/llc/c/1/0/0", "sample_stats/loss/c/1/0/0", "slow/probe_loss/c/1/0/0"])
def test_a_damaged_result_is_one_place(name, damage, tmp_path):
    """The others are read, its file is named, and the next call makes it again."""
    store = tmp_path / "llc.zarr"
    whole = draws(follow(store=store, group_size=1))
    damage(store / name)
    opened = jaxllc.open(store)
    assert list(opened.table().query("findings != 'failed'").index) == [STEPS[0], *STEPS[2:]]
    assert [place.step for place in opened.failures] == [STEPS[1]]
    assert f"the file {name} of the store is" in next(iter(opened.failures.values()))
    np.testing.assert_array_equal(draws(opened), np.delete(whole, 1, axis=0))
    again = follow(store=store, group_size=1)
    assert again.failures == {}
    np.testing.assert_array_equal(draws(again), whole)
    np.testing.assert_array_equal(draws(jaxllc.open(store)), whole)


def test_a_damaged_result_of_one_run_is_not_that_of_the_others(tmp_path):
    store = tmp_path / "llc.zarr"
    whole = follow(RUNS, store=store).table()
    flip(store / "posterior/llc/c/1/2/0/0")
    opened = jaxllc.open(store)
    name = list(RUNS)[1]
    assert list(opened.failures) == [(name, STEPS[2])]
    table = opened.table()
    assert len(table.query("findings != 'failed'")) == len(whole) - 1
    np.testing.assert_array_equal(table.llc.drop((name, STEPS[2])), whole.llc.drop((name, STEPS[2])))


@pytest.mark.parametrize(
    ("note", "damage", "told"), [("done", empty, "cut"), ("note", cut, "damaged"), ("note", empty, "damaged"), ("note", remove, "missing")]
)
def test_a_damaged_note_is_one_place(note, damage, told, tmp_path):
    """And no sign of weights that were replaced."""
    store = tmp_path / "llc.zarr"
    whole = draws(follow(store=store, group_size=1))
    damage(store / note / "c" / "1")
    assert len(overview(store).done) == len(RUN) - 1
    opened = jaxllc.open(store)
    assert f"the file {note}/c/1 of the store is {told}; the next call of jaxllc.trajectory makes it again" in opened.failures[None, STEPS[1]]
    np.testing.assert_array_equal(draws(opened), np.delete(whole, 1, axis=0))
    np.testing.assert_array_equal(draws(follow(store=store, group_size=1)), whole)
    np.testing.assert_array_equal(draws(jaxllc.open(store)), whole)


@pytest.mark.parametrize("damage", [remove, cut, empty])
def test_without_the_names_of_steps_nothing_is_done(damage, tmp_path):
    """No number may come under another step; the file is named, and put back all is as before."""
    store = tmp_path / "llc.zarr"
    whole = draws(follow(store=store))
    file = store / "step" / "c" / "0"
    kept = file.read_bytes()
    damage(file)
    for call in (lambda: jaxllc.open(store), lambda: overview(store), lambda: follow(RUN | {1000: RUN[0]}, store=store)):
        with pytest.raises(ValueError, match=r"the file step/c/0 of the store .*llc\.zarr is missing or damaged .* put it back, or pass another store=\."):
            call()
    file.write_bytes(kept)
    np.testing.assert_array_equal(draws(follow(store=store)), whole)


@pytest.mark.parametrize("damage", [remove, cut])
@pytest.mark.parametrize("name", ["posterior/llc", "step"])
def test_damaged_metadata_are_named(name, damage, tmp_path):
    store = tmp_path / "llc.zarr"
    follow(store=store)
    damage(store / name / "zarr.json")
    for call in (lambda: jaxllc.open(store), lambda: follow(store=store)):
        with pytest.raises(ValueError, match=rf"the file {name}/zarr\.json of the store .*llc\.zarr is missing or damaged"):
            call()


@pytest.mark.parametrize("damage", [flip, cut, remove])
def test_a_large_store_too_has_one_place_less(damage, tmp_path, monkeypatch):
    """Where arrays are read when they are needed; a flipped bit is told by the call that meets it."""
    monkeypatch.setattr(store_arrays, "READ_BYTES", 0)
    store = tmp_path / "llc.zarr"
    whole = draws(follow(store=store, group_size=1))
    np.testing.assert_array_equal(draws(jaxllc.open(store)), whole)
    damage(store / "posterior/llc/c/1/0/0")
    if damage is flip:
        with pytest.raises(ValueError, match="checksum"):
            draws(jaxllc.open(store))
        return
    np.testing.assert_array_equal(draws(jaxllc.open(store)), np.delete(whole, 1, axis=0))
    np.testing.assert_array_equal(draws(follow(store=store, group_size=1)), whole)


def test_a_store_of_another_make_is_told(tmp_path):
    store = tmp_path / "llc.zarr"
    follow(store=store)
    file = store / "zarr.json"
    metadata = json.loads(file.read_text())
    del metadata["attributes"]["schema"]
    file.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="is a Zarr store of something else"):
        jaxllc.open(store)
