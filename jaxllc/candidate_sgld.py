"""SGLD on minibatches as a calibration would run it: where data are streamed or all of them too dear, and where it gives the same much sooner."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxllc._tree import split_objects
from jaxllc._typing import Params
from jaxllc.candidates import LEAST_ITERATIONS, MOST_ITERATIONS, PILOT_SHARE, described, lengthening
from jaxllc.data import InMemory
from jaxllc.pilots import LEAVES_BASIN, Pilot, reading_seconds, run_pilot
from jaxllc.plan import Plan
from jaxllc.progress import duration
from jaxllc.request import Choice, Request
from jaxllc.samplers.sgld import SGLD
from jaxllc.settings import Settings
from jaxllc.step_bias import MAX_DOUBT
from jaxllc.stepsize import curvature
from jaxllc.stream import Stream
from jaxllc.timetable import served, usual_every

LEAST_AFFORDABLE, MOST_AFFORDABLE = 100, 1_000_000
"""Iterations of SGLD that a budget is taken to pay for."""
SGLD_FACTORS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
"""Of the default step size, that are tried, each at the localization that it allows."""
MAX_STEP_BIAS = 0.2
"""Share of the coefficient that a finite step may add, which is taken off; a finding comes at a quarter."""
FORESEEN_GRADIENTS = 4096
"""Of all data, in an estimate by `AdaptiveHMC`: as many as 128 trajectories of 32 steps have."""
CHEAPER = 1.2
"""Times as quick SGLD must be, to stand in for it: its step bias is corrected, but not nothing."""
LEAST_WORTH = 20.0
"""Seconds of an estimate below which nothing is gained: a pilot of another sampler takes some, and must be compiled."""
LEAST_SHARE = 0.01
"""Of the step bias in the coefficient: steps that add less are too small to be quick."""
PROMISING, MOST_FACTOR_OF_SEVERAL = 2.0, 2.0
"""Of the default step size: the factor at which SGLD must promise to be quick, and the largest where checkpoints that were not looked at have that step too."""
RELAXATIONS, BURN_IN_SHARE = 5.0, 0.25
"""Burn-in of SGLD, in relaxation times of a direction that the prior alone holds, and its share of all iterations, at least and at most."""
DRAWN_RELAXATIONS, DRAWN_BY_ALL = 20.0, 160.0
"""In which a chain of SGLD draws, and all of them together, where the budget allows it: R-hat of such a direction's square is then known to some 5 %."""


def much_quicker(request: Request, plan: Plan, checkpoints: Mapping[Any, Params], gradient: float, size: int) -> float | None:
    """Seconds of an estimate by `AdaptiveHMC`, where SGLD promises the same much sooner at the localization that was asked for; else None.

    Args:
        request: what is asked for.
        plan: with `AdaptiveHMC`.
        checkpoints: to look at.
        gradient: seconds of a gradient of all data for all chains.
        size: examples a batch of SGLD.
    """
    foreseen, num_examples = min(FORESEEN_GRADIENTS * gradient, request.budget), plan.data.num_examples
    if foreseen < LEAST_WORTH or size >= num_examples or request.target_error / MAX_DOUBT < LEAST_SHARE:
        return None
    if request.components or not plan.loss_kind.by_example:  # a part may have another bias than the whole; means of small batches may be another loss
        return None
    batch = InMemory(jax.tree.map(lambda leaf: leaf[:size], plan.data.resident.arrays), size, size)
    largest = max(curvature(plan.posterior(split_objects(params)[0]), batch, plan.devices) for params in checkpoints.values())
    if not (np.isfinite(largest) and largest > 0):
        return None
    assert SGLD.default_fraction is not None
    step_size, drawn = PROMISING * SGLD.default_fraction * 4 / largest, _drawn(request) / (1 - BURN_IN_SHARE)
    seconds = drawn * _relaxation(step_size, request.least_localization) * gradient * size / num_examples
    return foreseen if seconds <= foreseen / CHEAPER else None


