"""Heads, neurons and slices: which elements of a leaf they are, and what is said of those that do not exist."""

import jax
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
    "mask of another shape": ({"x": {"layers_0": {"query": False, "norm": np.ones(3, bool)}}}, ValueError, r"must be bool, of shape \(8,\)"),
    "mask elsewhere": ({"x": {"layers_1": {"norm": np.ones(8, bool)}}}, TypeError, "where params have none"),
    "mask of some": ({"x": {"layers_0": {"norm": np.ones(8, bool)}}}, TypeError, "says nothing of 'layers_0/query'"),
    "no weight": ({"x": "step"}, ValueError, "selects no weight that can move"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_components_are_named(wrong):
    components, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        resolve(Moving(components=components), PARAMS)


SUSPECT = {
    "other counts": ("*", 0, {}, "'key' has 8 heads and 'query' has 4"),
    "as in PyTorch": ("q_proj/*", 0, {"num_heads": 4}, "named as in PyTorch"),
    "bias of the output": ("out/*", 0, {}, "is of no head"),
}


@pytest.mark.parametrize("case", SUSPECT)
def test_what_is_taken_for_heads_is_looked_at(case):
    """Layouts that the default axis would misread are refused, since another slice of the weights would give a number too."""
    pattern, head, options, message = SUSPECT[case]
    params = {
        "query": jnp.zeros((8, 4, 2)),
        "key": jnp.zeros((4, 8, 2)),
        "q_proj": {"weight": jnp.zeros((8, 8))},
        "out": {"kernel": jnp.zeros((4, 2, 8)), "bias": jnp.zeros(8)},
    }
    params = {name: value for name, value in params.items() if pattern != "*" or name in ("query", "key")}
    with pytest.raises(ValueError, match=message):
        resolve(Moving(components={"x": Heads(pattern, head, **options)}), params)


def test_heads_are_whole_numbers():
    with pytest.raises(TypeError, match=r"head must be a whole number or several, got 1.0"):
        Heads("*", 1.0)
    assert Heads("*", jnp.asarray(1)).head == 1
    assert Heads("*", np.arange(2)).head == (0, 1)


def test_a_pattern_may_stand_for_a_selection():
    both = Heads("layers_0/query", 0) | "layers_0/norm"
    assert "layers_0/norm" in both
    assert resolve(Moving(components={"x": both}), PARAMS).num_weights == (8 * 2 + 8,)
    with pytest.raises(TypeError, match="goes with another one or with a pattern"):
        Heads("layers_0/query", 0) | 3


def test_an_nnx_state_may_have_a_mask_of_arrays():
    from flax import nnx

    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    mask = jax.tree.map(lambda leaf: np.arange(leaf.size).reshape(leaf.shape) == 0, state)
    assert resolve(Moving(components={"x": mask}), state).num_weights == (2,)
