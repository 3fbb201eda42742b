"""What the samplers that a calibration weighs have in common: aims of their lengths, and plans made longer."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxllc.pilots import Pilot
from jaxllc.plan import Plan
from jaxllc.probes import Probe
from jaxllc.samplers.adaptive_hmc import AdaptiveHMC

PILOT_SHARE = 0.2
"""Of the budget, that pilot runs may take."""
LEAST_LLC = 0.5
"""Coefficient of whose size the standard error is a share, at least."""
LEAST_ITERATIONS, MOST_ITERATIONS = 64, 4096
"""Of a chain, at least; draws of one, at most."""


def described(plan: Plan) -> dict[str, Any]:
    """How a plan samples, as plain values."""
    return {"sampler": type(plan.sampler).__name__, "batch_size": plan.data.batch_size, "nbeta": plan.nbeta, "localization": plan.settings.localization}


def reaching(plan: Plan, probes: Mapping[str, Probe]) -> Plan:
    """The same plan with as many draws as it takes to evaluate each probe along the chains."""
    fewest = max((probe.every or 0 for probe in probes.values()), default=0) // plan.settings.thinning + 2
    return plan if plan.settings.num_draws >= fewest else plan.with_settings(plan.settings.replace(num_draws=fewest))


def longer(plan: Plan, factor: float) -> Plan:
    """The same plan with longer chains."""
    settings = plan.settings
    longer = settings.replace(num_burn_in=round(factor * settings.num_burn_in), num_draws=round(factor * settings.num_draws))
    if isinstance(plan.sampler, AdaptiveHMC):
        longer = longer.replace(sampler=plan.sampler.replace(num_adaptation=None).with_burn_in(longer.num_burn_in))  # pyright: ignore[reportAttributeAccessIssue]
    return plan.with_settings(longer)


def lengthening(pilot: Pilot, target_error: float, points: slice = slice(None)) -> float:
    """By how much longer than the pilot the draws must be for the target error at some points; nothing that is not finite is known to suffice."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = pilot.std_error[points] / (target_error * np.maximum(np.abs(pilot.llc[points]), LEAST_LLC))
    return float(np.max(np.where(np.isfinite(ratio), ratio, np.inf) ** 2, initial=0.0))
