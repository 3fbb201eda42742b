r"""Stages of development: where $\hat\lambda(t)$ turns or pauses, and what the loss does meanwhile (Hoogland et al., arXiv:2402.02364).

$\hat\lambda$ and the loss are smoothed over the logarithm of the step (`jaxllc.smoothing`), and the smooth $\hat\lambda$ is cut where it turns or pauses
(`jaxllc.boundaries`). Each stage between two boundaries has a type: A, $\hat\lambda$ rises and the loss falls; B, $\hat\lambda$ falls and the loss does not
rise; or undecided.
"""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxllc.boundaries import find_boundaries, sample_boundaries
from jaxllc.recurrence import recurring
from jaxllc.smoothing import Slope, slope

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["CERTAINTY", "find_stages", "recurring", "stages_of"]

MIN_CHECKPOINTS = 8
MIN_CHAINS = 4
CERTAINTY = 3.0
"""Standard errors at which a change is certain. Boundaries are chosen where the curve looks like one, so that two standard errors would give too many:
`docs/design.md` has the rates."""
HIDDEN = 2.0
"""A stage of type B is hidden where the loss departs from its trend by fewer than this many standard errors."""
NUM_SAMPLES = 400
"""Curves sampled from the posterior, from which the uncertainty of the boundaries is estimated."""


def find_stages(
    step: ArrayLike,
    llc: ArrayLike,
    llc_error: ArrayLike | None,
    loss: ArrayLike,
    loss_error: ArrayLike | None = None,
    *,
    chains: ArrayLike | None = None,
    certainty: float = CERTAINTY,
) -> "pandas.DataFrame":
    r"""The stages of a training run, one row each, in order; together they cover the run. Boundaries of the loss alone are not looked for.

    Args:
        step: training steps, `[step]`, increasing. Time is logarithmic, so 0 counts as half of the first positive step.
        llc: local learning coefficients, `[step]`.
        llc_error: their standard errors, `[step]`, or None where unknown. They say how errors differ between checkpoints and bound the correlated noise; their
            scale is fitted.
        loss: mean loss at the checkpoints, `[step]`, in nats per example.
        loss_error: its standard errors, `[step]`, if known.
        chains: $\hat\lambda$ by chain, `[chain, step]`, of at least 4 chains that share their random numbers over checkpoints; errors of changes are then
            paired.
        certainty: standard errors at which a change is certain.

    Returns:
        `start` and `end` in steps, with 95 % intervals (`start_low`, `start_high`, `end_low`, `end_high`). `type`, by certain signs: by the error of the
        change, or wherever in these intervals the boundaries lie. `delta_llc`, `delta_loss` and their standard errors, which include the uncertainty of the
        boundaries. `loss_excess`: how far the change of the loss lies outside the range of the loss's slopes just before and after (over as long a stretch of
        log-time), and its error; a stage of type B is `hidden` where it is compatible with zero.
        `score`: $(|s| - m) / (|s| + |m|)$ with $s$ the stage's share of all changes of $\hat\lambda$, of which two standard errors are subtracted, and $m$
        its share of all changes of the loss, positive where $\hat\lambda$ and the loss move in opposite directions. It is 1 where $\hat\lambda$ moves and
        the loss does not, or moves in the same direction; 0 where one mirrors the other, or neither moves; -1 where only the loss moves. `rank` is 1 for
        the highest score.

    Raises:
        ValueError: fewer than 8 checkpoints, steps that do not increase, lengths that differ, values that are not finite, errors that are not positive, fewer
            than 4 chains.

    Examples:
        >>> import numpy as np
        >>> step, noise = np.geomspace(1, 10_000, 60), np.random.default_rng(0).normal(size=(2, 60))
        >>> llc = 30 / (1 + 30 / step) - 10 / (1 + (2000 / step) ** 3) + 0.2 * noise[0]
        >>> loss = 1 + 1 / (1 + step / 30) + 0.002 * noise[1]
        >>> list(jaxllc.stages.find_stages(step, llc, None, loss)["type"])
        ['A', 'B']
    """
    step = _checked_steps(step)
    llc, loss = _checked_curve("llc", llc, step), _checked_curve("loss", loss, step)
    llc_error, loss_error = _checked_errors("llc_error", llc_error, step), _checked_errors("loss_error", loss_error, step)
    log_step = np.log(np.maximum(step, step[step > 0][0] / 2))
    llc_slope = slope(log_step, llc, llc_error, None if chains is None else _checked_chains(chains, step))
    return _table(llc_slope, slope(log_step, loss, loss_error), step, log_step, certainty)


