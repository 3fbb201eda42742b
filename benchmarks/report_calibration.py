"""The tables of the calibration benchmark, as Markdown, from its stored lines.

An estimate is *near* within a tenth of the reference or three joint standard errors of it. Where it is not, and no finding says so, it has failed silently.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.report import table

Lines = Sequence[Mapping[str, Any]]

SHARE = 0.1
"""Error relative to the reference that is tolerated."""
ERRORS = 3.0
"""The same in joint standard errors."""
MAX_RHAT = 1.05
"""R-hat of the loss up to which reference chains are believed; no estimate is compared with others."""
NOMINAL = 1.96
"""Standard errors of an interval of 95 %."""
LIMIT_SECONDS = 180.0
CALIBRATION_SHARE = 0.25
NAMES = {"default": "no settings", "sgld": "SGLD, the default before"}


def judged(lines: Lines, references: Lines) -> list[dict[str, Any]]:
    """Each line with its `reference`, `share` (relative error) and `z` (in joint standard errors), and whether it is `near` and has failed `silent`ly.

    A line whose reference was not made, or has not mixed, has none of these. One without a number is never near.
    """
    known = {_setting(line): line for line in references if line.get("rhat", 1.0) < MAX_RHAT}
    result = []
    for line in lines:
        own = known.get(_setting(line)) if "nbeta" in line else None
        merged = dict(line) | {"findings": [code for code, *_ in line.get("findings", [])], "has_number": line.get("llc") is not None}
        if own is not None:
            llc = math.nan if line["llc"] is None else line["llc"]
            error = math.hypot(math.nan if line["std_error"] is None else line["std_error"], own["std_error"])
            share, z = llc / own["llc"] - 1, (llc - own["llc"]) / error if error > 0 else math.nan
            near = bool(abs(llc - own["llc"]) <= SHARE * abs(own["llc"]) or abs(z) <= ERRORS)
            merged |= {"reference": own, "share": share, "z": z, "near": near, "silent": not near and not merged["findings"]}
        result.append(merged)
    return result


def _setting(line: Mapping[str, Any]) -> tuple[str, str, str]:
    return line["problem"], f"{line['nbeta']:.6g}", f"{line['localization']:.6g}"


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts over judged lines of one way to sample.

    A problem is *solved* if every key gave a number without a finding within `LIMIT_SECONDS`. Coverage is that of nominal 95 % intervals over the lines without
    a finding, with the error of the reference.
    """
    names = list(dict.fromkeys(line["problem"] for line in lines))
    of = {name: [line for line in lines if line["problem"] == name] for name in names}
    compared = [line for line in lines if "reference" in line]
    clean = [line for line in compared if not line["findings"] and line["has_number"]]
    calibrations = [line["calibration_seconds"] / line["seconds"] for line in lines if line.get("calibration_seconds") is not None]
    return {
        "problems": len(names), "lines": len(lines), "compared": len(compared),
        "solved": sum(all(map(_is_solved, of[name])) for name in names),
        "solved_and_near": sum(all(_is_solved(line) and line.get("near", False) for line in of[name]) for name in names),
        "within_share": sum(abs(line["share"]) <= SHARE for line in compared), "silent": sum(line["silent"] for line in compared),
        "silent_problems": [name for name in names if any(line.get("silent") for line in of[name])],
        "clean": len(clean), "covered": sum(abs(line["z"]) < NOMINAL for line in clean),
        "most_seconds": max((line["seconds"] for line in lines), default=math.nan),
        "over_calibration_share": sum(share > CALIBRATION_SHARE for share in calibrations), "calibrations": len(calibrations),
    }  # fmt: skip


def _is_solved(line: Mapping[str, Any]) -> bool:
    return line["has_number"] and not line["findings"] and line["seconds"] <= LIMIT_SECONDS


def summaries(lines: Lines, references: Lines) -> str:
    """The counts of each way to sample."""
    body = []
    for settings in dict.fromkeys(line["settings"] for line in lines):
        found = summary(judged([line for line in lines if line["settings"] == settings], references))
        covered = f"{found['covered'] / found['clean']:.0%} of {found['clean']}" if found["clean"] else ""
        calibrated = f"{found['over_calibration_share']} of {found['calibrations']}" if found["calibrations"] else ""
        cells = [f"{found[name]} of {found['problems']}" for name in ("solved", "solved_and_near")] + [f"{found['within_share']} of {found['compared']}"]
        silent = f"{found['silent']} of {found['compared']}, in {len(found['silent_problems'])} problems"
        body.append([NAMES[settings], str(found["lines"]), *cells, silent, covered, f"{found['most_seconds']:.0f}", calibrated])
    head = [
        "settings", "calls", "problems with a number and no finding within 180 s", "and near the reference", "calls within 10 %", "silent failures",
        "coverage of nominal 95 % without findings", "longest call, s", "calibration above a quarter of the call",
    ]  # fmt: skip
    return table(head, body)


