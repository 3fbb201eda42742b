"""A model, its data and its training run, as run.toml names them: linear regression by gradient descent, whose coefficient ends at 3/2."""

import jax
import jax.numpy as jnp


def loss(params, batch):
    """Half the squared error of each example, in nats for a noise of variance 1."""
    x, y = batch
    return (x @ params["w"] - y) ** 2 / 2


def data():
    """Examples of three features and a target with noise, the same at every call."""
    x = jax.random.normal(jax.random.key(0), (2000, 3))
    return x, x @ jnp.array([1.0, -2.0, 0.5]) + jax.random.normal(jax.random.key(1), (2000,))


def checkpoints():
    """The weights at nine of 180 steps of gradient descent, by step. A real run names the directory that Orbax wrote."""
    gradient = jax.jit(jax.grad(lambda params: loss(params, data()).mean()))
    params, kept = {"w": jnp.zeros(3)}, {}
    for step in range(181):
        if step in range(60, 181, 15):
            kept[step] = params
        params = jax.tree.map(lambda w, g: w - 0.05 * g, params, gradient(params))
    return kept
