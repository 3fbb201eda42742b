"""Tables of the time to a given error, from results/precision.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import digits, table

GOALS = {"devinterp 1.3.2": 50.0, "devinterp 2.0.1": 50.0, "canonical-interp 0.2.7": 10.0, "a JAX user's loop": 5.0}
"""How many times our seconds to 1 % another package's should be."""
OURS = ("jaxllc, SGLD", "jaxllc, AdaptiveHMC")
CHAINS_OF_UNIT = {"canonical-interp 0.2.7": 8}
"""Chains of a unit, where a unit is a call."""
CHANGES = "changes"


def problems(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts that are one posterior each, as far as they are measured."""
    return {name: part for name, part in parts.items() if name != CHANGES and part.get("best")}


def seconds(line: Mapping[str, Any] | None) -> str:
    """A time, the least time where the bias is unknown, or how near it came."""
    if line is None:
        return ""
    if line["seconds"] is None:
        return "not reached" + (f", {line['least_error']:.1%}" if line.get("least_error") else "")
    return ("" if line.get("resolved", True) else "≥ ") + digits(line["seconds"], 2)


def best_of(part: Mapping[str, Any], sampler: str, target: float) -> dict[str, Any] | None:
    """The line of a sampler at an error; None where it was not run."""
    return next((line for line in part["best"].get(sampler, ()) if line["target"] == target), None)


def our_best(part: Mapping[str, Any], target: float) -> dict[str, Any] | None:
    """The faster of our samplers."""
    lines = [line for sampler in OURS if (line := best_of(part, sampler, target)) is not None]
    reached = [line for line in lines if line["seconds"] is not None]
    return min(reached or lines, key=lambda line: (not line["resolved"], line["seconds"] or 0.0), default=None)


def without_settings(part: Mapping[str, Any], target: float) -> dict[str, Any] | None:
    """Of the calls without settings the fastest whose error came out below the target; None where there is none."""
    good = [line for line in part.get("without_settings", ()) if line["error"] <= target]
    return min(good, key=lambda line: line["seconds"], default=None)


def readme(parts: Mapping[str, Any], target: float = 0.01) -> str:
    """Seconds to 1 %: problem by package."""
    head = ["posterior", "jaxllc, no settings", "jaxllc, best", *GOALS]
    lines = []
    for part in problems(parts).values():
        found = without_settings(part, target)
        mine = "not reached" if found is None and part.get("without_settings") else "not measured" if found is None else digits(found["seconds"], 2)
        lines.append([part["label"], mine, seconds(our_best(part, target)), *(seconds(best_of(part, name, target)) for name in GOALS)])
    return table(head, lines)


def best(parts: Mapping[str, Any]) -> str:
    """Each sampler at its best: seconds to both errors, and what they consist of at the smaller one."""
    lines = []
    for part in problems(parts).values():
        for sampler, of_sampler in part["best"].items():
            last = next((line for line in reversed(of_sampler) if line["seconds"] is not None), of_sampler[-1])
            cells = ["", "", ""]
            if last["seconds"] is not None:
                cells = [f"{last['setting']}, {last['burn_in']:.0%}", f"{last['units']} × {last['steps']:,}", f"{last['bias']:+.1%} ± {last['known_to']:.1%}"]
            cost = digits(1e6 * part["costs"][sampler]["seconds"])
            lines.append([part["label"], sampler, *(seconds(line) for line in of_sampler), *cells, cost])
    head = ["posterior", "sampler", "s to 3 %", "s to 1 %", "step ÷ limit, burn-in", "units × iterations", "bias", "µs an iteration of a unit"]
    return table(head, lines)


def calls(parts: Mapping[str, Any]) -> str:
    """Calls without settings: asked for, and what came out."""
    lines = []
    for part in problems(parts).values():
        for line in part.get("without_settings", ()):
            first = "" if line["first"] is None else f"{line['first']:.1f}"
            what = [f"{line['asked']:.0%}", f"{line['error']:.1%}", f"{line['own_error']:.1%}", str(line["keys"])]
            cost = [f"{line['seconds']:.1f}", f"{line['calibration']:.1f}", first]
            lines.append([part["label"], *what, *cost, line["sampler"], ", ".join(line["findings"]) or "none"])
    head = ["posterior", "asked", "rms error", "own error", "keys", "s", "of which calibration", "s of a first call", "sampler", "findings"]
    return table(head, lines)


def goals(parts: Mapping[str, Any], target: float = 0.01) -> str:
    r"""Their seconds over ours without settings, met or missed, as the product of three ratios that bound it."""
    lines = []
    for part in problems(parts).values():
        ours, mine = without_settings(part, target), our_best(part, target)
        for name, goal in GOALS.items():
            theirs = best_of(part, name, target)
            if theirs is not None:
                cells = compared(name, theirs, ours, mine)
                lines.append([part["label"], name, f"≥ {goal:g}", *(cells if part.get("without_settings") else ["", "", *cells[2:]])])
    head = ["posterior", "other package", "goal", "no settings", "", "best", "µs an iteration", "iterations", "our best ÷ no settings"]
    return table(head, lines)


def compared(name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any] | None, mine: Mapping[str, Any] | None) -> list[str]:
    """The ratio of a package to our calls, whether it meets the goal, the ratio to our best, and the three factors."""
    goal = GOALS[name]
    if theirs["seconds"] is None:
        return ["not reached by it", "met" if ours is not None else "", "", "", "", ""]
    sign = "" if theirs["resolved"] else "≥ "
    whole, verdict = "not reached by us", "missed"
    if ours is not None:
        ratio = theirs["seconds"] / ours["seconds"]
        whole, verdict = sign + digits(ratio, 2), "met" if ratio >= goal else "open" if sign else "missed"
    if mine is None or mine["seconds"] is None:
        return [whole, verdict, "", "", "", ""]
    chains = CHAINS_OF_UNIT.get(name, 1)
    cost = theirs["step_seconds"] / chains / mine["step_seconds"]
    iterations = theirs["units"] * chains * theirs["steps"] / (mine["units"] * mine["steps"])
    share = "" if ours is None else digits(mine["seconds"] / ours["seconds"], 2)
    return [whole, verdict, sign + digits(theirs["seconds"] / mine["seconds"], 2), digits(cost, 2), digits(iterations, 2), share]


def changes(parts: Mapping[str, Any]) -> str:
    """Seconds a checkpoint until a change is known to 1 %, and what common random numbers are worth."""
    part: Mapping[str, Any] = parts.get(CHANGES, {})
    lines = []
    for name, found in part.get("found", {}).items():
        reached = found["seconds"] is not None
        gain = f"{found['gain_by_common_numbers'].get(found['setting'], 0):.2g}" if reached else ""
        cells = [found["setting"], f"{found['units']} × {found['steps']:,}", gain] if reached else ["", "", ""]
        lines.append([name, seconds(found), *cells])
    return table(["sampler", "s a checkpoint", "step ÷ limit", "units × iterations", "variance, independent ÷ common numbers"], lines)


def references(parts: Mapping[str, Any]) -> str:
    """The known values."""
    lines: Sequence[Sequence[str]] = [
        [part["label"], f"{part['weights']:,}", digits(part["setting"]["nbeta"]), digits(part["setting"]["localization"]), str(part["batch_size"]),
         f"{part['reference'][0]:.2f} ± {part['reference'][1]:.2f}"]
        for part in problems(parts).values()
    ]  # fmt: skip
    return table(["posterior", "weights", "nβ", "γ", "batch", "λ̂, exact or by long chains"], lines)


def short(parts: Mapping[str, Any]) -> dict[str, str]:
    """Tables of the pages, by the name in their mark."""
    return {"seconds to 1 %": readme(parts), "error without settings": calls(parts), "seconds to a change": changes(parts)}


def long(parts: Mapping[str, Any]) -> dict[str, str]:
    """Tables of docs/tables, by the line that explains each."""
    return {
        "The posteriors of *seconds to a given error*, with the values that are known.": references(parts),
        "Seconds to an error of each sampler at its best, and of what they consist at 1 % where that is reached, else at 3 %. A unit is a chain, or a call of "
        "canonical-interp with its eight chains. ≥: runs too short to tell the bias; the least that variance asks for.": best(parts),
        "Goals: seconds to 1 % of another package over ours. *No settings* is the whole call, calibration included; it is the product of the last three "
        "columns, what an iteration of one chain costs, how many it takes, and the seconds of our best setting over those of the call.": goals(parts),
    }


def text(parts: Mapping[str, Any]) -> str:
    """All tables, for the console."""
    return "\n\n".join([*short(parts).values(), *long(parts).values()])
