"""Streams: the numbers of data in memory, on the same batches, from any source and over any devices."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from jax.sharding import AxisType
from problems import Quadratic, quadratic_loss, shifted
from trajectories import RUN, draws, follow, stopped

import jaxllc
from jaxllc import SGHMC, SGLD, InMemory, Stream, engine, stream
from jaxllc._tree import named_leaves
from jaxllc.data import shuffled_order
from jaxllc.theory import window_variance

PROBLEM = Quadratic()
CENTER = shifted(PROBLEM.params, 0.3)
"""Where the loss is not zero, so that losses that are not paired with those of their own batch show."""
SHORT = dict(num_chains=4, num_draws=60, num_burn_in=20, nbeta=50.0, localization=3.0, progress=False)
WHOLE_DATA = ("full_center_loss", "gaussian_llc")
"""What a stream takes from some of the data."""


class Examples:
    """A source that notes what it was asked for, and by which thread."""

    def __init__(self, rows):
        self.rows, self.asked, self.threads = rows, [], set()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        assert isinstance(index, int)
        self.asked.append(index)
        self.threads.add(threading.current_thread().name)
        return self.rows[index]


class Batched(Examples):
    """A source that gives many examples at once, and none by itself."""

    def __getitems__(self, indices):
        return [super(Batched, self).__getitem__(index) for index in indices]

    def __getitem__(self, index):
        raise AssertionError("asked for a single example")


def memory_mapped(folder):
    np.save(folder / "rows.npy", PROBLEM.rows)
    return np.load(folder / "rows.npy", mmap_mode="r")


def in_zarr(folder):
    array = zarr.create_array(folder / "rows.zarr", shape=PROBLEM.rows.shape, chunks=(37, 5), dtype=np.float32)
    array[:] = PROBLEM.rows
    return array


def from_grain():
    grain = pytest.importorskip("grain", reason="grain is an extra")
    return grain.MapDataset.source(PROBLEM.rows.astype(np.float64)).map(lambda row: row.astype(np.float32))


STREAMS = {
    "a list": lambda _: Stream(list(PROBLEM.rows), 20),
    "one by one": lambda _: Stream(Examples(PROBLEM.rows), 20),
    "many at once": lambda _: Stream(Batched(PROBLEM.rows), 20),
    "grain": lambda _: Stream(from_grain(), 20),
    "a memory-mapped array": lambda folder: Stream.of(memory_mapped(folder), 20),
    "zarr": lambda folder: Stream.of(in_zarr(folder), 20),
}


def estimate(data, **options):
    return jaxllc.estimate(quadratic_loss, CENTER, data, **({"key": jax.random.key(0), "sampler": SGLD(2e-3)} | SHORT | options))


def assert_equal(found, exact):
    """All arrays, but for those from all data."""
    arrays = {path: node.to_dataset(inherit=False) for path, node in exact.data.children.items()}
    for path, group in arrays.items():
        for name, values in group.items():
            if name not in WHOLE_DATA:
                np.testing.assert_allclose(found.data[path][name], values, rtol=1e-5, atol=1e-5, err_msg=f"{path}/{name}")


@pytest.mark.parametrize("source", STREAMS)
def test_any_source_gives_the_numbers_of_data_in_memory(source, tmp_path, monkeypatch):
    """While two batches are resident. Seen to fail with the batch of the iteration before, and with losses paired with those of resident examples."""
    monkeypatch.setattr(stream, "RESIDENT_BATCHES", 2)
    assert_equal(estimate(STREAMS[source](tmp_path)), estimate(InMemory.of(PROBLEM.rows, 20)))


@pytest.mark.parametrize("sampler", [SGHMC(5e-4), SGLD(None)], ids=["sghmc", "sgld"])
@pytest.mark.parametrize("options", [{"extrapolate": "step_size"}, {"dispersion": 0.5, "thinning": 3}], ids=["extrapolated", "dispersed and thinned"])
def test_what_needs_more_than_batches_is_the_same(sampler, options):
    """The second set of chains, dispersed starts, and noise that the prior absorbs, which SGHMC reads off losses of resident examples."""
    assert_equal(estimate(Stream.of(PROBLEM.rows, 20), sampler=sampler, **options), estimate(PROBLEM.data, sampler=sampler, **options))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 2)], ids=["one device", "four for chains", "two by two"])
def test_any_devices_give_the_same_numbers(shape, key):
    """Chains and checkpoints over host devices, in blocks of seven iterations, the last of which goes on beyond the last draw."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[: shape[0] * shape[1]]).reshape(shape), ("step", "chain"), axis_types=(AxisType.Auto,) * 2)
    centers = jax.tree.map(lambda *leaves: jnp.stack(leaves), CENTER, shifted(CENTER, 0.1))
    posterior = PROBLEM.posterior().replace(center=centers)
    run = dict(num_chains=4, num_draws=60, num_burn_in=20, stacked=True, block=7)
    found = jaxllc.sample(key, SGLD(2e-3), posterior, Stream.of(PROBLEM.rows, 20), mesh=mesh, **run)
    exact = jaxllc.sample(key, SGLD(2e-3), posterior, PROBLEM.data, **run)
    for name, values in named_leaves(exact._asdict()).items():
        if not name.startswith(("full_center_loss", "gaussian")):
            np.testing.assert_allclose(named_leaves(found._asdict())[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_blocks_as_long_as_there_is_room_for(monkeypatch):
    """Three iterations of four chains in batches of 20 rows of five numbers: the draws are the same."""
    exact = draws(estimate(PROBLEM.data))
    monkeypatch.setattr(stream, "BLOCK_BYTES", 3 * 4 * 20 * 5 * 4)
    data = Stream.of(PROBLEM.rows, 20)
    assert data.longest_block(4, 256) == 3
    est = estimate(data)
    assert est.data.attrs["slow_every"] <= 3
    np.testing.assert_allclose(draws(est), exact, rtol=1e-5, atol=1e-5)


def test_examples_are_read_ahead_by_a_thread_and_once_a_block(monkeypatch, key):
    """The next block is being read when one begins. Seen to fail with a read that begins when its block is asked for."""
    source, begun = Examples(PROBLEM.rows), [threading.Event() for _ in range(3)]
    data, waited, block = Stream(source, 20), [], engine._block
    assert source.threads == {threading.current_thread().name}
    source.asked.clear()
    source.threads.clear()
    blocks, fetch = iter(begun), data.read
    monkeypatch.setattr(data, "read", lambda windows: next(blocks).set() or fetch(windows))

    def begin(*args, **options):
        waited.append(begun[min(len(waited) + 1, 2)].wait(timeout=5))
        return block(*args, **options)

    monkeypatch.setattr(engine, "_block", begin)
    jaxllc.sample(key, SGLD(2e-3), PROBLEM.posterior(), data, num_chains=4, num_draws=30, block=10)
    assert waited == [True] * 3
    assert all(name.startswith("jaxllc-stream") for name in source.threads)
    assert len(source.asked) <= 3 * PROBLEM.num_examples  # of 800 places in each block


@pytest.mark.parametrize("data", [lambda: Stream.of(PROBLEM.rows, 20), lambda: Stream(Examples(PROBLEM.rows), 20)], ids=["arrays", "examples"])
def test_a_trajectory_that_is_resumed_sees_the_same_batches(data, tmp_path, monkeypatch):
    stopped(2, monkeypatch, data=data(), store=tmp_path / "llc.zarr", group_size=2)
    resumed = follow(data=data(), store=tmp_path / "llc.zarr", group_size=3)
    assert_equal(resumed, follow())
    np.testing.assert_array_equal(draws(jaxllc.open(tmp_path / "llc.zarr")), draws(resumed))
    with pytest.raises(ValueError, match="data_checksum|streams"):
        follow(store=tmp_path / "llc.zarr")
    with pytest.raises(ValueError, match="data_checksum"):
        follow(data=Stream.of(PROBLEM.rows + 1, 20), store=tmp_path / "llc.zarr")


def test_the_loss_at_the_center_has_its_error():
    """Both against exact ones: the mean over all data, and the spread of the means of windows over the root of the number of draws."""
    est = estimate(Stream.of(PROBLEM.rows, 20), num_draws=500)
    by_example = np.asarray(quadratic_loss(CENTER, jnp.asarray(PROBLEM.rows)))
    error = float(est.summary["loss_error"][0])
    assert abs(float(est.summary["loss"][0]) - by_example.mean()) < 4 * error
    exact = np.sqrt(window_variance(np.asarray(quadratic_loss(CENTER, jnp.asarray(PROBLEM.shuffled)))[:, None], 20) / (4 * 500))
    assert error == pytest.approx(float(exact.item()), rel=0.1)
    assert float(estimate(PROBLEM.data).summary["loss_error"][0]) == 0


def test_a_source_in_random_order_is_left_in_it():
    """Batches are then stretches of the source, which wrap around."""
    data = Stream(list(range(100)), 7, shuffle=False)
    np.testing.assert_array_equal(data.read(np.array([[3, 97]])).batch, [[range(3, 10), [97, 98, 99, 0, 1, 2, 3]]])
    np.testing.assert_array_equal(data.resident.batch(0), range(7))


def test_wide_numbers_stay_wide_where_they_are_enabled(key):
    """In the thread of the caller alone. Seen to fail with numbers that the reading thread makes narrow."""
    with jax.enable_x64():
        data = Stream.of(PROBLEM.rows.astype(np.float64), 20)
        mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("chain",), axis_types=(AxisType.Auto,))
        (_, drawn), *_ = data.blocks(key, 4, [range(3), range(3, 6)], mesh)
        assert drawn.batch.dtype == data.resident.arrays.dtype == np.float64
        np.testing.assert_array_equal(drawn.batch[1, 2], InMemory.of(PROBLEM.rows.astype(np.float64), 20).batch(drawn.window[1, 2]))


def test_settings_are_calibrated_for_a_stream(key):
    """SGLD on its own batches."""
    cal = jaxllc.calibrate(quadratic_loss, CENTER, Stream.of(PROBLEM.rows, 20), key=key, budget=2.0)
    assert isinstance(cal.settings.sampler, SGLD)
    assert cal.settings.batch_size == 20
    assert cal.reasons[0].startswith("Data are streamed, so no iteration can use all of them: SGLD on batches of 20, ")


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        (jaxllc.MALA(1e-3), "MALA needs the loss of all 400 examples .* pass the arrays themselves, or a sampler on minibatches"),
        (SGLD(1e-3, gradient=jaxllc.ControlVariate()), "SGLD with a ControlVariate needs the gradient of all data"),
        (SGHMC(1e-3, gradient=jaxllc.ControlVariate()), "SGHMC with a ControlVariate needs the gradient of all data"),
    ],
)
def test_samplers_that_need_all_data_are_refused(sampler, told):
    with pytest.raises(ValueError, match=told):
        estimate(Stream.of(PROBLEM.rows, 20), sampler=sampler)


