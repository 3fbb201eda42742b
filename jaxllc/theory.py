r"""Exact answers: localised quadratics, the laws of discretised SGLD and SGHMC, normal crossings, sums of powers and deep linear nets.

Numpy only, float64, no sampling: what the tests and benchmarks compare with.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class LearningCoefficient(NamedTuple):
    r"""A learning coefficient $\lambda$ and its multiplicity $m$."""

    value: float
    multiplicity: int


def quadratic_variance(curvature: ArrayLike, nbeta: float, localization: float) -> np.ndarray:
    r"""Stationary variance along each axis of $n\beta \frac{h}{2} w^2 + \frac{\gamma}{2} w^2$ in continuous time: $1 / (n\beta h + \gamma)$.

    Args:
        curvature: $h$, `[d]`, the curvature of the mean loss along each axis; zero is a flat direction.
    """
    return 1 / (nbeta * np.asarray(curvature, float) + localization)


def sgld_variance(curvature: ArrayLike, nbeta: float, localization: float, step_size: ArrayLike, gradient_variance: ArrayLike = 0.0) -> np.ndarray:
    r"""Stationary variance of SGLD along each axis of a quadratic.

    $$\frac{\epsilon + (\epsilon n\beta / 2)^2 s^2}{\epsilon a (1 - \epsilon a / 4)}, \qquad a = n\beta h + \gamma.$$

    It holds for any noise $\xi$ of unit variance.

    Args:
        curvature: $h$, `[d]`.
        step_size: $\epsilon$, or $\epsilon G$ along each axis for a preconditioner $G$ that stays as it is.
        gradient_variance: $s^2$, `[d]`, the variance of the minibatch gradient of the mean loss along each axis (if it does not depend on $w$).

    Raises:
        ValueError: $\epsilon a \ge 4$ somewhere, where no stationary law exists.
    """
    a = nbeta * np.asarray(curvature, float) + localization
    step_size = np.asarray(step_size, float)
    _check_stable("SGLD", step_size * a)
    noise = step_size + (step_size * nbeta / 2) ** 2 * np.asarray(gradient_variance, float)
    return noise / (step_size * a * (1 - step_size * a / 4))


def sgld_step_bias(curvature: ArrayLike, nbeta: float, localization: float, step_size: ArrayLike, gradient_variance: ArrayLike = 0.0) -> float:
    r"""Stationary mean of what SGLD reports as `step_bias` on a quadratic, $\sum_j \frac{\epsilon}{8} (n\beta h_j a_j v_j + n^2\beta^2 s_j^2)$.

    $v$ is `sgld_variance` and $a = n\beta h + \gamma$. It is the excess of $n\beta\, E[L]$ over the continuous law where the noise's $s_j^2$ is zero or
    $n\beta h_j \gg \gamma$.

    Args:
        curvature: $h$, `[d]`.
        step_size: $\epsilon$, or $\epsilon G$ along each axis.
        gradient_variance: $s^2$, `[d]`.
    """
    h = np.asarray(curvature, float)
    variance = sgld_variance(h, nbeta, localization, step_size, gradient_variance)
    noise = nbeta**2 * np.asarray(gradient_variance, float)
    return float(np.sum(np.asarray(step_size, float) / 8 * (nbeta * h * (nbeta * h + localization) * variance + noise)))


def sghmc_variance(
    curvature: ArrayLike, nbeta: float, localization: float, step_size: float, friction: float, gradient_variance: ArrayLike = 0.0
) -> np.ndarray:
    r"""Stationary variance of the positions of `jaxllc.SGHMC` along each axis of a quadratic, from the fixed point of its step's covariance.

    With exact gradients it is $1/a$ at any step and friction; noise of the gradients adds about $h n^2\beta^2 s^2 / (2 \alpha a)$.

    Args:
        curvature: $h$, `[d]`.
        step_size: $\epsilon$, the square of the time step.
        friction: $\alpha$.
        gradient_variance: $s^2$, `[d]`, see `sgld_variance`.

    Raises:
        ValueError: $\epsilon a \ge 4$ somewhere, where no stationary law exists.
    """
    a = np.atleast_1d(nbeta * np.asarray(curvature, float) + localization)
    _check_stable("SGHMC", step_size * a)
    time = math.sqrt(step_size)
    kept = math.exp(-friction * time)
    heat = nbeta**2 * np.broadcast_to(np.asarray(gradient_variance, float), a.shape)
    ones = np.ones_like(a)
    step = np.stack([np.stack([1 - time**2 * (1 + kept) * a / 2, time * (1 + kept) / 2 * ones], -1), np.stack([-kept * time * a, kept * ones], -1)], -2)
    by_gradient, by_noise = np.array([time**2 * (1 + kept) / 2, kept * time]), math.sqrt(1 - kept**2) * np.array([time / 2, 1.0])
    added = heat[:, None, None] * np.outer(by_gradient, by_gradient) + np.outer(by_noise, by_noise)
    grown = np.einsum("nij,nkl->nikjl", step, step).reshape(-1, 4, 4)
    return np.linalg.solve(np.eye(4) - grown, added.reshape(-1, 4, 1))[:, 0, 0]


def _check_stable(name: str, product: np.ndarray) -> None:
    if np.any(product >= 4):
        raise ValueError(f"{name} is unstable: step_size × (nbeta h + localization) reaches {np.max(product):.3g}; it must stay below 4.")


def quadratic_llc(
    curvature: ArrayLike,
    nbeta: float,
    localization: float,
    *,
    step_size: float = 0.0,
    gradient_variance: ArrayLike = 0.0,
    gradient: ArrayLike = 0.0,
    variance: ArrayLike | None = None,
) -> float:
    r"""$n\beta\,(E[L(w)] - L(w^*))$ for $L(w^* + x) = L(w^*) + g \cdot x + \frac12 \sum_j h_j x_j^2$.

    Where the loss slopes at $w^*$ ($g \ne 0$), the stationary mean is $-n\beta g / a$; the step size does not move it.

    Args:
        curvature: $h$, `[d]`.
        step_size: $\epsilon$ of SGLD; 0 is continuous time.
        gradient_variance: $s^2$, `[d]`, see `sgld_variance`.
        gradient: $g$, `[d]`, the gradient of the loss at $w^*$.
        variance: `[d]`, the stationary variance along each axis, of another sampler than SGLD.
    """
    h = np.asarray(curvature, float)
    g, s2 = (np.broadcast_to(np.asarray(x, float), h.shape) for x in (gradient, gradient_variance))
    felt = (h != 0) | (g != 0)  # the loss does not depend on the others, which may wander without end where localization is 0
    h, g, gradient_variance = h[felt], g[felt], s2[felt]
    if variance is not None:
        spread = np.asarray(variance, float)[felt]
    else:
        spread = sgld_variance(h, nbeta, localization, step_size, gradient_variance) if step_size else quadratic_variance(h, nbeta, localization)
    mean = -nbeta * g / (nbeta * h + localization)
    return float(nbeta * np.sum(g * mean + h / 2 * (mean**2 + spread)))


def window_variance(per_example: ArrayLike, batch_size: int) -> np.ndarray:
    """Variance of the mean over a window of `batch_size` rows that begins anywhere and wraps around, the law of `InMemory` batches.

    Args:
        per_example: `[n, ...]`, in the shuffled order of the data (`InMemory.arrays`, its first n rows).
    """
    values = np.asarray(per_example, float)
    if batch_size >= len(values):
        return np.zeros(values.shape[1:])
    sums = np.cumsum(np.concatenate([np.zeros_like(values[:1]), values, values[: batch_size - 1]]), axis=0)
    return np.var((sums[batch_size:] - sums[:-batch_size]) / batch_size, axis=0)


def normal_crossing_llc(powers: Sequence[int], prior_powers: Sequence[int] | None = None) -> LearningCoefficient:
    r"""$\lambda$ of $K(w) = \prod_j w_j^{2 k_j}$ under a prior $\prod_j |w_j|^{h_j}$: $\min_j (h_j + 1) / (2 k_j)$ (Watanabe 2009, ch. 2).

    Args:
        powers: $k_j$; zero where the variable does not appear.
        prior_powers: $h_j$, default all 0.

    Raises:
        ValueError: no variable appears.
    """
    priors = [0] * len(powers) if prior_powers is None else prior_powers
    values = [(h + 1) / (2 * k) for k, h in zip(powers, priors, strict=True) if k]
    if not values:
        raise ValueError(f"powers {list(powers)} hold no positive number, so K is constant and has no learning coefficient.")
    least = min(values)
    return LearningCoefficient(least, sum(math.isclose(value, least) for value in values))


def normal_crossing_mean(powers: Sequence[int], nbeta: float, localization: float) -> float:
    r"""$n\beta\, E[K(w)]$ for $K = \prod_j w_j^{2 k_j}$ under $e^{-n\beta K(w) - \frac{\gamma}{2} \lVert w \rVert^2}$: $\hat\lambda$ at a finite temperature.

    By quadrature over a grid in $\log |w_j|$, whose trapezoidal rule converges exponentially; for two variables the grid is a square. As
    $n\beta \to \infty$ it goes to $\lambda - (m - 1) / \ln n\beta$, slowly: $w_1^2 w_2^2$ gives 0.41 at $n\beta = 10^4$ and $\gamma = 1$, not 0.5.

    Args:
        powers: $k_j$, one or two of them.

    Raises:
        ValueError: more than two variables, or no localisation.
    """
    if not 1 <= len(powers) <= 2:
        raise ValueError(f"quadrature is over one or two variables, got the powers {list(powers)}.")
    if localization <= 0:
        raise ValueError(f"localization must be positive, got {localization}: without it the density may not be integrable.")
    grid = np.linspace(-45.0, 0.5 * math.log(60 / localization) + 1.0, 2001)
    logs = np.meshgrid(*[grid] * len(powers), indexing="ij", sparse=True)
    log_k = sum(2 * k * x for k, x in zip(powers, logs, strict=True))
    energy = nbeta * np.exp(np.minimum(log_k, 700.0))
    log_density = sum(x - localization / 2 * np.exp(2 * x) for x in logs) - energy  # the Jacobian of w = e^x is e^x
    density = np.exp(log_density - np.max(log_density))
    return float((density * energy).sum() / density.sum())


def sum_of_powers_llc(powers: Sequence[int]) -> float:
    r"""$n\beta\, E[K] = \sum_j 1 / (2 k_j)$ for $K = \sum_j w_j^{2 k_j}$ without localisation, at every temperature: the equipartition theorem.

    Args:
        powers: $k_j$, all positive.
    """
    return float(sum(1 / (2 * k) for k in powers))


def deep_linear_llc(widths: Sequence[int], rank: int) -> LearningCoefficient:
    r"""$\lambda$ of a deep linear net at a product of a given rank (Aoyagi 2024, Neural Networks 172).

    With $M_s = d_s - r$, take the $\ell + 1$ smallest, where $\ell$ is the largest $k$ such that the sum of the $k + 1$ smallest is at least
    $k$ times the largest of them; with $S$ their sum, $M = \lceil S / \ell \rceil$ and $a = S - (M - 1)\ell$,

    $$\lambda = \frac{r (d_0 + d_N) - r^2}{2} + \frac{a (\ell - a)}{4 \ell} - \frac{\ell (\ell - 1)}{4} \Big(\frac{S}{\ell}\Big)^2
    + \frac12 \sum_{i < j} M_i M_j, \qquad m = a (\ell - a) + 1.$$

    This is the *global* coefficient: the least over all factorisations of the product. That of one factorisation can be larger.

    Args:
        widths: $d_0, \ldots, d_N$, input first.
        rank: $r$, of the product of the weight matrices.

    Raises:
        ValueError: fewer than two widths, or a rank that these widths cannot have.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be at least two positive numbers, got {list(widths)}.")
    if not 0 <= rank <= min(widths):
        raise ValueError(f"rank must lie between 0 and the least width {min(widths)}, got {rank}.")
    excess = sorted(width - rank for width in widths)
    ell = max(k for k in range(1, len(excess)) if sum(excess[: k + 1]) >= k * excess[k])
    chosen = excess[: ell + 1]
    total = sum(chosen)
    a = total - (math.ceil(total / ell) - 1) * ell
    pairs = (total**2 - sum(m * m for m in chosen)) / 2
    regular = (rank * (widths[0] + widths[-1]) - rank**2) / 2
    value = regular + a * (ell - a) / (4 * ell) - (ell - 1) / (4 * ell) * total**2 + pairs / 2
    return LearningCoefficient(value, a * (ell - a) + 1)