def langevin(
    request: Request, checkpoints: Mapping[Any, Params], gradient: float, size: int, num_examples: int, instead_of: float | None = None
) -> Choice | None:
    """SGLD on minibatches, with the step that a pilot over several allows, and a localization at which chains forget their start within burn-in.

    Args:
        request: what is asked for.
        checkpoints: to look at.
        gradient: seconds of a gradient of all data for all chains.
        size: examples a batch.
        num_examples: of the data.
        instead_of: seconds of an estimate by a sampler without bias; None comes where SGLD is not sure to be good and much cheaper.
    """
    tried = SGLD_FACTORS if instead_of is None or len(checkpoints) == 1 else tuple(f for f in SGLD_FACTORS if f <= MOST_FACTOR_OF_SEVERAL)
    num_points, reading = len(tried) * len(checkpoints), reading_seconds(request.data, request.num_chains)
    per_step = max(gradient * size / num_examples, reading / num_points)  # of one of the points
    affordable = request.budget / max(per_step, reading)
    share_of = request.budget if instead_of is None else min(request.budget, instead_of)
    plan = _langevin_plan(request, checkpoints, size, PILOT_SHARE * share_of / (num_points * per_step))
    if instead_of is not None and plan.loss_kind.depends_on_batch:
        return None
    largest = float(plan.facts["default_step_size"])
    foreseen = float(np.clip(affordable, LEAST_AFFORDABLE, MOST_AFFORDABLE))
    guesses = [_localization(request, largest * factor, BURN_IN_SHARE * foreseen) for factor in tried]
    factors, localizations = (np.repeat(values, len(checkpoints)) for values in (tried, guesses))
    every = usual_every(round(foreseen))
    one_program = {"together": 1, "every": every} if len(checkpoints) == 1 else {}  # with the run
    pilot = run_pilot(plan, list(checkpoints.values()) * len(tried), factors=factors, localizations=localizations, **one_program)
    by_factor = [slice(i * len(checkpoints), (i + 1) * len(checkpoints)) for i in range(len(tried))]
    share = [_share_of_bias(pilot, points, each=instead_of is not None) for points in by_factor]
    most = MAX_STEP_BIAS if instead_of is None else min(MAX_STEP_BIAS, request.target_error / MAX_DOUBT)
    good = [i for i, value in enumerate(share) if value <= most]
    index = good[0] if good else len(share) - 1
    step_size, per_iteration = largest * tried[index], max(pilot.seconds / num_points, reading)
    affordable = int(np.clip(request.budget / per_iteration, LEAST_AFFORDABLE, MOST_AFFORDABLE))
    affordable = served(affordable, every) if one_program else affordable
    draws_for_error = plan.settings.num_draws * lengthening(pilot, request.target_error, by_factor[index])
    settings = _lengths(plan.settings, request, step_size, affordable, draws_for_error)
    cost, mixes = settings.num_iterations * per_iteration, settings.num_burn_in >= RELAXATIONS * _relaxation(step_size, settings.localization) * 0.99
    suffices = settings.num_iterations + 2 * settings.thinning <= affordable  # draws are whole thinnings
    leaves_basin = pilot.leaves_basin(plan.facts["loss_of_zeros"], by_factor[index])
    if instead_of is not None:
        sure = bool(good) and mixes and suffices and settings.localization == request.least_localization and not leaves_basin
        if not (sure and cost <= instead_of / CHEAPER and _agrees(pilot, by_factor, index)):
            return None
    why = _why_not_all_data(request, gradient, num_examples) if instead_of is None else _why_rather_than(instead_of, cost)
    reasons = [f"{why}: SGLD on batches of {size}, {duration(per_iteration)} an iteration.", *_of_step(settings, tried[index], share[index])]
    reasons += [_of_draws(settings, request)] * suffices + [LEAVES_BASIN] * leaves_basin
    if not good:
        reasons.append(f"No step that was tried adds at most {MAX_STEP_BIAS:.0%}; a smaller nbeta or larger batches would.")
    needed = _drawn(request) / (1 - BURN_IN_SHARE) * _relaxation(step_size, request.least_localization) * per_iteration
    reasons += _of_localization(request, settings.localization, mixes, needed)
    lines = [{"step_size": largest * factor, "localization": guess} for factor, guess in zip(tried, guesses, strict=True)]
    points = pilot.points([{"checkpoint": str(name), **described(plan), **line} for line in lines for name in checkpoints])
    again = pilot.compilation if one_program and usual_every(settings.num_iterations) == every else 0.0
    return Choice(plan.with_settings(settings), reasons, cost, bool(good) and mixes, points, again)


def _share_of_bias(pilot: Pilot, points: slice, *, each: bool) -> float:
    """The largest step bias as a share of the coefficient: of that of the same checkpoint, or of the largest one."""
    bias, llc = np.abs(pilot.step_bias[points]), np.abs(pilot.llc[points])
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.max(bias / llc) if each else np.max(bias) / np.max(llc))


def _agrees(pilot: Pilot, by_factor: Sequence[slice], index: int) -> bool:
    """Whether the next smaller step gives the same coefficients, within a tenth or three standard errors: chains that large steps have thrown out do not."""
    if index + 1 == len(by_factor):
        return True
    here, smaller = by_factor[index], by_factor[index + 1]
    error = np.hypot(pilot.std_error[here], pilot.std_error[smaller])
    return bool((np.abs(pilot.llc[here] - pilot.llc[smaller]) <= np.maximum(3 * error, np.abs(pilot.llc[smaller]) / 10)).all())


