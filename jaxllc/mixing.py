r"""Whether chains have mixed, by what is slow: the noise of minibatches in a draw's loss hides it.

*Loss.* R-hat and ESS of means over consecutive draws of $\hat\lambda$, and of the loss of one fixed batch along the chains.

*Spread.* A direction of curvature $a = n\beta h + \gamma$ has after $t$ iterations reached the share $1 - e^{-2 t a / \gamma \tau}$ of its variance
$1 / a$, where $\tau$ is the relaxation time of a direction that the loss does not curve (`Sampler.relaxation_time`). Where $t \ll \tau$, directions of any
curvature up to $\gamma \tau / t$ have spread alike, without regard to the loss. How many there are shows in the squared distance from $w^*$: $F$ of them,
where it is $F$ times what one without curvature has by then. What each still lacks of $\hat\lambda$ is $\frac12 \frac{r}{1 + r} e^{-x (1 + r)}$ with
$r = n\beta h / \gamma$ and $x = 2 t / \tau$; at the worst curvature, `lacking(x)` / 2. So `unmixed_llc` $= \frac F2$ `lacking(x)` bounds what is to come on
a quadratic. Nothing in it tells whether the loss feels these directions: where it does not, as along the symmetries of a deep linear network, nothing comes.

Where $\tau$ is not known, as for samplers on all data, chains whose distances disagree (by R-hat) may lack what equipartition asks for:
$E[(w - w^*) \cdot \nabla U] = d$ for $d$ weights, of which the prior has $\gamma\, E\lVert w - w^*\rVert^2$ and the loss, where it is quadratic,
$2 \hat\lambda$. What is missing, $F$ directions, is felt by the loss as far as that follows the distance: with $s$ the slope of $n\beta L$ over
$\lVert w - w^*\rVert^2$ in all draws, which is $n\beta h / 2$ of a direction that spreads, $\frac F2 \frac{2 s}{2 s + \gamma}$.

*Localization.* $\partial \hat\lambda / \partial \ln \gamma = -\frac\gamma2 \mathrm{Cov}(n\beta L_n, \lVert w - w^*\rVert^2)$ under the stationary law.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxllc import results
from jaxllc.error_bars import finite_chains, mean_and_error, moments

if TYPE_CHECKING:
    import xarray

MAX_SLOW_RHAT = 1.1
"""Of slow quantities, which have some fifty values a chain: chains that have mixed reach 1.07 by chance."""
MAX_UNMIXED = 0.1
"""Share of the coefficient that directions which have not mixed may yet add to it."""
NO_LLC = 1e-3
"""A coefficient that is none, where the loss feels no direction at all."""
MIN_SLOW_ESS = 50.0
"""Effective values of slow quantities, below which an error bar is uncertain."""
BLOCKS = 50
"""Means over consecutive draws, of each chain."""


def columns(tree: "xarray.DataTree", draws: np.ndarray) -> dict[str, np.ndarray]:
    r"""What the slow quantities tell of each checkpoint, by the names that `jaxllc.estimator.summary` describes.

    Args:
        tree: a result with an axis `step`.
        draws: of $\hat\lambda$, `[run?, step, chain, draw]`; of an extrapolation, those of the second set of chains, whose slow quantities the result has.
    """
    attributes, iterations = results.attributes(tree), np.asarray(tree.coords[results.ITERATION].values)
    finite = finite_chains(draws)[..., None]
    distance, loss = (np.where(finite, results.value_of(tree, name), np.nan) for name in (results.SQUARED_DISTANCE, results.PROBE_LOSS))
    drawn = iterations >= min(int(attributes["num_burn_in"]), iterations[-1])  # the last one at least
    at_center = np.where(distance[..., :1] == 0, distance, np.nan)[..., drawn]
    distance, loss = distance[..., drawn], loss[..., drawn]
    llc = mean_and_error(draws.mean(-1))[0]
    length = max(draws.shape[-1] // BLOCKS, 1)
    blocks = draws[..., : draws.shape[-1] // length * length]
    blocks = blocks.reshape(*blocks.shape[:-1], -1, length).mean(-1)
    _, _, block_rhat, block_ess = moments(blocks)
    _, _, loss_rhat, loss_ess = moments(loss)
    _, _, distance_rhat, _ = moments(distance)
    free, lacks = _unmixed(at_center, iterations[drawn], attributes)
    if attributes["relaxation_time"] is None:
        gamma, weights = float(attributes["localization"]), _num_weights(attributes)
        free = np.clip(weights - gamma * mean_and_error(distance.mean(-1))[0] - 2 * llc, 0, weights)
        lacks = np.where(distance_rhat > MAX_SLOW_RHAT, free / 2 * _felt(distance, float(attributes["nbeta"]) * loss, gamma), 0.0)
    per_block, per_loss = (x.shape[-1] * x.shape[-2] * every for x, every in ((blocks, length * attributes["thinning"]), (loss, attributes["slow_every"])))
    slope, slope_error = _localization_slope(distance, loss, attributes)
    with np.errstate(divide="ignore", invalid="ignore"):
        relaxation = np.fmax(per_block / block_ess, per_loss / loss_ess)
        spreading = lacks > MAX_UNMIXED * np.abs(llc) + NO_LLC
        return {
            "slow_rhat": np.fmax(block_rhat, loss_rhat),
            "slow_ess": np.fmin(block_ess, loss_ess),
            "distance_rhat": distance_rhat,
            "relaxation": np.where(spreading, np.fmax(relaxation, attributes["relaxation_time"] or 0), relaxation),
            "free_directions": free,
            "unmixed_llc": lacks,
            "localization_slope": slope,
            "localization_slope_error": slope_error,
        }


def _unmixed(distance: np.ndarray, iterations: np.ndarray, attributes: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """How many directions have spread as if without curvature, and what they may still add to the coefficient, by the chains that began at w*."""
    gamma, time = (float(attributes[name] or 0) for name in ("localization", "relaxation_time"))
    mean = mean_and_error(distance.mean(-1))[0]
    if not time or not gamma:
        return np.full(mean.shape, np.nan), np.zeros(mean.shape)
    passed = 2 * iterations / time
    free = np.clip(gamma * mean / -np.expm1(-passed).mean(), 0, _num_weights(attributes))
    return free, np.nan_to_num(free / 2 * lacking(passed).mean())


def _num_weights(attributes: Mapping[str, Any]) -> np.ndarray:
    """How many weights move, of components by each."""
    return np.asarray(attributes.get("component_weights", attributes["num_weights"]), float)


def _felt(distance: np.ndarray, energy: np.ndarray, localization: float) -> np.ndarray:
    """The share of its equilibrium energy that a direction which still spreads has in the loss, by the slope of the loss over the distance."""
    off = _about_their_means(distance, energy)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.fmax(np.nansum(off[0] * off[1], (-2, -1)) / np.nansum(off[0] ** 2, (-2, -1)), 0.0)
        return np.nan_to_num(2 * slope / (2 * slope + localization))


def _localization_slope(distance: np.ndarray, loss: np.ndarray, attributes: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    r"""$\partial \hat\lambda / \partial \ln \gamma$ and its error by the spread of the chains; NaN where chains at two temperatures are combined."""
    if attributes.get("extrapolate") == "nbeta":
        return np.full(loss.shape[:-2], np.nan), np.full(loss.shape[:-2], np.nan)
    off = _about_their_means(distance, loss)
    products = (off[0] * off[1]).mean(-1)
    mean, error = mean_and_error(products)
    factor = float(attributes["localization"]) * float(attributes["nbeta"]) / 2
    return -factor * mean, factor * error


def _about_their_means(*series: np.ndarray) -> list[np.ndarray]:
    return [x - mean_and_error(x.mean(-1))[0][..., None, None] for x in series]


def lacking(passed: np.ndarray | float) -> np.ndarray:
    r"""What a direction of the worst curvature still lacks of its two-fold coefficient: $\max_r \frac{r}{1 + r} e^{-x (1 + r)}$, where $r (1 + r) = 1 / x$.

    Args:
        passed: $x = 2 t / \tau$ after $t$ iterations, $\tau$ being the relaxation time without curvature.
    """
    x = np.maximum(np.asarray(passed, float), 1e-12)
    ratio = (np.sqrt(1 + 4 / x) - 1) / 2
    return ratio / (1 + ratio) * np.exp(-x * (1 + ratio))


def is_unmixed(place: Mapping[str, float]) -> bool:
    """Whether directions that have not mixed may change the coefficient by more than a tenth."""
    return place["unmixed_llc"] > MAX_UNMIXED * abs(place["llc"]) + NO_LLC


def times_the_iterations(place: Mapping[str, float], attributes: Mapping[str, Any]) -> float:
    """How many times the iterations would do."""
    times = [2.0, 4 * MIN_SLOW_ESS / place["slow_ess"] if place["slow_ess"] > 0 else 2.0, 2 * MIN_SLOW_ESS / place["ess"] if place["ess"] > 0 else 2.0]
    time = attributes["relaxation_time"]
    if is_unmixed(place) and time:
        drawn = int(attributes["num_burn_in"]) + int(attributes["num_draws"]) * int(attributes["thinning"]) * np.linspace(0, 1, BLOCKS)
        longer = np.geomspace(1, 1e9, 1000)
        lacks = place["free_directions"] / 2 * lacking(2 / float(time) * longer[:, None] * drawn).mean(-1)
        times.append(float(longer[np.argmax(lacks < MAX_UNMIXED * max(abs(place["llc"]), place["unmixed_llc"]))]))
    return float(np.nanmax(times))
