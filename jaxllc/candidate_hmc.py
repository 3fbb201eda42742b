"""`AdaptiveHMC` on all data as a calibration would run it: exact at any step, where the budget allows a few hundred gradients of all data."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxllc._tree import split_objects
from jaxllc._typing import Params
from jaxllc.candidates import LEAST_ITERATIONS, MOST_ITERATIONS, PILOT_SHARE, described, lengthening
from jaxllc.pilots import LEAVES_BASIN, run_pilot
from jaxllc.plan import Plan
from jaxllc.progress import duration
from jaxllc.request import Choice, Request
from jaxllc.samplers.adaptive_hmc import AdaptiveHMC
from jaxllc.samplers.sgld import SGLD
from jaxllc.settings import Settings
from jaxllc.stepsize import curvature, default_step_size

EFFECTIVE_DRAWS = 400.0
"""Of the slowest quantity that lengths of `AdaptiveHMC` aim at: R-hat is then known to about a per cent."""
BURN_IN_TIMES = 8
"""Burn-in, in autocorrelation times of the slowest quantity."""
DISPERSION = 0.5
"""Of every second chain, in standard deviations of the metric: well inside the posterior, far from w*."""
PILOT_BURN_IN, PILOT_DRAWS, FEWEST_PILOT_DRAWS = 16, 32, 16
"""Of `AdaptiveHMC`: whole blocks, of which the first compiles; the fewest where a gradient is dear."""
LEAST_STEPS, MOST_STEPS = 6, 1000
"""Integration steps of a trajectory; with fewer Hamiltonian dynamics is no better than a random walk."""


def hamiltonian_plan(request: Request, checkpoints: Mapping[Any, Params]) -> Plan:
    """The plan of a pilot run of `AdaptiveHMC`."""
    settings = Settings(
        sampler=AdaptiveHMC(), nbeta=request.nbeta, localization=request.least_localization, batch_size=None, num_chains=request.num_chains,
        num_draws=PILOT_DRAWS, num_burn_in=PILOT_BURN_IN, dispersion=DISPERSION,
    )  # fmt: skip
    plan = request.plan(checkpoints, settings)
    if settings.localization == 0:  # the metric would hide that nothing holds the weights
        default_step_size(
            SGLD(None), {name: curvature(plan.posterior(split_objects(params)[0]), plan.data.resident, plan.devices) for name, params in checkpoints.items()}
        )
    return plan


def is_affordable(request: Request, gradient: float) -> bool:
    """Whether a pilot run of the least length fits into its share of the budget, with trajectories that deserve the name."""
    return PILOT_SHARE * request.budget / ((PILOT_BURN_IN + FEWEST_PILOT_DRAWS) * gradient) - 1 >= LEAST_STEPS


def hamiltonian(request: Request, plan: Plan, checkpoints: Mapping[Any, Params], gradient: float) -> Choice | None:
    """`AdaptiveHMC` on all data, or None where the budget does not allow it.

    Args:
        request: what is asked for.
        plan: with this sampler.
        checkpoints: to look at.
        gradient: seconds of a gradient of all data for all chains.
    """
    affordable_steps = PILOT_SHARE * request.budget / (plan.settings.num_iterations * gradient) - 1
    if affordable_steps < 4 * LEAST_STEPS:
        plan = plan.with_settings(plan.settings.replace(num_draws=FEWEST_PILOT_DRAWS))
        affordable_steps = PILOT_SHARE * request.budget / (plan.settings.num_iterations * gradient) - 1
    if not is_affordable(request, gradient):
        return None
    plan = with_steps(plan, affordable_steps)
    pilot = run_pilot(plan, list(checkpoints.values()))
    per_iteration = pilot.seconds / len(checkpoints)
    slow, time_of_slow = pilot.slowest()
    burn_in = BURN_IN_TIMES * time_of_slow
    draws = max(EFFECTIVE_DRAWS * time_of_slow / request.num_chains, plan.settings.num_draws * lengthening(pilot, request.target_error))
    affordable = request.budget / per_iteration
    if affordable < LEAST_ITERATIONS:
        return None
    wanted = float(np.clip(burn_in + draws, LEAST_ITERATIONS, MOST_ITERATIONS))
    num_iterations = _whole_blocks(min(wanted, affordable))
    num_burn_in = _whole_blocks(max(num_iterations * burn_in / (burn_in + draws), LEAST_ITERATIONS / 2 if num_iterations < 4 * LEAST_ITERATIONS else 100))
    num_burn_in = min(num_burn_in, num_iterations - AdaptiveHMC.block)
    lengths = plan.settings.replace(num_burn_in=num_burn_in, num_draws=num_iterations - num_burn_in)
    chosen = with_steps(plan.with_settings(lengths), max(affordable_steps, request.budget / (num_iterations * gradient)))
    longer_trajectories = chosen.sampler.max_integration_steps / plan.sampler.max_integration_steps  # pyright: ignore[reportAttributeAccessIssue]
    cost = num_iterations * per_iteration * float(longer_trajectories)
    reasons = [
        f"A gradient of all {plan.data.num_examples} examples for {request.num_chains} chains takes {duration(gradient)}: Hamiltonian Monte Carlo on all data, "
        f"which has no bias of steps or batches, fits into {duration(request.budget)}.",
        f"In a pilot of {plan.settings.num_iterations} iterations of {duration(per_iteration)} the slowest quantity, {slow}, forgot in {time_of_slow:.1f} "
        f"iterations: {num_burn_in} iterations of burn-in, {num_iterations - num_burn_in} draws a chain.",
    ]
    enough, accepts = num_iterations >= wanted / 4, bool((pilot.acceptance_rate >= AdaptiveHMC.min_acceptance).all())
    if pilot.leaves_basin(plan.facts["loss_of_zeros"]):
        reasons.append(LEAVES_BASIN)
    if not accepts:
        reasons.append(f"At some checkpoint the pilot accepted only {pilot.acceptance_rate.min():.0%}; a stronger localization would help.")
    if not enough:
        reasons.append(f"{duration(request.budget)} do not suffice for that; about {duration(wanted * per_iteration)} would, or a stronger localization.")
    points = pilot.points([{"checkpoint": str(name), **described(plan)} for name in checkpoints])
    return Choice(chosen, reasons, cost, enough and accepts, points, pilot.compilation)


def with_steps(plan: Plan, most: float) -> Plan:
    """The same plan with trajectories of so many integration steps at most."""
    sampler = AdaptiveHMC(max_integration_steps=float(int(np.clip(most, LEAST_STEPS, MOST_STEPS)))).with_burn_in(plan.settings.num_burn_in)
    return plan.with_settings(plan.settings.replace(sampler=sampler))


def _whole_blocks(iterations: float) -> int:
    """In whole blocks, so that one compiled program serves the pilot and the run."""
    return max(1, round(iterations / AdaptiveHMC.block)) * AdaptiveHMC.block