def together(calls: Lines, references: Lines, nets: Lines) -> str:
    """Coverage of intervals without findings: of the zoo, of nets whose posterior is known exactly, and of both.

    Args:
        calls: of the zoo, without settings.
        references: of the zoo.
        nets: lines of the accuracy benchmark by class and sampler, of which those with `covered` count.
    """
    zoo = summary(judged([line for line in calls if line["settings"] == "default"], references))
    lines = [("zoo, no settings", zoo["covered"], zoo["clean"])]
    lines += [(f"nets of {line['class']}, {line['sampler']}", line["covered"], line["clean"]) for line in nets if line.get("clean")]
    lines.append(("together", sum(covered for _, covered, _ in lines), sum(count for *_, count in lines)))
    return table(["what", "within the interval", "intervals without findings", "coverage"], [[a, str(b), str(c), f"{b / c:.0%}"] for a, b, c in lines])


def problems(lines: Lines, references: Lines, settings: str) -> str:
    """Each problem by one way to sample, with one entry a key."""
    body = []
    mine = judged([line for line in lines if line["settings"] == settings], references)
    for name in dict.fromkeys(line["problem"] for line in mine):
        of = [line for line in mine if line["problem"] == name]
        own = list({_setting(line): line["reference"] for line in of if "reference" in line}.values())
        codes = list(dict.fromkeys(" ".join(line["findings"]) or ("error" if "error" in line else "none") for line in of))
        calibrations = [f"{line['calibration_seconds']:.0f}" for line in of if line.get("calibration_seconds") is not None]
        body.append([
            name, "; ".join(f"{float(line['nbeta']):.4g}, {float(line['localization']):g}" for line in own), "; ".join(map(_value, own)),
            ", ".join(_value(line) if line["has_number"] else "–" for line in of), ", ".join(_signed(line["share"], "+.0%") for line in of if "share" in line),
            ", ".join(_signed(line["z"], "+.1f") for line in of if "z" in line), "; ".join(codes), ", ".join(f"{line['seconds']:.0f}" for line in of),
            ", ".join(calibrations), "yes" if any(line.get("silent") for line in of) else "no",
        ])  # fmt: skip
    head = ["problem", "nβ, γ", "reference", "λ̂ by key", "error", "error, standard errors", "findings", "seconds", "of calibration", "silent failure"]
    return table(head, body)


SHOWN = (
    "quadratic-column", "diabetes-raw", "cancer-raw", "softmax", "crossing-22", "deep-linear", "tanh-20000", "mlp-4000", "cnn-4000", "transformer2-4000",
)  # fmt: skip
"""Problems of the short table."""


def before_and_after(lines: Lines, references: Lines) -> str:
    """A few problems by the first key: the default before, and no settings, each with its own reference where their settings differ."""
    body = []
    for name in SHOWN:
        cells = [name]
        for settings in ("sgld", "default"):
            mine = judged([line for line in lines if (line["problem"], line["settings"], line["key"]) == (name, settings, 0)], references)
            if not mine:
                cells += ["", ""]
                continue
            line = mine[0]
            found = "" if not line["findings"] else f" ({', '.join(line['findings'])})"
            cells += [_value(line["reference"]) if "reference" in line else "", (_value(line) if line["has_number"] else "–") + found]
            cells += [f"{line['seconds']:.0f}"] if settings == "default" else []
        if any(cells[1:]):
            body.append(cells + [""] * (6 - len(cells)))
    return table(["problem", "reference", "before", "reference", "no settings", "seconds"], body)


def _signed(value: float, spec: str) -> str:
    return f"{value:{spec}}" if math.isfinite(value) else "–"


def table_of_references(references: Lines) -> str:
    """How each reference was made."""
    body = []
    for line in {_setting(line): line for line in references}.values():
        cells = [line["by"], f"{line['rhat']:.3f}" if "rhat" in line else "", "", "", "", ""]
        if line["by"] == "chains":
            formats = {"rhat": ".3f", "rhat_distance": ".3f", "distance": ".3g", "acceptance": ".2f", "leaps": ".0f"}
            cells = [f"{line['chains']} × {line['draws']}, {line['dtype']}", *(f"{line[name]:{spec}}" for name, spec in formats.items())]
        body.append([line["problem"], f"{line['nbeta']:.4g}", f"{line['localization']:g}", _value(line), *cells])
    head = ["problem", "nβ", "γ", "λ̂", "chains × draws", "R-hat of the loss", "R-hat of ‖w − w*‖²", "mean ‖w − w*‖²", "acceptance", "leapfrog steps"]
    return table(head, body)


