"""Runs on disk for the tests of checkpoints: the weights that they hold, and ways to write them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from orbax.checkpoint import v1

PARAMS = {"layers_0": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4, jnp.bfloat16)}, "scale": jnp.asarray(2.0)}
STEPS = (0, 10, 300)


def weights(step):
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(step, leaf.dtype), PARAMS)


def state(step):
    """Weights in a larger state, with Adam's moments in the same shapes."""
    return {"params": weights(step), "opt_state": optax.adam(1e-3).init(weights(step)), "step": step}


def assert_weights(restored, step):
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, restored), jax.tree.map(np.asarray, weights(step)))


def save_items(directory, step, /, **items):
    with ocp.CheckpointManager(directory) as manager:
        manager.save(step, args=ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in items.items()}))


def save_plain(directory, tree, *names, saver=ocp.StandardCheckpointer):
    with saver() as checkpointer:
        for name in names:
            checkpointer.save(directory / name, tree)


def by_v1_checkpointer(directory, tree, step):
    with v1.training.Checkpointer(directory) as checkpointer:
        checkpointer.save(step, tree)
