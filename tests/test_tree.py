"""Models whose leaves are not all arrays, taken apart and put together."""

import dataclasses
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllc import Free, Paths
from jaxllc._tree import WithObjects, join_objects, leaves_with_roles, named_leaves, split_objects, stack
from jaxllc.select import as_free, put_free, take_free


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Net:
    """A layer with its activation and its settings among the leaves, as an equinox module has them."""

    weight: Any
    activation: Callable
    rate: Any = 0.5
    inference: Any = False

    def __call__(self, x):
        assert self.inference is False  # a traced bool would not do
        return self.activation(x @ self.weight) * (1 - self.rate)


def loss(net, batch):
    return (net(batch[0]) - batch[1]) ** 2 / 2


X, Y = np.array([[1.0, 2.0], [3.0, -4.0]], np.float32), np.array([1.0, 2.0], np.float32)


def test_functions_and_settings_are_cut_out_and_come_back():
    net = Net(jnp.ones(2), jnp.tanh)
    arrays, rest = split_objects(net)
    assert set(named_leaves(arrays)) == {"weight"}
    assert arrays.activation is arrays.rate is arrays.inference is None
    back = join_objects(arrays, rest)
    assert (back.activation, back.rate, back.inference) == (jnp.tanh, 0.5, False)
    assert back.weight is net.weight


def test_the_gradient_goes_through_the_arrays_alone():
    net = Net(jnp.asarray([0.5, 0.25]), jnp.tanh)
    arrays, rest = split_objects(net)
    losses = WithObjects(loss, rest)
    gradient = jax.grad(lambda arrays: losses(arrays, (X, Y)).mean())(arrays)
    by_hand = jax.grad(lambda w: ((jnp.tanh(X @ w) * 0.5 - Y) ** 2 / 2).mean())(net.weight)
    assert gradient.activation is None
    np.testing.assert_array_equal(gradient.weight, by_hand)


def test_equal_models_share_one_program():
    traces = []

    def counted(net, batch):
        traces.append(net)
        return loss(net, batch)

    run = jax.jit(lambda losses, arrays: losses(arrays, (X, Y)), static_argnums=0)
    for scale in (1.0, 2.0):
        arrays, rest = split_objects(Net(scale * jnp.ones(2), jax.nn.relu))
        run(WithObjects(counted, rest), arrays)
    assert len(traces) == 1
    rests = [
        split_objects(Net(jnp.ones(2), *settings))[1]
        for settings in ((jax.nn.relu,), (jax.nn.relu, 0.5), (jnp.tanh,), (jax.nn.relu, 0.25), (jax.nn.relu, 0.5, 0))
    ]
    assert rests[0] == rests[1]
    assert hash(rests[0]) == hash(rests[1])
    assert all(rests[0] != other for other in rests[2:])  # 0 is not False


def test_models_stack_and_selections_work_after_the_cut():
    parts = [split_objects(Net(scale * jnp.ones(2), jnp.tanh)) for scale in (1.0, 2.0)]
    np.testing.assert_array_equal(stack([arrays for arrays, _ in parts]).weight, [[1, 1], [2, 2]])
    arrays, rest = parts[0]
    whole, of_arrays = Net(True, False, False, False), Net(True, None, None, None)
    for free in (None, "weight", whole, of_arrays, lambda path: path == "weight"):
        for params in (arrays, join_objects(arrays, rest)):
            position = take_free(as_free(free, params), params)
            assert set(named_leaves(position)) == {"weight"}
    moved = put_free(jax.tree.map(lambda leaf: leaf + 1, take_free(Free(), arrays)), arrays)
    np.testing.assert_array_equal(join_objects(moved, rest).weight, [2, 2])


def test_a_tree_of_numbers_is_left_alone():
    params = {"w": jnp.ones(2), "b": 1.0, "count": 3, "key": jax.random.key(0), "none": None, "host": np.ones(2)}
    arrays, rest = split_objects(params)
    assert arrays is params
    assert rest == split_objects({"other": 2.0})[1]
    assert join_objects(arrays, rest) is params


