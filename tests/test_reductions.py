"""Running moments are those of all evaluations at once."""

import numpy as np
import pytest

from jaxllc.reductions import REDUCTIONS, BetweenChains, MeanAndCovariance, MeanAndVariance

K, C, W = 2, 3, 7


def evaluations(shape=(2, 3), offset=100.0):
    """Of two checkpoints, three chains and seven times; far from zero, where naive sums of squares lose their digits."""
    return offset + np.random.default_rng(0).normal(size=(W, K, C, *shape)).astype(np.float32)


def reduced(kind, values):
    reduction = kind()
    for each in values:
        reduction.add(each)
    results = reduction.results()
    assert set(results) == set(kind.dims)
    return results


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=str)
def test_mean_and_variance(shape, offset):
    """Seen to fail with n in the place of n - 1."""
    values = evaluations(shape, offset)
    results = reduced(MeanAndVariance, values)
    np.testing.assert_allclose(results["mean"], values.mean(0, dtype=float), rtol=1e-12)
    np.testing.assert_allclose(results["variance"], values.astype(float).var(0, ddof=1), rtol=1e-9)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=str)
def test_mean_and_covariance(shape):
    """Of all pairs of elements, in the order of a flattened array."""
    values = evaluations(shape)
    results = reduced(MeanAndCovariance, values)
    np.testing.assert_allclose(results["mean"], values.mean(0, dtype=float), rtol=1e-12)
    size = int(np.prod(shape))
    assert results["covariance"].shape == (K, C, size, size)
    for k, c in np.ndindex(K, C):
        exact = np.cov(values[:, k, c].reshape(W, -1).T.astype(float)).reshape(size, size)
        np.testing.assert_allclose(results["covariance"][k, c], exact, rtol=1e-9, atol=1e-9)


def test_of_one_evaluation_there_is_a_mean_and_no_spread():
    values = evaluations()[:1]
    assert np.isnan(reduced(MeanAndVariance, values)["variance"]).all()
    assert np.isnan(reduced(MeanAndCovariance, values)["covariance"]).all()
    np.testing.assert_array_equal(reduced(MeanAndVariance, values)["mean"], values[0])


def test_between_chains():
    """Covariances over elements of any two chains, the mean over evaluations; a chain that diverged takes nothing from the others."""
    values = evaluations((5,))
    values[3:, 1, 2] = np.nan
    results = reduced(BetweenChains, values)["between_chains"]
    for k in range(K):
        exact = np.mean([np.cov(each[k].astype(float)) for each in values], 0)
        np.testing.assert_allclose(results[k], exact, rtol=1e-9)
    assert np.isnan(results[1, 2]).all()
    assert np.isfinite(results[1, :2, :2]).all()


def test_memory_does_not_grow_with_the_evaluations():
    for kind in REDUCTIONS.values():
        few, many = (reduced(kind, np.ones((count, K, C, 4), np.float32)) for count in (2, 50))
        assert {name: array.nbytes for name, array in few.items()} == {name: array.nbytes for name, array in many.items()}
