"""`benchmarks.accuracy.best_setting` on deep linear nets that it was not chosen on: other draws of the benchmark's shapes.

    python -m research.accuracy_best

Finished shapes are kept in the result, and a second call goes on. On two cores the whole command takes hours.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxllc
from benchmarks import accuracy, gibbs, report, report_accuracy
from benchmarks import deep_linear_nets as nets
from benchmarks.timing import machine

RESULTS = Path(__file__).parent / "results"
CLASSES = ("1K", "10K", "100K")
NETS = 2
"""Nets of each shape: one of full rank, one of a lower rank."""
SEED = 1
"""The benchmark itself uses other seeds."""


def measure(shapes: Sequence[tuple[str, tuple[int, ...]]], lines: list[dict[str, Any]], keep: Callable[[], None]) -> None:
    """Add to `lines` the shapes that it lacks, each with the exact λ, the exact value of the posterior and the estimate of each net.

    Args:
        shapes: class and widths.
        lines: of earlier calls; extended in place.
        keep: called after each shape, to write `lines` down.
    """
    n = accuracy.NUM_EXAMPLES
    for name, widths in shapes:
        if any((tuple(line["widths"]), line["num_examples"]) == (widths, n) for line in lines):
            continue
        made = nets.make(widths, NETS, n, seed=SEED)
        options = accuracy.best_setting(widths, n)
        exact = gibbs.values(made, {options["nbeta"]: 2.0, 2 * options["nbeta"]: -1.0}, options["localization"], accuracy.SWEEPS[name])
        traj = jaxllc.trajectory(nets.loss, made.centers, made.arrays, key=jax.random.key(0), free=accuracy.FREE, progress=False, **options)
        estimates = {column: traj.table()[column].tolist() for column in ("llc", "std_error", "findings")}
        lines.append({"class": name, "widths": list(widths), "num_examples": n, "truth": made.llc.tolist(), "reference": exact, **estimates})
        keep()
        print(f"best setting, {'-'.join(map(str, widths))}: done", flush=True)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Errors and coverage of each class, as Markdown.

    An error is relative to the exact value of the posterior at two temperatures (`gibbs`), or to λ. Coverage is the share of intervals of ± 2 standard errors
    that hold the posterior's exact value.
    """
    head = ["class", "n", "nets", "error to the posterior: median", "largest", "standard error", "coverage", "largest error in standard errors"]
    head += ["error to λ: median", "largest", "with findings"]
    body = []
    for name, n in dict.fromkeys((line["class"], line["num_examples"]) for line in lines):
        mine = [line for line in lines if (line["class"], line["num_examples"]) == (name, n)]
        llc, error, truth = (np.concatenate([line[column] for line in mine]) for column in ("llc", "std_error", "truth"))
        exact = np.concatenate([line["reference"]["llc"] for line in mine])
        off, to_truth = np.abs(llc / exact - 1), np.abs(llc / truth - 1)
        z = np.abs(np.concatenate([report_accuracy.z_scores(line) for line in mine]))
        with_findings = np.mean([bool(text) for line in mine for text in line["findings"]])
        body.append(
            [name, f"{n:,}", str(len(llc)), f"{np.median(off):.1%}", f"{off.max():.1%}", f"{np.median(error / exact):.2%}", f"{np.mean(z < 2):.0%}",
             f"{z.max():.1f}", f"{np.median(to_truth):.1%}", f"{to_truth.max():.1%}", f"{with_findings:.0%}"]
        )  # fmt: skip
    return report.table(head, body)


def main() -> None:
    """Measure, print, keep."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    path = RESULTS / "accuracy-best.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"lines": []}

    def keep() -> None:
        path.write_text(json.dumps(result | {"machine": machine()}) + "\n")

    measure([(name, widths) for name in CLASSES for widths in nets.CLASSES[name]], result["lines"], keep)
    print(table(result["lines"]))


if __name__ == "__main__":
    main()
