"""Full-data quantities at w*, against the whole data at once, and clouds around it against exact means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Quadratic, quadratic_loss, shifted

from jaxllc import InMemory, LocalPosterior
from jaxllc.full_data import center_gradient, center_losses


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
