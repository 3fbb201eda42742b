"""Exact answers against answers computed in another way."""

import itertools

import numpy as np
import pytest
import scipy.integrate

from jaxllc import theory


@pytest.mark.parametrize(
    ("widths", "rank", "value", "multiplicity"),
    [
        ([5, 3], 2, 7.5, 1),
        ([1, 1, 1], 0, 0.5, 2),
        ([1, 1, 1, 1], 0, 0.5, 3),
        ([2, 2, 2], 0, 1.5, 1),
        ([2, 2, 2], 1, 2.0, 2),
        ([2, 2, 2], 2, 2.0, 1),
        ([3, 3, 3], 0, 3.5, 2),
        ([5, 4, 5], 0, 8.0, 1),
        ([8, 3, 4], 0, 6.0, 1),
        ([4, 4, 4, 4], 2, 7.5, 3),
        ([10, 10, 10], 5, 47.0, 2),
        ([20, 10, 10, 20], 4, 90.0, 1),
        ([20, 20, 10, 10], 4, 70.0, 1),
        ([50, 30, 40, 20, 60], 7, 509.0, 2),
        ([1000] * 6, 300, 402000.0, 1),
    ],
)
def test_deep_linear_nets_of_the_literature(widths, rank, value, multiplicity):
    coefficient = theory.deep_linear_llc(widths, rank)
    assert coefficient.value == pytest.approx(value, abs=1e-9)
    assert coefficient.multiplicity == multiplicity


@pytest.mark.parametrize(("inputs", "hidden", "outputs"), list(itertools.product((1, 3, 5, 8), (1, 2, 4, 7), (2, 3, 6))))
def test_two_layers_agree_with_reduced_rank_regression(inputs, hidden, outputs):
    """Aoyagi & Watanabe 2005, whose four cases are written quite differently."""
    for rank in range(min(inputs, hidden, outputs) + 1):
        m, h, n, r = inputs, hidden, outputs, rank
        if m + h < n + r:
            expected = (h * m - h * r + n * r) / 2
        elif n + h < m + r:
            expected = (h * n - h * r + m * r) / 2
        elif m + n < h + r:
            expected = m * n / 2
        else:
            odd = (m + n + h + r) % 2
            expected = (2 * (h + r) * (m + n) - (m - n) ** 2 - (h + r) ** 2 + odd) / 8
        assert theory.deep_linear_llc([m, h, n], r).value == pytest.approx(expected)


def test_the_order_of_hidden_widths_does_not_matter():
    assert len({theory.deep_linear_llc([6, *hidden, 5], 2) for hidden in itertools.permutations((3, 4, 9))}) == 1


@pytest.mark.parametrize(("widths", "rank", "message"), [([3], 0, "at least two"), ([3, 4], 4, "between 0 and the least width 3"), ([3, 4], -1, "got -1")])
def test_impossible_nets_are_refused(widths, rank, message):
    with pytest.raises(ValueError, match=message):
        theory.deep_linear_llc(widths, rank)


def test_normal_crossings():
    assert theory.normal_crossing_llc([1, 1]) == (0.5, 2)
    assert theory.normal_crossing_llc([1, 2]) == (0.25, 1)
    assert theory.normal_crossing_llc([1, 2, 0], [0, 1, 0]) == (0.5, 2)
    with pytest.raises(ValueError, match="no positive number"):
        theory.normal_crossing_llc([0, 0])


@pytest.mark.parametrize(("nbeta", "localization"), [(100.0, 1.0), (3.0, 0.2), (1e4, 1.0)])
@pytest.mark.parametrize("power", [1, 2])
def test_normal_crossings_by_another_quadrature(power, nbeta, localization):
    """The first variable of w₁² w₂^{2k} is Gaussian given the second, and done by hand; the second by an adaptive rule in w₂."""

    def integrate(mean):
        def weighted(w):
            k = nbeta * w ** (2 * power)
            return np.exp(-localization / 2 * w**2) / np.sqrt(localization + 2 * k) * (k / (localization + 2 * k) if mean else 1)

        edges = np.concatenate([[0], np.geomspace(1e-4, 15 / localization**0.5, 12)])
        return sum(scipy.integrate.quad(weighted, *ends, epsabs=0, epsrel=1e-11)[0] for ends in itertools.pairwise(edges))

    assert theory.normal_crossing_mean([1, power], nbeta, localization) == pytest.approx(integrate(True) / integrate(False), rel=1e-8)


