r"""The slope of a noisy curve, with its uncertainty: a Gaussian process that learns how smooth the curve is and how large its scatter.

$$y_i = f(x_i) + \eta_i + \zeta_i$$

$f$ is a straight line plus a Matérn-5/2 process, so it has a slope, $\eta$ an Ornstein-Uhlenbeck process over the *index* of the point (the wobble that
neighbours share), and $\zeta$ white, of variance $e^{2 \kappa x_i} a^2 + s^2 e_i^2$ with the measured errors $e_i$. All amplitudes and lengths are those of the
highest posterior under broad priors, so measured errors that are too small, too large, or none at all are put right by the scatter itself. The wobble, which
could else explain any curve, is bounded by measured errors and by the scatter between neighbours. Rasmussen and Williams, *Gaussian Processes
for Machine Learning* (2006), chapters 2, 5 and section 9.4 (slopes).
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

TINY = np.finfo(float).tiny
LINE = 10.0
"""Prior standard deviation of the straight line's slope, in standard deviations of y over the span of x: wide."""

PRIOR = {
    "amplitude": (-1.0, 2.0),
    "length": (np.log(1 / 6), 0.7),
    "wobble": (-2.0, 2.0),
    "memory": (np.log(3.0), 1.0),
    "scatter": (-2.0, 2.0),
    "growth": (0.0, 1.25),
    "error_scale": (0.0, 1.2),
}
"""Mean and standard deviation of the logarithm of each setting (of `growth` itself), where x spans one, y has variance one and `memory` counts points."""

SMOOTH, WOBBLY = dict(wobble=-2.0, scatter=-2.0, amplitude=1.0), dict(wobble=1.5)
"""Where the searches for the settings start, as departures from the prior means."""
WOBBLE = 1.5
"""How many errors the wobble may be at most, of the measured ones or of the scatter between neighbours, whichever is larger. Two standard errors above one: an
error of eight chains is itself known to 27 %."""
ODDS = 30.0
"""How much more probable than a straight line with wobble a curved law has to be: very strong evidence, on Jeffreys' scale."""
ALIKE = 0.1
"""The median error, in standard deviations of y, before its scale is learnt; errors are alike where none are measured."""
MEDIAN = 0.6745
"""Of the absolute value of a standard normal variable."""
RESOLUTION = 1 / 400
"""Share of the span of x within which the search for the settings, which takes the cube of their number, at first uses one point."""


class Slope(NamedTuple):
    """The law of df/dx on an even grid: Gaussian. `x` and `mean` are `[grid]`, `covariance` is `[grid, grid]`."""

    x: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray

    def change(self, start: int, end: int) -> np.ndarray:
        r"""Weights w of the change $f(x_{end}) - f(x_{start}) = w \cdot f'$, by the trapezium rule."""
        weights = np.zeros(len(self.x))
        weights[start : end + 1] = self.x[1] - self.x[0]
        weights[[start, end]] /= 2
        return weights if end > start else np.zeros(len(self.x))

    def contrast(self, weights: np.ndarray) -> tuple[float, float]:
        r"""Mean and standard deviation of $w \cdot f'$."""
        return float(weights @ self.mean), float(np.sqrt(max(weights @ self.covariance @ weights, 0.0)))


def slope(
    x: np.ndarray,
    y: np.ndarray,
    error: np.ndarray | None = None,
    chains: np.ndarray | None = None,
    *,
    num_grid: int = 384,
) -> Slope:
    """The slope of the smooth curve under (x, y).

    Args:
        x: increasing.
        y: the curve, in any unit.
        error: measured standard errors of y; their scale is learnt, but they bound the wobble.
        chains: curves with mean y, at least four, whose deviations from it run along x (common random numbers); what their smoothed slopes
            differ by is added to the covariance, widened as Student's t is for so few.
        num_grid: points of the grid.
    """
    origin, span, scale = x[0], x[-1] - x[0], float(y.std()) or 1.0
    u, z = (x - origin) / span, (y - y.mean()) / scale
    squares = np.full(len(x), ALIKE**2) if error is None else (ALIKE * error / np.median(error)) ** 2
    index = np.arange(len(u))
    most = WOBBLE * max(_scatter(u, z), 0.0 if error is None else float(np.median(error)) / scale)
    kept = _apart(u)
    setting = _most_probable(u[kept], index[kept], z[kept], squares[kept], most)
    if len(kept) < len(u):
        setting = _most_probable(u, index, z, squares, most, setting)
    grid = np.linspace(0.0, 1.0, num_grid)
    smooth, noise = _covariances(setting, u, index, squares)[:2]
    distance = grid[:, None] - u
    amplitude, length = setting["amplitude"] ** 2, setting["length"] / np.sqrt(5)
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
    """The Matérn-5/2 correlation, and what its first and second derivatives are up to their factors."""
    return (1 + r + (r**2 / 3, 0, -(r**2))[order]) * np.exp(-r)


