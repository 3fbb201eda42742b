"""Why intervals undercover on the accuracy benchmark's larger nets: five shapes again, with one setting changed at a time.

    python -m research.accuracy_bars

An error that comes from the finite step gets smaller with a smaller step and with larger batches; one that comes from slow mixing gets smaller with more
gradients only. The unchanged lines and the exact values of the posteriors are those of `benchmarks/results/accuracy.json`. Finished lines are kept in the
result, and a second call goes on.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from benchmarks import accuracy, gibbs, report_accuracy
from benchmarks import deep_linear_nets as nets
from benchmarks.timing import RESULTS as BENCHMARKS
from benchmarks.timing import machine
from research.accuracy_best import RESULTS

SHAPES = [("10K", (60, 70, 80)), ("10K", (50, 50, 50, 50)), ("100K", (250, 200, 150)), ("100K", (180, 180, 180, 180)), ("100K", (170, 160, 150, 140, 130))]
SEED = 0
"""The first group of nets of each shape."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of the accuracy benchmark's setting: factors of the gradients, of the step size and of nβ, and the batch size."""

    name: str
    gradients: int = 1
    step: float = 1.0
    batch_size: int = accuracy.BATCH_SIZE
    nbeta: float = 1.0


UNCHANGED = Change("as in the table")
CHANGES = (
    Change("twice the gradients", gradients=2),
    Change("half the step, twice the gradients", gradients=2, step=0.5),
    Change("batches of 1024", batch_size=1024),
    Change("half nβ", nbeta=0.5),
)


def run(name: str, made: nets.Nets, sampler: str, change: Change) -> dict[str, Any]:
    """One of `accuracy.BEST`, changed, on all nets of a group.

    The step size is a constant share of the largest stable one, so it grows where nβ is smaller.
    """
    two_temperatures = sampler == accuracy.LADDER
    setting = dict((accuracy.ladder_setting if two_temperatures else accuracy.posterior_setting)(made.widths, len(made.arrays[0])))
    setting["nbeta"] *= change.nbeta
    cost = 2 if two_temperatures else 1
    gradients = accuracy.GRADIENTS[name] * change.gradients
    step = change.step * accuracy.FRACTION * 4 / accuracy.curvature_of(made, setting)
    options = {"sampler": accuracy.larger(step, gradients // cost), "batch_size": change.batch_size, **setting}
    return accuracy.run_group(sampler, options | ({"extrapolate": "nbeta", "cost": cost} if two_temperatures else {}), made, gradients, SEED)


def measure(groups: Sequence[Mapping[str, Any]], lines: list[dict[str, Any]], keep: Callable[[], None]) -> None:
    """Add to `lines` what it lacks. Half nβ has an exact value of its own, and is not run at two temperatures.

    Args:
        groups: of nets, as in `accuracy.json`.
        lines: of earlier calls; extended in place.
        keep: called after each line, to write `lines` down.

    Raises:
        ValueError: `groups` lack a shape, or `lines` were made from other groups.
    """
    for name, widths in SHAPES:
        of_class = accuracy.of_class(groups, name, accuracy.NUM_EXAMPLES)
        group = next((one for one in of_class if (tuple(one["widths"]), one["seed"]) == (widths, SEED)), None)
        if group is None:
            raise ValueError(f"accuracy.json has no nets of {widths}, group {SEED}; run `python -m benchmarks.accuracy` first.")
        made = nets.make(widths, len(group["llc"]), accuracy.NUM_EXAMPLES, seed=SEED)
        for sampler in accuracy.BEST:
            exact = group["ladder_reference" if sampler == accuracy.LADDER else "reference"]
            measured = next(one for one in group["runs"] if one["sampler"] == sampler)
            unchanged = {"class": name, "widths": list(widths), "setting": dataclasses.asdict(UNCHANGED), "reference": exact, **measured}
            old = _find(lines, widths, sampler, UNCHANGED)
            if old is None:
                lines.append(unchanged)
                keep()
            elif old != unchanged:
                raise ValueError("accuracy-bars.json is of an older accuracy.json; remove it to begin anew.")
            for change in CHANGES:
                if _find(lines, widths, sampler, change) or (sampler == accuracy.LADDER and change.nbeta != 1):
                    continue
                reference = exact
                if change.nbeta != 1:
                    reference = gibbs.values(made, {change.nbeta * group["nbeta"]: 1.0}, group["localization"], accuracy.SWEEPS[name])
                changed = {"setting": dataclasses.asdict(change), "reference": reference, **run(name, made, sampler, change)}
                lines.append(unchanged | changed)
                keep()
                print(f"{'-'.join(map(str, widths))}, {sampler}, {change.name}: done", flush=True)
        jax.clear_caches()


def _find(lines: Sequence[dict[str, Any]], widths: tuple[int, ...], sampler: str, change: Change) -> dict[str, Any] | None:
    name = widths, sampler, dataclasses.asdict(change)
    return next((line for line in lines if (tuple(line["widths"]), line["sampler"], line["setting"]) == name), None)


def main() -> None:
    """Measure, print, keep."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    path = RESULTS / "accuracy-bars.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"lines": []}

    def keep() -> None:
        path.write_text(json.dumps(result | {"machine": machine()}) + "\n")

    measure(json.loads((BENCHMARKS / "accuracy.json").read_text())["rows"], result["lines"], keep)
    print(report_accuracy.intervals(result["lines"]))
    print("\n" + report_accuracy.coverage(result["lines"]))


if __name__ == "__main__":
    main()