def stages_of(summary: "xarray.Dataset", draws: np.ndarray, *, certainty: float = CERTAINTY) -> "pandas.DataFrame":
    r"""`find_stages` of a result of several checkpoints, with errors paired by chain; for several training runs, one table with a first column `run`.

    Checkpoints without a finite $\hat\lambda$ are left out. Chains that diverged at any of the others are not paired; with fewer than 4 chains left, none
    are.

    Args:
        summary: variables `llc`, `std_error` and `loss` over the dimension `step`, or `run` and `step`, with these coordinates.
        draws: $\hat\lambda$ of each draw, `[step, chain, draw]` or `[run, step, chain, draw]`.
        certainty: standard errors at which a change is certain.

    Raises:
        ValueError: shapes of `summary` and `draws` that differ; as for `find_stages`, with the name of the run where there are several.
    """
    import pandas as pd

    if summary["llc"].shape != np.shape(draws)[:-2]:
        raise ValueError(f"summary has checkpoints of shape {summary['llc'].shape} and draws are of shape {np.shape(draws)}; pass those of one result.")
    if "run" not in summary.dims:
        return _stages_of_run(summary, draws, certainty)
    tables = {}
    for i, run in enumerate(summary["run"].values):
        try:
            tables[run] = _stages_of_run(summary.isel(run=i), draws[i], certainty)
        except ValueError as error:
            raise ValueError(f"run {str(run)!r}: {error}") from error
    return pd.concat(tables, names=["run"]).reset_index("run").reset_index(drop=True)


def _stages_of_run(summary: "xarray.Dataset", draws: np.ndarray, certainty: float) -> "pandas.DataFrame":
    """`find_stages` at the checkpoints of one run that have a finite coefficient."""
    finite = np.isfinite(summary["llc"].values)
    step, llc, error, loss = (np.asarray(summary[name].values, float)[finite] for name in ("step", "llc", "std_error", "loss"))
    chains = np.asarray(draws, float).mean(-1).T[:, finite]
    chains = chains[np.isfinite(chains).all(1)]
    has_errors = np.isfinite(error).all() and (error > 0).all()
    return find_stages(step, llc, error if has_errors else None, loss, chains=chains if len(chains) >= MIN_CHAINS else None, certainty=certainty)


def _table(llc: Slope, loss: Slope, step: np.ndarray, log_step: np.ndarray, certainty: float) -> "pandas.DataFrame":
    """One row for each stage of the smooth curves, with the columns of `find_stages`."""
    import pandas as pd

    boundaries = find_boundaries(llc, certainty)
    points = np.array([boundary.point for boundary in boundaries])
    rng = np.random.default_rng(0)
    llc_samples, loss_samples = llc.sample(rng, NUM_SAMPLES), loss.sample(rng, NUM_SAMPLES)
    point_samples = sample_boundaries(llc, boundaries, llc_samples)
    low, high = np.quantile(point_samples, [0.025, 0.975], axis=0)

    def steps_at(index: np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(np.interp(index, np.arange(len(llc.x)), llc.x), log_step, step))

    delta_llc, delta_llc_error = _changes(llc, points, llc_samples, point_samples)
    delta_loss, delta_loss_error = _changes(loss, points, loss_samples, point_samples)
    excess, excess_error = np.array([_excess(loss, start, end) for start, end in pairwise(points)]).T
    sign, loss_sign = _signs(llc, delta_llc, delta_llc_error, point_samples, certainty), _signs(loss, delta_loss, delta_loss_error, point_samples, certainty)
    types = np.select([(sign > 0) & (loss_sign < 0), (sign < 0) & (loss_sign <= 0)], ["A", "B"], "undecided")
    score = _score(delta_llc, delta_llc_error, delta_loss)
    return pd.DataFrame(
        {
            "start": steps_at(points[:-1]),
            "start_low": steps_at(low[:-1]),
            "start_high": steps_at(high[:-1]),
            "end": steps_at(points[1:]),
            "end_low": steps_at(low[1:]),
            "end_high": steps_at(high[1:]),
            "type": types,
            "hidden": (types == "B") & (np.abs(excess) < HIDDEN * excess_error),
            "delta_llc": delta_llc,
            "delta_llc_error": delta_llc_error,
            "delta_loss": delta_loss,
            "delta_loss_error": delta_loss_error,
            "loss_excess": excess,
            "loss_excess_error": excess_error,
            "score": score,
            "rank": (-score).argsort().argsort() + 1,
        }
    )


