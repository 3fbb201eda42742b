"""The tables of docs/performance.md and of the README, as Markdown, from what the benchmarks printed last.

python -m benchmarks.report
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FORMAT = 3
"""Of the JSON, raised when it changes."""


def load(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """What `benchmarks.NAME` kept last.

    Raises:
        ValueError: nothing, or in the format of an older benchmark.
    """
    path = folder / f"{name}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    if result.get("format") != FORMAT:
        raise ValueError(f"{path} {'has an older format' if result else 'does not exist'}; run `python -m benchmarks.{name}`.")
    return result


def digits(value: float, count: int = 3) -> str:
    """So many significant digits, never an exponent for what a reader would write out."""
    return f"{float(f'{value:.{count}g}'):.10g}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Of Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(head), ["---"] * len(head), *lines])


def goals(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with a goal, and whether it was met."""
    lines = []
    for line in rows:
        sign, met = ("≤", line["measured"] <= line["goal"]) if line["at_most"] else ("≥", line["measured"] >= line["goal"])
        costs = f"{line['ours_us']:.1f} · {line['other_us']:.1f}" if "ours_us" in line else ""
        lines.append([line["what"], f"{sign} {line['goal']:g}", digits(line["measured"]), "met" if met else "missed", costs])
    return table(["what", "goal", "measured", "", "µs a chain-step, ours · other"], lines)


def rivals(turns: Mapping[str, Mapping[str, Any]]) -> str:
    """How each rival ran."""
    lines = []
    for case, raw in turns.items():
        for name, about in raw.get("rivals", {}).items():
            tried = " · ".join(f"{arrangement}: {digits(us)}" for arrangement, us in about["tried_us"].items())
            lines.append([f"{case}: {name}", about["torch"], f"{about['processes']} × {about['threads']}", tried])
    return table(["rival", "torch", "processes × threads", "µs a chain-step in the probe of each"], lines)


def overhead(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where the time of the whole trajectory went."""
    line = next(line for line in rows if "wall_seconds" in line)
    parts = sorted(line["seconds"].items(), key=lambda part: -part[1])
    return table(["part", "seconds", "share"], ([part, f"{took:.2f}", f"{took / line['wall_seconds']:.1%}"] for part, took in parts))


def curves(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """How the cost grows."""
    return table(["what varies", "µs a chain-step"], ([name, " · ".join(f"{at['at']:,}: {at['us']:.1f}" for at in points)] for name, points in found.items()))


def copies(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a resident chain holds."""
    head = ["net", "engine", "bare gradient descent, chains side by side"]
    return table(head, ([line["case"], f"{line['ours']:.2f}", f"{line['bare']:.2f}"] for line in rows if "bare" in line))


def growth(result: Mapping[str, Any]) -> str:
    """What more draws and more checkpoints add to a process."""
    lines = [["5 checkpoints, 8 chains", f"{result['base_mebibytes']:.0f}", "", ""]]
    lines += [[at["what"], f"{at['mebibytes']:.0f}", f"{at['more_than_base']:+.0f}", f"{at['results_returned_add']:.0f}"] for at in result["growth"]]
    return table(["process", "peak, MiB", "more", "of which draws returned"], lines)


def ablation(lines: Sequence[Mapping[str, Any]]) -> str:
    """What leaving one part of the step out saves."""
    parts = list(lines[0]["without_us"])
    body = ([line["case"], f"{line['whole_us']:.1f}", *(f"{1 - line['ratio'][part]:.1%}" for part in parts)] for line in lines)
    return table(["net", "whole step, µs", *(f"saved without {part}" for part in parts)], body)


def counted(result: Mapping[str, Any]) -> str:
    """Operations and bytes of a step, beside what was reached here."""
    lines = []
    for line in result["rows"]:
        speed = line["mflop"] / line["measured_us"] * 1e3
        share = f"{speed / result['matmul_gflops']:.0%}"
        ratio = digits(line["mflop"] / line["megabytes"], 2)
        at_peak = f"{line['mflop'] / result['matmul_gflops'] * 1e3:.0f}"
        lines.append([line["case"], f"{line['mflop']:.2f}", f"{line['megabytes']:.2f}", ratio, f"{line['measured_us']:.0f}", f"{speed:.0f}", share, at_peak])
    return table(["net", "MFLOP", "MB", "flop a byte", "measured, µs", "GFLOP/s", "of the matmul peak", "µs at that peak"], lines)


def accelerators(result: Mapping[str, Any]) -> str:
    """Computed from published peaks."""
    names = list(result["rows"][0]["computed_us"])
    return table(["net", *names], ([line["case"], *(f"{digits(line['computed_us'][n], 2)} ({line['limit'][n]})" for n in names)] for line in result["rows"]))


def readme(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows that stand beside another program."""
    lines = []
    for line in rows:
        if "ours_us" in line and not line["what"].startswith("2 devices") and not line["ours"].startswith("jaxllc, Gaussian"):
            times = 1 / line["measured"] if line["at_most"] else line["measured"]
            lines.append([line["what"], f"{line['ours_us']:.0f} · {line['other_us']:.0f}", digits(times, 2)])
    return table(["beside", "µs a chain-step, ours · theirs", "theirs ÷ ours"], lines)


def main() -> None:
    """Print all tables, each under the name that marks its place in the documents."""
    throughput, scaling, memory, roofline = (load(name) for name in ("throughput", "scaling", "memory", "roofline"))
    for name, result in (("throughput", throughput), ("scaling", scaling), ("memory", memory), ("roofline", roofline)):
        about = result["machine"]
        print(f"{name}: {about['processor']}, {about['cores']} cores, jax {about['versions']['jax']}, commit {about['commit'][:12]}, {about['date']}")
        for part, found in result.get("parts", {}).items():
            print(f"  {part}: commit {found['machine']['commit'][:12]}, {found['machine']['date']}")
    for name, text in {
        "goals": goals(throughput["rows"] + scaling["rows"] + memory["rows"]),
        "rivals": rivals(throughput["turns"]),
        "overhead": overhead(throughput["rows"]),
        "ablation": ablation(roofline["ablation"]),
        "counts": counted(roofline),
        "scaling": curves(scaling["curves"]),
        "copies": copies(memory["rows"]),
        "growth": growth(memory),
        "accelerators": accelerators(roofline),
        "README": readme(throughput["rows"]),
    }.items():
        print(f"\n<!-- table: {name} -->\n\n{text}")


if __name__ == "__main__":
    main()
