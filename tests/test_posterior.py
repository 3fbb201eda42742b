"""The density around a checkpoint."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from problems import CURVATURE, Quadratic, shifted

from jaxllc import Paths, default_nbeta


def test_default_nbeta():
    assert default_nbeta(1000) == 1000 / math.log(1000)
    with pytest.raises(ValueError, match="at least 3 examples, got 2"):
        default_nbeta(2)


def test_gradients_are_those_of_the_mean_loss():
    problem = Quadratic()
    posterior = problem.posterior()
    position = shifted(posterior.position(), 0.1)
    losses, grad = posterior.loss_and_grad(position, jnp.asarray(problem.rows))
    assert losses.shape == (problem.num_examples,)
    np.testing.assert_allclose(np.concatenate([grad["a"], grad["b"]]), CURVATURE * 0.1 + problem.rows.mean(0), atol=1e-6)


def test_only_free_weights_have_a_gradient():
    problem = Quadratic()
    posterior = problem.posterior().replace(free=Paths("b"))
    _, grad = posterior.loss_and_grad(posterior.position(), jnp.asarray(problem.rows))
    assert grad["a"] is None
    assert grad["b"].shape == (3,)