def test_sgld_variance_is_the_fixed_point_of_the_chain():
    """The recursion v ← (1 − εa/2)² v + ε + (εnβ/2)² s² of the linear chain, run until it stands still."""
    h, nbeta, gamma, eps, s2 = np.array([0.0, 0.1, 3.0]), 40.0, 2.0, 0.01, np.array([0.3, 0.0, 1.7])
    a, v = nbeta * h + gamma, np.zeros(3)
    for _ in range(20_000):
        v = (1 - eps * a / 2) ** 2 * v + eps + (eps * nbeta / 2) ** 2 * s2
    np.testing.assert_allclose(theory.sgld_variance(h, nbeta, gamma, eps, s2), v, rtol=1e-10)
    with pytest.raises(ValueError, match="unstable"):
        theory.sgld_variance(h, nbeta, gamma, 0.04, s2)


def test_sghmc_variance_is_the_fixed_point_of_the_chain():
    """The covariance of position and momentum under one step after another, each a half drift, a kick with friction and noise, and a half drift."""
    h, nbeta, gamma, eps, friction, s2 = np.array([0.0, 0.1, 3.0]), 40.0, 2.0, 0.01, 1.5, np.array([0.3, 0.0, 1.7])
    time, decay = np.sqrt(eps), np.exp(-friction * np.sqrt(eps))
    for axis, a in enumerate(nbeta * h + gamma):
        kick, drift = np.array([[1, 0], [-time * a, 1]]), np.array([[1, time / 2], [0, 1]])
        step = drift @ np.diag([1, decay]) @ drift @ kick
        by_gradient, by_noise = drift @ np.diag([1, decay]) @ drift @ [0, time], np.sqrt(1 - decay**2) * drift @ [0, 1]
        added = nbeta**2 * s2[axis] * np.outer(by_gradient, by_gradient) + np.outer(by_noise, by_noise)
        covariance = np.eye(2)
        for _ in range(5000):
            covariance = step @ covariance @ step.T + added
        assert theory.sghmc_variance(h, nbeta, gamma, eps, friction, s2)[axis] == pytest.approx(covariance[0, 0], rel=1e-9)
    np.testing.assert_allclose(theory.sghmc_variance(h, nbeta, gamma, eps, friction), 1 / (nbeta * h + gamma), rtol=1e-9)
    with pytest.raises(ValueError, match="SGHMC is unstable"):
        theory.sghmc_variance(h, nbeta, gamma, 0.04, friction)


def test_step_bias_is_the_excess_of_the_loss():
    """Over continuous time: with exact gradients on any quadratic, and with noisy ones where there is no localization."""
    h, nbeta, eps = np.array([0.1, 1.0, 3.0]), 40.0, 0.01
    for gamma, s2 in ((2.0, np.zeros(3)), (0.0, np.array([0.3, 0.0, 1.7]))):
        excess = theory.quadratic_llc(h, nbeta, gamma, step_size=eps, gradient_variance=s2) - theory.quadratic_llc(h, nbeta, gamma)
        assert theory.sgld_step_bias(h, nbeta, gamma, eps, s2) == pytest.approx(excess, rel=1e-9)


@pytest.mark.parametrize("nbeta", [1.0, 1e4])
def test_sums_of_powers_by_quadrature(nbeta):
    """1/2 + 1/4 + 1/6, one axis after another, at any temperature."""

    def mean(power):
        x = np.linspace(0, (60 / nbeta) ** (1 / (2 * power)), 200_001)
        energy = nbeta * x ** (2 * power)
        return np.trapezoid(energy * np.exp(-energy), x) / np.trapezoid(np.exp(-energy), x)

    assert theory.sum_of_powers_llc([1, 2, 3]) == pytest.approx(sum(mean(power) for power in (1, 2, 3)), rel=1e-8)


@pytest.mark.parametrize(("powers", "localization", "message"), [([1, 1, 1], 1.0, "one or two powers"), ([1], 0.0, "localization must be positive")])
def test_impossible_quadratures_are_refused(powers, localization, message):
    with pytest.raises(ValueError, match=message):
        theory.normal_crossing_mean(powers, 10.0, localization)


def test_quadratic_llc_by_quadrature():
    """One stiff axis with a slope, integrated on a grid."""
    h, g, nbeta, gamma = 1.7, 0.2, 30.0, 4.0
    x = np.linspace(-3, 3, 200_001)
    loss = g * x + h / 2 * x**2
    density = np.exp(-nbeta * loss - gamma / 2 * x**2)
    assert theory.quadratic_llc([h], nbeta, gamma, gradient=[g]) == pytest.approx(nbeta * np.sum(loss * density) / np.sum(density), rel=1e-9)
    assert theory.quadratic_llc([h], nbeta, gamma) == pytest.approx(0.5 * nbeta * h / (nbeta * h + gamma))


def test_window_variance_by_listing_all_windows():
    rows = np.random.default_rng(0).normal(size=(17, 2))
    means = [np.take(rows, range(start, start + 5), axis=0, mode="wrap").mean(0) for start in range(17)]
    np.testing.assert_allclose(theory.window_variance(rows, 5), np.var(means, axis=0))
    np.testing.assert_array_equal(theory.window_variance(rows, 17), [0, 0])