def _changes(slope: Slope, points: np.ndarray, slope_samples: np.ndarray, point_samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The change over each stage, and its standard error over sampled curves, each between its own boundaries."""
    samples = np.diff(np.take_along_axis(slope.integrate(slope_samples), point_samples, axis=1), axis=1)
    mean = np.diff(slope.integrate(slope.mean)[points])
    return mean, np.sqrt(((samples - mean) ** 2).mean(0))


def _signs(slope: Slope, change: np.ndarray, error: np.ndarray, point_samples: np.ndarray, certainty: float) -> np.ndarray:
    """Of the change over each stage, 1 or -1 where it is certain, else 0: by its error, or wherever in their 95 % its boundaries lie.

    How much a curve changes between boundaries that are not well known may itself be little known, though none doubts that it rises.
    """
    signs = np.sign(change) * (np.abs(change) > certainty * error)
    for i, (starts, ends) in enumerate(pairwise(point_samples.T)):
        weights = np.array([slope.change(start, end) for start, end in zip(starts, ends, strict=True)])
        errors = np.sqrt(np.maximum(((weights @ slope.covariance) * weights).sum(-1), 0.0))
        low, high = np.quantile(_divided(weights @ slope.mean, errors), [0.025, 0.975])
        signs[i] = 1 if low > certainty else -1 if high < -certainty else signs[i]
    return signs


def _excess(slope: Slope, start: int, end: int) -> tuple[float, float]:
    """How far a change lies outside the range of changes at the slopes before and after, each over as long a stretch, and its error; NaN without either."""
    length, last = end - start, len(slope.x) - 1
    inside = slope.average(start, end)
    stretches = ((max(start - length, 0), start), (end, min(end + length, last)))
    departures = [slope.contrast((inside - slope.average(s, e)) * (slope.x[end] - slope.x[start])) for s, e in stretches if e - s >= length / 2]
    if not departures:
        return np.nan, np.nan
    if len({mean > 0 for mean, _ in departures}) > 1:
        return 0.0, max(error for _, error in departures)
    return min(departures, key=lambda departure: abs(departure[0]))


def _score(delta_llc: np.ndarray, delta_llc_error: np.ndarray, delta_loss: np.ndarray) -> np.ndarray:
    """The column `score` of `find_stages`, between -1 and 1."""
    share = _divided(np.maximum(np.abs(delta_llc) - 2 * delta_llc_error, 0.0), np.abs(delta_llc).sum())
    mirrored = np.where(delta_llc * delta_loss > 0, -1.0, 1.0) * _divided(np.abs(delta_loss), np.abs(delta_loss).sum())
    return _divided(share - mirrored, share + np.abs(mirrored))


def _divided(numerator: np.ndarray, denominator: np.ndarray | float) -> np.ndarray:
    """The quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=np.broadcast_to(denominator, numerator.shape) > 0)


def _checked_steps(step: ArrayLike) -> np.ndarray:
    """At least `MIN_CHECKPOINTS` increasing steps, or a ValueError."""
    step = np.asarray(step, float)
    if step.ndim != 1:
        raise ValueError(f"step must have one axis, got shape {step.shape}.")
    if len(step) < MIN_CHECKPOINTS:
        raise ValueError(f"stages need at least {MIN_CHECKPOINTS} checkpoints with a finite coefficient, got {len(step)}; add checkpoints.")
    if step[0] < 0 or not (np.diff(step) > 0).all():
        raise ValueError("step must be non-negative and increase; sort the checkpoints and drop repeated ones.")
    return step


def _checked_curve(name: str, values: ArrayLike, step: np.ndarray) -> np.ndarray:
    """One finite value for each step, or a ValueError."""
    values = np.asarray(values, float)
    if values.shape != step.shape:
        raise ValueError(f"{name} must have one value for each of {len(step)} steps, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is {values[~np.isfinite(values)][0]} at step {step[~np.isfinite(values)][0]:g}; leave such checkpoints out.")
    return values


def _checked_errors(name: str, values: ArrayLike | None, step: np.ndarray) -> np.ndarray | None:
    """One positive value for each step, None where errors are unknown, or a ValueError."""
    if values is None:
        return None
    values = _checked_curve(name, values, step)
    if not (values > 0).all():
        raise ValueError(f"{name} must be positive, got {values.min():g} at step {step[values.argmin()]:g}; give None where errors are unknown.")
    return values


def _checked_chains(values: ArrayLike, step: np.ndarray) -> np.ndarray:
    """At least `MIN_CHAINS` finite curves, `[chain, step]`, or a ValueError."""
    values = np.asarray(values, float)
    if values.ndim != 2 or values.shape[0] < MIN_CHAINS or values.shape[1] != len(step):
        raise ValueError(f"chains must be [chain, step] with at least {MIN_CHAINS} chains and {len(step)} steps, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"chain {np.flatnonzero(~np.isfinite(values).all(1))[0]} of chains is not finite; leave it out.")
    return values
