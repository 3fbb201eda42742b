r"""Exact answers that tests and benchmarks compare with, in float64 numpy and without sampling.

Localised quadratics, the stationary distributions of discretised SGLD and SGHMC, normal crossings, sums of powers and deep linear nets. Everywhere `nbeta` is
$n\beta$, and `localization` is $\gamma$, the strength of the Gaussian prior; losses are in nats per example.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class LearningCoefficient(NamedTuple):
    r"""A learning coefficient $\lambda$ and its multiplicity $m$.

    Examples:
        >>> jaxllc.theory.normal_crossing_llc([1, 1])  # w₁² w₂²
        LearningCoefficient(value=0.5, multiplicity=2)
    """

    value: float
    multiplicity: int


def quadratic_variance(curvature: ArrayLike, nbeta: float, localization: float) -> np.ndarray:
    r"""Stationary variance along each axis of $n\beta \frac{h}{2} w^2 + \frac{\gamma}{2} w^2$ in continuous time: $1 / (n\beta h + \gamma)$.

    The curvature $h$, `[d]`, is that of the mean loss along each axis; zero is a flat direction.

    Examples:
        >>> jaxllc.theory.quadratic_variance([1.0, 0.0], nbeta=99.0, localization=1.0).tolist()
        [0.01, 1.0]
    """
    return 1 / (nbeta * np.asarray(curvature, float) + localization)


def sgld_variance(curvature: ArrayLike, nbeta: float, localization: float, step_size: ArrayLike, gradient_variance: ArrayLike = 0.0) -> np.ndarray:
    r"""Stationary variance of SGLD along each axis of a quadratic, for any noise $\xi$ of unit variance.

    $$\frac{\epsilon + (\epsilon n\beta / 2)^2 s^2}{\epsilon a (1 - \epsilon a / 4)}, \qquad a = n\beta h + \gamma.$$

    Args:
        curvature: $h$, `[d]`.
        step_size: $\epsilon$, or $\epsilon G$ along each axis for a preconditioner $G$ that stays as it is.
        gradient_variance: $s^2$, `[d]`, the variance of the minibatch gradient of the mean loss along each axis (if it does not depend on $w$).

    Raises:
        ValueError: $\epsilon a \ge 4$ somewhere, where no stationary distribution exists.

    Examples:
        >>> float(jaxllc.theory.sgld_variance(1.0, nbeta=99.0, localization=1.0, step_size=0.008).round(4))  # 0.01 in continuous time
        0.0125
    """
    a = nbeta * np.asarray(curvature, float) + localization
    step_size = np.asarray(step_size, float)
    _check_stable("SGLD", step_size * a)
    noise = step_size + (step_size * nbeta / 2) ** 2 * np.asarray(gradient_variance, float)
    return noise / (step_size * a * (1 - step_size * a / 4))


def sgld_step_bias(curvature: ArrayLike, nbeta: float, localization: float, step_size: ArrayLike, gradient_variance: ArrayLike = 0.0) -> float:
    r"""Stationary mean of the `step_bias` that SGLD reports on a quadratic, $\sum_j \frac{\epsilon}{8} (n\beta h_j a_j v_j + n^2\beta^2 s_j^2)$.

    $v$ is `sgld_variance`, which takes the same arguments, and $a = n\beta h + \gamma$. It is the excess of $n\beta\, E[L]$ over its value in continuous time
    where $s_j^2$ is zero or $n\beta h_j \gg \gamma$.

    Examples:
        >>> round(jaxllc.theory.sgld_step_bias([1.0], nbeta=99.0, localization=1.0, step_size=0.008), 3)
        0.124
    """
    h = np.asarray(curvature, float)
    variance = sgld_variance(h, nbeta, localization, step_size, gradient_variance)
    noise = nbeta**2 * np.asarray(gradient_variance, float)
    return float(np.sum(np.asarray(step_size, float) / 8 * (nbeta * h * (nbeta * h + localization) * variance + noise)))


def sghmc_variance(
    curvature: ArrayLike, nbeta: float, localization: float, step_size: float, friction: float, gradient_variance: ArrayLike = 0.0
) -> np.ndarray:
    r"""Stationary variance of the positions of `jaxllc.SGHMC` along each axis of a quadratic, from the fixed point of its step's covariance.

    With exact gradients it is $1/a$ at any step and friction; gradient noise adds about $h n^2\beta^2 s^2 / (2 \alpha a)$. The curvature $h$ and the
    variance of gradients $s^2$ are those of `sgld_variance`.

    Args:
        step_size: $\epsilon$, the square of the time step.
        friction: $\alpha$.

    Raises:
        ValueError: $\epsilon a \ge 4$ somewhere, where no stationary distribution exists.

    Examples:
        >>> jaxllc.theory.sghmc_variance([1.0], nbeta=99.0, localization=1.0, step_size=0.008, friction=2.0).round(3).tolist()
        [0.01]
    """
    a = np.atleast_1d(nbeta * np.asarray(curvature, float) + localization)
    _check_stable("SGHMC", step_size * a)
    time = math.sqrt(step_size)
    decay = math.exp(-friction * time)
    gradient_noise = nbeta**2 * np.broadcast_to(np.asarray(gradient_variance, float), a.shape)
    ones = np.ones_like(a)
    # One step maps (position, momentum) x to A x + noise of covariance B, so that the stationary covariance C solves C = A C Aᵀ + B.
    position_row = np.stack([1 - time**2 * (1 + decay) * a / 2, time * (1 + decay) / 2 * ones], -1)
    step_matrix = np.stack([position_row, np.stack([-decay * time * a, decay * ones], -1)], -2)
    by_gradient, by_noise = np.array([time**2 * (1 + decay) / 2, decay * time]), math.sqrt(1 - decay**2) * np.array([time / 2, 1.0])
    added = gradient_noise[:, None, None] * np.outer(by_gradient, by_gradient) + np.outer(by_noise, by_noise)
    squared = np.einsum("nij,nkl->nikjl", step_matrix, step_matrix).reshape(-1, 4, 4)
    return np.linalg.solve(np.eye(4) - squared, added.reshape(-1, 4, 1))[:, 0, 0]


def _check_stable(name: str, product: np.ndarray) -> None:
    """Raise where a step size times the curvature of the potential reaches 4."""
    if np.any(product >= 4):
        raise ValueError(f"{name} is unstable: step_size × (nbeta h + localization) reaches {np.max(product):.3g}; it must stay below 4: lower step_size.")


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

    Where the loss slopes at $w^*$ ($g \ne 0$), the stationary mean is $-n\beta g / a$; the step size does not move it. Raises what `sgld_variance` raises.

    Args:
        curvature: $h$, `[d]`.
        step_size: $\epsilon$ of SGLD; 0 is continuous time.
        gradient_variance: $s^2$, `[d]`, see `sgld_variance`.
        gradient: $g$, `[d]`, the gradient of the loss at $w^*$.
        variance: `[d]`, the stationary variance along each axis, of a sampler other than SGLD; `step_size` and `gradient_variance` are then ignored.

    Examples:
        >>> jaxllc.theory.quadratic_llc([1.0, 1.0, 0.0], nbeta=99.0, localization=1.0)  # two of three directions are curved
        0.99
    """
    h = np.asarray(curvature, float)
    g, s2 = (np.broadcast_to(np.asarray(x, float), h.shape) for x in (gradient, gradient_variance))
    depends = (h != 0) | (g != 0)  # the loss does not depend on the other axes, whose variance is infinite where localization is 0
    h, g, gradient_variance = h[depends], g[depends], s2[depends]
    if variance is not None:
        spread = np.asarray(variance, float)[depends]
    else:
        spread = sgld_variance(h, nbeta, localization, step_size, gradient_variance) if step_size else quadratic_variance(h, nbeta, localization)
    mean = -nbeta * g / (nbeta * h + localization)
    return float(nbeta * np.sum(g * mean + h / 2 * (mean**2 + spread)))