def deep_linear_bounds(widths: Sequence[int], ranks: Sequence[Sequence[int]]) -> tuple[float, float]:
    r"""Rigorous lower and upper bounds of the *local* coefficient of a deep linear net, from the ranks of its partial products.

    Below: half the rank of the derivative of the product, since the loss is at least quadratic across the fibre there, and the global coefficient. Above:
    half the codimension of the point's own stratum, the weights of the same product with the same ranks, along which the loss is at its least. That
    codimension is $\dim \mathrm{Ext}^1(M, M)$ of the chain of layers as a quiver representation $M$, plus that of the product's own rank, $r (d_0 + d_N) -
    r^2$.

    Args:
        widths: $d_0, \ldots, d_N$.
        ranks: row i holds the ranks of the products of layers i to i, i + 1, ..., N - 1.

    Raises:
        ValueError: rows of the wrong number or length.
    """
    depth = len(widths) - 1
    if [len(row) for row in ranks] != list(range(depth, 0, -1)):
        raise ValueError(f"ranks must have {depth} rows of {depth}, ..., 1 numbers for the widths {list(widths)}, got rows of {[len(row) for row in ranks]}.")

    def rank(i: int, j: int) -> int:
        """Of the map from node i to node j of the chain, 0 beyond its ends."""
        if i < 0 or j > depth:
            return 0
        return widths[i] if i == j else ranks[i][j - i - 1]

    left = [rank(0, i) for i in range(depth)] + [0]
    jacobian = sum((left[i] - left[i + 1]) * rank(i + 1, depth) for i in range(depth))
    # M is a sum of intervals [i, j], of which each appears as often as rank counts say; Hom([a, b], [c, d]) is a line where c <= a <= d <= b.
    nodes = range(depth + 1)
    count = {(i, j): rank(i, j) - rank(i - 1, j) - rank(i, j + 1) + rank(i - 1, j + 1) for i in nodes for j in nodes if i <= j}
    homs = sum(m * n for (a, b), m in count.items() for (c, d), n in count.items() if c <= a <= d <= b)
    euler = sum(d * d for d in widths) - sum(d * e for d, e in pairwise(widths))
    r = rank(0, depth)
    lower = max(jacobian / 2, deep_linear_llc(widths, r).value)
    return lower, (homs - euler + r * (widths[0] + widths[-1]) - r * r) / 2
