r"""The slope of a noisy curve with its uncertainty, by Gaussian-process regression whose smoothness and noise are fitted.

$$y_i = f(x_i) + \eta_i + \zeta_i$$

$f$ is a straight line plus a Matérn-5/2 process, so it has a slope. $\eta$ is noise that neighbouring points share, an Ornstein-Uhlenbeck process over the
*index* of the point, and $\zeta$ is white noise of variance $e^{2 \kappa x_i} a^2 + s^2 e_i^2$ with the measured errors $e_i$. All amplitudes and lengths
maximise the posterior density under broad priors, so that measured errors may be too small, too large or absent: the scatter of the points corrects them.
Correlated noise could explain any curve; its amplitude is therefore bounded, at that end of the run where it is larger, by the measured errors and by the
scatter between neighbours.

Reference: Rasmussen and Williams, *Gaussian Processes for Machine Learning* (2006), chapters 2 and 5, and section 9.4 for slopes.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

TINY = np.finfo(float).tiny
LINE = 10.0
"""Prior standard deviation of the straight line's slope, in standard deviations of y over the span of x: wide."""

PRIOR: dict[str, tuple[float, float]] = {
    "amplitude": (-1.0, 2.0),
    "length": (np.log(1 / 6), 0.7),
    "correlated": (-2.0, 2.0),
    "correlation_length": (np.log(3.0), 1.0),
    "white": (-2.0, 2.0),
    "growth": (0.0, 1.25),
    "error_scale": (0.0, 1.2),
}
r"""Prior mean and standard deviation of the logarithm of each hyperparameter (of `growth` itself), where x spans one and y has variance one.

`amplitude` and `length` of the Matérn process; `correlated`, the amplitude of $\eta$ at the end where it is larger, within a tenth, and its
`correlation_length` in points; `white`, the amplitude $a$; `growth`, $\kappa$ of $\eta$ and of $a$; `error_scale`, $s$.
"""

SMOOTH, CORRELATED = dict(correlated=-2.0, white=-2.0, amplitude=1.0), dict(correlated=1.5)
"""Where the two searches for the hyperparameters start, as departures from the prior means."""
MAX_CORRELATED = 1.5
"""The largest amplitude of correlated noise, in errors: measured errors or the scatter between neighbours, whichever is larger. It is two standard errors above
one, since an error from eight chains is itself known to 27 %."""
BAYES_FACTOR = 30.0
"""How much more probable a curve must be than a straight line with correlated noise: very strong evidence on Jeffreys' scale."""
TYPICAL_ERROR = 0.1
"""The median measured error, in standard deviations of y, before its scale is fitted; where no errors are measured, all are equal to it."""
MEDIAN_ABS_NORMAL = 0.6745
"""Median of the absolute value of a standard normal variable."""
KINK = 0.2
r"""Where $|\kappa|$ is rounded off, so that it has a derivative at 0."""
RESOLUTION = 1 / 400
"""Share of the span of x within which the first search uses one point only; its cost grows with the cube of the number of points."""


class Slope(NamedTuple):
    """The Gaussian distribution of df/dx on an even grid, in units of y over units of x."""

    x: np.ndarray
    """The grid, `[grid]`."""
    mean: np.ndarray
    """`[grid]`."""
    covariance: np.ndarray
    """`[grid, grid]`."""

    def change(self, start: int, end: int) -> np.ndarray:
        r"""Weights w, `[grid]`, of the change $f(x_{end}) - f(x_{start}) = w \cdot f'$ between two grid points, by the trapezium rule."""
        weights = np.zeros(len(self.x))
        weights[start : end + 1] = self.x[1] - self.x[0]
        weights[[start, end]] /= 2
        return weights if end > start else np.zeros(len(self.x))

    def average(self, start: int, end: int) -> np.ndarray:
        """Weights, `[grid]`, of the mean slope between two grid points; of one point, between its neighbours."""
        start, end = (start, end) if end > start else (max(start - 1, 0), min(end + 1, len(self.x) - 1))
        return self.change(start, end) / (self.x[end] - self.x[start])

    def contrast(self, weights: np.ndarray) -> tuple[float, float]:
        r"""Mean and standard deviation of $w \cdot f'$."""
        return float(weights @ self.mean), float(np.sqrt(max(weights @ self.covariance @ weights, 0.0)))

    def integrate(self, slopes: np.ndarray) -> np.ndarray:
        """The curves, 0 at the first grid point, whose slopes are `[..., grid]`."""
        increments = (slopes[..., 1:] + slopes[..., :-1]) / 2 * np.diff(self.x)
        return np.concatenate([np.zeros_like(slopes[..., :1]), increments.cumsum(-1)], -1)

    def sample(self, rng: np.random.Generator, num_samples: int) -> np.ndarray:
        """Slopes drawn from the distribution, `[sample, grid]`."""
        jitter = 1e-9 * np.trace(self.covariance) / len(self.x)
        lower = np.linalg.cholesky(self.covariance + jitter * np.eye(len(self.x)))
        return self.mean + rng.standard_normal((num_samples, len(self.x))) @ lower.T


