r"""The samplers that a calibration weighs, each with the settings that fit a budget of seconds, and the reasons for them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxllc._tree import split_objects
from jaxllc._typing import Params
from jaxllc.pilots import LEAVES_BASIN, Pilot, reading_seconds, run_pilot
from jaxllc.plan import Plan
from jaxllc.probes import Probe
from jaxllc.request import Choice, Request
from jaxllc.samplers.adaptive_hmc import AdaptiveHMC
from jaxllc.samplers.sgld import SGLD
from jaxllc.settings import Settings
from jaxllc.stepsize import curvature, default_step_size
from jaxllc.stream import Stream
from jaxllc.timetable import usual_every

PILOT_SHARE = 0.2
"""Of the budget, that pilot runs may take."""
EFFECTIVE_DRAWS = 400.0
"""Of the slowest quantity that lengths aim at: R-hat is then known to about a per cent."""
BURN_IN_TIMES = 8
"""Burn-in, in autocorrelation times of the slowest quantity."""
LEAST_LLC = 0.5
"""Coefficient of whose size the standard error is a share, at least."""
DISPERSION = 0.5
"""Of every second chain, in standard deviations of the metric: well inside the posterior, far from w*."""
PILOT_BURN_IN, PILOT_DRAWS, FEWEST_PILOT_DRAWS = 16, 32, 16
"""Of `AdaptiveHMC`: whole blocks, of which the first compiles; the fewest where a gradient is dear."""
LEAST_ITERATIONS, MOST_ITERATIONS = 64, 4096
LEAST_STEPS, MOST_STEPS = 6, 1000
"""Integration steps of a trajectory; with fewer Hamiltonian dynamics is no better than a random walk."""
LEAST_AFFORDABLE, MOST_AFFORDABLE = 100, 100_000
"""Iterations of SGLD that a budget is taken to pay for."""
SGLD_FACTORS = (8.0, 4.0, 2.0, 1.0, 0.25)
"""Of the default step size, that are tried, each at the localization that it allows."""
MAX_STEP_BIAS = 0.2
"""Share of the coefficient that a finite step may add, which is taken off; a finding comes at a quarter."""
RELAXATIONS, BURN_IN_SHARE = 5.0, 0.25
"""Burn-in of SGLD, in relaxation times of a direction that the prior alone holds, and its share of all iterations: fifteen are left for the draws."""


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
    if affordable_steps < LEAST_STEPS:
        return None
    plan = with_steps(plan, affordable_steps)
    pilot = run_pilot(plan, list(checkpoints.values()))
    per_iteration = pilot.seconds / len(checkpoints)
    slow, time_of_slow = pilot.slowest()
    burn_in = BURN_IN_TIMES * time_of_slow
    draws = max(EFFECTIVE_DRAWS * time_of_slow / request.num_chains, plan.settings.num_draws * _lengthening(pilot, request.target_error))
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
        f"A gradient of all {plan.data.num_examples} examples for {request.num_chains} chains takes {_time(gradient)}: Hamiltonian Monte Carlo on all data, "
        f"which has no bias of steps or batches, fits into {_time(request.budget)}.",
        f"In a pilot of {plan.settings.num_iterations} iterations of {_time(per_iteration)} the slowest quantity, {slow}, forgot in {time_of_slow:.1f} "
        f"iterations: {num_burn_in} iterations of burn-in, {num_iterations - num_burn_in} draws a chain.",
    ]
    enough, accepts = num_iterations >= wanted / 4, bool((pilot.acceptance_rate >= AdaptiveHMC.min_acceptance).all())
    if pilot.leaves_basin(plan.facts["loss_of_zeros"]):
        reasons.append(LEAVES_BASIN)
    if not accepts:
        reasons.append(f"At some checkpoint the pilot accepted only {pilot.acceptance_rate.min():.0%}; a stronger localization would help.")
    if not enough:
        reasons.append(f"{_time(request.budget)} do not suffice for that; about {_time(wanted * per_iteration)} would, or a stronger localization.")
    points = pilot.points([{"checkpoint": str(name), **described(plan)} for name in checkpoints])
    return Choice(chosen, reasons, cost, enough and accepts, points, pilot.compilation)


def langevin(request: Request, checkpoints: Mapping[Any, Params], gradient: float, size: int, num_examples: int) -> Choice:
    """SGLD on minibatches, with the step that a pilot over several allows, and a localization at which chains forget their start within burn-in.

    Args:
        request: what is asked for.
        checkpoints: to look at.
        gradient: seconds of a gradient of all data for all chains.
        size: examples a batch.
        num_examples: of the data.
    """
    asked_localization = request.least_localization
    num_points = len(SGLD_FACTORS) * len(checkpoints)
    reading = reading_seconds(request.data, request.num_chains)
    per_step = max(gradient * size / num_examples, reading / num_points)  # of one of the points
    num_pilot = int(np.clip(PILOT_SHARE * request.budget / (num_points * per_step), 48, 480)) // 3 * 3
    first = Settings(
        sampler=SGLD(None), nbeta=request.nbeta, localization=asked_localization, batch_size=size, num_chains=request.num_chains,
        num_draws=2 * num_pilot // 3, num_burn_in=num_pilot // 3,
    )  # fmt: skip
    plan = request.plan(checkpoints, first)
    largest = float(plan.facts["default_step_size"])
    foreseen = float(np.clip(request.budget / max(per_step, reading), LEAST_AFFORDABLE, MOST_AFFORDABLE))
    guesses = [_localization(request, largest * factor, BURN_IN_SHARE * request.budget / max(per_step, reading)) for factor in SGLD_FACTORS]
    factors, localizations = (np.repeat(values, len(checkpoints)) for values in (SGLD_FACTORS, guesses))
    one_program = {"together": 1, "every": usual_every(round(foreseen))} if len(checkpoints) == 1 else {}  # with the run
    pilot = run_pilot(plan, list(checkpoints.values()) * len(SGLD_FACTORS), factors=factors, localizations=localizations, **one_program)
    by_factor = [slice(i * len(checkpoints), (i + 1) * len(checkpoints)) for i in range(len(SGLD_FACTORS))]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = [float(np.max(np.abs(pilot.step_bias[x])) / np.max(np.abs(pilot.llc[x]))) for x in by_factor]
    good = [i for i, value in enumerate(share) if value <= MAX_STEP_BIAS]
    index = good[0] if good else len(share) - 1
    step_size, per_iteration = largest * SGLD_FACTORS[index], max(pilot.seconds / num_points, reading)
    affordable = int(np.clip(request.budget / per_iteration, LEAST_AFFORDABLE, MOST_AFFORDABLE))
    draws_for_error = first.num_draws * _lengthening(pilot, request.target_error, by_factor[index])
    settings = _lengths(plan.settings, request, step_size, affordable, draws_for_error)
    num_burn_in, num_iterations, localization = settings.num_burn_in, settings.num_iterations, settings.localization
    relaxation = 2 / (step_size * localization) if localization else math.inf
    chosen = plan.with_settings(settings)
    needed = RELAXATIONS * 2 / (step_size * asked_localization) / BURN_IN_SHARE * per_iteration if asked_localization else math.inf
    mixes = num_burn_in >= RELAXATIONS * relaxation * 0.99  # the localization is rounded
    reasons = [
        f"{_why_not_all_data(request, gradient, num_examples)}: SGLD on batches of {size}, {_time(per_iteration)} an iteration.",
        f"The step size {step_size:.3g} is {SGLD_FACTORS[index]:g} times the default from the curvature; it adds {share[index]:.0%} to λ̂, which is taken off.",
        f"Directions that the loss does not curve forget where they began in {relaxation:.0f} iterations, 2 / (step size × localization); burn-in has "
        f"{num_burn_in}.",
    ]
    if num_iterations + 2 * settings.thinning <= affordable:  # draws are whole thinnings
        enough = f"{EFFECTIVE_DRAWS:.0f} effective draws of flat directions and a standard error of {request.target_error:.1%} of λ̂"
        reasons.append(f"{num_iterations - num_burn_in} iterations of draws suffice for {enough}.")
    if pilot.leaves_basin(plan.facts["loss_of_zeros"], by_factor[index]):
        reasons.append(LEAVES_BASIN)
    if not good:
        reasons.append(f"No step that was tried adds at most {MAX_STEP_BIAS:.0%}; a smaller nbeta or larger batches would.")
    if localization > asked_localization:
        reasons.append(f"For that the localization is {localization:.3g}; at {asked_localization:g} the estimate would take about {_time(needed)}.")
    if not mixes:
        reasons.append(f"{_time(request.budget)} do not suffice at a localization of {asked_localization:g}; about {_time(needed)} would, or a stronger one.")
    tried = [{"step_size": largest * factor, "localization": guess} for factor, guess in zip(SGLD_FACTORS, guesses, strict=True)]
    points = pilot.points([{"checkpoint": str(name), **described(plan), **line} for line in tried for name in checkpoints])
    return Choice(chosen, reasons, num_iterations * per_iteration, bool(good) and mixes, points, 0.0)


def _lengths(settings: Settings, request: Request, step_size: float, affordable: int, draws_for_error: float) -> Settings:
    """The settings with SGLD at this step: the localization at which the affordable burn-in is long enough, and chains no longer than their aims ask."""
    localization = _localization(request, step_size, int(BURN_IN_SHARE * affordable))
    relaxation = 2 / (step_size * localization) if localization else math.inf
    sufficient = max(EFFECTIVE_DRAWS * relaxation / request.num_chains, draws_for_error, LEAST_ITERATIONS)
    num_iterations = int(min(affordable, sufficient / (1 - BURN_IN_SHARE)))
    num_burn_in = int(BURN_IN_SHARE * num_iterations)
    thinning = max(1, (num_iterations - num_burn_in) // MOST_ITERATIONS)
    lengths = {"num_burn_in": num_burn_in, "num_draws": (num_iterations - num_burn_in) // thinning, "thinning": thinning}
    return settings.replace(sampler=SGLD(step_size), localization=localization, **lengths)


def _why_not_all_data(request: Request, gradient: float, num_examples: int) -> str:
    if isinstance(request.data, Stream):
        return "Data are streamed, so no iteration can use all of them"
    return (
        f"A gradient of all {num_examples} examples for {request.num_chains} chains takes {_time(gradient)}, too long for Hamiltonian Monte Carlo on "
        f"all data in {_time(request.budget)}"
    )


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


def _localization(request: Request, step_size: float, num_burn_in: float) -> float:
    r"""$\gamma$ at which burn-in has `RELAXATIONS` relaxation times, rounded up to two digits; as asked where that was given."""
    if request.localization is not None:
        return request.localization
    wanted = 2 * RELAXATIONS / (step_size * num_burn_in)
    digits = 1 - math.floor(math.log10(wanted))
    return max(request.least_localization, math.ceil(wanted * 10**digits) / 10**digits)


def _lengthening(pilot: Pilot, target_error: float, points: slice = slice(None)) -> float:
    """By how much longer than the pilot the draws must be for the target error at some points; nothing that is not finite is known to suffice."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = pilot.std_error[points] / (target_error * np.maximum(np.abs(pilot.llc[points]), LEAST_LLC))
    return float(np.max(np.where(np.isfinite(ratio), ratio, np.inf) ** 2, initial=0.0))


def with_steps(plan: Plan, most: float) -> Plan:
    """The same plan with trajectories of so many integration steps at most."""
    sampler = AdaptiveHMC(max_integration_steps=float(int(np.clip(most, LEAST_STEPS, MOST_STEPS)))).with_burn_in(plan.settings.num_burn_in)
    return plan.with_settings(plan.settings.replace(sampler=sampler))


def _whole_blocks(iterations: float) -> int:
    """In whole blocks, so that one compiled program serves the pilot and the run."""
    return max(1, round(iterations / AdaptiveHMC.block)) * AdaptiveHMC.block


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"
