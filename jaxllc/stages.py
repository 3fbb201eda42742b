r"""Stages of development: where $\hat\lambda(t)$ turns or pauses, and what the loss does meanwhile (Hoogland et al., arXiv:2402.02364).

$\hat\lambda$ and the loss are smoothed over the logarithm of the step (`jaxllc.smoothing`). A boundary is either a *turn*, an extremum with a certain change
on both sides, or a *pause*, where the slope is certainly smaller than before and after. Each stage between two boundaries has a type: A, $\hat\lambda$ rises
and the loss
falls; B, $\hat\lambda$ falls and the loss does not rise; or undecided.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxllc import diagnostics
from jaxllc.results import values
from jaxllc.smoothing import Slope, slope

if TYPE_CHECKING:
    import pandas
    import xarray

MIN_CHECKPOINTS = 8
MIN_CHAINS = 4
CERTAINTY = 3.0
"""Standard errors at which a change is certain. Boundaries are chosen where the curve looks like one, so two would claim too many: `docs/design.md` has the
rates."""
PAUSE = 0.5
"""A pause is at most this share as fast as the slower of its neighbours."""
HIDDEN = 2.0
"""Standard errors within which the loss cannot be told from its trend."""
TINY = np.finfo(float).tiny
NUM_SAMPLES = 400
"""Curves drawn from the posterior to see how far boundaries move."""


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
    r"""The stages of a training run, one row each, in order; together they cover it.

    `start` and `end` in steps, with 95 % intervals (`start_low`, `start_high`, `end_low`, `end_high`); `type`; `delta_llc`, `delta_loss` and their standard
    errors, in which the boundaries move too. `loss_excess` is how far the loss's change leaves the range of the loss's slopes just before and after (over as
    long
    a stretch of log-time), with its error: a stage of type B is `hidden` where that cannot be told from zero. `score` compares the stage's share of all that
    $\hat\lambda$ moved, at two standard errors less than estimated, with its share of all that the loss moved: $(|s| - m) / (|s| + |m|)$, $m$ positive where
    $\hat\lambda$ and the loss move in opposite directions. It is 1 where $\hat\lambda$ moves and the loss does not, or not oppositely; 0 where one mirrors the
    other, or neither moves; -1 where only the loss moves. `rank` is 1 for the highest score.

    The scatter about the smooth curve is learnt, white and correlated; measured errors say how it differs between checkpoints and bound its correlated
    part. What is left out: boundaries of the loss alone.

    Args:
        step: training steps, `[step]`, increasing; 0 counts as half of the first positive step, since time is logarithmic.
        llc: local learning coefficients, `[step]`.
        llc_error: their standard errors, `[step]`, or None where unknown.
        loss: nats per example at the checkpoints, `[step]`.
        loss_error: its standard errors, if known.
        chains: coefficients by chain, `[chain, step]`, of at least 4 chains that share their random numbers over checkpoints; errors of changes are then
            paired.
        certainty: standard errors at which a change is called certain.

    Raises:
        ValueError: fewer than 8 checkpoints, steps that do not increase, lengths that differ, values that are not finite, errors that are not positive.
    """
    import pandas as pd

    step = np.asarray(step, float)
    if step.ndim != 1 or len(step) < MIN_CHECKPOINTS:
        raise ValueError(f"stages need at least {MIN_CHECKPOINTS} checkpoints in one axis, got step of shape {step.shape}; add checkpoints.")
    if step[0] < 0 or not (np.diff(step) > 0).all():
        raise ValueError("step must be non-negative and increase; sort the checkpoints and drop repeated ones.")
    llc, loss = _curve("llc", llc, step), _curve("loss", loss, step)
    llc_error, loss_error = _errors("llc_error", llc_error, step), _errors("loss_error", loss_error, step)
    x = np.log(np.maximum(step, step[step > 0][0] / 2))
    by_llc = slope(x, llc, llc_error, None if chains is None else _chains(chains, step))
    by_loss = slope(x, loss, loss_error)
    bounds = _boundaries(by_llc, certainty)
    points = [bound.point for bound in bounds]
    rng = np.random.default_rng(0)
    drawn_llc, drawn_loss = _draws(by_llc, rng), _draws(by_loss, rng)
    moved = _moved(by_llc, bounds, drawn_llc)
    low, high = np.quantile(moved, [0.025, 0.975], axis=0)

    def at(index: np.ndarray | list[int]) -> np.ndarray:
        return np.asarray(np.interp(np.interp(index, np.arange(len(by_llc.x)), by_llc.x), x, step))

    delta_llc, delta_llc_error = _changes(by_llc, points, drawn_llc, moved)
    delta_loss, delta_loss_error = _changes(by_loss, points, drawn_loss, moved)
    excess, excess_error = np.array([_excess(by_loss, start, end) for start, end in pairwise(points)]).T
    up, down = delta_llc > certainty * delta_llc_error, delta_llc < -certainty * delta_llc_error
    kind = np.select([up & (delta_loss < -certainty * delta_loss_error), down & (delta_loss < certainty * delta_loss_error)], ["A", "B"], "undecided")
    score = _score(delta_llc, delta_llc_error, delta_loss)
    return pd.DataFrame(
        {
            "start": at(points[:-1]),
            "start_low": at(low[:-1]),
            "start_high": at(high[:-1]),
            "end": at(points[1:]),
            "end_low": at(low[1:]),
            "end_high": at(high[1:]),
            "type": kind,
            "hidden": (kind == "B") & (np.abs(excess) < HIDDEN * excess_error),
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


def stages(tree: "xarray.DataTree", *, certainty: float = CERTAINTY) -> "pandas.DataFrame":
    """`find_stages` of a result of several checkpoints, errors paired by chain; one of several training runs has a column `run`, first.

    Checkpoints without a finite chain are left out; chains that diverged anywhere are left out of the pairing, which needs 4 that did not.
    """
    import pandas as pd

    if "run" in tree.dims:
        tables = {run: stages(tree.isel(run=i), certainty=certainty) for i, run in enumerate(tree.coords["run"].values)}
        return pd.concat(tables, names=["run"]).reset_index("run").reset_index(drop=True)
    table = diagnostics.summary(tree)
    known = np.isfinite(table["llc"].values)
    step, llc, error, loss = (np.asarray(table[name].values, float)[known] for name in ("step", "llc", "std_error", "loss"))
    chains = values(tree, "posterior/llc").mean(-1).T[:, known]
    chains = chains[np.isfinite(chains).all(1)]
    has_errors = np.isfinite(error).all() and (error > 0).all()
    return find_stages(step, llc, error if has_errors else None, loss, chains=chains if len(chains) >= MIN_CHAINS else None, certainty=certainty)


def recurring(table: "pandas.DataFrame") -> "pandas.DataFrame":
    r"""Which stages recur over training runs, in which order, how far apart.

    The runs' sequences of types are aligned with that of the run that agrees best with all others: as many stages as can be matched in order and by type,
    among such matches those whose middles lie nearest in log-time. One row for each stage of that run, in order: `type`; `count` and `share` of the runs
    that have it;
    the geometric means of `start` and `end`, 0 counted as 1; `lag`, the mean of $\ln$(end / end of the stage before) over runs that have both, and
    `lag_error`; `delta_llc` and `delta_llc_error`,
    mean and standard error over runs (NaN for one run). What is left out: stages that the reference run does not have.

    Args:
        table: stages of several runs, as of `find_stages`, with a column `run`.

    Raises:
        ValueError: no column `run`, or no rows.
    """
    import pandas as pd

    if "run" not in table or not len(table):
        raise ValueError(f"recurring needs stages of several runs with a column 'run', got {len(table)} rows with columns {list(table.columns)}.")
    runs = [group.reset_index(drop=True) for _, group in table.groupby("run", sort=False)]
    matches = [[_match(reference, other) for other in runs] for reference in runs]
    best = max(range(len(runs)), key=lambda i: (sum(len(pairs) for _, pairs in matches[i]), -sum(distance for distance, _ in matches[i])))
    rows, previous = [], {}
    for i, kind in enumerate(runs[best]["type"]):
        found = {k: runs[k].loc[dict(pairs)[i]] for k, (_, pairs) in enumerate(matches[best]) if i in dict(pairs)}
        lag, lag_error = _over_runs([np.log(row["end"] / previous[k]["end"]) for k, row in found.items() if k in previous])
        delta, delta_error = _over_runs([row["delta_llc"] for row in found.values()])
        start, end = (float(np.exp(np.mean(np.log(np.maximum([row[name] for row in found.values()], 1))))) for name in ("start", "end"))
        rows.append(
            {"type": kind, "count": len(found), "share": len(found) / len(runs), "start": start, "end": end, "lag": lag, "lag_error": lag_error}
            | {"delta_llc": delta, "delta_llc_error": delta_error}
        )
        previous = found
    return pd.DataFrame(rows)


def _match(one: "pandas.DataFrame", other: "pandas.DataFrame") -> tuple[float, list[tuple[int, int]]]:
    """Distance and pairs (i, j) of the best alignment in order: of most pairs of one type, then of least distance in log-time."""
    middles = [np.log((table["start"] + table["end"]).to_numpy() / 2) for table in (one, other)]
    best: dict[tuple[int, int], tuple[int, float, list[tuple[int, int]]]] = {}
    nothing: tuple[int, float, list[tuple[int, int]]] = (0, 0.0, [])
    for i in range(len(one)):
        for j in range(len(other)):
            options = [best.get((i - 1, j), nothing), best.get((i, j - 1), nothing)]
            if one["type"].to_numpy()[i] == other["type"].to_numpy()[j]:
                count, closeness, pairs = best.get((i - 1, j - 1), nothing)
                options.append((count + 1, closeness - abs(middles[0][i] - middles[1][j]), [*pairs, (i, j)]))
            best[i, j] = max(options, key=lambda option: option[:2])
    _, closeness, pairs = best[len(one) - 1, len(other) - 1]
    return -closeness, pairs


def _over_runs(found: list[float]) -> tuple[float, float]:
    """Mean and standard error; NaN where there are too few."""
    mean = float(np.mean(found)) if found else np.nan
    return mean, float(np.std(found, ddof=1) / np.sqrt(len(found))) if len(found) > 1 else np.nan


def _curve(name: str, values: ArrayLike, step: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    if values.shape != step.shape:
        raise ValueError(f"{name} must have one value for each of {len(step)} steps, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is {values[~np.isfinite(values)][0]} at step {step[~np.isfinite(values)][0]:g}; leave such checkpoints out.")
    return values


def _errors(name: str, values: ArrayLike | None, step: np.ndarray) -> np.ndarray | None:
    if values is None:
        return None
    values = _curve(name, values, step)
    if not (values > 0).all():
        raise ValueError(f"{name} must be positive, got {values.min():g} at step {step[values.argmin()]:g}; give None where errors are unknown.")
    return values


def _chains(values: ArrayLike, step: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 2 or values.shape[0] < MIN_CHAINS or values.shape[1] != len(step):
        raise ValueError(f"chains must be [chain, step] with at least {MIN_CHAINS} chains and {len(step)} steps, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"chain {np.flatnonzero(~np.isfinite(values).all(1))[0]} of chains is not finite; leave it out.")
    return values


class _Boundary(NamedTuple):
    """A grid point between two stages, and the stretch within which it may lie."""

    point: int
    left: int
    right: int
    is_pause: bool = False


def _boundaries(law: Slope, certainty: float) -> list[_Boundary]:
    """The ends of the run, its turns, and the pauses between, in order."""
    turns = _turns(law, certainty)
    stages = list(pairwise(turns))
    steepest = [start + int(np.argmax(np.abs(law.mean[start : end + 1]))) for start, end in stages]
    ends = [_Boundary(point, point, point) for point in (turns[0], turns[-1])]
    inner = [_Boundary(point, left, right) for point, (left, right) in zip(turns[1:-1], pairwise(steepest), strict=True)]
    return sorted(ends + inner + [pause for start, end in stages for pause in _pauses(law, start, end, certainty)])


def _turns(law: Slope, certainty: float) -> list[int]:
    """Extrema of the smooth curve, of which the least certain are struck until every change between neighbours is certain."""
    last = len(law.x) - 1
    bounds = sorted({0, *(np.flatnonzero(np.diff(law.mean >= 0)) + 1).tolist(), last})
    while len(bounds) > 2:
        sure = [abs(mean) / max(error, TINY) for mean, error in (law.contrast(law.change(start, end)) for start, end in pairwise(bounds))]
        least = int(np.argmin(sure))
        if sure[least] >= certainty:
            break
        # Between two stages of one direction a stage and both its boundaries go; at an edge of the run one boundary.
        bounds = [b for i, b in enumerate(bounds) if b in (0, last) or i not in (least, least + 1)]
    curve = _integral(law.mean, law.x)
    for i in range(1, len(bounds) - 1):
        before, after = bounds[i - 1], bounds[i + 1]
        side = np.sign(2 * curve[bounds[i]] - curve[before] - curve[after])
        bounds[i] = before + int(np.argmax(side * curve[before : after + 1]))
    return bounds


def _pauses(law: Slope, start: int, end: int, certainty: float) -> list[_Boundary]:
    """Where a stage of one direction certainly slows down and then speeds up again: the slowest such point, then those on its either side."""
    sign = _sign(law, start, end)
    speed = sign * law.mean
    minima = [i for i in range(start + 1, end) if speed[i - 1] >= speed[i] < speed[i + 1]]
    certain = [pause for pause in (_pause(law, sign, start, i, end, certainty) for i in minima) if pause]
    if not certain:
        return []
    pause = min(certain, key=lambda pause: speed[pause.point])
    return [*_pauses(law, start, pause.point, certainty), pause, *_pauses(law, pause.point, end, certainty)]


def _pause(law: Slope, sign: float, start: int, point: int, end: int, certainty: float) -> _Boundary | None:
    """The pause around a minimum of the speed: its mean slope certainly below those of the fast stretches beside it, and at most `PAUSE` of the lesser."""
    speed = sign * law.mean
    beside = min(sign * law.contrast(_mean(law, *stretch))[0] for stretch in ((start, point), (point, end)))
    fast = speed >= (speed[point] + beside) / 2
    left, right = _run(~fast, point, start, end)
    if left == start or right == end:
        return None
    slow = _mean(law, left, right)
    before, after = _mean(law, _run(fast, left - 1, start, end)[0], left), _mean(law, right, _run(fast, right + 1, start, end)[1])
    slow_enough = sign * law.contrast(slow)[0] <= PAUSE * min(sign * law.contrast(weights)[0] for weights in (before, after))
    certain = all(sign * mean >= certainty * error for mean, error in (law.contrast(weights - slow) for weights in (before, after)))
    return _Boundary(point, left, right, is_pause=True) if slow_enough and certain else None


def _sign(law: Slope, start: int, end: int) -> float:
    """The direction of a stage."""
    return float(np.sign(law.contrast(law.change(start, end))[0]))


def _run(mask: np.ndarray, inside: int, start: int, end: int) -> tuple[int, int]:
    """First and last point of the stretch of True around a point, within a stage."""
    left = right = inside
    while left > start and mask[left - 1]:
        left -= 1
    while right < end and mask[right + 1]:
        right += 1
    return left, right


def _mean(law: Slope, start: int, end: int) -> np.ndarray:
    """Weights of the mean slope between two grid points."""
    start, end = (start, end) if end > start else (max(start - 1, 0), min(end + 1, len(law.x) - 1))
    return law.change(start, end) / (law.x[end] - law.x[start])


def _integral(slopes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The curve, from 0 at the start, of slopes `[..., grid]`."""
    steps = (slopes[..., 1:] + slopes[..., :-1]) / 2 * np.diff(x)
    return np.concatenate([np.zeros_like(slopes[..., :1]), steps.cumsum(-1)], -1)


