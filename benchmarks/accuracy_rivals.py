"""What other packages estimate for the nets of the accuracy benchmark, each at several step sizes, at our number of gradients.

The best step size of a rival is the one with the smallest median error. Choosing it needs the truth, which a user does not have.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import deep_linear_nets as nets
from benchmarks import report
from benchmarks.timing import ROOT, Worker

SHARES = (1 / 256, 1 / 64, 1 / 16)
"""Step sizes, as shares of the largest stable one at w*; with RMSprop, whose scale is at most ten times one, of a tenth of it."""
RIVALS = {
    ("devinterp 1.3.2", "SGLD"): ("devinterp1", "accuracy_devinterp1.py", 1.0),
    ("devinterp 1.3.2", "RMSprop-SGLD"): ("devinterp1", "accuracy_devinterp1.py", 0.1),
    ("canonical-interp 0.2.7", "SGLD"): ("canonical", "accuracy_canonical.py", 1.0),
}
"""By package and method: environment, script, and the factor of the step size."""


def store(made: nets.Nets, path: Path) -> None:
    """Nets and data for the scripts of `rivals/`."""
    x, noise = made.arrays
    fixed = {f"{k}/{name}": np.asarray(net[name], np.float32) for k, net in made.centers.items() for name in ("product", "signs")}
    layers = {f"{k}/layer{i}": layer for k, net in made.centers.items() for i, layer in enumerate(net["layers"])}
    np.savez(path, x=x, noise=noise, **fixed, **layers)  # pyright: ignore[reportArgumentType]


def measure(
    made: nets.Nets, count: int, limit: float, batch_size: int, options: Mapping[str, Any], known: list[dict[str, Any]], keep: Callable[[], None]
) -> None:
    """Add to `known` what is missing of the first `count` nets of a shape. `limit` is the largest stable step size, `options` those of all runs."""
    widths = list(made.widths)
    there = {(tuple(row["widths"]), row["net"], row["rival"], row["method"], row["share"]) for row in known}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nets.npz"
        store(made, path)

        def run(item: tuple[tuple[str, str], tuple[str, str, float]]) -> None:
            (rival, method), (environment, script, factor) = item
            wanted = [(k, share) for k in range(1, count + 1) for share in SHARES if (tuple(widths), k, rival, method, share) not in there]
            if not wanted:
                return
            worker = Worker(
                [str(ROOT / ".rivals" / environment / "bin" / "python"), str(ROOT / "benchmarks" / "rivals" / script), str(path), str(batch_size)],
                OMP_NUM_THREADS="1",
            )
            for k, share in wanted:
                worker.ask(json.dumps({"net": k, "method": method, "step_size": share * factor * limit, **options}))
                known.append({"widths": widths, "net": k, "rival": rival, "method": method, "share": share, **worker.answer()})
                keep()
            worker.close()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run, RIVALS.items()))


def summarise(found: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], ours: Mapping[str, str]) -> list[dict[str, Any]]:
    """One line a rival, method and step size, and one for each of `ours`, of the nets that all of them ran; the best of each rival is marked.

    `ours` names the reference of each of our samplers: `reference`, with which the rivals are compared too, or the one at two temperatures.
    """
    own, truth, mine, compared_with = {}, {}, {}, {}
    for row in rows:
        for k in range(len(row["llc"])):
            place = (tuple(row["widths"]), k + 1)
            own[place], truth[place] = row["reference"]["llc"][k], row["llc"][k]
            compared_with[place] = {name: row[reference]["llc"][k] for name, reference in ours.items()}
            mine[place] = {run["sampler"]: run["llc"][k] for run in row["runs"]}
    groups: dict[tuple[str, str, float | None], dict[Any, float]] = {}
    for row in found:
        place = (tuple(row["widths"]), row["net"])
        if place not in own:
            continue
        groups.setdefault((row["rival"], row["method"], row["share"]), {})[place] = np.nan if row["llc"] is None else row["llc"]
    if not groups:
        return []
    places = sorted(set.intersection(*(set(values) for values in groups.values())))
    for name in ours:
        groups["jaxllc", name, None] = {place: mine[place].get(name, np.nan) for place in places}
    lines = []
    for (rival, method, share), values in groups.items():
        got = np.asarray([values[place] for place in places])
        posterior = np.asarray([compared_with[place][method] if rival == "jaxllc" else own[place] for place in places])
        off, to_truth = np.abs(got / posterior - 1), np.abs(got / np.asarray([truth[place] for place in places]) - 1)
        off, to_truth = np.where(np.isfinite(got), off, np.inf), np.where(np.isfinite(got), to_truth, np.inf)
        lines.append(
            {"rival": rival, "method": method, "share": share, "nets": len(places), "median_error_to_posterior": float(np.median(off)),
             "p90_error_to_posterior": float(np.quantile(off, 0.9, method="higher")), "median_error_to_llc": float(np.median(to_truth)),
             "bias_to_posterior": float(np.mean(got / posterior - 1))}
        )  # fmt: skip
    for rival, method in {(line["rival"], line["method"]) for line in lines}:
        same = [line for line in lines if (line["rival"], line["method"]) == (rival, method)]
        min(same, key=lambda line: line["median_error_to_posterior"])["best"] = True
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """All step sizes, as Markdown; diverged nets count as infinitely wrong."""
    head = ["class", "package", "method", "step size ÷ limit", "error to the posterior: median", "p90", "signed mean", "error to λ: median"]
    body = []
    for line in lines:
        share = "" if line["share"] is None else f"1/{1 / line['share']:.0f}"
        errors = [f"{line[name]:.1%}" for name in ("median_error_to_posterior", "p90_error_to_posterior", "bias_to_posterior", "median_error_to_llc")]
        method = f"**{line['method']}**" if line.get("best") else line["method"]
        body.append([line["class"], line["rival"], method, share, *errors])
    return report.table(head, body)
