"""Selections of weights and the map between free and full weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllc import Free, LocalPosterior, Paths
from jaxllc.free import put_free, take_free
from jaxllc.models.transformer import Transformer

PARAMS = {"layers_0": {"w": jnp.ones(2), "b": jnp.zeros(2, jnp.bfloat16)}, "layers_1": {"w": jnp.ones(3)}, "count": jnp.asarray(4)}


def chosen(free):
    return {f"{a}/{b}" for a, inner in take_free(free, PARAMS).items() if inner is not None for b, leaf in inner.items() if leaf is not None}


def test_selections_compose():
    assert chosen(Free()) == {"layers_0/w", "layers_0/b", "layers_1/w"}
    assert chosen(Paths("layers_0/*")) == {"layers_0/w", "layers_0/b"}
    assert chosen(Paths("layers_0/*") & ~Paths("*/b")) == {"layers_0/w"}
    assert chosen(Paths("*/b") | Paths("layers_1/*")) == {"layers_0/b", "layers_1/w"}
    assert Paths("a", "b") == Paths("a", "b")
    assert hash(~Paths("a")) == hash(~Paths("a"))


def test_positions_are_float32_and_params_keep_their_dtype():
    posterior = LocalPosterior(lambda p, b: b, PARAMS, 1.0, free=Paths("layers_0/b"))
    position = posterior.position()
    assert position["layers_0"]["b"].dtype == jnp.float32
    full = put_free({"layers_0": {"w": None, "b": jnp.full(2, 7.0)}, "layers_1": {"w": None}, "count": None}, PARAMS)
    assert full["layers_0"]["b"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(full["layers_0"]["b"], [7, 7])
    np.testing.assert_array_equal(full["layers_1"]["w"], PARAMS["layers_1"]["w"])
    assert full["count"] == 4


def test_the_values_of_attention_are_found_by_their_name(key):
    params = Transformer(11, 8, width=8, num_heads=2).init_params(key)
    found = take_free(Paths("layers_0/*"), params)
    assert found["layers_0"]["value"] is not None
    assert len(jax.tree.leaves(found)) == 4


def test_an_empty_selection_lists_what_there_is():
    with pytest.raises(ValueError, match="layers_0/w"):
        take_free(Paths("nothing"), PARAMS)
