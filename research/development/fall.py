r"""The largest fall of a curve before an event, over several seeds: the depth of a type-B stage with a standard error.

Each seed's curve is averaged in equal bins of log-time that end at its own event, which aligns the seeds. Every pair of bins $i < j$ has a fall,
$x_i - x_j$. The largest fall of the mean curve is a maximum, so it is above zero even where the true curve is level. Two statistics allow for that:

- *depth*: the pair is chosen on all other seeds and measured on the one left out. Without a fall its mean is zero (level curves) or negative (rising ones).
- *at most*: the greatest upper end of simultaneous intervals for all pairs, from simulated level curves whose noise has the covariance of the seeds.

Neither assumes a form or a place of the fall within the window.
"""

from typing import NamedTuple

import numpy as np

from research.development.analysis import KNOWN, Interval, log_step, over_seeds_and_chains

RATIO, BINS = 2.0, 7
"""Of the usual window. The published fall lies at 0.66 to 0.87 of the step at which prefix matching sets in, and takes 0.27 of log-time; a bin has a tenth."""
NUM_SIMULATED = 2000
POWER = 0.8


class Window(NamedTuple):
    """A stretch of log-time before an event, in equal bins."""

    ratio: float = RATIO
    """It begins at the event's step divided by this."""
    bins: int = BINS


USUAL = Window()


class Fall(NamedTuple):
    """The largest fall over a window.

    Attributes:
        depth: cross-fitted, over seeds; above zero for a fall.
        by_seed: the depth of each seed, `[seed]`.
        largest: the largest fall of the mean curve, which is biased upwards.
        first: the bin from which the mean curve falls.
        last: the bin to which it falls.
        chance: share of level curves with the same noise that have a fall of as many standard errors.
        at_most: the deepest fall within the window that a simultaneous 95 % interval does not exclude.
    """

    depth: Interval
    by_seed: np.ndarray
    largest: float
    first: int
    last: int
    chance: float
    at_most: float


def binned(step: np.ndarray, values: np.ndarray, start: float, end: float, bins: int = BINS) -> np.ndarray:
    """Averages of curves `[..., step]`, joined by lines over the logarithm of the step, in equal bins of it between two steps, `[..., bin]`."""
    fine = 64
    edges = np.linspace(np.log(start), np.log(end), bins * fine + 1)
    x, middles = log_step(step), (edges[1:] + edges[:-1]) / 2
    values = np.asarray(values, float)
    rows = [np.interp(middles, x, row).reshape(bins, fine).mean(-1) for row in values.reshape(-1, values.shape[-1])]
    return np.reshape(rows, (*values.shape[:-1], bins))


def before(step: np.ndarray, values: np.ndarray, event: float, window: Window = USUAL) -> np.ndarray:
    """Averages of curves `[..., step]` in the window that ends at an event, `[..., bin]`; all NaN where the event is NaN."""
    if not np.isfinite(event):
        return np.full((*np.shape(values)[:-1], window.bins), np.nan)
    return binned(step, values, event / window.ratio, event, window.bins)


def largest_fall(values: np.ndarray) -> Fall:
    """The largest fall of seeds' curves over the bins of a window.

    Args:
        values: `[seed, chain, bin]`, with one chain where chains do not matter. Seeds with a missing value are left out.
    """
    values = _whole(values)
    first, last = np.triu_indices(values.shape[-1], 1)
    falls = values[..., first] - values[..., last]
    if len(falls) < 3:
        nothing = Interval(np.nan, np.nan, np.nan, np.nan, len(falls))
        return Fall(nothing, np.full(len(falls), np.nan), np.nan, 0, 0, np.nan, np.nan)
    seeds = np.arange(len(falls))
    left_out = falls[seeds, :, _chosen_by_others(falls.mean(1))]
    pairs = [over_seeds_and_chains(falls[..., i]) for i in range(len(first))]
    mean, error = np.array([pair.mean for pair in pairs]), np.array([pair.std_error for pair in pairs])
    level = _level(values.mean(1))
    simulated = level[..., first] - level[..., last]
    errors_off = (simulated.mean(1) / _std_error(simulated)).max(-1)
    best = int(mean.argmax())
    return Fall(
        depth=over_seeds_and_chains(left_out),
        by_seed=left_out.mean(1),
        largest=float(mean[best]),
        first=int(first[best]),
        last=int(last[best]),
        chance=float((errors_off >= (mean / error).max()).mean()),
        at_most=float((mean + np.quantile(errors_off, 0.95) * error).max()),
    )


def detectable(values: np.ndarray) -> float:
    """The smallest depth of a dip that `analysis.is_known` accepts in 80 % of simulations with the seeds' noise.

    The dip is one bin wide and in the last bin but one, like the published one. NaN of fewer than three seeds, infinite if no dip of up to 20 standard errors
    is accepted so often. Values as in `largest_fall`.
    """
    from scipy.stats import t

    values = _whole(values)
    count, bins = len(values), values.shape[-1]
    if count < 3:
        return np.nan
    first, last = np.triu_indices(bins, 1)
    level = _level(values.mean(1))[: NUM_SIMULATED // 4]
    certain = float(t.ppf(0.975, count - 1))
    error = float(np.median(_std_error(level[..., first] - level[..., last])))
    for depth in error * np.arange(2, 20.25, 0.25):
        planted = level - depth * np.eye(bins)[-2]
        falls = planted[..., first] - planted[..., last]
        left_out = np.take_along_axis(falls, _chosen_by_others(falls)[..., None], -1)
        mean, std_error = left_out.mean(1), _std_error(left_out)
        if np.mean((mean > certain * std_error) & (std_error <= KNOWN * mean)) >= POWER:
            return float(depth)
    return np.inf


def _chosen_by_others(falls: np.ndarray) -> np.ndarray:
    """The pair with the largest fall of the mean over all other seeds, `[..., seed, pair]` to `[..., seed]`."""
    return (falls.sum(-2, keepdims=True) - falls).argmax(-1)


def _level(curves: np.ndarray) -> np.ndarray:
    """Level curves with the covariance of the seeds' curves, `[simulation, seed, bin]`."""
    count = len(curves)
    root = (curves - curves.mean(0)) / np.sqrt(count - 1)
    return np.random.default_rng(0).standard_normal((NUM_SIMULATED, count, count)) @ root


def _std_error(falls: np.ndarray) -> np.ndarray:
    return falls.std(-2, ddof=1) / np.sqrt(falls.shape[-2])


def _whole(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    return values[np.isfinite(values).all((-1, -2))]
