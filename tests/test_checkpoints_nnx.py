"""States of flax.nnx with statistics and random keys, saved whole."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from saved_runs import by_v1_checkpointer, save_items, save_plain

from jaxllc import OrbaxCheckpoints


def test_an_nnx_state_is_read_by_plain_names(tmp_path):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.StandardSave(nnx.state(model)))
    restored = OrbaxCheckpoints(tmp_path, like={"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)})[1]
    np.testing.assert_array_equal(restored["kernel"], model.kernel[...])


class Net(nnx.Module):
    """A model whose state holds weights, statistics, a counter and a typed random key."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.linear, self.norm, self.drop = nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(self.linear(x)))


def trained_net():
    """Two calls in train mode move the statistics and the counter away from their first values."""
    net = Net(5)
    for scale in (1.0, 3.0):
        net(scale * jnp.arange(6.0).reshape(2, 3))
    return net


def bits(leaf):
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_same_state(restored, saved):
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for leaf, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert leaf.dtype == expected.dtype
        np.testing.assert_array_equal(bits(leaf), bits(expected))


@pytest.fixture(scope="module")
def nnx_run(tmp_path_factory):
    """A full nnx state as the manager, a plain checkpointer and Orbax v1 write it."""
    saved = nnx.state(trained_net())
    places = {name: tmp_path_factory.mktemp(name) for name in ("manager", "plain", "v1")}
    with ocp.CheckpointManager(places["manager"]) as manager:
        manager.save(0, args=ocp.args.StandardSave(saved))
    save_plain(places["plain"], saved, "0")
    by_v1_checkpointer(places["v1"], saved, 0)
    return places, saved


@pytest.mark.parametrize("writer", ["manager", "plain", "v1"])
@pytest.mark.parametrize("template", ["concrete", "abstract"])
def test_a_full_nnx_state_is_restored_with_its_random_keys(nnx_run, writer, template):
    """The template comes of another seed: key, counter and statistics are those of the file."""
    places, saved = nnx_run
    like = nnx.state(Net(0)) if template == "concrete" else nnx.state(nnx.eval_shape(lambda: Net(0)))
    restored = OrbaxCheckpoints(places[writer], like=like)[0]
    assert_same_state(restored, saved)
    assert int(restored["drop"]["rngs"]["count"][...]) == 2
    net = Net(0)
    nnx.update(net, restored)
    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(net(x), trained_net()(x))


def test_a_full_nnx_state_agrees_with_what_orbax_restores(nnx_run):
    places, _ = nnx_run
    abstract = nnx.state(nnx.eval_shape(lambda: Net(0)))
    with ocp.CheckpointManager(places["manager"]) as manager:
        expected = manager.restore(0, args=ocp.args.StandardRestore(abstract))
    assert_same_state(OrbaxCheckpoints(places["manager"], like=abstract)[0], expected)


def test_without_like_a_random_key_is_its_data(nnx_run):
    places, saved = nnx_run
    restored = OrbaxCheckpoints(places["manager"])[0]
    np.testing.assert_array_equal(restored["drop"]["rngs"]["key"]["value"], bits(saved["drop"]["rngs"]["key"][...]))


@pytest.mark.parametrize("item", [None, "default"])
def test_the_weights_of_a_full_nnx_state_are_read_alone(nnx_run, monkeypatch, item):
    places, saved = nnx_run
    restore, requests = ocp.PyTreeCheckpointHandler.restore, []
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", lambda self, *a, args, **k: (requests.append(args.item), restore(self, *a, args=args, **k))[1])
    restored = OrbaxCheckpoints(places["manager"], like=nnx.state(Net(0), nnx.Param), item=item)[0]
    assert_same_state(restored, nnx.filter_state(saved, nnx.Param))
    assert jax.tree.leaves(requests[0]["drop"]) == [ocp.PLACEHOLDER] * 2
    assert requests[0]["norm"]["mean"]["value"] is ocp.PLACEHOLDER


def test_the_weights_of_two_nnx_models_are_named(tmp_path):
    save_items(tmp_path, 0, actor=nnx.state(Net(0)), critic=nnx.state(Net(1)))
    like = nnx.state(Net(2), nnx.Param)
    with pytest.raises(ValueError, match=r"several parts that could be the weights: actor, critic; pass item="):
        OrbaxCheckpoints(tmp_path, like=like)[0]
    assert_same_state(OrbaxCheckpoints(tmp_path, like=like, item="critic")[0], nnx.state(Net(1), nnx.Param))


def test_an_nnx_state_beside_plain_numbers(tmp_path):
    """The level `value` of nnx variables is no part of their name, whatever else the tree holds."""
    save_plain(tmp_path, {"model": nnx.state(Net(1)), "epoch": jnp.asarray(4)}, "0")
    restored = OrbaxCheckpoints(tmp_path, like={"model": nnx.state(Net(0)), "epoch": jnp.asarray(0)})[0]
    assert_same_state(restored["model"], nnx.state(Net(1)))
    assert restored["epoch"] == 4


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_random_keys_outside_nnx(tmp_path, implementation):
    keys = jax.random.split(jax.random.key(3, impl=implementation), 2)
    save_plain(tmp_path, {"w": jnp.ones(3), "keys": keys}, "0")
    restored = OrbaxCheckpoints(tmp_path, like={"w": jnp.zeros(3), "keys": keys})[0]["keys"]
    assert restored.dtype == keys.dtype
    np.testing.assert_array_equal(jax.random.key_data(restored), jax.random.key_data(keys))


def test_a_key_in_like_that_was_saved_as_numbers(tmp_path):
    save_plain(tmp_path, {"w": jnp.ones(3), "key": jax.random.PRNGKey(0)}, "0")
    with pytest.raises(ValueError, match=r"shapes at step 0 in .* do not match like: key \(2,\) instead of \(\) of random keys"):
        OrbaxCheckpoints(tmp_path, like={"w": jnp.ones(3), "key": jax.random.key(0)})[0]
