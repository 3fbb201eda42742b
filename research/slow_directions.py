"""Which sampler moves along slow directions fastest: effective draws of the slowest quantity per second, beside the error of λ̂.

    python -m research.slow_directions

Problems of the zoo at their default nβ and γ. Each sampler has the same seconds on the same chains, compilation aside; those on minibatches and those whose
step size means something else are run at several steps, of which the one nearest to the reference counts, chosen with the reference at hand. What
`jaxllc.calibrate` chooses without it is `AdaptiveHMC`. Finished lines are kept in the result, and a second call goes on.
"""

import json
import math
import os
from collections.abc import Callable
from typing import Any

import jax

import jaxllc
from benchmarks import zoo
from benchmarks.report import stored_lines
from benchmarks.report_calibration import slow_directions
from benchmarks.timing import machine
from jaxllc.pilots import run_pilot
from jaxllc.plan import make_plan
from research.accuracy_best import RESULTS

SECONDS = 20.0
PROBLEMS = ("quadratic-1e4", "deep-linear", "tanh-20000", "mlp-600")
NUM_CHAINS, BATCH_SIZE, MOST_DRAWS = 8, 256, 1000
FACTORS = (1.0, 4.0, 16.0)
"""Of the default step size."""
RMSPROP_STEPS = (1e-5, 1e-4, 1e-3, 1e-2)
ON_MINIBATCHES = {
    "SGLD": jaxllc.SGLD(None),
    "SGLD, control variates": jaxllc.SGLD(None, gradient=jaxllc.ControlVariate()),
    "SGHMC, control variates": jaxllc.SGHMC(None, gradient=jaxllc.ControlVariate()),
}
ON_ALL_DATA = {"MALA": jaxllc.MALA(None), "NUTS": jaxllc.NUTS(None), "MCLMC": jaxllc.MCLMC(None)}
CALIBRATED = "AdaptiveHMC, calibrated"


def arms(default: jaxllc.Sampler) -> list[tuple[str, float, jaxllc.Sampler, int | None]]:
    """Name, step, sampler and batch size of each run of a problem but the calibrated one.

    Args:
        default: SGLD with the default step size of the problem.
    """
    found: list[tuple[str, float, jaxllc.Sampler, int | None]] = []
    for name, sampler in ON_MINIBATCHES.items():
        step = float(default.step_size)  # pyright: ignore[reportAttributeAccessIssue]
        found += [(name, factor, sampler.with_step_size(factor * step), BATCH_SIZE) for factor in FACTORS]
    found += [("SGLD, RMSProp", step, jaxllc.SGLD(step, jaxllc.RMSProp()), BATCH_SIZE) for step in RMSPROP_STEPS]
    return found + [(name, 1.0, sampler, None) for name, sampler in ON_ALL_DATA.items()]


def estimate(made: zoo.Made, sampler: jaxllc.Sampler, batch_size: int | None) -> dict[str, Any]:
    """The estimate by chains as long as `SECONDS` allow, a quarter of them burn-in."""
    loss_fn, params, data = made
    key = jax.random.key(0)
    settings = jaxllc.Settings(sampler, localization=1.0, batch_size=batch_size, num_chains=NUM_CHAINS, num_burn_in=16, num_draws=32)
    plan = make_plan(loss_fn, {"w": params}, data, settings, key=key, free=None, probes={}, mesh=None)
    iterations = max(64, int(SECONDS / run_pilot(plan, [params]).seconds))
    thinning = math.ceil(iterations / MOST_DRAWS)
    settings = settings.replace(num_burn_in=iterations // 4, num_draws=3 * iterations // 4 // thinning, thinning=thinning)
    est = jaxllc.estimate(loss_fn, params, data, settings, key=key, progress=False)
    return numbers_of(est) | {"iterations": iterations, "seconds": SECONDS}


def calibrated(made: zoo.Made) -> dict[str, Any]:
    """The estimate by what a calibration chooses within the same seconds."""
    loss_fn, params, data = made
    calibration = jaxllc.calibrate(loss_fn, params, data, key=jax.random.key(0), budget=SECONDS, localization=1.0)
    settings = calibration.settings
    est = jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0), progress=False)
    return numbers_of(est) | {"iterations": settings.num_iterations, "seconds": calibration.cost, "chosen": type(settings.sampler).__name__}


def numbers_of(est: jaxllc.Estimate) -> dict[str, Any]:
    """What a line keeps of an estimate; None where a number is not finite."""
    numbers = {name: float(est.summary[name].values[0]) for name in ("llc", "std_error", "rhat", "slow_ess")}
    return {**{name: value if math.isfinite(value) else None for name, value in numbers.items()}, "findings": [finding.code for finding in est.findings]}


def measure(lines: list[dict[str, Any]], keep: Callable[[], None]) -> None:
    """Add to `lines` what it lacks, each kept when it is there."""
    for problem in PROBLEMS:
        made = zoo.make(problem)
        loss_fn, params, data = made
        settings = jaxllc.Settings(jaxllc.SGLD(None), localization=1.0, batch_size=BATCH_SIZE)
        default = make_plan(loss_fn, {"w": params}, data, settings, key=jax.random.key(0), free=None, probes={}, mesh=None).sampler
        for name, step, sampler, batch_size in [*arms(default), (CALIBRATED, 1.0, default, None)]:
            if any((line["problem"], line["sampler"], line["step"]) == (problem, name, step) for line in lines):
                continue
            found = calibrated(made) if name == CALIBRATED else estimate(made, sampler, batch_size)
            lines.append({"problem": problem, "sampler": name, "step": step, **found})
            keep()
            print(problem, name, step, found, flush=True)
        jax.clear_caches()


def main() -> None:
    """Measure, print, keep."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    path = RESULTS / "slow-directions.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"lines": []}

    def keep() -> None:
        path.write_text(json.dumps(result | {"machine": machine()}) + "\n")

    measure(result["lines"], keep)
    print(slow_directions(result["lines"], stored_lines("calibration_references")))


if __name__ == "__main__":
    main()
