"""A state comes out of `step` as it went in: structure, shapes, dtypes, weak types and shardings, for every sampler."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import Frozen, Quadratic, quadratic_loss
from sampler_cases import every_sampler

from jaxllc import SGLD, BlackJAX, LocalPosterior
from jaxllc._tree import named_leaves

CHAINS = 4


def sum_of_squares(params, batch):
    return sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(params)) * batch


def of_one_shape(sampler):
    """Whether a sampler holds arrays that are made for the five weights of `Quadratic`."""
    return isinstance(getattr(sampler, "preconditioner", None), Frozen) or (isinstance(sampler, BlackJAX) and "inverse_mass_matrix" in sampler.parameters)


def posterior_for(sampler):
    """Around weights of several dtypes and ranks, one of which is no weight; its batches are vectors of numbers."""
    if of_one_shape(sampler):
        params, loss_fn = Quadratic().params, lambda params, batch: quadratic_loss(params, batch[:, None] * jnp.ones((1, 5)))
    else:
        params = {"a": (jnp.ones((2, 3)), jnp.ones(4, jnp.bfloat16)), "b": {"c": jnp.asarray(1.0)}, "n": jnp.asarray(3)}
        loss_fn = sum_of_squares
    posterior = LocalPosterior(loss_fn, params, 2.0)
    return posterior.replace(center_grad=jax.tree.map(jnp.zeros_like, posterior.position()))


@every_sampler
def test_structure_shapes_and_dtypes_come_out_as_they_went_in(sampler):
    """Without computing anything, weak types too: a scan refuses a carry that becomes strong.

    Seen to fail with a count of iterations that becomes an int16. With 64-bit numbers enabled see `test_double_precision`.
    """
    posterior = posterior_for(sampler)
    before = jax.eval_shape(sampler.init, posterior.position())
    after, info = jax.eval_shape(sampler.step, jax.random.key(0), before, posterior, jnp.ones(5))
    chex.assert_trees_all_equal_structs(before, after)
    for (name, old), new in zip(named_leaves(before).items(), jax.tree.leaves(after), strict=True):
        assert (new.shape, new.dtype, new.weak_type) == (old.shape, old.dtype, old.weak_type), name
    assert (info.losses.shape, info.losses.dtype) == ((5,), jnp.float32)
    assert (info.step_bias.shape, info.step_bias.dtype) == ((), jnp.float32)
    assert (info.acceptance_rate is not None) == (sampler.min_acceptance is not None)


@every_sampler
def test_a_step_moves(sampler, key):
    """All weights, from the first step on: nothing that is abstract would see a step that gives its state back."""
    posterior = posterior_for(sampler)
    keys = jax.random.split(key, 30)  # of a sampler that refuses some
    scanned = jax.jit(lambda state: jax.lax.scan(lambda state, k: sampler.step(k, state, posterior, jnp.ones(5)), state, keys)[0])
    after = scanned(sampler.init(posterior.position()))
    for (name, old), new in zip(named_leaves(posterior.position()).items(), jax.tree.leaves(after.position), strict=True):
        assert (np.asarray(old) != np.asarray(new)).all(), name


def sharded_over(mesh):
    """Puts leaves `[chain, ...]` on a mesh: chains along one axis, and the last axis of the weights along the other where it divides it."""

    def put(leaf):
        divides = leaf.ndim > 1 and leaf.shape[-1] % mesh.shape["model"] == 0
        spec = P("chain", *[None] * (leaf.ndim - 2), "model") if divides else P("chain")
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return put


def wide_loss(params, batch):
    return 0.5 * jnp.sum(params["w"] ** 2) + jnp.sum(params["b"] ** 2) + 0 * batch


def shardings_of_a_step(sampler):
    """Of each leaf of the states of four chains before and after one step, chains and weights spread over two axes of devices."""
    mesh = jax.make_mesh((2, 2), ("chain", "model"), axis_types=(AxisType.Auto,) * 2)
    params = {"w": jnp.ones((6, 8)), "b": jnp.ones(4)}
    posterior = LocalPosterior(wide_loss, params, 2.0)
    posterior = posterior.replace(center_grad=jax.tree.map(jnp.zeros_like, posterior.position()))

    def put_model(leaf):
        return jax.device_put(leaf, NamedSharding(mesh, P(*[None] * (jnp.ndim(leaf) - 1), "model") if jnp.ndim(leaf) else P()))

    posterior = jax.tree.map(put_model, posterior)
    one = sampler.init(posterior.position())
    states = jax.tree.map(lambda leaf: sharded_over(mesh)(jnp.broadcast_to(leaf, (CHAINS, *jnp.shape(leaf)))), one)
    keys = jax.device_put(jax.random.split(jax.random.key(0), CHAINS), NamedSharding(mesh, P("chain")))
    step = jax.jit(jax.vmap(lambda key, state: sampler.step(key, state, posterior, jnp.ones(5))[0]))
    after = step(keys, states)
    return {name: (old.sharding, new.sharding, old.ndim) for (name, old), new in zip(named_leaves(states).items(), jax.tree.leaves(after), strict=True)}


@every_sampler
def test_shardings_come_out_as_they_went_in(sampler):
    """On four devices: a state that comes out replicated would be gathered at each step, and would not fit where weights are spread.

    Seen to fail with the momenta of `SGHMC` and `SGNHT` replicated in `underdamped.refresh`, and below with the weights of `SGLD`.
    """
    if of_one_shape(sampler):
        pytest.skip("holds arrays for the five weights of another problem; its code is that of the samplers beside it")
    for name, (before, after, ndim) in shardings_of_a_step(sampler).items():
        assert after.is_equivalent_to(before, ndim), f"{name}: {before.spec} became {after}"


def test_a_planted_replication_is_seen():
    """The check above, on a sampler whose weights come out whole on each device."""

    class Gathering(SGLD):
        def step(self, key, state, posterior, batch):
            after, info = super().step(key, state, posterior, batch)
            whole = jax.make_mesh((2, 2), ("chain", "model"), axis_types=(AxisType.Auto,) * 2)
            position = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, NamedSharding(whole, P())), after.position)
            return after._replace(position=position), info

    jax.tree_util.register_pytree_node(Gathering, lambda s: ((), s.step_size), lambda step_size, _: Gathering(step_size))
    changed = [name for name, (before, after, ndim) in shardings_of_a_step(Gathering(1e-3)).items() if not after.is_equivalent_to(before, ndim)]
    assert changed == ["position/b", "position/w"]
