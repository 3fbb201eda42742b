"""Noise has the moments that the Euler scheme needs, in every leaf, and no structure between numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllc import SGHMC, SGLD, LocalPosterior
from jaxllc.placement import on_devices
from jaxllc.samplers.noise import MOST_AHEAD, NOISES, PER_WORD, _five_points, ahead

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
    "whole words and few columns": ((64, 8), P("model", None)),
    "no whole words along either axis": ((100, 100), P("model", None)),
    "words along the last axis": ((3, 64), P(None, "model")),
    "whole words of one axis": ((128,), P("model")),
    "less than a word": ((8,), P("model")),
    "no whole words at all": ((12, 40), P(None, "model")),
    "a number": ((), P()),
}


def signs_in_words(words, shape, axis):
    """Signs in numpy: bit `b` of a word stands at place `32 k + b` along the axis, and what is beyond its end is left out."""
    bits = np.stack([(words >> np.uint32(bit)) & np.uint32(1) for bit in range(32)], axis=axis + 1)
    bits = bits.reshape(*words.shape[:axis], 32 * words.shape[axis], *words.shape[axis + 1 :])
    flat = bits if bits.ndim == len(shape) else bits[: int(np.prod(shape))].reshape(shape)
    return 2.0 * flat[tuple(slice(0, size) for size in shape)] - 1


LAYOUTS = {
    (64, 8): ((2, 8), 0),
    (100, 100): ((4, 100), 0),
    (3, 64): ((3, 2), 1),
    (5, 7): ((2,), 0),
    (4, 8, 64): ((4, 8, 2), 2),
    (70,): ((3,), 0),
    (): ((1,), 0),
}
"""Shapes of leaves, those of their words, and the axis along which the signs of a word follow one another."""


def test_signs_lie_in_the_words_of_one_split_of_the_key(key):
    """Leaf after leaf, the words of all leaves being two of each hash. Seen to fail with the words of `jax.random.bits`, and with bits from the highest."""
    found = NOISES["rademacher"](key, [jnp.zeros(shape) for shape in LAYOUTS])
    sizes = [int(np.prod(shape)) for shape, _ in LAYOUTS.values()]
    words = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), -(-sum(sizes) // 2)))).reshape(-1)
    first = 0
    for leaf, (shape, (packed, axis)), size in zip(found, LAYOUTS.items(), sizes, strict=True):
        np.testing.assert_array_equal(leaf, signs_in_words(words[first : first + size].reshape(packed), shape, axis), err_msg=str(shape))
        first += size


def test_signs_are_independent():
    """Over 4000 keys, of all pairs of 804 signs of one draw, and of each sign with all of the next key's.

    The mean square of correlations in their standard errors is 1 within four of its own, and none is beyond 6. Seen to fail with one word that stands twice
    in each draw, with 512 keys for all draws, and with each key used twice in a row.
    """
    like, count = {"columns": jnp.zeros((3, 64)), "flat": jnp.zeros(100), "rows": jnp.zeros((64, 8))}, 4000
    draws = jax.vmap(lambda key: NOISES["rademacher"](key, like))(jax.random.split(jax.random.key(7), count))
    flat = np.concatenate([np.asarray(leaf).reshape(count, -1) for leaf in jax.tree.leaves(draws)], axis=1)
    assert flat.shape == (count, 804)
    pairs = (flat.T @ flat / np.sqrt(count))[np.triu_indices(804, 1)]
    following = (flat[:-1].T @ flat[1:] / np.sqrt(count - 1)).reshape(-1)
    for correlations in (pairs, following, flat.sum(0) / np.sqrt(count)):
        assert abs(np.mean(correlations**2) - 1) < 4 * np.sqrt(2 / correlations.size)
        assert np.abs(correlations).max() < 6


@pytest.mark.parametrize("name", PER_WORD)
def test_words_drawn_ahead_give_the_numbers_of_the_key(name):
    """To the last bit, for several keys at once. Seen to fail with words that begin one further on."""
    keys = jax.random.split(jax.random.key(3), 5)
    like = [jnp.zeros(shape) for shape in LAYOUTS]
    words = [ahead(name, key, like) for key in keys]
    for key, ours in zip(keys, words, strict=True):
        jax.tree.map(np.testing.assert_array_equal, NOISES[name](ours, like), NOISES[name](jax.random.clone(key), like))
    np.testing.assert_array_equal(jax.vmap(lambda key: ahead(name, key, like))(jax.random.clone(keys)), np.stack(words))
    assert ahead(name, jax.random.key(3, impl="rbg"), like) is None


def test_few_words_are_drawn_ahead(key):
    """As many as `MOST_AHEAD`, and none of Gaussians. Seen to fail with fewer than that many."""
    assert ahead("gaussian", key, LIKE) is None
    for name, per_word in PER_WORD.items():
        drawn = jax.eval_shape(lambda key, name=name, size=per_word * MOST_AHEAD: ahead(name, key, jax.ShapeDtypeStruct((size,), jnp.float32)), key)
        assert drawn.shape == (MOST_AHEAD,)
        assert ahead(name, key, jax.ShapeDtypeStruct((per_word * MOST_AHEAD + 1,), jnp.float32)) is None


@pytest.mark.parametrize("sampler", [SGLD(1e-3), SGLD(1e-3, noise="gaussian"), SGHMC(1e-3), SGHMC(1e-3, noise="gaussian")], ids=str)
def test_a_step_is_the_same_with_words_drawn_ahead(sampler, key):
    """Seen to fail with words that begin one further on."""
    params = {"a": jnp.ones((3, 64)), "b": jnp.ones(5)}
    posterior = LocalPosterior(lambda params, batch: params["a"].sum() ** 2 + batch * params["b"].sum(), params, 50.0, 20.0)
    words = sampler.ahead(key, params)
    assert (words is None) == (sampler.noise == "gaussian")
    if words is not None:
        found = sampler.step(words, sampler.init(params), posterior, jnp.ones(4))
        expected = sampler.step(jax.random.clone(key), sampler.init(params), posterior, jnp.ones(4))
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", NOISES)
def test_split_weights_get_the_same_numbers_without_communication(name):
    """To the last bit, whatever way a leaf is cut. Seen to fail with a leaf's draw that begins one element late, and with one draw for all leaves;
    of the layouts with one for cut leaves that has no words along the first axis.
    """
    mesh = Mesh(np.asarray(jax.devices()).reshape(1, 4), ("chain", "model"), axis_types=(AxisType.Auto,) * 2)
    like = {leaf: jax.device_put(jnp.zeros(shape), NamedSharding(mesh, spec)) for leaf, (shape, spec) in SPLIT.items()}
    draw = on_devices(lambda like: jax.tree.map(jnp.add, like, NOISES[name](jax.random.key(3), like)), mesh, in_specs=P(), out_specs=P())
    program = jax.jit(draw, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like)).lower(like).compile()
    whole = NOISES[name](jax.random.key(3), {leaf: jnp.zeros(shape) for leaf, (shape, _) in SPLIT.items()})
    jax.tree.map(np.testing.assert_array_equal, program(like), whole)
    assert not [word for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter") if f" {word}(" in program.as_text()]
