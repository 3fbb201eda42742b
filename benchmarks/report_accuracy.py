"""The tables of docs/accuracy.md, as Markdown, from the stored results of the accuracy benchmarks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.report import table

Lines = Sequence[Mapping[str, Any]]

TWO_TEMPERATURES = "SGLD, two temperatures, larger steps in burn-in"
LARGER = "SGLD, larger steps in burn-in"
BEST = {
    "SGLD": "one temperature, default sampler",
    LARGER: "one temperature, larger steps in burn-in",
    TWO_TEMPERATURES: "two temperatures, larger steps in burn-in",
}
"""How the pages call the samplers that run on all nets."""
OTHERS = (
    "SGLD", "SGLD, bias not corrected", "SGLD, 4 times the step", "SGLD, a quarter of the step", "SGLD, extrapolated", "SGLD, control variate",
    "SGLD, RMSProp", "SGLD, Adam", "SGHMC", "SGNHT",
)  # fmt: skip
"""Samplers that ran on the smaller classes only, and the default."""
SMALL_N = 20_000
WIDTH_SHARE = 0.5
"""Localization over mean width in the short finite-n table."""


def headline(lines: Lines) -> str:
    """Errors, coverage and share of nets with findings of the default and of the two best samplers, by number of weights."""
    head = ["weights", "estimate", "error to the posterior, median", "coverage", "error to λ, median", "mean error to λ", "pairs in order", "findings"]
    body = []
    for line in lines:
        if line["num_examples"] == SMALL_N and line["sampler"] in BEST:
            own, coverage, *truth = (line.get(name) for name in ("median_error_to_posterior", "coverage", "median_error_to_llc", "bias_to_llc"))
            cells = [f"{own:.1%}", "" if coverage is None else f"{coverage:.0%}", *(f"{error:.1%}" for error in truth), f"{line['order_preserved']:.3f}"]
            body.append([line["class"], BEST[line["sampler"]], *cells, f"{line['with_findings']:.0%}" if "with_findings" in line else ""])
    return table(head, body)


def more_examples(lines: Lines) -> str:
    """The same classes at n = 20 000 and n = 200 000."""
    head = ["weights", "estimate", "n", "error to λ, median", "of the exact posterior"]
    exact = {"SGLD": "exact posterior (Gibbs, float64)", LARGER: "exact posterior (Gibbs, float64)"}
    exact[TWO_TEMPERATURES] = "exact posteriors at two temperatures (Gibbs, float64)"
    known = {(line["class"], line["num_examples"], line["sampler"]): line["median_error_to_llc"] for line in lines}
    large = list(dict.fromkeys(name for name, n, _ in known if n != SMALL_N))
    body = []
    for (name, n, sampler), error in known.items():
        if name in large and sampler in (LARGER, TWO_TEMPERATURES):
            body.append([name, BEST[sampler].split(",")[0], f"{n:,}", f"{error:.1%}", f"{known[name, n, exact[sampler]]:.1%}"])
    return table(head, sorted(body, key=lambda cells: (large.index(cells[0]), cells[1])))


def other_samplers(lines: Lines) -> str:
    """The default beside nine other samplers on the nets of the two smaller classes."""
    known = {(line["class"], line["sampler"]): line for line in lines if line["num_examples"] == SMALL_N}
    names = ("1K", "10K")
    head = [
        "sampler",
        *(f"{name}: error to the posterior" for name in names),
        *(f"{name}: coverage" for name in names),
        *(f"{name}: findings" for name in names),
    ]
    body = []
    for sampler in OTHERS:
        mine = [known[name, sampler] for name in names]
        cells = [f"{line['median_error_to_posterior']:.1%}" for line in mine]
        body.append([sampler, *cells, *(f"{line[key]:.0%}" if key in line else "" for key in ("coverage", "with_findings") for line in mine)])
    return table(head, body)


def finite_n(rows: Lines) -> str:
    """The bias of the exact expectations relative to λ, at one localization."""
    nbetas = list(rows[0]["error"])
    body = []
    for row in rows:
        if row["localization_over_width"] == WIDTH_SHARE:
            cells = [", ".join(f"{error:+.1%}" for error in row["error"].get(nbeta, [])) for nbeta in nbetas]
            body.append(["-".join(map(str, row["widths"])), row["kind"], *cells])
    return table(["net", "estimate", *(f"nβ = {float(nbeta):g}" for nbeta in nbetas)], body)


def finite_n_rows(rows: Lines) -> list[dict[str, Any]]:
    """The stored lines with numbers as keys, as `gibbs.table` takes them."""
    return [{**row, "error": {float(nbeta): errors for nbeta, errors in row["error"].items()}} for row in rows]


def models(rows: Lines) -> str:
    """The reference, SGLD and SGHMC on the models without a closed form."""
    body = []
    for row in rows:
        runs = {run["sampler"]: run for run in row["runs"]}
        shown = [f"{runs[name]['llc']:.2f} ± {runs[name]['std_error']:.2f} {_findings(runs[name])}".strip() for name in ("SGLD", "SGHMC")]
        body.append(
            [row["model"], "" if row["llc"] is None else f"{row['llc']:g}", f"{row['reference']['llc']:.2f} ± {row['reference']['std_error']:.2f}", *shown]
        )
    return table(["model", "λ", "reference (HMC)", "SGLD", "SGHMC"], body)


def _findings(run: Mapping[str, Any]) -> str:
    return f"({', '.join(run['findings'])})" if run["findings"] else ""


def rivals(lines: Lines) -> str:
    """The best step size of each other package and method, and ours."""
    body = []
    for line in lines:
        if line.get("best") and line["method"] != LARGER:
            share = "default" if line["share"] is None else f"1/{1 / line['share']:.0f}"
            errors = percents(line["median_error_to_posterior"], line["median_error_to_llc"], digits=(1, 1))
            body.append([line["class"], line["rival"], BEST[TWO_TEMPERATURES] if line["method"] == TWO_TEMPERATURES else line["method"], share, *errors])
    return table(["weights", "package", "method", "step size ÷ limit", "error to the posterior, median", "error to λ, median"], body)


def best_setting(rows: Lines) -> str:
    """`benchmarks.accuracy.best_setting` on nets that it was not chosen on."""
    head = [
        "weights",
        "nets",
        "error to the posterior, median",
        "standard error",
        "coverage",
        "largest error to the posterior, in standard errors",
        "error to λ, median",
        "largest error to λ",
    ]
    body = []
    for name in dict.fromkeys(row["class"] for row in rows):
        mine = [row for row in rows if row["class"] == name]
        llc, error, truth = (np.concatenate([row[column] for row in mine]) for column in ("llc", "std_error", "truth"))
        exact = np.concatenate([row["reference"]["llc"] for row in mine])
        z = np.concatenate([z_scores(row) for row in mine])
        to_truth = np.abs(llc / truth - 1)
        cells = [f"{np.median(np.abs(llc / exact - 1)):.1%}", f"{np.median(error / exact):.2%}", f"{np.mean(np.abs(z) < 2):.0%}", f"{np.abs(z).max():.1f}"]
        body.append([name, str(len(llc)), *cells, *percents(np.median(to_truth), to_truth.max(), digits=(1, 1))])
    return table(head, body)


def intervals(lines: Lines) -> str:
    """Errors and coverage by shape, estimate and change of the setting: at full rank, which every other net has, and below it."""
    head = [
        "net",
        "estimate",
        "change",
        "step_bias ÷ λ̂",
        "standard error",
        "mean error: full rank",
        "below it",
        "coverage",
        "largest error, in standard errors",
    ]
    body = []
    for line in lines:
        llc, error, bias = (np.asarray(line[column], float) for column in ("llc", "std_error", "step_bias"))
        exact, z = np.asarray(line["reference"]["llc"]), z_scores(line)
        off = llc / exact - 1
        cells = [f"{np.median(bias / llc):.1%}", f"{np.median(error / exact):.2%}", f"{off[::2].mean():+.2%}", f"{off[1::2].mean():+.2%}"]
        body.append(["-".join(map(str, line["widths"])), _kind(line), _change(line), *cells, _covered(z), f"{np.abs(z).max():.1f}"])
    return table(head, body)


def coverage(lines: Lines) -> str:
    """Nets of each class whose exact expectation is within two standard errors, by change of the setting."""
    changes = list(dict.fromkeys(map(_change, lines)))
    body = []
    for name, kind in dict.fromkeys((line["class"], _kind(line)) for line in lines):
        by_change = [[z_scores(line) for line in lines if (line["class"], _kind(line), _change(line)) == (name, kind, change)] for change in changes]
        body.append([name, kind, *(_covered(np.concatenate(z)) if z else "" for z in by_change)])
    return table(["weights", "estimate", *changes], body)


def z_scores(line: Mapping[str, Any]) -> np.ndarray:
    """Error of each net's estimate to the exact expectation, in units of their joint standard error."""
    llc, error = (np.asarray(line[column], float) for column in ("llc", "std_error"))
    exact, exact_error = (np.asarray(line["reference"][column]) for column in ("llc", "std_error"))
    return (llc - exact) / np.hypot(error, exact_error)


def percents(*values: float, digits: Sequence[int]) -> list[str]:
    """Shares in per cent, each with so many digits."""
    return [f"{value:.{count}%}" for value, count in zip(values, digits, strict=True)]


def _covered(z: np.ndarray) -> str:
    return f"{np.sum(np.abs(z) < 2)} of {len(z)}"


def _change(line: Mapping[str, Any]) -> str:
    name = str(line["setting"]["name"])
    return "unchanged" if name == "as in the table" else name


def _kind(line: Mapping[str, Any]) -> str:
    return "two temperatures" if line["sampler"] == TWO_TEMPERATURES else "one temperature"