def slope(
    x: np.ndarray,
    y: np.ndarray,
    error: np.ndarray | None = None,
    chains: np.ndarray | None = None,
    *,
    num_grid: int = 384,
) -> Slope:
    """The slope of the smooth curve through noisy points (x, y).

    Args:
        x: increasing, `[point]`.
        y: the noisy curve, `[point]`, in any unit.
        error: measured standard errors of y, `[point]`. Their scale is fitted, but they bound the correlated noise.
        chains: at least four curves with mean y, `[chain, point]`, whose deviations from y are correlated along x (common random numbers). The covariance of
            the mean of their smoothed slopes is added, widened as Student's t distribution is for so few.
        num_grid: number of grid points.
    """
    origin, span, scale = x[0], x[-1] - x[0], float(y.std()) or 1.0
    u, z = (x - origin) / span, (y - y.mean()) / scale
    error_variance = np.full(len(x), TYPICAL_ERROR**2) if error is None else (TYPICAL_ERROR * error / np.median(error)) ** 2
    index = np.arange(len(u))
    max_correlated = MAX_CORRELATED * max(_scatter(u, z), 0.0 if error is None else float(np.median(error)) / scale)
    sparse = _spaced(u)
    fitted = _fit(u[sparse], index[sparse], z[sparse], error_variance[sparse], max_correlated)
    if len(sparse) < len(u):
        fitted = _fit(u, index, z, error_variance, max_correlated, fitted)
    grid = np.linspace(0.0, 1.0, num_grid)
    smooth, noise = _covariances(fitted, u, index, error_variance)[:2]
    distance = grid[:, None] - u
    amplitude, length = fitted["amplitude"] ** 2, fitted["length"] / np.sqrt(5)
    cross = LINE**2 * (u - 0.5) - amplitude * distance / (3 * length**2) * _matern(np.abs(distance) / length, 1)
    prior = LINE**2 + amplitude / (3 * length**2) * _matern(np.abs(grid[:, None] - grid) / length, 2)
    weights = np.linalg.solve(smooth + noise, cross.T).T
    covariance = prior - weights @ cross.T
    if chains is not None:
        count = len(chains)
        spread = weights @ (chains - chains.mean(0)).T / scale
        covariance = covariance + spread @ spread.T / (count * (count - 3))
    unit = scale / span
    return Slope(origin + span * grid, unit * weights @ z, unit**2 * (covariance + covariance.T) / 2)


def _matern(r: np.ndarray, order: int) -> np.ndarray:
    """The Matérn-5/2 correlation (order 0), and its first and second derivatives up to constant factors."""
    return (1 + r + (r**2 / 3, 0, -(r**2))[order]) * np.exp(-r)


def _scatter(u: np.ndarray, z: np.ndarray) -> float:
    """Standard deviation of the noise if it is white, from the median distance of a point to the line through its neighbours."""
    left, right = np.diff(u)[:-1], np.diff(u)[1:]
    share = left / (left + right)
    departure = z[1:-1] - share * z[2:] - (1 - share) * z[:-2]
    return float(np.median(np.abs(departure) / np.sqrt(1 + share**2 + (1 - share) ** 2))) / MEDIAN_ABS_NORMAL


def _spaced(u: np.ndarray) -> list[int]:
    """Indices of points at least `RESOLUTION` apart."""
    indices = [0]
    for i in range(1, len(u)):
        if u[i] - u[indices[-1]] >= RESOLUTION:
            indices.append(i)
    return indices


