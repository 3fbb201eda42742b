"""The accuracy benchmark's best setting on nets that it was not chosen on: other draws of the benchmark's shapes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import jaxllc
from benchmarks import deep_linear_nets as nets
from benchmarks import gibbs, report

NETS = 2
"""Of a shape: one of full rank, one below it."""
SEED = 1


def measure(
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    num_examples: int,
    setting: Callable[[Sequence[int], int], dict[str, Any]],
    free: jaxllc.Free,
    num_sweeps: Mapping[str, int],
    known: list[dict[str, Any]],
    keep: Callable[[], None],
) -> None:
    """Add to `known` a row for each shape, by class and widths, that it lacks: the nets' coefficients, what their posteriors have, and what was found."""
    for name, widths in shapes:
        if any((tuple(row["widths"]), row["num_examples"]) == (widths, num_examples) for row in known):
            continue
        made = nets.make(widths, NETS, num_examples, seed=SEED)
        options = setting(widths, num_examples)
        own = gibbs.values(made, {options["nbeta"]: 2.0, 2 * options["nbeta"]: -1.0}, options["localization"], num_sweeps[name])
        table = jaxllc.trajectory(nets.loss, made.centers, made.arrays, key=jax.random.key(0), free=free, progress=False, **options).table()
        found = {column: table[column].tolist() for column in ("llc", "std_error", "findings")}
        known.append({"class": name, "widths": list(widths), "num_examples": num_examples, "truth": made.llc.tolist(), "reference": own, **found})
        keep()
        print(f"best setting, {'-'.join(map(str, widths))}: done", flush=True)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a reader, as Markdown."""
    head = ["class", "n", "nets", "to the ladder's posteriors: median", "largest", "bar", "covered", "farthest, in bars", "to λ: median", "largest", "findings"]
    lines = []
    for name, n in dict.fromkeys((row["class"], row["num_examples"]) for row in rows):
        mine = [row for row in rows if (row["class"], row["num_examples"]) == (name, n)]
        found, error, truth = (np.concatenate([row[column] for row in mine]) for column in ("llc", "std_error", "truth"))
        own, own_error = (np.concatenate([row["reference"][column] for row in mine]) for column in ("llc", "std_error"))
        off, to_truth = np.abs(found / own - 1), np.abs(found / truth - 1)
        bars_off = np.abs(found - own) / np.hypot(error, own_error)
        with_findings = np.mean([bool(text) for row in mine for text in row["findings"]])
        lines.append(
            [name, f"{n:,}", str(len(found)), f"{np.median(off):.1%}", f"{off.max():.1%}", f"{np.median(error / own):.2%}", f"{np.mean(bars_off < 2):.0%}",
             f"{bars_off.max():.1f}", f"{np.median(to_truth):.1%}", f"{to_truth.max():.1%}", f"{with_findings:.0%}"]
        )  # fmt: skip
    return report.table(head, lines)
