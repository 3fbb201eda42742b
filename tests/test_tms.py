"""Superposition: the closed-form loss, and polygons that are critical points with the coefficients of the theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxllc.models import tms

KINDS = [(6, "dead", 0.04819, 8.5), (5, "dead", 0.06874, 7.0), (5, "on", 0.06180, 8.5)]
"""Corners, spare biases, loss and learning coefficient (Chen et al., arXiv:2310.06301, figures of their k-gons)."""


def test_the_closed_form_is_the_mean_over_the_inputs(key):
    """At random weights, within four standard errors of a hundred thousand inputs; and the mean over a grid of sizes to its error of 1e-6."""
    params = tms.init_params(key)
    losses = np.asarray(tms.squared_loss(params, tms.examples(jax.random.key(1), 100_000)))
    exact = float(tms.population_loss(params))
    assert abs(losses.mean() - exact) < 4 * losses.std() / np.sqrt(len(losses))
    sizes = (np.arange(2000) + 0.5) / 2000
    grid = (np.eye(6)[:, None] * sizes[:, None]).reshape(-1, 6)
    assert float(np.asarray(tms.squared_loss(params, jnp.asarray(grid, jnp.float32)), float).mean()) == pytest.approx(exact, rel=1e-5)


def test_the_loss_of_zero_weights_is_that_of_the_biases():
    """One third without biases; with b in each place and six features 1/3 - b + 6 b² for b > 0: the branch of flat lines."""
    off = {"weight": jnp.zeros((2, 6)), "bias": jnp.zeros(6)}
    assert float(tms.population_loss(off)) == pytest.approx(1 / 3)
    assert float(tms.population_loss(off | {"bias": jnp.full(6, 0.2)})) == pytest.approx(1 / 3 - 0.2 + 6 * 0.04, rel=1e-5)
    assert float(tms.population_loss(off | {"bias": jnp.full(6, -0.2)})) == pytest.approx(1 / 3)
    assert np.isfinite(ravel_pytree(jax.grad(tms.population_loss)(off))[0]).all()


@pytest.mark.parametrize(("corners", "spare", "loss", "llc"), [kind if kind[0] < 6 else pytest.param(*kind, marks=pytest.mark.slow) for kind in KINDS])
def test_polygons_are_critical_with_the_known_loss_and_coefficient(corners, spare, loss, llc):
    """Losses to the digits published, gradients zero to rounding, and a Hessian without negative directions whose rank is twice λ.

    The gradient was seen to fail with the root of the wrong function, the rank with the rotation forgotten.
    """
    with jax.enable_x64(True):
        flat, restore = ravel_pytree(jax.tree.map(jnp.asarray, tms.polygon(corners, spare=spare)))
        value, gradient = jax.value_and_grad(lambda x: tms.population_loss(restore(x)))(flat)
        curvature = np.linalg.eigvalsh(jax.hessian(lambda x: tms.population_loss(restore(x)))(flat))
    assert float(value) == pytest.approx(loss, abs=5e-6)
    assert np.abs(gradient).max() < 1e-12
    assert curvature.min() > -1e-12
    assert (curvature > 1e-6).sum() / 2 == tms.polygon_llc(corners, spare=spare) == llc


def test_impossible_polygons_are_refused():
    with pytest.raises(ValueError, match="between 5 and num_features 6, got 4"):
        tms.polygon(4)
    with pytest.raises(ValueError, match="one of dead, on, got 'alive'"):
        tms.polygon(5, spare="alive")


def test_inputs_have_one_active_feature(key):
    """Each feature is active in a sixth of the inputs, within four standard errors, and its size is uniform: mean 1/2 and variance 1/12."""
    x = np.asarray(tms.examples(key, 6000))
    assert ((x > 0).sum(-1) <= 1).all()
    assert x.max() <= 1
    counts = (x > 0).sum(0)
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(6000 * 5 / 36)
    assert abs(x.sum(-1).mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / 6000)
