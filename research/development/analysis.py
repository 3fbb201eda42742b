r"""Statistics of curves of many seeds, and the rules that turn them into answers.

A *score* of a seed rises from a start to an end level; `crossing` is the step from which on it stays beyond a share of that rise. Changes of λ̂ are taken
chain by chain, since chains share their random numbers along the run. Seeds share them too, which the standard errors of means over seeds take into account.
"""

from typing import Any, NamedTuple

import numpy as np

END = 5
"""Number of last checkpoints whose mean is the level at the end of a run."""

PAPER_SHARE = 0.006
"""The published fall of λ̂ before the bump (Hoogland et al., arXiv:2402.02364, stage LM3) as a share of λ̂: 0.79 to 0.84 of 135, after their baseline
is corrected. As reported it is 1.57 of 172.5, 0.009; the reported curve contains ten times the loss."""

PAPER_SHARE_OF_RISE = 0.07
"""The same fall as a share of the rise that follows it, 0.84 of 11.3."""

HIDDEN_SHARE = 0.25
"""A change is hidden if the loss falls by less than this share of its later fall beyond its trend meanwhile."""

KNOWN = 1 / 3
"""An effect is called known if its standard error is at most this share of it."""


class Interval(NamedTuple):
    """A mean over seeds with its standard error and 95 % interval (Student's t); NaN where there are too few."""

    mean: float
    std_error: float
    low: float
    high: float
    num_seeds: int


def crossing(step: np.ndarray, score: np.ndarray, share: float, start: float | None = None) -> float:
    """The step from which on a score stays beyond `share` of its way from the start to the end; NaN if the two are equal.

    Between two checkpoints the step is interpolated in its logarithm; step 0 counts as half of the next one.

    Args:
        step: increasing, `[step]`.
        score: `[step]`; it may rise or fall.
        share: between 0 and 1.
        start: the start level; default that of the first checkpoint. The end level is the mean of the last `END` checkpoints.
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


def over_chains(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error over the finite chains."""
    values = values[np.isfinite(values)]
    return (float(values.mean()) if len(values) else np.nan, float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan)


def over_seeds(values: np.ndarray) -> Interval:
    """The mean over the seeds with a finite value, `[seed]`."""
    from scipy.stats import t

    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    count = len(values)
    mean = float(values.mean()) if count else np.nan
    error = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else np.nan
    half = float(t.ppf(0.975, count - 1)) * error if count > 1 else np.nan
    return Interval(mean, error, mean - half, mean + half, count)


def over_seeds_and_chains(values: np.ndarray) -> Interval:
    r"""The mean over seeds of an estimate from chains, `[seed, chain]`, where all seeds use the same random numbers.

    Their noise is then correlated, which the spread over seeds, $s / \sqrt R$, does not show. The covariance is estimated from the error of one seed and
    that of the mean, and added (as in `jaxllc.diagnostics.over_runs`). Seeds with a missing value are left out.
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


def is_known(effect: Interval) -> bool:
    """Whether the 95 % interval lies above zero and the standard error is at most a third of the mean."""
    return bool(effect.low > 0 and effect.std_error <= KNOWN * effect.mean)


def stages_of_bump(stages: Any, start: float, half: float) -> dict[str, bool]:
    """Whether a run has a stage of type B before the type A of the bump, and whether that stage is hidden.

    The type A of the bump is the first stage A that ends after the half rise of prefix matching. A stage B counts if it reaches into the window before the
    onset of prefix matching and ends no later than that stage A does.

    Args:
        stages: of one run, as of `jaxllc.stages.find_stages`.
        start: where the window begins.
        half: the half rise of prefix matching.
    """
    rises = stages[(stages["type"] == "A") & (stages["end"] > half)]
    if not len(rises):
        return {"type_b": False, "hidden": False}
    before = stages[(stages["type"] == "B") & (stages["end"] > start) & (stages["end"] <= rises["end"].iloc[0]) & (stages["start"] < half)]
    return {"type_b": bool(len(before)), "hidden": bool(len(before) and before["hidden"].any())}


class Claim(NamedTuple):
    """One claim: `yes`, `no` or `open`, the effect that decides it, and the smallest effect that would be certain."""

    answer: str
    effect: Interval
    limit: float


def claims(lag_third: Interval, lag_half: Interval, drop: Interval, at_most: float, detectable: float, level: float, excess: Interval) -> dict[str, Claim]:
    """The claims and their answers. An answer is *yes* where the effect `is_known`.

    - Previous-token attention is first to a third, and to half, of its rise: by the logarithm of the ratio of steps; *no* where its 95 % interval lies below
      zero.
    - λ̂ falls before prefix matching sets in: *no* where a fall as deep as the published share of λ̂, `PAPER_SHARE`, is excluded.
    - The loss keeps to its trend meanwhile: *yes* or *no* where the interval of the excess lies below or above `HIDDEN_SHARE`.

    Args:
        lag_third: logarithm of the ratio of the steps of third rises, prefix matching to previous token.
        lag_half: the same of half rises.
        drop: cross-fitted depth of the largest fall of λ̂ in the window.
        at_most: the deepest fall that is not excluded.
        detectable: the smallest depth that would be certain.
        level: λ̂ in the window.
        excess: fall of the loss in the window beyond that in the window before, as a share of its fall afterwards.
    """

    def first(lag: Interval) -> Claim:
        return Claim(_answer(is_known(lag), lag.high < 0), lag, lag.std_error / KNOWN)

    return {
        "previous-token attention is first to a third of its rise": first(lag_third),
        "previous-token attention is first to half of its rise": first(lag_half),
        "the coefficient falls before prefix matching sets in": Claim(_answer(is_known(drop), at_most < PAPER_SHARE * level), drop, detectable),
        "the loss keeps to its trend meanwhile": Claim(_answer(excess.high < HIDDEN_SHARE, excess.low > HIDDEN_SHARE), excess, excess.high - excess.mean),
    }


def verdict(claims: dict[str, Claim]) -> str:
    """One line: any *no* refutes, only *yes* replicates, all else is open."""
    answers = {claim.answer for claim in claims.values()}
    head = "does not replicate" if "no" in answers else "replicates" if answers == {"yes"} else "open"
    return f"{head} ({'; '.join(f'{name}: {claim.answer}' for name, claim in claims.items())})"


def _answer(yes: bool, no: bool) -> str:
    return "yes" if yes else "no" if no else "open"
