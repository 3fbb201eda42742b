"""Figure and tables of the experiment on real text: those of `induction_report`, and what other estimates and single heads say."""

from typing import Any

import jaxllc
from research.development import induction_report
from research.development.fall import Window

TITLES = {"tests": "two layers, Python's tests", "c": "two layers, C headers", "few": "two layers, some modules"}
HEADS = ("previous-token head", "induction head")
ESTIMATES = ("as defined", "with its own baseline", "without gradients")


def figure(traj: jaxllc.Trajectory, control: jaxllc.Trajectory, seeds: list[dict[str, Any]], answer: dict[str, Any], window: Window, title: str) -> Any:
    """Loss, λ̂ and scores of two layers, the same aligned, and one layer."""
    return induction_report.figure(traj, control, None, seeds, answer, title=title, window=window)


def table(result: dict[str, Any]) -> str:
    """All answers as Markdown."""
    title = TITLES[result["settings"]["model"].split("-")[0]]
    lines = [induction_report.table(result, title, {"calibrated": "γ as calibrated, fewer seeds", "themselves": "the weights themselves, fewer seeds"})]
    parts = _slopes(result["slopes"]), _later(result["later_window"]), _falls(result), _findings(result)
    return "\n".join([*lines, *(line for part in parts for line in part)])


def _slopes(slopes: dict[str, Any]) -> list[str]:
    interval = induction_report.interval
    return ["", "| λ̂ per e-fold of steps | change |", "|---|---|", *(f"| {name} | {interval(change)} |" for name, change in slopes.items())]


def _later(found: dict[str, Any]) -> list[str]:
    interval, number = induction_report.interval(found["depth"]), induction_report.number(found["at_most"])
    return ["", f"In windows that end at a third of the rise of prefix matching, which were asked afterwards: largest fall {interval}, not excluded {number}."]


def _falls(result: dict[str, Any]) -> list[str]:
    """What other estimates say of the same window."""
    rows = [(f"published settings, {name}", result["published"][name]) for name in ESTIMATES] if result["published"] else []
    rows += [(f"{name} alone", result["heads"][name]) for name in HEADS] if result["heads"] else []
    if not rows:
        return []
    number, interval = induction_report.number, induction_report.interval
    lines = ["", "| estimate | its level in the window | largest fall, cross-fitted | of the mean | level curves that fall as far | not excluded |"]
    lines += ["|---" * 6 + "|"]
    for name, one in rows:
        fall = one["fall"]
        chance = induction_report.percent(fall["chance"])
        lines.append(f"| {name} | {number(one['level'])} | {interval(fall['depth'])} | {number(fall['largest'])} | {chance} | {number(fall['at_most'])} |")
    return lines


def _findings(result: dict[str, Any]) -> list[str]:
    found = {"coefficients": result["findings"]}
    found |= {name: result[name]["findings"] for name in ("calibrated", "themselves", "published") if result[name]}
    lines = ["", "| part | checkpoints with each finding |", "|---|---|"]
    return lines + [f"| {name} | {', '.join(f'{code} {count}' for code, count in codes.items()) or 'none'} |" for name, codes in found.items()]
