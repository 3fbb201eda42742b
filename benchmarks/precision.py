r"""Seconds until $\hat\lambda$ has a given error, ours and other packages', on posteriors whose value is known.

    python -m benchmarks.precision [--quick] [--rivals] [--parts net-1K net-10K mlp transformer changes] [--stages calls costs chains]
    python -m benchmarks.precision --reference SECONDS

The error is the root mean square over keys against the reference (`precision_problems`), bias included. *Without settings*: `jaxllc.calibrate` and
`jaxllc.estimate` with its choice, three keys, the seconds of both calls. *At its best*, for ours and for every other package: chains over a grid of step sizes,
from which `time_to_error` computes the least time with the truth in hand. That is favourable to a package: its user does not know the truth, and neither
compilation nor the start of processes is counted. The loss at $w^*$ that other packages subtract is that of all data.

A part has three stages: `calls` (without settings), `costs` (seconds of an iteration, in turns) and `chains` (traces, whose speed does not matter).
Results stay in results/precision.json and traces in results/precision/; a second call makes what is missing, or, of stages that are named, all anew.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import jaxllc
from benchmarks import precision_changes, precision_reference, report_precision
from benchmarks.cases import CASES as CASES  # importing it makes a device of each core
from benchmarks.precision_calls import call
from benchmarks.precision_chains import (
    BLOCK,
    HAMILTONIAN,
    LOOP,
    OURS,
    PACKAGES,
    Theirs,
    hamiltonian_chains,
    hamiltonian_cost,
    loop_chains,
    our_chains,
    step_costs,
)
from benchmarks.precision_problems import PROBLEMS, Problem, make, reference
from benchmarks.precision_store import Kept
from benchmarks.time_to_error import Reference, Units, to_error

TARGETS = (0.03, 0.01)
ASKED = (0.03, 0.01)
"""Values of `target_error` that calls without settings are made with."""
SHARES = (1 / 512, 1 / 256, 1 / 64, 1 / 16, 1 / 4)
"""Step sizes of the grid, as shares of the largest stable one at w*."""
SECONDS = 20.0
"""Of the chains of a setting, at most, on an idle machine: longer ones are cut."""
KEYS, UNITS, CALLS = 3, 16, 8
"""Calls without settings; chains of a setting; calls of canonical-interp, of eight chains each."""
QUICK = {"keys": 1, "asked": (0.03,), "shares": (1 / 16,), "units": 4, "scale": 12, "budget": 2.0, "seconds": 1.0}
FULL = {"keys": KEYS, "asked": ASKED, "shares": SHARES, "units": UNITS, "scale": 1, "budget": None, "seconds": SECONDS}
STAGES = ("calls", "costs", "chains")
CHANGES = "changes"
HAMILTONIAN_DRAWS = 240


def calls(problem: Problem, part: dict[str, Any], size: dict[str, Any], kept: Kept) -> None:
    """Calls without settings that are missing. The first of a process compiles; it is kept as such and made again."""
    lines = part.setdefault("calls", [])
    for asked in size["asked"]:
        for key in range(size["keys"]):
            while not any((line["asked"], line["key"], line["compiled"]) == (asked, key, False) for line in lines):
                compiled = problem.name not in CALLED
                lines.append(call(problem, asked, key, size["budget"]) | {"compiled": compiled})
                CALLED.add(problem.name)
                kept.save()


CALLED: set[str] = set()
"""Problems that this process has called `estimate` of."""


def chains(problem: Problem, part: dict[str, Any], size: dict[str, Any], kept: Kept, rivals: Sequence[str]) -> None:
    """Traces that are missing: ours, a JAX user's loop, other packages."""
    limit = part["limit"]

    def steps(name: str, units: int) -> int:
        affordable = size["seconds"] / units / part["costs"][name]["seconds"]
        return max(10 * BLOCK, int(min(problem.steps / size["scale"], affordable)) // BLOCK * BLOCK)

    for share in size["shares"]:
        step_size = share * limit
        for name, run in ((OURS, our_chains), (LOOP, loop_chains)):
            if not kept.has(name, share):
                kept.add(name, share, run(problem, problem.params, step_size, size["units"], steps(name, size["units"])))
    settings = _hamiltonian(part)
    if settings is not None and not kept.has(HAMILTONIAN, 0):
        kept.add(HAMILTONIAN, 0, hamiltonian_chains(problem, settings, size["units"], max(16, HAMILTONIAN_DRAWS // size["scale"])))
    for name in rivals:
        if all(kept.has(name, share) for share in size["shares"]):
            continue
        units = min(size["units"], CALLS) if name.startswith("canonical") else size["units"]
        theirs = Theirs(name, problem, limit, [problem.params])
        for share in size["shares"]:
            if not kept.has(name, share):
                kept.add(name, share, theirs.chains(0, share * limit, units, steps(name, units)))
        theirs.close()


def costs(problem: Problem, part: dict[str, Any], size: dict[str, Any], kept: Kept, rivals: Sequence[str]) -> None:
    """What an iteration of each costs."""
    quick = size is QUICK
    found = part.setdefault("costs", {})
    if not {OURS, *rivals} <= {*found}:
        found |= step_costs(problem, part["limit"], rivals, quick)
        kept.save()
    settings = _hamiltonian(part)
    if settings is not None and HAMILTONIAN not in found:
        found[HAMILTONIAN] = {"seconds": hamiltonian_cost(problem, settings, quick)}


def _hamiltonian(part: dict[str, Any]) -> jaxllc.Settings | None:
    """The settings of Hamiltonian chains that a calibration chose last, if one did."""
    chosen = [jaxllc.Settings.from_dict(line["settings"]) for line in part.get("calls", []) if line["sampler"] == jaxllc.AdaptiveHMC.__name__]
    return chosen[-1] if chosen else None


def units_of(name: str, part: dict[str, Any], kept: Kept) -> list[Units]:
    """What was run of a sampler, with the cost of its iteration."""
    cost = part["costs"][name]["seconds"]
    if name == HAMILTONIAN:
        settings = _hamiltonian(part)
        assert settings is not None
        return [Units("as calibrated", llc, 1, cost, settings.num_burn_in) for _, llc in kept.of(name)]
    return [Units(f"1/{1 / share:.0f}", llc, BLOCK, cost) for share, llc in kept.of(name)]


def without_settings(lines: Sequence[dict[str, Any]], value: Reference) -> list[dict[str, Any]]:
    """Of each error that was asked for: the error that came out, the seconds, and what of them was calibration and compilation."""
    found = []
    for asked in sorted({line["asked"] for line in lines}, reverse=True):
        mine = [line for line in lines if line["asked"] == asked and not line["compiled"]]
        first = [line["seconds"] for line in lines if line["asked"] == asked and line["compiled"]]
        errors = [line["llc"] / value.llc - 1 for line in mine]
        found.append(
            {"asked": asked, "keys": len(mine), "error": math.sqrt(float(np.mean(np.square(errors)))), "bias": float(np.mean(errors)),
             "own_error": float(np.mean([line["std_error"] for line in mine])) / value.llc, "seconds": statistics.median(line["seconds"] for line in mine),
             "calibration": statistics.median(line["calibration_seconds"] for line in mine), "first": statistics.median(first) if first else None,
             "sampler": mine[-1]["sampler"], "findings": sorted({code for line in mine for code in line["findings"]})}
        )  # fmt: skip
    return found


def measure(name: str, size: dict[str, Any], kept: Kept, stages: Sequence[str], rivals: Sequence[str]) -> None:
    """The stages of a part, and what follows from all that is known of it."""
    problem, part = make(name), kept.part
    part.setdefault("label", problem.label)
    part |= {"setting": problem.setting, "batch_size": problem.batch_size, "weights": sum(leaf.size for leaf in jax.tree.leaves(_free_weights(problem)))}
    if "limit" not in part:
        part["limit"] = problem.limit()
    if "reference" not in part:
        part["reference"] = (Kept.everything(False).get(name, {}) if kept.quick else {}).get("reference") or list(reference(name))
        kept.save()
    if "calls" in stages:
        calls(problem, part, size, kept)
    if "costs" in stages:
        costs(problem, part, size, kept, rivals)
    if "chains" in stages:
        chains(problem, part, size, kept, rivals)
    value = Reference(*part["reference"])
    part["without_settings"] = without_settings(part.get("calls", []), value)
    samplers = [name for name in (OURS, HAMILTONIAN, LOOP, *PACKAGES) if name in part.get("costs", {}) and kept.of(name)]
    part["best"] = {sampler: [to_error(units_of(sampler, part, kept), value, target) for target in TARGETS] for sampler in samplers}
    kept.save()


def _free_weights(problem: Problem) -> Any:
    return problem.params if problem.free is None else problem.params["layers"]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short chains, one step size and one key, into files of their own")
    parser.add_argument("--rivals", action="store_true", help="other packages too")
    parser.add_argument("--parts", nargs="+", default=[*PROBLEMS, CHANGES], choices=[*PROBLEMS, CHANGES])
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--anew", action="store_true", help="make the named stages of the named parts again")
    parser.add_argument("--packages", nargs="+", default=[*PACKAGES], choices=[*PACKAGES], help="with --rivals, which of them")
    parser.add_argument("--reference", type=float, metavar="SECONDS", help="only lengthen the reference chains of the transformer")
    options = parser.parse_args()
    if options.reference:
        problem = make("transformer")
        print(precision_reference.go_on(problem.loss_fn, problem.params, problem.data, problem.setting, options.reference))
        return
    rivals = options.packages if options.rivals else ()
    for name in options.parts:
        kept = Kept(name, options.quick)
        if options.quick or options.anew:
            kept.forget([stage for stage in options.stages if stage != "costs" or options.quick])
            kept.forget_costs([OURS, HAMILTONIAN, LOOP, *rivals] if "costs" in options.stages else ())
        if name == CHANGES:
            precision_changes.measure(kept, options.quick, options.stages, rivals)
        else:
            measure(name, QUICK if options.quick else FULL, kept, options.stages, rivals)
        print(f"{name}: done", flush=True)
    print(report_precision.text(Kept.everything(options.quick)))


if __name__ == "__main__":
    main()
