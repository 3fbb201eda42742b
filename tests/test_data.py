"""Batches are windows of data that were shuffled once."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from problems import Quadratic, quadratic_loss

import jaxllc
from jaxllc import InMemory, engine


def test_all_windows_are_equally_likely_and_wrap_around():
    data = InMemory.of(np.arange(10), 4)
    starts = np.asarray(jax.vmap(data.window)(jax.random.split(jax.random.key(0), 5000)))
    counts = np.bincount(starts, minlength=10)
    # 500 expected each; five standard deviations of a binomial count
    assert np.abs(counts - 500).max() < 5 * np.sqrt(5000 * 0.1 * 0.9)
    order = np.asarray(data.arrays)[:10]
    assert sorted(order) == list(range(10))
    for start in range(10):
        np.testing.assert_array_equal(data.batch(start), np.take(order, range(start, start + 4), mode="wrap"))


def test_leaves_are_shuffled_together_and_losses_are_laid_out_alike():
    rows = np.arange(12)
    data = InMemory.of({"x": rows, "y": rows[:, None] * 10}, 5)
    batch = data.batch(3)
    np.testing.assert_array_equal(batch["x"] * 10, batch["y"][:, 0])
    losses = data.wrap(data.arrays["x"][:12])
    np.testing.assert_array_equal(data.slice(losses, 9), data.batch(9)["x"])


@pytest.mark.parametrize("batch_size", [None, 6, 100])
def test_the_whole_set_keeps_its_order(batch_size):
    data = InMemory.of(np.arange(6), batch_size)
    assert data.batch_size == 6
    np.testing.assert_array_equal(data.batch(data.window(jax.random.key(0))), np.arange(6))


def test_a_source_is_sent_to_a_stream():
    with pytest.raises(TypeError, match=r"data leaf x is no array but a range; a source of examples goes into jaxllc.Stream\(source, batch_size\)"):
        InMemory.of({"x": range(10)}, 2)


@pytest.mark.parametrize(
    ("arrays", "batch_size", "told"),
    [
        ({"x": np.ones((3, 2)), "y": np.ones(4)}, 2, "x: 3, y: 4"),
        ({"x": np.ones(3), "scale": np.float32(2)}, 2, "scale has no leading axis"),
        ({}, 2, "holds no array"),
        (np.ones((0, 2)), 2, "no example"),
        (np.ones(3), 0, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_data_is_named(arrays, batch_size, told):
    with pytest.raises(ValueError, match=told):
        InMemory.of(arrays, batch_size)


class OnDisk:
    """Rows that are given by slices only, and note how many were asked for at once."""

    def __init__(self, rows):
        self.rows, self.shape, self.asked = rows, rows.shape, []

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.asked.append(len(self.rows[rows]))
        return self.rows[rows]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("batch_size", [1, 9, None])
def test_large_arrays_are_read_a_stretch_at_a_time(batch_size, dtype, monkeypatch):
    """From front to end, sixteen rows of 50, into the order of small ones. Seen to fail with the inverse order, and without the examples again at the end."""
    rows = np.random.default_rng(0).integers(0, 99, (50, 3)).astype(dtype)
    small = InMemory.of(rows, batch_size)
    monkeypatch.setattr("jaxllc.data.STRETCH_BYTES", 16 * rows[0].nbytes)
    source = OnDisk(rows)
    large = InMemory.of({"x": source}, batch_size).arrays["x"]
    assert max(source.asked) == 16
    assert large.dtype == small.arrays.dtype
    np.testing.assert_array_equal(large, small.arrays)


def test_arrays_on_a_device_are_not_copied_where_they_keep_their_order():
    rows = jnp.arange(12.0)
    assert InMemory.of(rows).arrays is rows


def pointers(array):
    return [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]


def test_every_device_has_the_data_and_host_devices_share_them():
    """One copy for four devices, which a later mesh takes over, and which outlives the arrays that it was made of."""
    meshes = [jax.sharding.Mesh(np.asarray(jax.devices()[:count]), ("chain",), axis_types=(AxisType.Auto,)) for count in (1, 2, 4)]
    rows = np.random.default_rng(0).normal(size=(1000, 100)).astype(np.float32)
    exact = np.asarray(InMemory.of(rows, 10).arrays).copy()
    data = InMemory.of(rows, 10, meshes[1])
    assert data.arrays.devices() == set(jax.devices()[:2])
    (place,) = set(pointers(data.arrays))
    for mesh in meshes:
        data = data.on(mesh)
        assert pointers(data.arrays) == [place] * mesh.size
    gc.collect()
    others = [jnp.full((1009, 100), 7.0) for _ in range(4)]
    for shard in data.arrays.addressable_shards:
        np.testing.assert_array_equal(shard.data, exact)
    assert len(others) == 4


def test_a_run_copies_nothing_that_lies_on_its_devices(monkeypatch, key):
    """Of estimates and trajectories: the programs get the arrays that the plan has placed."""
    seen = []
    block = engine._block
    monkeypatch.setattr(engine, "_block", lambda inputs, *rest, **options: seen.append(pointers(inputs.data.arrays)) or block(inputs, *rest, **options))
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("chain",), axis_types=(AxisType.Auto,))
    data = Quadratic().data.on(mesh)
    jaxllc.trajectory(
        quadratic_loss, dict.fromkeys(range(4), Quadratic().params), data, key=key, sampler=jaxllc.SGLD(1e-3), num_chains=4, num_draws=4, num_burn_in=0,
        group_size=2, progress=False,
    )  # fmt: skip
    assert seen == [pointers(data.arrays)] * 2


def test_the_first_examples_on_the_host():
    data = InMemory.of({"x": np.arange(12)}, 5)
    np.testing.assert_array_equal(data.first(3)["x"], data.arrays["x"][:3])