ROWS = list(np.ones((10, 3), np.float32))


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: Stream((np.ones(4), np.ones(4)), 2), TypeError, r"got tuple. For a pytree of arrays there is jaxllc.Stream.of"),
        (lambda: Stream(iter(ROWS), 2), TypeError, "has a length"),
        (lambda: Stream(ROWS, None), TypeError, "must be a whole number, got None; .* jaxllc.InMemory"),
        (lambda: Stream(ROWS, 0), ValueError, "got batch_size=0 and 10 examples"),
        (lambda: Stream(ROWS, 10), ValueError, "got batch_size=10 and 10 examples. All at once is jaxllc.InMemory.of"),
        (lambda: Stream(range(2**40), 10), ValueError, "must not be repeated"),
        (lambda: Stream([*ROWS[:7], None, *ROWS[8:]], 2), ValueError, r"example 7 of the source has no array, and example 0 has an array \(3,\)"),
        (lambda: Stream([*ROWS[:7], np.ones(4), *ROWS[8:]], 2), ValueError, r"example 7 of the source has an array \(4,\)"),
        (lambda: Stream([{"x": row, "id": "a"} for row in ROWS], 2), TypeError, "example 0 holds values of dtype <U1, which are no numbers"),
        (lambda: Stream.of({"x": np.ones(4), "y": np.ones(3)}, 2), ValueError, "x: 4, y: 3"),
    ],
)
def test_bad_sources_are_named(make, error, told):
    with pytest.raises(error, match=told):
        make()


