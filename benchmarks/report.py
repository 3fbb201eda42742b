"""The tables of the documents, as Markdown, from the stored results of the benchmarks.

    python -m benchmarks.report [--check]

Short tables stand in the pages, between `<!-- table: NAME -->` and `<!-- end of table -->`; long ones are files of docs/tables, which the pages link. The
command prints them all and brings both up to date. With `--check` it writes nothing and fails where a file differs.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/accuracy.md", "docs/choosing.md", "docs/performance.md", "docs/scaling.md")
"""Pages whose marked tables are filled in."""
FORMAT = 3
"""Version of the JSON results."""


def load(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The stored result of `benchmarks.NAME`.

    Raises:
        ValueError: there is none, or it has the format of an older benchmark.
    """
    path = folder / f"{name}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    if result.get("format") != FORMAT:
        raise ValueError(f"{path} {'has an older format' if result else 'does not exist'}; run `python -m benchmarks.{name}`.")
    return result


def digits(value: float, count: int = 3) -> str:
    """A number to so many significant digits, without an exponent."""
    return f"{float(f'{value:.{count}g}'):.10g}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(head), ["---"] * len(head), *lines])


def goals(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lines with a goal, and whether it was met."""
    lines = []
    for line in rows:
        sign, met = ("≤", line["measured"] <= line["goal"]) if line["at_most"] else ("≥", line["measured"] >= line["goal"])
        costs = f"{line['ours_us']:.1f} · {line['other_us']:.1f}" if "ours_us" in line else ""
        lines.append([line["what"].replace("chain-step", "iteration"), f"{sign} {line['goal']:g}", digits(line["measured"]), "met" if met else "missed", costs])
    return table(["what", "goal", "measured", "", "µs an iteration, ours · other"], lines)


def rivals(turns: Mapping[str, Mapping[str, Any]]) -> str:
    """How each rival ran."""
    lines = []
    for case, raw in turns.items():
        for name, about in raw.get("rivals", {}).items():
            tried = " · ".join(f"{arrangement}: {digits(us)}" for arrangement, us in about["tried_us"].items())
            lines.append([f"{case}: {name}", about["torch"], f"{about['processes']} × {about['threads']}", tried])
    return table(["rival", "torch", "processes × threads", "µs an iteration in the trial of each"], lines)


def overhead(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where the time of the whole trajectory went."""
    line = next(line for line in rows if "wall_seconds" in line)
    parts = sorted(line["seconds"].items(), key=lambda part: -part[1])
    return table(
        ["part", "seconds", "share"], ([part.replace("chain-steps", "iterations"), f"{took:.2f}", f"{took / line['wall_seconds']:.1%}"] for part, took in parts)
    )


def curves(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """How the cost grows."""
    return table(["what varies", "µs an iteration"], ([name, " · ".join(f"{at['at']:,}: {at['us']:.1f}" for at in points)] for name, points in found.items()))


def copies(rows: Sequence[Mapping[str, Any]]) -> str:
    """Memory of one chain, in copies of the weights."""
    return table(["net", "copies of the weights a chain"], ([line["case"], f"{line['ours']:.2f}"] for line in rows if "bare" in line))


def data_copies(result: Mapping[str, Any]) -> str:
    """Memory that data add to a process, in copies of them."""
    return table(["data", "copies beside the arrays handed over"], ([line["what"], f"{line['copies']:.2f}"] for line in result["rows"]))


def long_run(result: Mapping[str, Any]) -> str:
    """What a long run costs beside the sampling, with the goals."""
    lines = ([line["what"], f"{'≤' if line['at_most'] else '≥'} {line['goal']:g}", digits(line["measured"])] for line in result["rows"])
    return table(["what", "goal", "measured"], lines)


def growth(result: Mapping[str, Any]) -> str:
    """Memory that more draws and more checkpoints add to a process."""
    lines = [["5 checkpoints, 8 chains", f"{result['base_mebibytes']:.0f}", "", ""]]
    lines += [[at["what"], f"{at['mebibytes']:.0f}", f"{at['more_than_base']:+.0f}", f"{at['results_returned_add']:.0f}"] for at in result["growth"]]
    return table(["process", "peak, MiB", "added", "of which returned draws"], lines)


def ablation(lines: Sequence[Mapping[str, Any]]) -> str:
    """Time saved by leaving out one part of the iteration."""
    parts = list(lines[0]["without_us"])
    body = ([line["case"], f"{line['whole_us']:.1f}", *(f"{1 - line['ratio'][part]:.1%}" for part in parts)] for line in lines)
    return table(["net", "whole iteration, µs", *(f"saved without {part}" for part in parts)], body)


def small_batches(parts: Mapping[str, Any]) -> str:
    """Cost of samplers on small batches, over that of their gradient."""
    lines = []
    for part in ("batches of 64", "batches of 16"):
        for line in parts.get(part, {}).get("rows", ()):
            net, sampler = line["what"].split("chain-step", 1)[0].removesuffix(": ").split("), ", 1)
            lines.append([f"{net})", sampler, f"{line['ours_us']:.0f} · {line['other_us']:.0f}", digits(line["measured"])])
    return table(["net", "sampler", "µs an iteration · its gradient", "ratio"], lines)


def passes(platforms: Mapping[str, Any]) -> str:
    """Copies of the weights that an iteration reads and writes, beside a loop over the bare gradient."""

    def copies(found: Mapping[str, float]) -> str:
        return f"{found['read']:.2g} · {found['written']:.2g}"

    lines = ([f"{row['sampler']}, {platform}", copies(row["ours"]), copies(row["bare"])] for platform, rows in platforms.items() for row in rows)
    return table(["program", "copies read · written", "bare gradient and step"], lines)


def counted(result: Mapping[str, Any]) -> str:
    """Operations and bytes of an iteration, and the share of this machine's peak."""
    lines = []
    for line in result["rows"]:
        speed = line["mflop"] / line["measured_us"] * 1e3
        share = f"{speed / result['matmul_gflops']:.0%}"
        ratio = digits(line["mflop"] / line["megabytes"], 2)
        at_peak = f"{line['mflop'] / result['matmul_gflops'] * 1e3:.0f}"
        lines.append([line["case"], f"{line['mflop']:.2f}", f"{line['megabytes']:.2f}", ratio, f"{line['measured_us']:.0f}", f"{speed:.0f}", share, at_peak])
    return table(["net", "MFLOP", "MB", "flop a byte", "measured, µs", "GFLOP/s", "of the matmul peak", "µs at that peak"], lines)


def pods(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the compiler says of programs for TPUs."""

    def counts(program: Mapping[str, Any]) -> str:
        return str(sum(program["collectives"].values()))

    lines = []
    for line in rows:
        held = " · ".join(f"{size / 2**30:.1f}" for size in (line["start"]["bytes"], line["block"]["bytes"], line["weights_bytes"]))
        seconds = " · ".join(f"{line[name]['seconds']:.0f}" for name in ("start", "block"))
        communicates = " · ".join(counts(line[name]) for name in ("block", "gradient", "losses"))
        mesh = " × ".join(str(size) for size in line["mesh"].values())
        lines.append([line["case"], str(line["chips"]), f"{line['checkpoints']} × {line['chains']}", mesh, held, communicates, seconds])
    head = [
        "model",
        "chips",
        "checkpoints × chains",
        "mesh",
        "GiB a chip, start · block · w\\*",
        "collectives, block · gradient · losses",
        "seconds to compile, start · block",
    ]
    return table(head, lines)


def pods_hours(rows: Sequence[Mapping[str, Any]]) -> str:
    """Chip-hours of a trajectory, reckoned."""
    return table(
        ["weights", "tokens a batch", "chip-hours"], ([f"{line['num_weights']:,}", f"{line['tokens']:,}", f"{line['chip_hours']:,.1f}"] for line in rows)
    )


def speed(rows: Sequence[Mapping[str, Any]]) -> str:
    """Our iteration beside the bare gradient and other packages."""
    lines = []
    for line in rows:
        if "ours_us" in line and not line["what"].startswith("2 devices") and ", S" not in line["what"] and not line["ours"].startswith("jaxllc, Gaussian"):
            times = 1 / line["measured"] if line["at_most"] else line["measured"]
            lines.append([line["what"].replace("chain-step ÷ ", ""), f"{line['ours_us']:.0f} · {line['other_us']:.0f}", digits(times, 2)])
    return table(["compared with", "µs an iteration, ours · theirs", "theirs ÷ ours"], lines)


def provenance(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Machine, version and commit of each result and of its parts."""
    lines = []
    for name, result in results.items():
        for part, about in [(name, result["machine"]), *((f"{name}: {part}", found["machine"]) for part, found in result.get("parts", {}).items())]:
            lines.append([part, f"{about['processor']}, {about['cores']} cores", about["versions"]["jax"], about["commit"][:12], about["date"][:10]])
    return table(["result", "machine", "jax", "commit", "date"], lines)


def stored(name: str) -> Any:
    """A stored result without a format, of a benchmark or of `research`."""
    folders = (RESULTS, ROOT / "research" / "results")
    path = next((path for folder in folders if (path := folder / f"{name}.json").exists()), None)
    if path is None:
        raise ValueError(f"{name}.json is in neither of {', '.join(map(str, folders))}.")
    return json.loads(path.read_text())


def stored_lines(name: str) -> list[dict[str, Any]]:
    """A stored result of one JSON object a line."""
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]


def short_tables() -> dict[str, str]:
    """Tables that stand in the pages, by the name in their mark: at most ten lines each."""
    from benchmarks import report_accuracy as accuracy
    from benchmarks import report_calibration as calibration
    from benchmarks import report_components as components
    from benchmarks import report_precision as precision

    throughput, scaling, memory, roofline = (load(name) for name in ("throughput", "scaling", "memory", "roofline"))
    found, bars = stored("accuracy"), stored("accuracy-bars")["lines"]
    calls = stored_lines("calibration"), stored_lines("calibration_references")
    return {
        "no settings": calibration.summaries(*calls),
        "before and after": calibration.before_and_after(*calls),
        "slow directions": calibration.slow_directions(stored("slow-directions")["lines"], calls[1]),
        "step checks": calibration.step_checks(stored("step-checks")["lines"]),
        "layer priors": calibration.layer_priors(stored("layer-priors")["lines"]),
        "speed": speed(throughput["rows"]),
        "small batches": small_batches(throughput["parts"]),
        "passes": passes(load("passes")["platforms"]),
        "ablation": ablation(roofline["ablation"]),
        "scaling": curves(scaling["curves"]),
        "copies": copies(memory["rows"]),
        "data": data_copies(load("data_memory")),
        "long run": long_run(load("batch")),
        "pods": pods(load("pods")["rows"]),
        "chip-hours": pods_hours(load("pods")["hours"]),
        **components.tables(load("components")["parts"]),
        **precision.short(load("precision")["parts"]),
        "accuracy": accuracy.headline(found["lines"]),
        "coverage together": calibration.together(*calls, found["lines"]),
        "more examples": accuracy.more_examples(found["lines"]),
        "other samplers": accuracy.other_samplers(found["lines"]),
        "finite n": accuracy.finite_n(stored("finite-n")),
        "best setting": accuracy.best_setting(found["best"] if "best" in found else stored("accuracy-best")["lines"]),
        "coverage": accuracy.coverage(bars),
        "models": accuracy.models(found["models"]),
        "accuracy of rivals": accuracy.rivals(found["rival_lines"]),
    }


def files() -> dict[str, str]:
    """Generated pages of docs/tables by file name: a title, and tables, each under a line that explains it."""
    from benchmarks import accuracy, accuracy_models, accuracy_rivals, gibbs, report_calibration
    from benchmarks import report_accuracy as short

    found, bars = stored("accuracy"), stored("accuracy-bars")["lines"]
    return {
        "performance.md": generated("Performance: all tables", performance_tables()),
        "accuracy-samplers.md": generated(
            "Accuracy: all samplers on deep linear nets",
            {
                "Relative errors over the nets of a class. *Error to the posterior* compares with the exact expectation under the same posterior, *error to λ* "
                "with the exact coefficient. Coverage is the share of nets whose exact expectation is within two standard errors.": accuracy.table(
                    found["lines"]
                )
            },
        ),
        "accuracy-finite-n.md": generated(
            "Accuracy: bias of the exact posterior relative to λ, n = 20 000",
            {"Each cell has a net of full rank, then one below full rank.": gibbs.table(short.finite_n_rows(stored("finite-n")))},
        ),
        "accuracy-intervals.md": generated(
            "Accuracy: coverage of the intervals on five shapes",
            {"One setting is changed at a time. Errors are means over nets, relative to the exact posterior.": short.intervals(bars)},
        ),
        "accuracy-models.md": generated(
            "Accuracy: models without a closed form",
            {"z is the error in joint standard errors of estimate and reference.": accuracy_models.table(found["models"])},
        ),
        "accuracy-rivals.md": generated(
            "Accuracy: other packages, at three step sizes each",
            {
                "Step sizes are shares of the largest stable one. The best of each method, chosen by the exact posterior, is bold.": accuracy_rivals.table(
                    found["rival_lines"]
                )
            },
        ),
        "calibration.md": generated(
            "Estimates without settings, on the zoo", report_calibration.parts(stored_lines("calibration"), stored_lines("calibration_references"))
        ),
    }


def performance_tables() -> dict[str, str]:
    """All tables on performance, by the line that explains each."""
    from benchmarks import report_precision

    throughput, scaling, memory, roofline = (load(name) for name in ("throughput", "scaling", "memory", "roofline"))
    return {
        "Goals and measurements. A line on another package gives its cost divided by ours.": goals(throughput["rows"] + scaling["rows"] + memory["rows"]),
        "How each other package was run. A short trial chose the number of processes and threads.": rivals(throughput["turns"]),
        "Wall time of a trajectory of 100 checkpoints, 8 chains and 1500 iterations.": overhead(throughput["rows"]),
        "Operations and bytes of one iteration of one chain, by XLA's count; bytes are before any cache. *The matmul peak* is the speed of large matrix "
        "products on the same cores.": counted(roofline),
        **report_precision.long(load("precision")["parts"]),
        "Peak memory of a process that runs a trajectory of the net with 800 weights into a store.": growth(memory),
        "Machine, version and commit of each result.": provenance(
            {"throughput": throughput, "scaling": scaling, "memory": memory, "roofline": roofline}
            | {name: load(name) for name in ("data_memory", "batch", "components", "precision")}
        ),
    }


def generated(title: str, parts: Mapping[str, str]) -> str:
    """A generated page."""
    note = "<!-- Generated by `python -m benchmarks.report`; do not edit. -->"
    return "\n\n".join([note, f"# {title}", *(f"{about}\n\n{text}" for about, text in parts.items())]) + "\n"


def fill(page: str, tables: Mapping[str, str]) -> str:
    """A page with the text between the marks of each table replaced.

    Raises:
        KeyError: a mark names a table that does not exist.
    """
    mark = re.compile(r"<!-- table: (?P<name>[^>]+) -->\n.*?<!-- end of table -->", re.DOTALL)
    return mark.sub(lambda found: f"<!-- table: {found['name']} -->\n\n{tables[found['name']]}\n\n<!-- end of table -->", page)


def documents() -> dict[Path, str]:
    """Every generated file and every page with tables, as they should be."""
    tables = short_tables()
    pages = {ROOT / name: fill((ROOT / name).read_text(), tables) for name in PAGES}
    return pages | {ROOT / "docs" / "tables" / name: text for name, text in files().items()}


def main() -> None:
    """Print all tables, and bring the documents up to date or check that they are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file differs")
    options = parser.parse_args()
    stale = {path: text for path, text in documents().items() if not path.exists() or path.read_text() != text}
    if options.check:
        sys.exit("".join(f"{path.relative_to(ROOT)} is not what `python -m benchmarks.report` writes; run it.\n" for path in stale) or 0)
    for name, text in short_tables().items():
        print(f"<!-- table: {name} -->\n\n{text}\n")
    for name, text in files().items():
        print(f"docs/tables/{name}\n\n{text}")
    for path, text in stale.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