def _covariances(
    params: dict[str, float], u: np.ndarray, index: np.ndarray, error_variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Covariance of f and of the noise at the points, and the derivative of their sum by the logarithm of each hyperparameter (by `growth` itself)."""
    centred = u - 0.5
    r = np.abs(u[:, None] - u) * np.sqrt(5) / params["length"]
    matern = params["amplitude"] ** 2 * _matern(r, 0)
    growth, sums = params["growth"], centred[:, None] + centred
    grown, largest = np.exp(growth * sums), np.hypot(growth, KINK) - KINK
    lag = np.abs(index[:, None] - index) / params["correlation_length"]
    correlated = params["correlated"] ** 2 * np.exp(growth * sums - largest - lag)
    measured = np.diag(params["error_scale"] ** 2 * error_variance)
    white = np.diag(params["white"] ** 2 * np.diag(grown))
    derivatives = {
        "amplitude": 2 * matern,
        "length": params["amplitude"] ** 2 * r**2 / 3 * _matern(r, 1),
        "correlated": 2 * correlated,
        "correlation_length": correlated * lag,
        "white": 2 * white,
        "growth": correlated * (sums - growth / np.hypot(growth, KINK)) + white * sums,
        "error_scale": 2 * measured,
    }
    noise = correlated + white + measured
    return matern + LINE**2 * (1 + centred[:, None] * centred), noise, derivatives


def _fit(
    u: np.ndarray, index: np.ndarray, z: np.ndarray, error_variance: np.ndarray, max_correlated: float, start: dict[str, float] | None = None
) -> dict[str, float]:
    """Hyperparameters that maximise the posterior density, with bounded correlated noise: by L-BFGS-B with exact gradients, from a start or from two."""
    from scipy.linalg import lapack
    from scipy.optimize import minimize

    names = list(PRIOR)
    middle, width = np.array([*PRIOR.values()]).T

    def named(theta: np.ndarray) -> dict[str, float]:
        return {name: float(value if name == "growth" else np.exp(value)) for name, value in zip(names, theta, strict=True)}

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        smooth, noise, derivatives = _covariances(named(theta), u, index, error_variance)
        lower = np.linalg.cholesky(smooth + noise)
        inverse = lapack.dpotri(lower, lower=1)[0]  # pyright: ignore[reportAttributeAccessIssue]
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        solved = inverse @ z
        away = (theta - middle) / width
        value = 0.5 * z @ solved + np.log(np.diag(lower)).sum() + 0.5 * away @ away
        inverse -= np.outer(solved, solved)
        gradient = 0.5 * np.array([np.vdot(inverse, derivatives[name]) for name in names])
        return float(value), gradient + away / width

    bounds = [(m - 4 * w, m + 4 * w) if name != "length" else (np.log(0.02), np.log(2.0)) for name, m, w in zip(names, middle, width, strict=True)]
    correlated = names.index("correlated")
    bounds[correlated] = (bounds[correlated][0], float(np.clip(np.log(max(max_correlated, TINY)), *bounds[correlated])))

    def minimum(theta: np.ndarray, bounds: list[tuple[float, float]]) -> "OptimizeResult":
        return minimize(objective, np.clip(theta, *np.transpose(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options=dict(ftol=1e-6))

    line_bounds = [(low, low) if name == "amplitude" else (low, high) for name, (low, high) in zip(names, bounds, strict=True)]
    amplitude = names.index("amplitude")
    if start is not None:
        theta = np.array([start[name] if name == "growth" else np.log(start[name]) for name in names])
        return named(minimum(theta, line_bounds if np.isclose(theta[amplitude], bounds[amplitude][0]) else bounds).x)
    curve = minimum(middle + np.array([SMOOTH.get(name, 0.0) for name in names]), bounds)
    line = minimum(middle + np.array([CORRELATED.get(name, 0.0) for name in names]), line_bounds)
    # Correlated noise about a line can look like a curve, so the curve must be `BAYES_FACTOR` times as probable; the prior of the amplitude, which the line
    # does not have, is left out of the comparison.
    line_objective = line.fun - 0.5 * ((line.x - middle) / width)[amplitude] ** 2
    return named(curve.x if curve.fun + np.log(BAYES_FACTOR) < line_objective else line.x)