def window_variance(per_example: ArrayLike, batch_size: int) -> np.ndarray:
    """Variance of the mean over a window of `batch_size` examples that begins anywhere and wraps around, as the batches of `InMemory` do.

    The values `per_example`, `[n, ...]`, stand in the shuffled order of the data (`InMemory.arrays`, its first n entries).

    Examples:
        >>> float(jaxllc.theory.window_variance([0.0, 1.0, 2.0, 3.0], batch_size=2))
        0.5
    """
    values = np.asarray(per_example, float)
    if batch_size >= len(values):
        return np.zeros(values.shape[1:])
    sums = np.cumsum(np.concatenate([np.zeros_like(values[:1]), values, values[: batch_size - 1]]), axis=0)
    return np.var((sums[batch_size:] - sums[:-batch_size]) / batch_size, axis=0)


def normal_crossing_llc(powers: Sequence[int], prior_powers: Sequence[int] | None = None) -> LearningCoefficient:
    r"""$\lambda$ of $K(w) = \prod_j w_j^{2 k_j}$ under a prior $\prod_j |w_j|^{h_j}$: $\min_j (h_j + 1) / (2 k_j)$ (Watanabe 2009, ch. 2).

    Args:
        powers: $k_j$; zero where the variable does not appear, and a ValueError where none does.
        prior_powers: $h_j$, default all 0.

    Examples:
        >>> jaxllc.theory.normal_crossing_llc([1, 2])  # w₁² w₂⁴
        LearningCoefficient(value=0.25, multiplicity=1)
    """
    priors = [0] * len(powers) if prior_powers is None else prior_powers
    values = [(h + 1) / (2 * k) for k, h in zip(powers, priors, strict=True) if k]
    if not values:
        raise ValueError(f"powers {list(powers)} hold no positive number, so K is constant and has no learning coefficient; give at least one.")
    least = min(values)
    return LearningCoefficient(least, sum(math.isclose(value, least) for value in values))


