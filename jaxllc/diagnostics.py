r"""The findings that make a $\hat\lambda$ suspect, and means over training runs."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxllc.error_bars import mean_and_error, moments
from jaxllc.mixing import MAX_SLOW_RHAT, MIN_SLOW_ESS, is_unmixed, times_the_iterations

if TYPE_CHECKING:
    import xarray

MAX_RHAT = 1.05
MIN_ESS = 100.0
MAX_FOR_TWO = 0.5
"""Share of the coefficient by which half or twice the localization may change it."""
MAX_NEAR = 0.2
"""Share of the coefficient to which that of the Gaussian prior must be known to be compared with it."""
MIN_Z = 4.0
"""Standard errors at which a drift or a negative coefficient is called real."""
MAX_STEP_BIAS = 0.25
"""Share of the coefficient that a finite step may add: it is taken off, but known to first order only (see docs/accuracy.md)."""
RELATIVE = 0.05
"""Share of the coefficient below which a difference is called none."""
WELL_ABOVE = 0.1
"""Share of the loss at step 0, or of weights that are all zero, by which the least loss must lie below it for that to be a model that knows nothing."""


class Finding(NamedTuple):
    """One reason to doubt a number.

    Examples:
        >>> est = jaxllc.estimate(loss_fn, checkpoints[1], data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
        >>> [finding.code for finding in est.findings]
        ['below-center']
    """

    code: str
    message: str


def reference_loss(summary: "xarray.Dataset", attributes: Mapping[str, Any]) -> float | None:
    """The loss of a model that knows nothing: the one that was given, or the least of those that are found; None if there is none.

    Found are the loss at step 0 of the runs that begin with an initialisation: no higher loss later, and one that is well below; and the loss of weights
    that are all zero, if a checkpoint is well below it.

    Args:
        summary: one value a checkpoint.
        attributes: of the result.
    """
    if (given := attributes.get("reference_loss")) is not None:
        return float(given)
    loss = summary["loss"].isel(component=0) if "component" in summary.dims else summary["loss"]  # the same for all
    loss, step = np.atleast_2d(loss.values), summary["step"].values
    highest, least = loss.max(-1, keepdims=True), loss.min(-1, keepdims=True)
    first = loss[:, step == 0]
    found = list(first[(first >= highest) & is_well_above(highest, least)]) if first.size else []
    zeros = attributes.get("loss_of_zeros")
    if zeros is not None and is_well_above(zeros, np.nanmin(loss)):
        found.append(zeros)
    return float(min(found)) if found else None


def is_well_above(loss: Any, least: Any) -> Any:
    """Whether a loss is that of a model that knows nothing, beside the least one."""
    return loss - least > WELL_ABOVE * np.abs(loss)


def findings(summary: "xarray.Dataset", attributes: Mapping[str, Any]) -> list[tuple[Finding, ...]]:
    """For each checkpoint what makes its number suspect, run after run; nothing where nothing does.

    Args:
        summary: one value a checkpoint (see `jaxllc.estimator.summary`).
        attributes: of the result.
    """
    attributes = {**attributes, "reference_loss": reference_loss(summary, attributes)}
    shape = summary["llc"].shape
    columns = {str(name): column.values for name, column in summary.items()}
    places = [{name: float(values[i]) for name, values in columns.items()} for i in np.ndindex(shape)]
    return [_of_place(place, attributes) for place in places]


def _of_place(place: dict[str, float], attributes: Mapping[str, Any]) -> tuple[Finding, ...]:
    checks = _ALWAYS | (_IF_FINITE if np.isfinite(place["llc"]) else {})
    if place["num_stuck"] == int(attributes["num_chains"]):  # nothing else can be said of chains that do not move
        checks = _ALWAYS | {code: _IF_FINITE[code] for code in ("stuck", "acceptance")}
    return tuple(Finding(code, message) for code, check in checks.items() if (message := check(place, attributes)))


def _diverged(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    if place["num_diverged"]:
        way = "use a much smaller step size, or a smaller nbeta; where neither helps, the gradient is not finite"
        return f"{place['num_diverged']:.0f} of {attributes['num_chains']} chains diverged and are left out; {way}"
    return None


def _stateful_loss(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    if not attributes.get("depends_on_batch"):
        return None
    if attributes.get("by_example"):
        return (
            "the loss of an example depends on the others in its batch or on its place there, so losses are compared with those of the same batch at w* by "
            "a second forward pass; use the model in evaluation mode"
        )
    return (
        "the mean loss of a batch is not the mean of its halves' (token means of unequal length, batch normalisation), so L(w*) and λ̂ are those of batches "
        f"of {attributes['batch_size']}; return one loss an example, or larger batches"
    )


def _statistics(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    if names := attributes.get("statistics"):
        return f"these free leaves look like running statistics, not weights: {', '.join(names[:6])}; leave them out by free="
    if names := attributes.get("fixed_statistics"):
        return f"free names running statistics, which are no weights and stay fixed: {', '.join(names[:6])}"
    return None


def _stuck(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    if place["num_stuck"]:
        return (
            f"{place['num_stuck']:.0f} of {attributes['num_chains']} chains hardly move, their steps being refused or too small, and their error bar means "
            "nothing; use another step size"
        )
    return None


def _acceptance(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    least = attributes.get("min_acceptance")
    if least is not None and place["acceptance_rate"] < least:
        return (
            f"only {place['acceptance_rate']:.0%} of the proposals are accepted (below {least:.0%}), so chains may never enter narrow parts of the "
            "posterior; use a smaller step size"
        )
    return None


def _step_size(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    if abs(place["step_bias"]) > MAX_STEP_BIAS * abs(place["llc"]):
        return (
            f"finite steps and minibatch noise add {place['step_bias']:.3g} to λ̂; that is taken off, but a correction above {MAX_STEP_BIAS:.0%} is not "
            "reliable; use a smaller step size with more steps, or larger batches"
        )
    return None


def _not_mixed(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    reasons = []
    if is_unmixed(place):
        reasons.append(f"directions that still spread from w* may add up to {place['unmixed_llc']:.2g} to λ̂, if the loss feels them")
    if place["llc_rhat"] > MAX_RHAT or place["slow_rhat"] > MAX_SLOW_RHAT:
        reasons.append(f"R-hat is {place['rhat']:.2f}, so chains disagree")
    if abs(place["drift"]) > MIN_Z * place["drift_error"] and abs(place["drift"]) > RELATIVE * abs(place["llc"]):
        reasons.append(f"λ̂ drifts by {place['drift']:+.3g} over the draws")
    if place["llc"] < -MIN_Z * place["std_error"] and place["llc"] != place["llc_at_nbeta"]:
        reasons.append("the mean loss is higher at twice nbeta, which it is not in equilibrium")
    if not reasons:
        return None
    iterations = int(attributes["num_burn_in"]) + (int(attributes["num_draws"]) - 1) * int(attributes["thinning"]) + 1
    times = times_the_iterations(place, attributes)
    time = f"relaxation time about {_two_digits(place['relaxation'])} iterations, the chains have {iterations}: " if np.isfinite(place["relaxation"]) else ""
    stronger = "a stronger localization"
    if attributes["relaxation_time"] and np.isfinite(place["relaxation"]):  # at which the prior alone relaxes as fast as is needed
        at_least = float(attributes["localization"]) * times * max(float(attributes["relaxation_time"]) / place["relaxation"], 1.0)
        stronger = f"localization={_two_digits(at_least)}"
    return f"{'; '.join(reasons)}; {time}use {_two_digits(times)} times the burn-in and the draws, or {stronger}"


def _two_digits(number: float) -> str:
    """A number rounded up to two digits, in plain figures where it is not huge."""
    if not np.isfinite(number) or number == 0:
        return f"{number:g}"
    unit = 10.0 ** (np.floor(np.log10(abs(number))) - 1)
    rounded = float(np.ceil(number / unit - 1e-9) * unit)
    return f"{rounded:.0f}" if 10 <= rounded < 1e9 else f"{rounded:.2g}"


def _few_effective_draws(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    if np.isnan(place["ess"]):
        return "R-hat and ESS need at least 4 draws that differ, so the error is unknown; use num_draws=100 or more"
    slow = place["slow_ess"] < MIN_SLOW_ESS and not is_unmixed(place)  # more draws alone would not do
    lack = max(MIN_ESS / place["ess"], MIN_SLOW_ESS / place["slow_ess"] if slow else 0.0)
    if lack > 1:
        found = f"{place['ess']:.0f} effective draws" + (f", {place['slow_ess']:.0f} of slow quantities" if slow else "")
        return f"only {found}, so the error bar is itself uncertain; num_draws={_two_digits(lack * int(attributes['num_draws']))} would do"
    return None


def _localization_sensitive(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    slope, error = place["localization_slope"], place["localization_slope_error"]
    change = slope * np.log(2)
    if is_unmixed(place) or not (abs(slope) > MIN_Z * error and abs(change) > MAX_FOR_TWO * abs(place["llc"])):
        return None
    return (
        f"λ̂ follows the localization: about {place['llc'] - change:.3g} at localization={float(attributes['localization']) / 2:.3g} and "
        f"{place['llc'] + change:.3g} at {2 * float(attributes['localization']):.3g}; say which one it is for, or use a larger nbeta"
    )


def _below_center(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    if place["llc_at_nbeta"] < -MIN_Z * place["llc_at_nbeta_error"]:
        return "chains found lower loss than at w*, which is no local minimum; a stronger localization stays nearer to it"
    return None


def _uninformed(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    reference = attributes.get("reference_loss")
    if reference is not None and place["mean_loss"] >= reference:
        return (
            f"the mean loss over the chains, {place['mean_loss']:.3g}, is at or above that of a model that knows nothing, {reference:.3g}: they left the "
            "basin; a stronger localization stays in it, or a larger nbeta, such as n / ln n of the tokens where the loss is a mean over tokens"
        )
    return None


def _localization_only(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    llc, cloud = place["llc_at_nbeta"], place["gaussian_llc"]
    near = max(RELATIVE * abs(llc), 2 * float(np.hypot(np.nan_to_num(place["gaussian_llc_error"]), place["llc_at_nbeta_error"])))
    if abs(cloud - llc) < near < MAX_NEAR * abs(llc):
        return f"draws from the Gaussian prior alone, without gradients, give {cloud:.3g} too; use a weaker localization or a larger nbeta"
    return None


def _low_precision(place: dict[str, float], attributes: Mapping[str, Any]) -> str | None:
    if place["rounding_llc"] > RELATIVE * abs(place["llc"]):
        return (
            f"rounding weights to the model's dtype adds about {place['rounding_llc']:.3g} to λ̂, more than {RELATIVE:.0%} of it: the posterior is narrower "
            "than their precision; pass the weights as float32, or use a smaller nbeta"
        )
    rounding = _loss_rounding(place, attributes)
    if rounding > RELATIVE * abs(place["llc"]):
        return (
            f"the loss is returned in {attributes['loss_dtype']}, whose rounding is about {rounding:.3g} in λ̂, more than {RELATIVE:.0%} of it; compute it "
            "in float32"
        )
    return None


def _loss_rounding(place: dict[str, float], attributes: Mapping[str, Any]) -> float:
    r"""Half a spacing of the loss's dtype at L(w*), times $n\beta$; of losses by example, whose roundings average out, its standard deviation."""
    import ml_dtypes

    dtype = attributes.get("loss_dtype", "float32")
    if dtype not in ("bfloat16", "float16"):
        return 0.0
    spacing = float(ml_dtypes.finfo(dtype).eps) * abs(place["loss"]) * float(attributes["nbeta"])
    return spacing / 2 if not attributes.get("by_example") else spacing / np.sqrt(6 * int(attributes["num_examples"]))


Check = Callable[[dict[str, float], Mapping[str, Any]], str | None]

_ALWAYS: dict[str, Check] = {"diverged": _diverged, "stateful-loss": _stateful_loss, "statistics": _statistics}
_IF_FINITE: dict[str, Check] = {
    "stuck": _stuck,
    "acceptance": _acceptance,
    "step-size": _step_size,
    "not-mixed": _not_mixed,
    "few-effective-draws": _few_effective_draws,
    "below-center": _below_center,
    "uninformed": _uninformed,
    "localization-only": _localization_only,
    "localization-sensitive": _localization_sensitive,
    "low-precision": _low_precision,
}
"""Checks by the code of their finding, in the order in which findings are listed."""


def over_runs(summary: "xarray.Dataset", draws: np.ndarray) -> "xarray.Dataset":
    r"""Means over the training runs of a result with an axis `run`, by step: `llc` and its `std_error`, `loss`, `mean_loss`.

    The error is that of the mean as an estimate for all runs that might have been. The runs' spread alone, $s / \sqrt R$, misses the noise that they
    share, having the same random numbers: the square of the error is $s^2 / R + c$, where $c$ is the covariance of the Monte-Carlo noise of two
    runs, and follows from the Monte-Carlo error of a run and that of the mean. Runs without a finite chain at a step are left out of it; NaN for one run.

    Args:
        summary: one value a checkpoint, with the axes `run` and `step`.
        draws: of the coefficient, `[run, step, chain, draw]`.
    """
    import xarray as xr

    llc, bias_error = summary["llc"].values, summary["bias_error"].values
    own = np.sqrt(np.maximum(summary["std_error"].values ** 2 - bias_error**2, 0))
    has_value = np.isfinite(llc)
    count = has_value.sum(0)
    mean, spread = mean_and_error(llc.T)
    with np.errstate(invalid="ignore", divide="ignore"):
        together = moments(np.where(has_value[..., None, None], draws, 0).sum(0) / count[:, None, None])[1]
        shared = (count * together**2 - np.where(has_value, own**2, 0).sum(0) / count) / (count - 1)
        common = np.where(has_value, bias_error**2, 0).sum(0) / count  # of all runs alike
    means = {"llc": mean, "std_error": np.sqrt(spread**2 + np.maximum(shared, 0) + common)}
    means |= {name: mean_and_error(summary[name].values.T)[0] for name in ("loss", "mean_loss")}
    return xr.Dataset({name: ("step", value) for name, value in means.items()}, {"step": summary["step"]})
