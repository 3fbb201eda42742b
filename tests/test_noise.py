"""Noise has the moments that the Euler scheme needs, in every leaf, and no structure between numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllc.placement import on_devices
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


SPLIT = {
    "columns": ((64, 128), P(None, "model")),
    "rows that are no whole words": ((64, 50), P("model", None)),
    "columns cut within a word": ((96, 96), P(None, "model")),
    "a word on several devices": ((4, 8, 64), P(None, None, "model")),
    "less than a word": ((8,), P("model")),
    "no whole words at all": ((12, 40), P(None, "model")),
    "a number": ((), P()),
}


@pytest.mark.parametrize("name", NOISES)
def test_split_weights_get_the_same_numbers_without_communication(name):
    """To the last bit, whatever way a leaf is cut. Seen to fail with a leaf's draw that begins one element late, and with one draw for all leaves."""
    mesh = Mesh(np.asarray(jax.devices()).reshape(1, 4), ("chain", "model"), axis_types=(AxisType.Auto,) * 2)
    like = {leaf: jax.device_put(jnp.zeros(shape), NamedSharding(mesh, spec)) for leaf, (shape, spec) in SPLIT.items()}
    draw = on_devices(lambda like: jax.tree.map(jnp.add, like, NOISES[name](jax.random.key(3), like)), mesh, in_specs=P(), out_specs=P())
    program = jax.jit(draw, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like)).lower(like).compile()
    whole = NOISES[name](jax.random.key(3), {leaf: jnp.zeros(shape) for leaf, (shape, _) in SPLIT.items()})
    jax.tree.map(np.testing.assert_array_equal, program(like), whole)
    assert not [word for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter") if f" {word}(" in program.as_text()]