def normal_crossing_mean(powers: Sequence[int], nbeta: float, localization: float) -> float:
    r"""$n\beta\, E[K(w)]$ for $K = \prod_j w_j^{2 k_j}$ under $e^{-n\beta K(w) - \frac{\gamma}{2} \lVert w \rVert^2}$: $\hat\lambda$ at a finite temperature.

    By the trapezoidal rule on a grid in $\log |w_j|$, which converges exponentially; for two variables the grid is a square. As $n\beta \to \infty$ it
    approaches $\lambda$ like $\lambda - (m - 1) / \ln n\beta$, slowly: $w_1^2 w_2^2$ gives 0.41 at $n\beta = 10^4$ and $\gamma = 1$, not 0.5.

    Raises:
        ValueError: no power or more than two, or a localization that is not positive.

    Examples:
        >>> round(jaxllc.theory.normal_crossing_mean([1, 1], nbeta=1e4, localization=1.0), 2)
        0.41
    """
    if not 1 <= len(powers) <= 2:
        raise ValueError(f"normal_crossing_mean takes one or two powers, got {list(powers)}.")
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
    r"""$n\beta\, E[K] = \sum_j 1 / (2 k_j)$ for $K = \sum_j w_j^{2 k_j}$, all $k_j > 0$, without localization, at every temperature: the equipartition theorem.

    Examples:
        >>> jaxllc.theory.sum_of_powers_llc([1, 2])  # w₁² + w₂⁴
        0.75
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

    Examples:
        >>> jaxllc.theory.deep_linear_llc([4, 4, 4], rank=2)
        LearningCoefficient(value=7.5, multiplicity=1)
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

    The lower bound is the larger of half the rank of the derivative of the product, since the loss grows at least quadratically in that many directions, and
    the global coefficient. The upper bound is half the codimension of the stratum of the point: all weights with the same product and the same ranks, on
    which the loss is minimal. That codimension is $\dim \mathrm{Ext}^1(M, M)$ of the chain of layers as a quiver representation $M$, plus that of the rank
    of the product, $r (d_0 + d_N) - r^2$.

    Args:
        widths: $d_0, \ldots, d_N$.
        ranks: row i holds the ranks of the products of layers i to i, i + 1, ..., N - 1; a ValueError for rows of another number or length.

    Examples:
        >>> jaxllc.theory.deep_linear_bounds([2, 2, 2], [[1, 1], [1]])  # two layers of rank 1, whose product has rank 1
        (2.0, 2.5)
    """
    depth = len(widths) - 1
    if [len(row) for row in ranks] != list(range(depth, 0, -1)):
        raise ValueError(f"ranks must have {depth} rows of {depth}, ..., 1 numbers for the widths {list(widths)}, got rows of {[len(row) for row in ranks]}.")

    def rank(i: int, j: int) -> int:
        """Rank of the map from node i to node j of the chain, 0 beyond its ends."""
        if i < 0 or j > depth:
            return 0
        return widths[i] if i == j else ranks[i][j - i - 1]

    left = [rank(0, i) for i in range(depth)] + [0]
    jacobian = sum((left[i] - left[i + 1]) * rank(i + 1, depth) for i in range(depth))
    # M is a sum of intervals [i, j] whose multiplicities follow from the ranks; Hom([a, b], [c, d]) is one-dimensional where c <= a <= d <= b, else 0.
    nodes = range(depth + 1)
    count = {(i, j): rank(i, j) - rank(i - 1, j) - rank(i, j + 1) + rank(i - 1, j + 1) for i in nodes for j in nodes if i <= j}
    homs = sum(m * n for (a, b), m in count.items() for (c, d), n in count.items() if c <= a <= d <= b)
    euler = sum(d * d for d in widths) - sum(d * e for d, e in pairwise(widths))
    r = rank(0, depth)
    lower = max(jacobian / 2, deep_linear_llc(widths, r).value)
    return lower, (homs - euler + r * (widths[0] + widths[-1]) - r * r) / 2
