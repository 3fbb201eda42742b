r"""What is asked of curves of many seeds, and the rules by which the answer is given: fixed before any seed is run.

A *score* of a seed rises from a start to an end level; `crossing` is where a share of that rise is passed for good. A *window* lies between two such
crossings. The coefficient's change over a window is taken chain by chain, since chains share their random numbers along the run, and its mean over seeds has
an error that counts what seeds share too.
"""

from typing import Any, NamedTuple

import numpy as np

END = 5
"""Checkpoints whose mean is the level at the end of a run."""

PAPER_SHARE = 0.009
"""The published drop of the coefficient before the bump, 1.57 of 172.5 (Hoogland et al., arXiv:2402.02364, stage LM3), as a share of it."""

HIDDEN_SHARE = 0.25
"""The loss hides a change if less than this share of the bump's fall of the loss goes with it."""


class Interval(NamedTuple):
    """A mean over seeds with its standard error and 95 % interval (Student's t); NaN where there are too few."""

    mean: float
    std_error: float
    low: float
    high: float
    num_seeds: int


def crossing(step: np.ndarray, score: np.ndarray, share: float, start: float | None = None) -> float:
    """The step from which on a score stays beyond `share` of its way from the start to the end; NaN if it goes nowhere.

    Between two checkpoints the step is interpolated in its logarithm; step 0 counts as half of the next one.

    Args:
        step: increasing, `[step]`.
        score: `[step]`; it may rise or fall.
        share: between 0 and 1.
        start: the level where the way begins; default that of the first checkpoint. The end is the mean of the last `END` checkpoints.
    """
    x = log_step(step)
    start = float(score[0]) if start is None else start
    way = float(np.mean(score[-END:])) - start
    if not np.isfinite(way) or way == 0:
        return np.nan
    risen = (np.asarray(score) - start) / way
    below = np.flatnonzero(risen < share)
    if not len(below):
        return float(step[0])
    i = int(below[-1])
    if i + 1 == len(step):
        return np.nan
    return float(np.exp(np.interp(share, risen[i : i + 2], x[i : i + 2])))


def log_step(step: np.ndarray) -> np.ndarray:
    """The logarithm of the step, in which 0 counts as half of the next one."""
    step = np.asarray(step, float)
    return np.log(np.maximum(step, step[step > 0][0] / 2))


def change(step: np.ndarray, values: np.ndarray, start: float, end: float) -> np.ndarray:
    """The change of curves `[..., step]` between two steps, each interpolated in the logarithm of the step, `[...]`; NaN unless `start < end`."""
    values = np.asarray(values, float)
    if not start < end:
        return np.full(values.shape[:-1], np.nan)
    x = log_step(step)
    rows = values.reshape(-1, values.shape[-1])
    found = [np.diff(np.interp(np.log([start, end]), x, row))[0] for row in rows]
    return np.reshape(found, values.shape[:-1])


def over_chains(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error over the finite chains."""
    values = values[np.isfinite(values)]
    return (float(values.mean()) if len(values) else np.nan, float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan)


def over_seeds(values: np.ndarray) -> Interval:
    """A mean over the seeds that have a value, `[seed]`."""
    from scipy.stats import t

    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    count = len(values)
    mean = float(values.mean()) if count else np.nan
    error = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else np.nan
    half = float(t.ppf(0.975, count - 1)) * error if count > 1 else np.nan
    return Interval(mean, error, mean - half, mean + half, count)


def over_seeds_and_chains(values: np.ndarray) -> Interval:
    r"""A mean over seeds of a quantity known from chains, `[seed, chain]`, whose noise the seeds share, having the same random numbers.

    The spread over seeds alone, $s / \sqrt R$, misses what they share: its covariance is added, estimated from the error of a seed and that of the mean
    (as in `jaxllc.diagnostics.over_runs`). Seeds without a value are left out.
    """
    from scipy.stats import t

    values = np.asarray(values, float)
    values = values[np.isfinite(values).all(-1)]
    alone = over_seeds(values.mean(-1))
    count, chains = values.shape
    if count < 2 or chains < 2:
        return alone
    together = values.mean(0).var(ddof=1) / chains
    shared = (count * together - (values.var(-1, ddof=1) / chains).mean()) / (count - 1)
    error = float(np.sqrt(alone.std_error**2 + max(shared, 0.0)))
    half = float(t.ppf(0.975, count - 1)) * error
    return Interval(alone.mean, error, alone.mean - half, alone.mean + half, count)


def stages_of_bump(stages: Any, start: float, half: float) -> dict[str, bool]:
    """Whether a run has a certain stage of type B before the type A of the bump, and whether it is hidden.

    The type A of the bump is the first stage A that ends after the half rise of prefix matching. A stage B counts if it reaches into the time after the onset
    of previous-token attention and ends no later than that stage A does.

    Args:
        stages: of one run, as of `jaxllc.stages.find_stages`.
        start: the onset of previous-token attention.
        half: the half rise of prefix matching.
    """
    rises = stages[(stages["type"] == "A") & (stages["end"] > half)]
    if not len(rises):
        return {"type_b": False, "hidden": False}
    before = stages[(stages["type"] == "B") & (stages["end"] > start) & (stages["end"] <= rises["end"].iloc[0]) & (stages["start"] < half)]
    return {"type_b": bool(len(before)), "hidden": bool(len(before) and before["hidden"].any())}


def verdict(lag: Interval, drop: Interval, llc_at_start: float, type_b_share: float, hidden: Interval) -> str:
    """One sentence, by rules fixed beforehand: three claims, each yes, no or open; any no refutes, three yes replicate.

    - *order*: previous-token attention rises first: the 95 % interval of the log of the ratio of half rises lies above zero (yes) or below (no).
    - *drop*: the coefficient falls between the onset of previous-token attention and the half rise of prefix matching: the interval of the drop lies above
      zero, its error is at most a third of it and at least half of the seeds have a certain stage B (yes); or the interval's upper end is below the published
      drop, `PAPER_SHARE` of the coefficient (no).
    - *hidden*: of the loss's fall from the onset of previous-token attention to the end, the share that is paid before the onset of prefix matching: the
      interval lies below `HIDDEN_SHARE` (yes) or above (no).
    """
    claims = {
        "previous-token attention first": _claim(lag.low > 0, lag.high < 0),
        "the coefficient falls before": _claim(
            drop.low > 0 and drop.std_error <= drop.mean / 3 and type_b_share >= 0.5,
            drop.high < PAPER_SHARE * llc_at_start,
        ),
        "the loss hides it": _claim(hidden.high < HIDDEN_SHARE, hidden.low > HIDDEN_SHARE),
    }
    answers = set(claims.values())
    head = "does not replicate" if "no" in answers else "replicates" if answers == {"yes"} else "undecided"
    told = "; ".join(f"{claim}: {answer}" for claim, answer in claims.items())
    return (
        f"{head} ({told}): over {drop.num_seeds} seeds the coefficient drops by {drop.mean:.2f} ± {drop.std_error:.2f} (of {llc_at_start:.1f}) "
        f"between the onset of previous-token attention and the half rise of prefix matching, and {type_b_share:.0%} of the seeds have a certain "
        f"stage of type B there."
    )


def _claim(yes: bool, no: bool) -> str:
    return "yes" if yes else "no" if no else "open"
