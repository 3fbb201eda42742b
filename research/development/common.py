"""Where the experiments work and what they keep."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import RESULTS, save


class Workplace:
    """The folder of an experiment, and the seconds that its parts have taken over all calls.

    Args:
        name: of the experiment.
        quick: quick runs have a folder of their own.
    """

    def __init__(self, name: str, quick: bool) -> None:
        self.name, self.quick = name, quick
        self.folder = Path(__file__).parents[2] / "development" / f"{name}{'-quick' if quick else ''}"
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part of the experiment."""
        began = time.perf_counter()
        print(f"{self.name}: {name} ...", flush=True)
        try:
            yield
        finally:
            spent = self.seconds()
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
            self._clock.write_text(json.dumps(spent))
            print(f"{self.name}: {name}: {spent[name]:.0f} s", flush=True)

    def seconds(self) -> dict[str, float]:
        """Seconds of each part so far."""
        return json.loads(self._clock.read_text()) if self._clock.exists() else {}

    @property
    def _clock(self) -> Path:
        return self.folder / "seconds.json"

    def keep(self, result: Mapping[str, Any], figure: Any) -> dict[str, Any]:
        """Write the result and its figure; gives the result as plain values."""
        title = self.name if self.name == "induction" else f"development-{self.name}"
        seconds = self.seconds()
        command = f"python -m research.development {self.name}{' --quick' if self.quick else ''}"
        kept = plain({"command": command, "seconds": sum(seconds.values()), "seconds_by_part": seconds, **result})
        path = save(title, kept, self.quick)
        figure.savefig(path.with_suffix(".png"), dpi=150)
        print(f"{path.relative_to(RESULTS.parents[1])}, {path.with_suffix('.png').name}")
        return kept


def plain(value: Any) -> Any:
    """Numbers, lists and dictionaries that JSON knows; what is not finite becomes None."""
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def count_findings(traj: Any) -> dict[str, int]:
    """At how many checkpoints of a trajectory each finding of the chains is made, by code."""
    return dict(sorted(Counter(finding.code for one in traj.findings() for finding in one).items()))


def panels(tree: Any, below: Mapping[str, np.ndarray], *, below_label: str) -> tuple[Any, Any]:
    """A figure of three panels over the log of the step: coefficient and loss (`plot_trajectory`), and other curves, `[run, step]` by label, last."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    from jaxllc.plots import BLUE, GREY, ORANGE, plot_trajectory

    both, axes = plt.subplots(3, 1, figsize=(7.5, 8), sharex=True, height_ratios=(3, 2, 2), layout="constrained")
    plot_trajectory(tree, axes[:2])
    axes[1].set_xlabel("")
    step = tree.coords["step"].values
    for color, (label, curves) in zip(("#009e73", "#cc79a7", GREY, ORANGE, BLUE), below.items(), strict=False):
        for i, curve in enumerate(np.atleast_2d(curves)):
            axes[2].plot(step, curve, color=color, lw=0.9, label=label if i == 0 else None)
    axes[2].set_ylabel(below_label)
    axes[2].set_xlabel("training step")
    axes[2].legend(frameon=False, fontsize="small")
    axes[2].spines[["top", "right"]].set_visible(False)
    return both, axes
