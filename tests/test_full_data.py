"""Full-data quantities at w*, against the whole data at once, and clouds around it against exact means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import CURVATURE, Quadratic, quadratic_loss, shifted

from jaxllc import InMemory, LocalPosterior
from jaxllc.full_data import CLOUD_DRAWS, center_gradient, center_losses, gaussian_cloud, has_low_precision, known_losses, paired, rounding_cloud


def mean_loss(params, batch):
    return quadratic_loss(params, batch).mean()


@pytest.mark.parametrize("loss_fn", [quadratic_loss, mean_loss], ids=["by example", "mean"])
@pytest.mark.parametrize("batch_size", [20, 150, 399, None])
def test_loss_and_gradient_of_all_data(batch_size, loss_fn):
    """400 examples, also in batches that do not divide them; seen to fail with the rows counted twice that wrap around."""
    problem = Quadratic()
    center = shifted(problem.params, 0.3)
    posterior = LocalPosterior(loss_fn, center, 1.0)
    data = InMemory.of(problem.rows, batch_size)
    value, grad = jax.value_and_grad(lambda p: quadratic_loss(p, jnp.asarray(problem.rows)).mean())(center)
    np.testing.assert_allclose(center_losses(posterior, data, 1, None).mean, value, rtol=1e-5)
    for found, exact in zip(jax.tree.leaves(center_gradient(posterior, data, 1, None)), jax.tree.leaves(grad), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("by_example", [True, False], ids=["losses known", "second forward pass"])
def test_losses_are_paired_with_those_of_the_same_examples(by_example):
    """Also in a window that wraps around."""
    problem = Quadratic()
    data, posterior = problem.data, problem.posterior()
    known = center_losses(posterior, data, 1, None).by_example if by_example else None
    position = shifted(posterior.position(), 0.2)
    for window in (jnp.asarray(5), jnp.asarray(problem.num_examples - 3)):
        batch = data.batch(window)
        excess, center = paired(posterior.losses(position, batch), posterior, batch, known_losses(known, data, window))
        np.testing.assert_allclose(excess, (quadratic_loss(position, batch) - quadratic_loss(problem.params, batch)).mean(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(center, quadratic_loss(problem.params, batch).mean(), rtol=1e-4, atol=1e-6)


def assert_mean_within_its_error(values, exact):
    """Whether a mean lies within 4 of its standard errors, which are below a tenth of it."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert error < 0.1 * exact
    assert abs(np.mean(values) - exact) < 4 * error


def test_the_gaussian_cloud_is_that_of_the_prior(key):
    r"""$\sum_j h_j / (2 \gamma)$, exactly, for a quadratic; within 4 standard errors over 200 chains."""
    problem = Quadratic()
    posterior, data = problem.posterior(), problem.data
    known = center_losses(posterior, data, 1, None).by_example
    clouds = jax.vmap(lambda chain: gaussian_cloud(key, chain, posterior, data, known))(jnp.arange(200))
    assert_mean_within_its_error(np.asarray(clouds), CURVATURE.sum() / (2 * problem.localization))


def squares(params, batch):
    return 0.5 * jnp.sum(params["w"].astype(jnp.float32) ** 2) + 0 * batch


@pytest.mark.parametrize(("dtype", "bits"), [(jnp.bfloat16, 8), (jnp.float16, 11)])
def test_the_rounding_cloud_is_that_of_the_models_dtype(dtype, bits):
    r"""$\frac12 \sum_j \Delta_j^2 / 12$ with the spacing $\Delta$ of numbers from one to two, exactly: the excess of a weight rounded to it.

    Around zero, so that the loss has no slope and the squares of the spacings alone count; one weight in float32 adds nothing.
    """
    center = {"w": jnp.full(64, 1.5, dtype)}

    def around(params, batch):
        return 0.5 * jnp.sum((params["w"].astype(jnp.float32) - 1.5) ** 2) + 0 * batch

    posterior, data = LocalPosterior(around, center, 1.0), InMemory.of(np.zeros(8, np.float32))
    assert has_low_precision(posterior)
    spacing = 2.0 ** (1 - bits)
    found = rounding_cloud(jax.random.key(0), posterior, data, None)
    assert float(found) == pytest.approx(64 * spacing**2 / 24, rel=1e-5)
    assert CLOUD_DRAWS > 1


def test_wide_weights_are_not_rounded():
    posterior = LocalPosterior(squares, {"w": jnp.ones(3)}, 1.0)
    assert not has_low_precision(posterior)