def test_an_example_that_turns_out_bad_stops_the_run():
    """With its number; no thread stays behind."""
    data = Stream(rows := list(PROBLEM.rows), 20)
    rows[:] = [row[:4] if i == 123 else row for i, row in enumerate(rows)]
    with pytest.raises(ValueError, match=r"example 123 of the source has an array \(4,\)"):
        estimate(data, num_draws=2000)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jaxllc-stream")]


def test_weights_of_a_run_are_read_once_each():
    """Beside a stream as beside data in memory: the draws of the last step do not depend on the others."""
    whole = follow(data=Stream.of(PROBLEM.rows, 20))
    np.testing.assert_allclose(draws(follow({40: RUN[40]}, data=Stream.of(PROBLEM.rows, 20)))[0], draws(whole)[-1], rtol=1e-5, atol=1e-5)


class Rows:
    """Examples, of which some fail."""

    def __init__(self, rows, bad=()):
        self.rows, self.bad = rows, bad

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError("disk")
        return self.rows[index]


def test_a_source_that_changed_is_told_by_its_batches(tmp_path):
    """Also where the examples on the devices, the first in the shuffled order, are the same. A run that goes on sees the same ones."""
    first = Stream(Rows(PROBLEM.rows), 4)
    follow({0: RUN[0]}, first, store=tmp_path / "llc.zarr")
    assert len(follow({0: RUN[0], 10: RUN[10]}, Stream(Rows(PROBLEM.rows), 4), store=tmp_path / "llc.zarr").table()) == 2
    kept = shuffled_order(len(PROBLEM.rows))[: 33 * 4]
    changed = 100 * PROBLEM.rows
    changed[kept] = PROBLEM.rows[kept]
    with pytest.raises(ValueError, match="was made of other batches than the stream gives now"):
        follow(RUN, Stream(Rows(changed), 4), store=tmp_path / "llc.zarr")
    assert len(jaxllc.open(tmp_path / "llc.zarr").table()) == 2


def test_an_example_that_cannot_be_read_is_named():
    with pytest.raises(ValueError, match=r"example 7 of the source cannot be read \(OSError: disk\)"):
        Stream(Rows(PROBLEM.rows, bad={7}), 100, shuffle=False)


def test_another_batch_size_beside_that_of_the_data_is_refused():
    for data in (Stream(Rows(PROBLEM.rows), 4), InMemory.of(PROBLEM.rows, 4)):
        with pytest.raises(ValueError, match=rf"batch_size is 8, and data, a jaxllc\.{type(data).__name__}, give batches of 4; leave batch_size out"):
            follow(RUN, data, batch_size=8)
    assert follow(RUN, InMemory.of(PROBLEM.rows, 4), batch_size=4).data.attrs["batch_size"] == 4
