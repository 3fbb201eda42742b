"""How two packages' numbers of the same posteriors are compared: coefficients by their errors, matrices by z-scores, correlation and reliability."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def z_score(value: float, error: float, other: float, other_error: float) -> float:
    """The difference in joint standard errors."""
    return (value - other) / float(np.hypot(error, other_error))


def reliability(value: np.ndarray, error: np.ndarray) -> float:
    """The share of the variance of some values that is no Monte-Carlo noise."""
    return float(1 - np.mean(error**2) / np.var(value))


def compared(value: np.ndarray, error: np.ndarray, other: np.ndarray, other_error: np.ndarray) -> dict[str, float]:
    """How two estimates of the same values agree.

    Args:
        value: ours, of any shape; of a square matrix, the elements on and above the diagonal count.
        error: its standard errors.
        other: theirs.
        other_error: their standard errors.

    Returns:
        `rms_z`, the root mean square of the differences in joint standard errors; `share`, of those below two; `correlation` of the values; `reliability` and
        `other_reliability`; and `slope`, ours on theirs, less what their noise takes off it.
    """
    arrays = (value, error, other, other_error)
    if value.ndim == 2 and value.shape[0] == value.shape[1]:
        above = np.triu_indices(len(value))
        arrays = tuple(array[above] for array in arrays)
    value, error, other, other_error = (np.asarray(array, float).ravel() for array in arrays)
    z = (value - other) / np.hypot(error, other_error)
    covariance = np.cov(value, other)
    ours, theirs = reliability(value, error), reliability(other, other_error)
    return {
        "rms_z": float(np.sqrt(np.mean(z**2))),
        "share": float(np.mean(np.abs(z) < 2)),
        "correlation": float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])),
        "reliability": ours,
        "other_reliability": theirs,
        "slope": float(covariance[0, 1] / (covariance[1, 1] * theirs)),
    }


def by_chains(each: np.ndarray) -> tuple[float, float]:
    """Mean and standard error of what each chain gives."""
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))


def coefficients(name: str, ours: Mapping[str, float], batches: np.ndarray, on_all: np.ndarray, as_given: float) -> dict[str, Any]:
    r"""One line on the coefficient of a component: by losses of the batches that are sampled on, and by losses of all data along the chains.

    Args:
        name: of the component.
        ours: `llc`, `std_error` and `step_bias` of jaxllc, and `on_all`, of the losses of all data.
        batches: $n\beta$ times the mean rise of the loss of its batches, over each chain of the other package after burn-in.
        on_all: the same of the losses of all data.
        as_given: what the other package calls the coefficient, of batches, over burn-in too.
    """
    (mean, error), (mean_on_all, error_on_all) = by_chains(batches), by_chains(on_all)
    uncorrected = ours["llc"] + ours["step_bias"]
    return {
        "component": name,
        **ours,
        "uncorrected": uncorrected,
        "theirs": mean,
        "their_error": error,
        "z": z_score(uncorrected, ours["std_error"], mean, error),
        "theirs_on_all": mean_on_all,
        "their_error_on_all": error_on_all,
        "z_on_all": z_score(ours["on_all"], ours["std_error"], mean_on_all, error_on_all),
        "theirs_as_given": as_given,
    }


def whole_run(per_step: float, per_call: float, *, calls: int, steps: int) -> float:
    """Seconds of calls in series, each of a fixed cost and so many chain-steps: of `calls` that were not all made."""
    return calls * (per_call + steps * per_step)


def speed_row(found: Mapping[str, Any], count: int, components: Sequence[str], *, checkpoints: int, job: Mapping[str, int], chains: int) -> dict[str, Any]:
    """One line on the cost of a chain-step, and of a whole job, of some components: medians of processor seconds, and of ratios within turns.

    Args:
        found: `turns`, by name the `step` and `call` of each turn (wall seconds and processor seconds; ours by component, checkpoint and chain), and `first`,
            our calls that compile.
        count: of the components.
        components: those of which the other package was timed.
        checkpoints: at which they are estimated.
        job: `chains` and `steps` of the whole job.
        chains: of the calls of the other package that were timed, whose fixed cost a call of the job is taken to have.
    """
    ours, gradient = found["turns"][str(count)], found["turns"]["gradient"]
    theirs = [[found["turns"][name][i] for name in components] for i in range(len(ours))]
    clocks = {}
    for clock, name in enumerate(("wall", "cpu")):
        step = [np.mean([one["step"][clock] for one in turn]) for turn in theirs]
        call = [np.mean([one["call"][clock] for one in turn]) for turn in theirs]
        mine = [one["step"][clock] for one in ours]
        clocks[name] = {
            "ours_us": 1e6 * float(np.median(mine)),
            "theirs_us": 1e6 * float(np.median(step)),
            "gradient_us": 1e6 * float(np.median([one["step"][clock] for one in gradient])),
            "ratio": float(np.median(np.array(step) / mine)),
            "their_call": chains * float(np.median(call)),
            "first_call": found["first"][str(count)][clock] * count * checkpoints,
        }
    places, steps = count * checkpoints, job["chains"] * job["steps"]
    cpu = clocks["cpu"]
    our_job = whole_run(1e-6 * cpu["ours_us"], 0.0, calls=places, steps=steps) + cpu["first_call"]
    their_job = whole_run(1e-6 * cpu["theirs_us"], cpu["their_call"], calls=places, steps=steps)
    return {"components": count, "checkpoints": checkpoints, **clocks, "our_job": our_job, "their_job": their_job, "job_ratio": their_job / our_job}
