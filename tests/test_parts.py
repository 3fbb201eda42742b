"""Heads, neurons and slices: which elements of a leaf they are, and what is said of those that do not exist."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllc import Heads, Slice
from jaxllc.components import Moving, resolve

HEADS = {
    "layers_0/query": (Heads("layers_0/*", 1), np.s_[:, 1]),
    "layers_0/output": (Heads("layers_0/*", 1), np.s_[1]),
    "attn/q_proj/kernel": (Heads("attn/*", (0, 3), num_heads=4), np.s_[:, [0, 1, 6, 7]]),
    "attn/out_proj/kernel": (Heads("attn/*", (0, 3), num_heads=4), np.s_[[0, 1, 6, 7]]),
    "attn/c/kernel": (Heads("attn/*", -1, axis={"*/c/*": 1}), np.s_[:, 3]),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_know_their_axis(name):
    heads, index = HEADS[name]
    shape = (4, 2, 8) if name.endswith("output") else (8, 4, 2) if name.startswith("layers") else (8, 4) if "/c/" in name else (8, 8)
    expected = np.zeros(shape, bool)
    expected[index] = True
    np.testing.assert_array_equal(heads.mask(name, shape), expected)


PARAMS = {"layers_0": {"query": jnp.zeros((8, 4, 2)), "norm": jnp.zeros(8)}, "step": jnp.zeros((), jnp.int32)}
WRONG = {
    "no mapping": (["layers_0/*"], TypeError, "must be a mapping from names"),
    "empty": ({}, ValueError, "components is empty"),
    "no such leaf": ({"x": Heads("layers_9/*", 0)}, ValueError, "matches no leaf"),
    "no such head": ({"x": Heads("layers_0/query", 4)}, ValueError, "there is no 4"),
    "no axis": ({"x": Heads("layers_0/*", 0)}, ValueError, "has no axis -2"),
    "uneven": ({"x": Heads("layers_0/query", 0, axis=0, num_heads=3)}, ValueError, "does not hold 3 heads"),
    "index": ({"x": Slice("layers_0/norm", 8)}, ValueError, "does not fit the leaf 'layers_0/norm'"),
    "disjoint": ({"x": Slice("layers_0/norm", 0) & Slice("layers_0/norm", 1)}, ValueError, "the component 'x' selects no weight"),
    "mask of another shape": ({"x": {"layers_0": {"norm": np.ones(3, bool)}}}, ValueError, r"must be bool, of shape \(8,\)"),
    "mask elsewhere": ({"x": {"layers_1": {"norm": np.ones(8, bool)}}}, TypeError, "where params have none"),
    "no weight": ({"x": "step"}, ValueError, "selects no weight that can move"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_components_are_named(wrong):
    components, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        resolve(Moving(components=components), PARAMS)
