"""What error bars lack on the accuracy benchmark's larger nets: the same nets with twice the gradients, half the step, larger batches and another nbeta.

    python -m benchmarks.accuracy_bars

What comes from the step's bias goes away with a smaller step and with larger batches, what comes from slow mixing with more gradients alone. The first lines,
as in the benchmark's own table, and the references are those of its last result; finished lines are kept, and a second call goes on.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import accuracy, gibbs, report
from benchmarks import deep_linear_nets as nets
from benchmarks.timing import RESULTS, machine
from jaxllc import SGLD

SHAPES = [("10K", (60, 70, 80)), ("10K", (50, 50, 50, 50)), ("100K", (250, 200, 150)), ("100K", (180, 180, 180, 180)), ("100K", (170, 160, 150, 140, 130))]
SEED = 0
"""Of the group of nets that is run of each shape."""


@dataclasses.dataclass(frozen=True)
class Change:
    """Of a setting of the accuracy benchmark: factors, and the batch."""

    name: str
    gradients: int = 1
    step: float = 1.0
    batch_size: int = accuracy.BATCH_SIZE
    nbeta: float = 1.0


AS_IT_IS = Change("as in the table")
CHANGES = (
    Change("twice the gradients", gradients=2),
    Change("half the step, twice the gradients", gradients=2, step=0.5),
    Change("batches of 1024", batch_size=1024),
    Change("half nβ", nbeta=0.5),
)


def run(name: str, made: nets.Nets, sampler: str, change: Change) -> dict[str, Any]:
    """One of `accuracy.BEST`, changed, on all nets of a group. The step stays a share of the largest stable one, which is larger at a smaller nbeta."""
    ladder = sampler == accuracy.LADDER
    setting = dict((accuracy.ladder_setting if ladder else accuracy.posterior_setting)(made.widths, len(made.arrays[0])))
    setting["nbeta"] *= change.nbeta
    cost = 2 if ladder else 1
    gradients = accuracy.GRADIENTS[name] * change.gradients
    step = change.step * SGLD.share_of_limit * 4 / accuracy.curvature_of(made, setting)
    options = {"sampler": accuracy.larger(step, gradients // cost), "batch_size": change.batch_size, **setting}
    return accuracy.run_group(sampler, options | ({"extrapolate": "nbeta", "cost": cost} if ladder else {}), made, gradients, SEED)


def measure(rows: Sequence[Mapping[str, Any]], known: list[dict[str, Any]], keep: Callable[[], None]) -> None:
    """Add to `known` the lines that it lacks, with the references of `rows`; half of nbeta has one of its own, and is not run as a ladder.

    Raises:
        ValueError: `rows` lack a shape, or `known` are of other rows than these.
    """
    for name, widths in SHAPES:
        row = next((row for row in accuracy.of_class(rows, name, accuracy.NUM_EXAMPLES) if (tuple(row["widths"]), row["seed"]) == (widths, SEED)), None)
        if row is None:
            raise ValueError(f"accuracy.json has no nets of {widths}, group {SEED}; run `python -m benchmarks.accuracy` first.")
        made = nets.make(widths, len(row["llc"]), accuracy.NUM_EXAMPLES, seed=SEED)
        for sampler in accuracy.BEST:
            own = row["ladder_reference" if sampler == accuracy.LADDER else "reference"]
            of_row = next(one for one in row["runs"] if one["sampler"] == sampler)
            first = {"class": name, "widths": list(widths), "setting": dataclasses.asdict(AS_IT_IS), "reference": own, **of_row}
            old = _known(known, widths, sampler, AS_IT_IS)
            if old is None:
                known.append(first)
                keep()
            elif old != first:
                raise ValueError("accuracy-bars.json is of an older accuracy.json; remove it to begin anew.")
            for change in CHANGES:
                if _known(known, widths, sampler, change) or (sampler == accuracy.LADDER and change.nbeta != 1):
                    continue
                truth = own
                if change.nbeta != 1:
                    truth = gibbs.values(made, {change.nbeta * row["nbeta"]: 1.0}, row["localization"], accuracy.SWEEPS[name])
                known.append(first | {"setting": dataclasses.asdict(change), "reference": truth, **run(name, made, sampler, change)})
                keep()
                print(f"{'-'.join(map(str, widths))}, {sampler}, {change.name}: done", flush=True)
        jax.clear_caches()


def _known(known: Sequence[dict[str, Any]], widths: tuple[int, ...], sampler: str, change: Change) -> dict[str, Any] | None:
    wanted = widths, sampler, dataclasses.asdict(change)
    return next((line for line in known if (tuple(line["widths"]), line["sampler"], line["setting"]) == wanted), None)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """For a reader, as Markdown: errors at full rank, which every other net has, and below it."""
    head = ["net", "sampler", "change", "step_bias ÷ λ̂", "bar", "error: full rank", "below it", "covered", "farthest, in bars"]
    body = []
    for line in lines:
        found, error, bias = (np.asarray(line[column], float) for column in ("llc", "std_error", "step_bias"))
        own = np.asarray(line["reference"]["llc"])
        off, z, name = found / own - 1, _bars_off(line), "-".join(map(str, line["widths"]))
        body.append(
            [name, _kind(line["sampler"]), line["setting"]["name"], f"{np.median(bias / found):.1%}", f"{np.median(error / own):.2%}",
             f"{off[::2].mean():+.2%}", f"{off[1::2].mean():+.2%}", _covered(z), f"{np.abs(z).max():.1f}"]
        )  # fmt: skip
    return report.table(head, body)


def covered(lines: Sequence[Mapping[str, Any]]) -> str:
    """How many nets of each class have their own value within two bars, as Markdown."""
    changes = list(dict.fromkeys(line["setting"]["name"] for line in lines))
    body = []
    for name, sampler in dict.fromkeys((line["class"], line["sampler"]) for line in lines):
        by_change = {change: [_bars_off(x) for x in lines if (x["class"], x["sampler"], x["setting"]["name"]) == (name, sampler, change)] for change in changes}
        body.append([name, _kind(sampler), *(_covered(np.concatenate(z)) if z else "" for z in by_change.values())])
    return report.table(["class", "sampler", *changes], body)


def _bars_off(line: Mapping[str, Any]) -> np.ndarray:
    found, error = (np.asarray(line[column], float) for column in ("llc", "std_error"))
    own, own_error = (np.asarray(line["reference"][column]) for column in ("llc", "std_error"))
    return (found - own) / np.hypot(error, own_error)


def _covered(z: np.ndarray) -> str:
    return f"{np.sum(np.abs(z) < 2)} of {len(z)}"


def _kind(sampler: str) -> str:
    return "ladder" if sampler == accuracy.LADDER else "one nβ"


def main() -> None:
    """Measure, print, keep."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    path = RESULTS / "accuracy-bars.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"lines": []}

    def keep() -> None:
        path.write_text(json.dumps(found | {"machine": machine()}) + "\n")

    measure(json.loads((RESULTS / "accuracy.json").read_text())["rows"], found["lines"], keep)
    print(table(found["lines"]))
    print("\n" + covered(found["lines"]))


if __name__ == "__main__":
    main()
