"""Noise has the moments that the Euler scheme needs, in every leaf, and no structure between numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllc.samplers.noise import NOISES, _five_points

LIKE = {"a": jnp.zeros((7, 11)), "b": jnp.zeros(64), "c": jnp.zeros(())}
COUNT = 20_000


@pytest.mark.parametrize("name", NOISES)
def test_moments_up_to_the_third(name, key):
    """Zero mean, unit variance, no skew, no correlation between any two numbers: each within five standard errors over all of them."""
    draws = jax.vmap(lambda k: NOISES[name](k, LIKE))(jax.random.split(key, COUNT))
    flat = np.concatenate([np.asarray(leaf).reshape(COUNT, -1) for leaf in jax.tree.leaves(draws)], axis=1)
    assert flat.shape == (COUNT, 7 * 11 + 64 + 1)
    error = 1 / np.sqrt(COUNT)
    assert np.abs(flat.mean(0)).max() < 5 * error
    assert np.abs((flat**2).mean(0) - 1).max() < 5 * np.sqrt(2) * error
    assert np.abs((flat**3).mean(0)).max() < 5 * np.sqrt(15) * error
    correlation = flat.T @ flat / COUNT - np.diag((flat**2).mean(0))
    assert np.abs(correlation).max() < 5.5 * error  # ten thousand pairs


def test_five_points_have_the_moments_of_a_normal_up_to_the_fifth():
    """Exactly, over the sixteen nibbles; seen to fail with the tails' number of nibbles doubled."""
    points = np.asarray(_five_points(jnp.arange(16, dtype=jnp.uint32), jnp.float32), float)
    assert len(set(points)) == 5
    np.testing.assert_allclose([np.mean(points**k) for k in range(1, 6)], [0, 1, 0, 3, 0], atol=1e-6)


@pytest.mark.parametrize("name", NOISES)
def test_structure_shape_and_dtype_are_those_of_the_weights(name, key):
    like = LIKE | {"d": None}
    noise = NOISES[name](key, like)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), noise) == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), like)
