"""Slopes of noisy curves, and whether their errors are calibrated."""

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.stats import chi2, norm

from jaxllc import smoothing
from jaxllc.smoothing import slope

X = np.linspace(0.0, 3.0, 40)


@pytest.mark.parametrize("claimed", [0.05, 0.2, 1.0, None])
def test_the_error_of_a_line_is_fitted_from_its_scatter(claimed):
    """The scatter is 0.2, whatever the measured errors say: squared standardised errors of the total change add up as chi squared."""
    rng = np.random.default_rng(0)
    squares = 0.0
    for _ in range(20):
        fit = slope(X, 2 * X + 0.2 * rng.standard_normal(len(X)), None if claimed is None else np.full(len(X), claimed))
        change, error = fit.contrast(fit.change(0, len(fit.x) - 1))
        squares += ((change - 6) / error) ** 2
    assert chi2.ppf(0.001, 20) < squares < chi2.ppf(0.999, 20)


def test_slopes_of_a_curve_lie_in_their_intervals():
    """Of sin(2x), seen with correlated noise: the share of slopes outside two standard errors is a normal fit's within three of its own standard errors over
    60 curves, and standardised changes add up as chi squared.

    Seen to fail with errors of the slope twice, and half, as large.
    """
    outside, squares = [], 0.0
    for seed in range(60):
        noise = np.random.default_rng(seed).standard_normal(len(X) + 1)
        fit = slope(X, np.sin(2 * X) + 0.05 * (noise[1:] + noise[:-1]))
        outside.append((np.abs(fit.mean - 2 * np.cos(2 * fit.x)) > 2 * np.sqrt(np.diag(fit.covariance))).mean())
        start, end = len(fit.x) // 4, 3 * len(fit.x) // 4
        change, error = fit.contrast(fit.change(start, end))
        squares += ((change - np.sin(2 * fit.x[end]) + np.sin(2 * fit.x[start])) / error) ** 2
    assert abs(np.mean(outside) - 2 * norm.sf(2)) < 3 * np.std(outside, ddof=1) / np.sqrt(60)
    assert chi2.ppf(0.001, 60) < squares < chi2.ppf(0.999, 60)


def test_correlated_noise_is_bounded():
    """A bump of ten errors is a curve, whose top is certainly above its ends; correlated noise of any amplitude made it a line with noise.

    Seen to fail without the bound, for three of the four curves.
    """
    for seed in range(4):
        noise = np.random.default_rng(seed).standard_normal(len(X))
        fit = slope(X, 10 * np.exp(-(((X - 1.5) / 0.3) ** 2)) + noise, np.ones(len(X)))
        middle = len(fit.x) // 2
        for start, end, sign in ((0, middle, 1), (middle, len(fit.x) - 1, -1)):
            change, error = fit.contrast(fit.change(start, end))
            assert sign * change > 3 * error


def test_the_scatter_of_white_noise_is_estimated_on_any_grid():
    """On a parabola over an uneven grid of 3 000 points: a median of absolute values has a relative error of 1.17 / sqrt(n), every third departure is
    independent.
    """
    rng = np.random.default_rng(0)
    u = np.sort(rng.uniform(size=3000))
    assert smoothing._scatter(u, u**2 + 0.3 * rng.standard_normal(3000)) == pytest.approx(0.3, rel=4 * 1.17 / np.sqrt(1000))


def test_the_slope_is_linear_in_the_units():
    """Another unit of x and y is another unit of the slope, and nothing else."""
    y = np.sin(X) + 0.1 * np.random.default_rng(1).standard_normal(len(X))
    one, other = slope(X, y), slope(10 + 2 * X, 6 * y + 100)
    np.testing.assert_allclose(other.mean, 3 * one.mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.diag(other.covariance), 9 * np.diag(one.covariance), rtol=1e-2)


def test_a_change_is_the_integral_of_the_slope():
    """Of x³ by the trapezium rule, whose error is exactly h² (f''(b) - f''(a)) / 12, and the error of a weighted sum of independent values."""
    x = np.linspace(0, 2, 101)
    cubic = smoothing.Slope(x, x**3, np.eye(101))
    curve = cubic.integrate(cubic.mean)
    for start, end in ((0, 100), (25, 75), (99, 100)):
        exact = (x[end] ** 4 - x[start] ** 4) / 4 + 0.02**2 / 12 * 3 * (x[end] ** 2 - x[start] ** 2)
        change, error = cubic.contrast(cubic.change(start, end))
        assert change == pytest.approx(exact, rel=1e-12)
        assert curve[end] - curve[start] == pytest.approx(exact, rel=1e-12)
        assert error == pytest.approx(0.02 * np.sqrt(end - start - 0.5), rel=1e-12)
        assert cubic.contrast(cubic.average(start, end))[0] == pytest.approx(exact / (x[end] - x[start]), rel=1e-12)
    assert cubic.contrast(cubic.average(50, 50))[0] == pytest.approx(1 + 0.02**2 * 1.5, rel=1e-12)  # between the neighbours: (0.98³ + 2 + 1.02³) / 4


def test_samples_have_the_mean_and_covariance_of_the_slope():
    """Within four standard errors of 4000 samples, those of a Gaussian's covariance by its fourth moments."""
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((5, 5))
    gaussian = smoothing.Slope(np.arange(5.0), np.arange(5.0), factor @ factor.T)
    samples = gaussian.sample(rng, 4000)
    variance = np.diag(gaussian.covariance)
    assert (np.abs(samples.mean(0) - gaussian.mean) < 4 * np.sqrt(variance / 4000)).all()
    error = np.sqrt((np.outer(variance, variance) + gaussian.covariance**2) / 4000)
    assert (np.abs(np.cov(samples.T) - gaussian.covariance) < 4 * error).all()


def test_the_gradient_of_the_search_is_exact(monkeypatch):
    """Against differences; a wrong factor in any derivative was seen to fail."""
    errors = []

    def check(objective, theta, **options):
        rng = np.random.default_rng(2)
        for near in theta + 0.1 * rng.standard_normal((2, len(theta))):
            error = check_grad(lambda t: objective(t)[0], lambda t: objective(t)[1], near)
            errors.append(error / np.linalg.norm(objective(near)[1]))
        return minimize(objective, theta, **options)

    from scipy import optimize

    minimize = optimize.minimize
    monkeypatch.setattr(optimize, "minimize", check)
    slope(X, np.sin(X) + 0.1 * np.random.default_rng(1).standard_normal(len(X)), np.full(len(X), 0.1))
    assert max(errors) < 1e-3
    assert len(errors) == 4


def test_deviations_of_chains_widen_the_slope():
    """Chains that differ by an offset and a line: the offsets do not count; the lines count as their mean's error, widened as Student's t."""
    rng = np.random.default_rng(3)
    y = 2 * X + 0.01 * rng.standard_normal(len(X))
    tilt = rng.standard_normal(8)
    chains = y + 100 * rng.standard_normal((8, 1)) + tilt[:, None] * X
    alone, paired = (slope(X, y, chains=c) for c in (None, chains))
    whole = alone.change(0, len(alone.x) - 1)
    np.testing.assert_allclose(paired.mean, alone.mean)
    extra = paired.contrast(whole)[1] ** 2 - alone.contrast(whole)[1] ** 2
    assert extra == pytest.approx((3 * tilt.std(ddof=1)) ** 2 / 8 * 7 / 5, rel=0.01)