def _langevin_plan(request: Request, checkpoints: Mapping[Any, Params], size: int, affordable: float) -> Plan:
    """The plan of a pilot run of SGLD, no longer than is affordable."""
    num_pilot = int(np.clip(affordable, 48, 480)) // 3 * 3
    settings = Settings(
        sampler=SGLD(None), nbeta=request.nbeta, localization=request.least_localization, batch_size=size, num_chains=request.num_chains,
        num_draws=2 * num_pilot // 3, num_burn_in=num_pilot // 3,
    )  # fmt: skip
    return request.plan(checkpoints, settings)


def _relaxation(step_size: float, localization: float) -> float:
    """Iterations in which directions that the loss does not curve forget."""
    return 2 / (step_size * localization) if localization else math.inf


def _drawn(request: Request) -> float:
    """Relaxation times in which a chain draws."""
    return max(DRAWN_RELAXATIONS, DRAWN_BY_ALL / request.num_chains)


def _of_step(settings: Settings, factor: float, share: float) -> list[str]:
    assert isinstance(settings.sampler, SGLD)
    step_size = float(np.asarray(settings.sampler.step_size))
    relaxation = _relaxation(step_size, settings.localization)
    return [
        f"The step size {step_size:.3g} is {factor:g} times the default from the curvature; it adds {share:.0%} to λ̂, which is taken off.",
        f"Directions that the loss does not curve forget where they began in {relaxation:.0f} iterations, 2 / (step size × localization); burn-in has "
        f"{settings.num_burn_in}.",
    ]


def _of_draws(settings: Settings, request: Request) -> str:
    return (
        f"{settings.num_iterations - settings.num_burn_in} iterations of draws suffice for {_drawn(request):.0f} times as many as directions need to forget, "
        f"and for a standard error of {request.target_error:.1%} of λ̂, the doubt about the step bias aside."
    )


def _of_localization(request: Request, localization: float, mixes: bool, needed: float) -> list[str]:
    """What is said of a localization that was raised, or is too weak, where the one asked for would take `needed` seconds."""
    asked, found = request.least_localization, []
    if localization > asked:
        found.append(f"For that the localization is {localization:.3g}; at {asked:g} the estimate would take about {duration(needed)}.")
    if not mixes:
        found.append(f"{duration(request.budget)} do not suffice at a localization of {asked:g}; about {duration(needed)} would, or a stronger one.")
    return found


def _lengths(settings: Settings, request: Request, step_size: float, affordable: int, draws_for_error: float) -> Settings:
    """The settings with SGLD at this step: the localization at which the affordable burn-in is long enough, and chains no longer than their aims ask."""
    localization = _localization(request, step_size, int(BURN_IN_SHARE * affordable))
    sufficient = max(_drawn(request) * _relaxation(step_size, localization), draws_for_error, LEAST_ITERATIONS)
    num_iterations = int(min(affordable, sufficient / (1 - BURN_IN_SHARE)))
    num_burn_in = int(BURN_IN_SHARE * num_iterations)
    thinning = max(1, (num_iterations - num_burn_in) // MOST_ITERATIONS)
    lengths = {"num_burn_in": num_burn_in, "num_draws": (num_iterations - num_burn_in) // thinning, "thinning": thinning}
    return settings.replace(sampler=SGLD(step_size), localization=localization, **lengths)


def _why_not_all_data(request: Request, gradient: float, num_examples: int) -> str:
    if isinstance(request.data, Stream):
        return "Data are streamed, so no iteration can use all of them"
    return (
        f"A gradient of all {num_examples} examples for {request.num_chains} chains takes {duration(gradient)}, too long for Hamiltonian Monte Carlo on "
        f"all data in {duration(request.budget)}"
    )


def _why_rather_than(seconds: float, cost: float) -> str:
    return f"Hamiltonian Monte Carlo on all data would take about {duration(seconds)}, chains on batches {duration(cost)}"


def _localization(request: Request, step_size: float, num_burn_in: float) -> float:
    r"""$\gamma$ at which burn-in has `RELAXATIONS` relaxation times, rounded up to two digits; as asked where that was given."""
    if request.localization is not None:
        return request.localization
    wanted = 2 * RELAXATIONS / (step_size * num_burn_in)
    digits = 1 - math.floor(math.log10(wanted))
    return max(request.least_localization, math.ceil(wanted * 10**digits) / 10**digits)
