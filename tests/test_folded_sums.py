"""Sums over the weights, which on a CPU are folded before they are taken: exact, or within the rounding of what is added."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllc.layout import FOLDS, _folded, inner

SIZES = (0, 1, FOLDS - 1, FOLDS, FOLDS + 1, 2 * FOLDS - 1, 3 * FOLDS + 5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("sum_of", [_folded, inner])
def test_folded_sums_of_whole_numbers_are_exact(sum_of, dtype):
    """Of leaves of every remainder and of no axes, under `vmap` too: every partial sum is below 256, so no rounding hides a product that is missed or twice.

    Seen to fail without the numbers beyond whole folds, and with one fold too few.
    """
    rng = np.random.default_rng(0)
    shapes = [(), *[(size,) for size in SIZES], (3, 5), (2, 3, 7)]
    left, right = ([rng.integers(-1, 2, (4, *shape)) for shape in shapes] for _ in "xy")
    exact = sum((x * y).reshape(4, -1).sum(1) for x, y in zip(left, right, strict=True))
    assert len(set(exact)) > 1
    found = jax.jit(jax.vmap(sum_of))(*([jnp.asarray(leaf, dtype) for leaf in leaves] for leaves in (left, right)))
    assert (found.dtype, found.shape) == (dtype, (4,))
    np.testing.assert_array_equal(np.asarray(found, float), exact)
    for x, y in zip(left, right, strict=True):
        if x.size:
            np.testing.assert_array_equal(float(sum_of([jnp.asarray(x[0], dtype)], [jnp.asarray(y[0], dtype)])), (x[0] * y[0]).sum())


@pytest.mark.parametrize(("dtype", "rounding"), [(jnp.float32, 2**-24), (jnp.bfloat16, 2**-8), (jnp.float16, 2**-11)])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 1001, 4099])
def test_folded_sums_are_those_of_float64(size, dtype, rounding):
    """Within half a unit in the last place of each product, of `FOLDS` - 1 sums and of the result, and of the sum of the folds in float32. Seen to
    fail as the test above.
    """
    x, y = (np.asarray(jax.random.normal(jax.random.key(i), (size,)).astype(dtype), np.float64) for i in range(2))
    found = float(_folded([jnp.asarray(x, dtype)], [jnp.asarray(y, dtype)]))
    bound = (rounding * (FOLDS + 1) + 2.0**-24 * (size // FOLDS + FOLDS)) * np.abs(x * y).sum()
    assert abs(found - (x * y).sum()) < 1.01 * bound