def _draws(law: Slope, rng: np.random.Generator) -> np.ndarray:
    """Slopes drawn from the law."""
    jitter = 1e-9 * np.trace(law.covariance) / len(law.x)
    lower = np.linalg.cholesky(law.covariance + jitter * np.eye(len(law.x)))
    return law.mean + rng.standard_normal((NUM_SAMPLES, len(law.x))) @ lower.T


def _moved(law: Slope, bounds: list[_Boundary], drawn: np.ndarray) -> np.ndarray:
    """Where each boundary lies in each drawn curve, `[sample, boundary]`: the extremum, or the slowest point, of its stretch."""
    found = np.tile([bound.point for bound in bounds], (len(drawn), 1))
    curves = _integral(drawn, law.x)
    for i, (before, bound) in enumerate(pairwise(bounds[:-1]), start=1):
        values = -drawn if bound.is_pause else curves
        stretch = _sign(law, before.point, bound.point) * values[:, bound.left : bound.right + 1]
        found[:, i] = bound.left + np.argmax(stretch, axis=1)
    return found


def _changes(law: Slope, points: list[int], drawn: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The change over each stage, and its spread over drawn curves, each between its own boundaries."""
    each = np.diff(np.take_along_axis(_integral(drawn, law.x), moved, axis=1), axis=1)
    mean = np.diff(_integral(law.mean, law.x)[points])
    return mean, np.sqrt(((each - mean) ** 2).mean(0))


def _excess(law: Slope, start: int, end: int) -> tuple[float, float]:
    """How far a change leaves the range between the slopes before and after, each over as long a stretch, and its error; NaN where there is neither."""
    length, last = end - start, len(law.x) - 1
    inside = _mean(law, start, end)
    stretches = ((max(start - length, 0), start), (end, min(end + length, last)))
    departures = [law.contrast((inside - _mean(law, s, e)) * (law.x[end] - law.x[start])) for s, e in stretches if e - s >= length / 2]
    if not departures:
        return np.nan, np.nan
    if len({mean > 0 for mean, _ in departures}) > 1:
        return 0.0, max(error for _, error in departures)
    return min(departures, key=lambda departure: abs(departure[0]))


def _score(delta_llc: np.ndarray, delta_llc_error: np.ndarray, delta_loss: np.ndarray) -> np.ndarray:
    share = _divided(np.maximum(np.abs(delta_llc) - 2 * delta_llc_error, 0.0), np.abs(delta_llc).sum())
    mirrored = np.where(delta_llc * delta_loss > 0, -1.0, 1.0) * _divided(np.abs(delta_loss), np.abs(delta_loss).sum())
    return _divided(share - mirrored, share + np.abs(mirrored))


def _divided(over: np.ndarray, under: np.ndarray | float) -> np.ndarray:
    """The quotient, 0 where nothing is divided by nothing."""
    return np.divide(over, under, out=np.zeros_like(over), where=np.broadcast_to(under, over.shape) > 0)