def test_none_in_the_params_stays_none():
    params = {"w": jnp.ones(2), "none": None, "act": jnp.tanh}
    arrays, rest = split_objects(params)
    assert arrays == {"w": params["w"], "none": None, "act": None}
    assert join_objects(arrays, rest) == params


def test_a_leaf_that_cannot_be_hashed_is_named():
    class Table:
        __hash__ = None

    for value in (Table(), np.array(["a", "b"])):
        with pytest.raises(TypeError, match=r"leaf 'vocabulary/table' of params is no array and cannot be hashed"):
            split_objects({"w": jnp.ones(2), "vocabulary": {"table": value}})


def test_python_numbers_are_weights_in_containers_and_settings_in_modules():
    pair = namedtuple("pair", ("w", "b"))
    roles = {leaf.name: leaf.role for leaf in leaves_with_roles({"pair": pair(1.0, 2), "list": [0.5, 1j], "net": Net(1.0, jnp.tanh)})}
    settings = dict.fromkeys(("net/weight", "net/activation", "net/rate", "net/inference"), "object")
    assert roles == {"pair/w": "weight", "pair/b": "number", "list/0": "weight", "list/1": "complex", **settings}


def test_leaves_come_in_the_order_of_jax():
    tree = {"b": [jnp.ones(1), {}, None, (2.0,)], "a": Net(jnp.ones(2), jnp.tanh), "c": ((), [[]])}
    leaves = leaves_with_roles(tree)
    assert [leaf.name for leaf in leaves] == list(named_leaves(tree))
    assert all(leaf.value is value for leaf, value in zip(leaves, jax.tree.leaves(tree), strict=True))
    assert leaves_with_roles(None) == []


def test_an_equinox_module_goes_whole():
    eqx = pytest.importorskip("equinox")
    net = eqx.nn.MLP(2, "scalar", 4, 1, key=jax.random.key(1))
    arrays, rest = split_objects(net)
    weights = {f"layers/{i}/{name}" for i in (0, 1) for name in ("weight", "bias")}
    assert set(named_leaves(net)) == weights | {"activation", "final_activation"}
    assert set(named_leaves(arrays)) == weights
    assert rest == split_objects(eqx.nn.MLP(2, "scalar", 4, 1, key=jax.random.key(2)))[1]

    def loss(net, batch):
        return (jax.vmap(net)(batch[0]) - batch[1]) ** 2 / 2

    losses = WithObjects(loss, rest)
    gradient = jax.jit(jax.grad(lambda arrays: losses(arrays, (X, Y)).mean()))(arrays)
    expected = eqx.filter_grad(lambda net: loss(net, (X, Y)).mean())(net)
    for name, leaf in named_leaves(eqx.filter(expected, eqx.is_array)).items():
        np.testing.assert_allclose(named_leaves(gradient)[name], leaf, rtol=1e-6)
    mask = jax.tree.map(eqx.is_array, net)
    last = eqx.tree_at(lambda tree: tree.layers[1].weight, jax.tree.map(lambda _: False, net), True)
    for params in (net, arrays):
        assert as_free(mask, params) == Free()
        assert set(named_leaves(take_free(as_free(last, params), params))) == {"layers/1/weight"}
        assert set(named_leaves(take_free(~Paths("*/bias"), params))) == {"layers/0/weight", "layers/1/weight"}


def test_equinox_dropout_and_state_are_no_weights():
    eqx = pytest.importorskip("equinox")

    class Norm(eqx.Module):
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout

    net, state = eqx.nn.make_with_state(lambda: Norm(eqx.nn.BatchNorm(3, "batch", mode="ema"), eqx.nn.Dropout(0.1)))()
    arrays, _ = split_objects((net, state))
    assert set(named_leaves(take_free(Free(), arrays))) == {"0/norm/weight", "0/norm/bias"}
