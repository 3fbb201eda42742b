"""The acceptance of a MALA step is exact where it is known, and a prior for each layer leaves the loss as it was."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxllc
from research import layer_priors, step_checks

WEIGHTS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[4.0]])}


def loss(params, batch):
    return batch["x"] * (params["a"] ** 2).sum() + (params["b"] - 1).sum() ** 2


def made():
    return loss, WEIGHTS, {"x": jnp.linspace(0.5, 1.5, 8)}


def test_small_steps_are_accepted_and_large_ones_are_not():
    positions = jnp.zeros((4, 3))
    rates = [
        step_checks.acceptance(made(), positions, jaxllc.Settings(jaxllc.SGLD(step), nbeta=10.0, localization=1.0), jax.random.key(0)) for step in (1e-5, 10.0)
    ]
    assert rates[0] > 0.99
    assert rates[1] < 0.01


def test_a_prior_for_each_layer():
    """The loss at the centre and anywhere else is that of the whole weights, and the mean localization is one."""
    loss_fn, center, data = layer_priors.per_layer(made())
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(center))
    np.testing.assert_allclose(loss_fn(center, data), loss(WEIGHTS, data), rtol=1e-6)
    rms = {"a": np.sqrt(2.5), "b": 4.0}
    scales = np.array([rms["a"], rms["a"], rms["b"]]) * np.sqrt((2 / rms["a"] ** 2 + 1 / rms["b"] ** 2) / 3)
    np.testing.assert_allclose((1 / scales**2).mean(), 1, rtol=1e-6)
    shifted = jax.tree.map(lambda leaf: leaf + 0.1, center)
    expected = {"a": WEIGHTS["a"] + 0.1 * scales[0], "b": WEIGHTS["b"] + 0.1 * scales[2]}
    np.testing.assert_allclose(loss_fn(shifted, data), loss(expected, data), rtol=1e-5)