def _scatter(u: np.ndarray, z: np.ndarray) -> float:
    """The standard deviation of white noise under which points would depart as they do, in the median, from the line through their neighbours."""
    left, right = np.diff(u)[:-1], np.diff(u)[1:]
    share = left / (left + right)
    departure = z[1:-1] - share * z[2:] - (1 - share) * z[:-2]
    return float(np.median(np.abs(departure) / np.sqrt(1 + share**2 + (1 - share) ** 2))) / MEDIAN


def _apart(u: np.ndarray) -> list[int]:
    """Points at least `RESOLUTION` apart."""
    kept = [0]
    for i in range(1, len(u)):
        if u[i] - u[kept[-1]] >= RESOLUTION:
            kept.append(i)
    return kept


def _covariances(setting: dict[str, float], u: np.ndarray, index: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Of the smooth part, of the noise, and the derivative of their sum by each setting (by its logarithm, save for `growth`)."""
    centred = u - 0.5
    r = np.abs(u[:, None] - u) * np.sqrt(5) / setting["length"]
    matern = setting["amplitude"] ** 2 * _matern(r, 0)
    grown = np.exp(setting["growth"] * (centred[:, None] + centred))
    lag = np.abs(index[:, None] - index) / setting["memory"]
    wobble = setting["wobble"] ** 2 * grown * np.exp(-lag)
    measured = np.diag(setting["error_scale"] ** 2 * squares)
    scatter = np.diag(setting["scatter"] ** 2 * np.diag(grown))
    by = {
        "amplitude": 2 * matern,
        "length": setting["amplitude"] ** 2 * r**2 / 3 * _matern(r, 1),
        "wobble": 2 * wobble,
        "memory": wobble * lag,
        "scatter": 2 * scatter,
        "growth": (wobble + scatter) * (centred[:, None] + centred),
        "error_scale": 2 * measured,
    }
    noise = wobble + scatter + measured
    return matern + LINE**2 * (1 + centred[:, None] * centred), noise, by


def _most_probable(
    u: np.ndarray, index: np.ndarray, z: np.ndarray, squares: np.ndarray, most: float, start: dict[str, float] | None = None
) -> dict[str, float]:
    """The settings of highest posterior density with a wobble of at most `most`, by quasi-Newton steps with exact gradients, near a start or anywhere."""
    from scipy.linalg import lapack
    from scipy.optimize import minimize

    names = list(PRIOR)
    middle, width = np.array([*PRIOR.values()]).T

    def named(theta: np.ndarray) -> dict[str, float]:
        return {name: float(value if name == "growth" else np.exp(value)) for name, value in zip(names, theta, strict=True)}

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        smooth, noise, by = _covariances(named(theta), u, index, squares)
        lower = np.linalg.cholesky(smooth + noise)
        inverse = lapack.dpotri(lower, lower=1)[0]  # pyright: ignore[reportAttributeAccessIssue]
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        solved = inverse @ z
        away = (theta - middle) / width
        value = 0.5 * z @ solved + np.log(np.diag(lower)).sum() + 0.5 * away @ away
        inverse -= np.outer(solved, solved)
        gradient = 0.5 * np.array([np.vdot(inverse, by[name]) for name in names])
        return float(value), gradient + away / width

    bounds = [(m - 4 * w, m + 4 * w) if name != "length" else (np.log(0.02), np.log(2.0)) for name, m, w in zip(names, middle, width, strict=True)]
    wobble = names.index("wobble")
    bounds[wobble] = (bounds[wobble][0], float(np.clip(np.log(max(most, TINY)), *bounds[wobble])))

    def top(theta: np.ndarray, bounds: list[tuple[float, float]]) -> "OptimizeResult":
        return minimize(objective, np.clip(theta, *np.transpose(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options=dict(ftol=1e-6))

    line = [(low, low) if name == "amplitude" else (low, high) for name, (low, high) in zip(names, bounds, strict=True)]
    amplitude = names.index("amplitude")
    if start is not None:
        theta = np.array([start[name] if name == "growth" else np.log(start[name]) for name in names])
        return named(top(theta, line if np.isclose(theta[amplitude], bounds[amplitude][0]) else bounds).x)
    curved = top(middle + np.array([SMOOTH.get(name, 0.0) for name in names]), bounds)
    straight = top(middle + np.array([WOBBLY.get(name, 0.0) for name in names]), line)
    # A curve that wanders may be a line with wobble: the curved law has to be `ODDS` times as probable, the line's prior for having no amplitude aside.
    free = straight.fun - 0.5 * ((straight.x - middle) / width)[amplitude] ** 2
    return named(curved.x if curved.fun + np.log(ODDS) < free else straight.x)
