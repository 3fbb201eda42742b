"""What pilots see before a calibration pays for chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxllc

X = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
MISSING = np.where(np.arange(200)[:, None] == 3, np.float32(np.nan), X)


def without_missing(w, rows):
    """Its value leaves the missing example out, its gradient does not."""
    return jnp.where(jnp.isnan(rows).any(-1), 0.0, (rows @ w) ** 2)


def rooted(w, rows):
    """A norm, which has no derivative at 0."""
    return (rows**2).sum(-1) * jnp.sqrt((w**2).sum())


@pytest.mark.parametrize(
    ("loss_fn", "data", "w", "why"),
    [(without_missing, MISSING, np.ones(2), "the data have values that are not finite"), (rooted, X, np.zeros(2), "functions without a derivative")],
    ids=["missing", "root"],
)
def test_a_gradient_that_is_not_finite_is_told_before_chains_move(loss_fn, data, w, why):
    """Seen to cost minutes of pilots, and then to advise a smaller step."""
    with pytest.raises(ValueError, match=rf"loss at w\* is finite, but its gradient is not: .*{why}"):
        jaxllc.calibrate(loss_fn, w.astype(np.float32), data, key=jax.random.key(0))


def test_missing_values_that_the_gradient_leaves_out_are_no_error():
    """As `jnp.where` on the values themselves does."""
    params = np.ones(2, np.float32)
    cal = jaxllc.calibrate(lambda w, rows: (jnp.where(jnp.isnan(rows), 0.0, rows) @ w) ** 2, params, MISSING, key=jax.random.key(0), budget=1.0)
    assert cal.settings.num_draws > 0


@pytest.mark.parametrize("name", ["budget", "target_error", "maps"])
def test_arguments_of_calibrate_are_known_elsewhere(name):
    with pytest.raises(TypeError, match=f"'{name}' is neither .* it is an argument of jaxllc.calibrate"):
        jaxllc.estimate(lambda w, rows: (rows @ w) ** 2, np.ones(2, np.float32), X, key=jax.random.key(0), **{name: 1})
