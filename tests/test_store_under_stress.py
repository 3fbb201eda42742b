"""What happens to stores: disks that are full or read-only, files that are damaged, stores that vanish, writers that are killed, readers beside writers."""

import os
import random
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import zarr
from processes import ROOT, ended, start
from trajectories import RUN, draws, follow, stopped

import jaxllc
from jaxllc import store_arrays
from jaxllc.store import Store
from jaxllc.store_arrays import Arrays


def whole():
    return draws(follow())


def failing(error, count, monkeypatch):
    """Make the files of arrays fail with an error when so many places are written."""
    write, written = Arrays.write, []

    def fails(self, place, *rest):
        if len(written) == count:
            raise error
        written.append(place)
        write(self, place, *rest)

    monkeypatch.setattr(Arrays, "write", fails)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    store = tmp_path / "llc.zarr"
    with monkeypatch.context() as patch:
        failing(OSError(28, "No space left on device"), 2, patch)
        with pytest.raises(OSError, match=r"could not be written to for step 20: .*No space left.*What was written before stays; call again"):
            follow(store=store, group_size=1)
    assert len(jaxllc.open(store).table()) == 2
    np.testing.assert_allclose(draws(follow(store=store)), whole(), rtol=1e-4, atol=1e-4)


def test_a_read_only_folder_is_named(tmp_path):
    """Root may write to any but those of the kernel."""
    folder = Path("/sys") if os.geteuid() == 0 else tmp_path
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"llc\.zarr could not be written to"):
        follow(store=folder / "llc.zarr")


def test_a_place_where_no_folder_can_be_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"llc\.zarr could not be written to"):
        follow(store=tmp_path / "file" / "llc.zarr")


def test_a_store_that_is_removed_under_a_run_is_told(tmp_path, monkeypatch):
    store = tmp_path / "llc.zarr"
    write = Store.write

    def removing(self, place, *rest):
        if place.step == 20:
            shutil.rmtree(store)
        write(self, place, *rest)

    monkeypatch.setattr(Store, "write", removing)
    with pytest.raises(FileNotFoundError, match=r"could not be written to for step 20: it was removed or replaced since this run began"):
        follow(store=store, group_size=1)
    assert list(tmp_path.iterdir()) == []


def test_a_layout_that_was_cut_is_made_anew(tmp_path, monkeypatch):
    store = tmp_path / "llc.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(store_arrays.results, "shapes", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr("jaxllc.writers.Membership.__exit__", lambda *_: None)  # as a kill leaves it
        with pytest.raises(KeyboardInterrupt):
            follow(store=store)
    assert (store / "zarr.json").exists()
    code = f"import sys; sys.path.insert(0, 'tests'); from trajectories import follow; follow(store={str(store)!r})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == 1  # this process lives
    (tmp_path / ".llc.zarr.jaxllc" / "writers" / "1-of-1").unlink()
    np.testing.assert_allclose(draws(follow(store=store)), whole(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at", ["posterior/llc", "slow/probe_loss", "step"])
def test_a_growth_that_was_cut_is_ended_by_the_next_call(at, tmp_path, monkeypatch):
    """At some arrays: those of the old length and those of the new one lie beside each other, or the new steps have no names yet."""
    store = tmp_path / "llc.zarr"
    follow({0: RUN[0], 20: RUN[20]}, store=store)
    resize = zarr.Array.resize

    def cut(self, *rest):
        if self.path.endswith(at):
            raise KeyboardInterrupt
        resize(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "resize", cut)
        with pytest.raises(KeyboardInterrupt):
            follow(store=store)
    np.testing.assert_allclose(draws(follow(store=store)), whole(), rtol=1e-4, atol=1e-4)


def test_a_reader_beside_a_writer_sees_whole_places_alone(tmp_path):
    """Opened again and again while the store is filled and grows twice."""
    store, expected, seen, errors = tmp_path / "llc.zarr", follow().table().llc, [], []
    ended_writing = threading.Event()

    def read():
        while not ended_writing.is_set():
            try:
                table = jaxllc.open(store).table()
            except Exception as error:
                if "no store" not in str(error) and "no place" not in str(error):
                    errors.append(error)
                continue
            seen.append(len(table))
            np.testing.assert_allclose(table.llc, expected[table.index], rtol=1e-4)

    reader = threading.Thread(target=read)
    reader.start()
    for steps in ((20,), (0, 10, 20), tuple(RUN)):
        follow({step: RUN[step] for step in steps}, store=store, group_size=1)
    ended_writing.set()
    reader.join()
    assert errors == []
    assert len(seen) > 1


def test_software_that_computed_other_places_is_told(tmp_path, monkeypatch):
    store = tmp_path / "llc.zarr"
    with monkeypatch.context() as patch:
        patch.setattr("jaxllc.store.made_by", lambda: "jax 0.0.1")
        follow({0: RUN[0]}, store=store)
    with pytest.warns(UserWarning, match=r"holds places that were computed by jax 0\.0\.1; this is jaxllc"):
        follow(store=store)


@pytest.mark.parametrize("option", ["jax_default_matmul_precision", "jax_enable_x64"])
def test_other_numerics_are_refused(option, tmp_path):
    store = tmp_path / "llc.zarr"
    follow({0: RUN[0]}, store=store)
    before = getattr(jax.config, option)
    jax.config.update(option, "highest" if before is None else not before)
    try:
        with pytest.raises(ValueError, match="other settings: .*numerics was"):
            follow(store=store)
    finally:
        jax.config.update(option, before)


def test_another_text_of_the_loss_is_told(tmp_path):
    store = tmp_path / "llc.zarr"
    scale = 1.0

    def loss_fn(params, batch):
        return scale * (batch["x"] @ params["w"] - batch["y"]) ** 2

    data = {"x": np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32), "y": np.zeros(64, np.float32)}
    run = {step: {"w": np.full(2, 0.1 * step, np.float32)} for step in (1, 2)}
    options = dict(key=jax.random.key(0), sampler=jaxllc.SGLD(1e-3), num_draws=8, num_burn_in=4, num_chains=2, progress=False, store=store)
    jaxllc.trajectory(loss_fn, run, data, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxllc.trajectory(loss_fn, run, data, **options)
    scale = 2.0
    with pytest.warns(UserWarning, match="loss_fn is another function than the one that the store was made with"):
        jaxllc.trajectory(loss_fn, run, data, **options)


def test_stopped_and_resumed_is_one_run_to_the_last_bit(tmp_path, monkeypatch):
    store = tmp_path / "llc.zarr"
    stopped(3, monkeypatch, store=store, group_size=1)
    once = follow(group_size=1)
    np.testing.assert_array_equal(draws(follow(store=store, group_size=1)), draws(once))


@pytest.mark.slow
def test_two_writers_of_a_growing_store_mix_nothing(tmp_path):
    """Ten trials: while one process makes the store grow step by step a second one begins at a random moment; it is refused, or goes on."""
    rng, expected = random.Random(1), follow(group_size=1).table().llc
    for trial in range(10):
        store = tmp_path / f"{trial}.zarr"
        grows = f"for n in (1, 2, 3, 4, 5):\n    follow({{s: RUN[s] for s in list(RUN)[:n]}}, store={str(store)!r}, group_size=1)\n"
        first = start(grows, devices=1)
        time.sleep(rng.uniform(2, 6))
        second = start(f"follow(store={str(store)!r}, group_size=1)\n", devices=1)
        codes = ended(first), ended(second)
        assert 0 in codes
        follow(store=store, group_size=1)
        table = jaxllc.open(store).table()
        np.testing.assert_allclose(table.llc, expected, rtol=1e-4)
