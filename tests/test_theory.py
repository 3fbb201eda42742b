"""Exact answers against answers found another way."""

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
        ([20, 20, 10, 10], 4, 70.0, None),
        ([50, 30, 40, 20, 60], 7, 509.0, 2),
        ([1000] * 6, 300, 402000.0, 1),
    ],
)
def test_deep_linear_nets_of_the_literature(widths, rank, value, multiplicity):
    found = theory.deep_linear_llc(widths, rank)
    assert found.value == pytest.approx(value, abs=1e-9)
    assert multiplicity is None or found.multiplicity == multiplicity


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


def test_deep_linear_nets_do_not_care_for_the_order_of_hidden_widths():
    assert len({theory.deep_linear_llc([6, *hidden, 5], 2) for hidden in itertools.permutations((3, 4, 9))}) == 1


@pytest.mark.parametrize(("widths", "rank", "told"), [([3], 0, "at least two"), ([3, 4], 4, "between 0 and the least width 3"), ([3, 4], -1, "got -1")])
def test_impossible_nets_are_refused(widths, rank, told):
    with pytest.raises(ValueError, match=told):
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