def _value(line: Mapping[str, Any]) -> str:
    error = line["std_error"]
    if not error or not np.isfinite(error):
        return f"{line['llc']:.4g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{line['llc']:.3g}" if abs(line["llc"]) > 1e6 else f"{line['llc']:.{digits}f} ± {error:.{digits}f}"


def text(lines: Lines, references: Lines) -> str:
    """All tables."""
    return "\n\n".join(f"{about}\n\n{part}" for about, part in parts(lines, references).items())


def parts(lines: Lines, references: Lines) -> dict[str, str]:
    """All tables, by the line that explains each."""
    each = {
        f"Each problem with {NAMES[settings]}; λ̂ is listed by key.": problems(lines, references, settings)
        for settings in dict.fromkeys(line["settings"] for line in lines)
    }
    return {
        "A failure is silent where λ̂ is off by more than 10 % and by more than 3 joint standard errors without a finding.": summaries(lines, references),
        **each,
        "References: R-hats are those of quarter-chains. With one of the loss above 1.05 nothing is compared.": table_of_references(references),
    }


def nearest(lines: Sequence[Mapping[str, Any]], references: Mapping[str, float]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Of each problem and sampler the run nearest to the reference; one whose chains all diverged only where there is no other."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}

    def error(line: Mapping[str, Any]) -> float:
        return math.inf if line["llc"] is None else abs(line["llc"] - references[line["problem"]])

    for line in sorted(lines, key=error):
        found.setdefault((line["problem"], line["sampler"]), line)
    return found


def slow_directions(lines: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]) -> str:
    """A line for each sampler: on each problem the error of its best run, and the effective draws of the slowest quantity per second."""
    asked = {line["problem"] for line in lines}
    known = {line["problem"]: float(line["llc"]) for line in references if line["problem"] in asked and line.get("localization", 1.0) == 1.0}
    chosen = nearest(lines, known)
    problems, samplers = (list(dict.fromkeys(line[name] for line in lines)) for name in ("problem", "sampler"))

    def cell(problem: str, sampler: str) -> str:
        line = chosen.get((problem, sampler))
        if line is None or line["llc"] is None:
            return "–" if line is None else "diverged"
        flagged = f" ({', '.join(line['findings'])})" if line["findings"] else ""
        return f"{line['llc'] / known[problem] - 1:+.1%} · {(line['slow_ess'] or 0) / line['seconds']:.2g}{flagged}"

    return table(["sampler", *problems], ([sampler, *(cell(problem, sampler) for problem in problems)] for sampler in samplers))


def step_checks(lines: Sequence[Mapping[str, Any]]) -> str:
    """λ̂ of SGLD at the calibrated step, at half and at a quarter of it, by several keys; what the step adds, and the acceptance of a MALA step."""
    body = []
    for line in lines:
        values = {halving: np.asarray(llc) for halving, llc in line["llc"].items()}
        means = [f"{v.mean():.2f} ± {v.std(ddof=1) / np.sqrt(len(v)):.2f}" for v in values.values()]
        one, half = values["1"], values["2"]
        shared = np.std(one - half, ddof=1) / np.hypot(np.std(one, ddof=1), np.std(half, ddof=1))
        cells = [f"{line['step_bias']['1'] / one.mean():.0%}", f"{line['acceptance']:.2f}", f"{shared:.2f}"]
        body.append([line["problem"], str(line["weights"]), f"{line['localization']:g}", *means, *cells])
    head = ["problem", "weights", "γ", "λ̂ at ε", "at ε/2", "at ε/4", "step_bias ÷ λ̂", "MALA acceptance", "noise of the difference, one key ÷ two"]
    return table(head, body)


def layer_priors(lines: Sequence[Mapping[str, Any]]) -> str:
    """One prior for all weights beside one for each layer: λ̂ of each posterior, and how SGLD does on it."""
    body = []
    for line in lines:
        reference, sgld = line["reference"], line["sgld"]
        found = f" ({', '.join(sgld['findings'])})" if sgld["findings"] else ""
        cells = [_value(reference), f"{reference['rhat']:.3f}", f"{sgld['llc'] / reference['llc'] - 1:+.1%}{found}"]
        body.append([line["problem"], line["prior"], *cells, f"{(sgld['slow_ess'] or 0) / sgld['seconds']:.2g}"])
    return table(["problem", "prior", "λ̂ (AdaptiveHMC)", "its R-hat", "SGLD, best step: error", "slow effective draws a second"], body)
