"""One call without settings: calibration and estimate, on the clock."""

import time
from typing import Any

import jax

import jaxllc
from benchmarks.precision_problems import Problem


def call(problem: Problem, target_error: float, key: int, budget: float | None) -> dict[str, Any]:
    """The estimate by a key at an error that is asked for, with the seconds of the whole call and of the calibration in it.

    Args:
        problem: whose nbeta and localization are given, and nothing else.
        target_error: of the calibration.
        key: seed of the key.
        budget: seconds of the calibration; None leaves its default.
    """
    began = time.perf_counter()
    aims: dict[str, Any] = {} if budget is None else {"budget": budget}
    chosen = jaxllc.calibrate(problem.loss_fn, problem.params, problem.data, key=jax.random.key(key), target_error=target_error, **aims, **problem.options)
    calibrated = time.perf_counter()
    free: dict[str, Any] = {} if problem.free is None else {"free": problem.free}
    est = jaxllc.estimate(problem.loss_fn, problem.params, problem.data, chosen.settings, key=jax.random.key(key), progress=False, **free)
    llc, std_error, findings = est.llc, est.std_error, [finding.code for finding in est.findings]
    took = time.perf_counter()
    settings = chosen.settings
    return {
        "asked": target_error, "key": key, "llc": llc, "std_error": std_error, "findings": findings, "seconds": took - began,
        "calibration_seconds": calibrated - began, "sampler": type(settings.sampler).__name__, "settings": settings.to_dict(),
    }  # fmt: skip
