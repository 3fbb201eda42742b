"""Batches are windows of data that were shuffled once."""

import jax
import numpy as np
import pytest

from jaxllc import InMemory


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
