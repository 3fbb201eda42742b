r"""From traces of independent units to the seconds until $\hat\lambda$ has a given error, bias included.

A *unit* is what a sampler repeats independently: a chain, or a whole call whose chains share their batches. Of a setting some units are run from $w^*$ and
kept as means over blocks of iterations. A user's estimate is the mean of C units of T iterations each, without a share of them as burn-in. Its mean squared
error is $b(T)^2 + v(T) / C$, with the bias $b$ against the reference and the variance $v$ of one unit, and it takes C T iterations. The least time over
lengths, burn-ins and settings is what somebody pays who knows the truth.

The bias is known to $\sqrt{v / R}$ from R units, so its square is estimated without what chance adds to it on average. This and the choice of the least of
many make the times too short rather than too long. A length counts where its bias is known to `KNOWN` of the target. A setting whose longest run does not
tell that much has a least time only: the one that its variance alone asks for.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

BURN_INS = (0.0, 0.25, 0.5)
"""Shares of the iterations of a unit."""
KNOWN = 0.6
"""Share of the target to which a bias must be known."""
LENGTHS = 12
"""Numbers of iterations that are tried, evenly spaced in their logarithm."""


class Units(NamedTuple):
    """What was run of one setting."""

    setting: str
    """For tables."""
    llc: np.ndarray
    r"""Means of the package's own estimate of $\hat\lambda$ over blocks of iterations, from the first one on, `[unit, block]`."""
    block: int
    """Iterations of a block."""
    seconds: float
    """Of one iteration of one unit, with all cores at work."""
    before: int = 0
    """Iterations that a unit makes before the first block: burn-in that is never part of the estimate."""


class Reference(NamedTuple):
    """The known value."""

    llc: float
    std_error: float = 0.0


def estimates(units: Units) -> Iterable[tuple[int, float, np.ndarray]]:
    """Iterations, burn-in as a share of them, and the estimate of each unit, of all lengths and burn-ins; none of units that diverged."""
    count = units.llc.shape[1]
    for length in sorted({*np.geomspace(1, count, LENGTHS).round().astype(int).tolist()}):
        for burn_in in BURN_INS[: 1 if units.before else None]:
            each = units.llc[:, int(burn_in * length) : length].mean(1)
            if np.isfinite(each).all():
                yield units.before + length * units.block, burn_in, each


def candidates(units: Units, reference: Reference) -> Iterable[dict[str, Any]]:
    """Of each length and burn-in the bias without what chance explains, the variance of a unit, and how well the bias is known, as shares of the reference."""
    for steps, burn_in, each in estimates(units):
        variance = float(each.var(ddof=1))
        chance = variance / len(each) + reference.std_error**2
        off = float(each.mean() - reference.llc)
        size = abs(reference.llc)
        yield {
            "setting": units.setting, "steps": steps, "burn_in": burn_in, "bias": off / size, "known_to": math.sqrt(chance) / size,
            "squared_bias": max(off**2 - chance, 0.0) / size**2, "variance": variance / size**2, "step_seconds": units.seconds, "repeated": len(each),
        }  # fmt: skip


def to_error(runs: Sequence[Units], reference: Reference, target: float) -> dict[str, Any]:
    """The least seconds to a root mean square error, with the setting, the iterations and the number of units that give it.

    Args:
        runs: one entry a setting.
        reference: the known value.
        target: as a share of the reference.

    Returns:
        `seconds` is None where no length and setting has so small a bias. `resolved` is False where no longest run tells its bias, or the reference is not
        known well enough to tell any; then the seconds are the least that variance asks for. `least_error` is that of the mean of all units that were run, at
        the best length and setting; `longest` has the iterations of the longest unit.
    """
    tried = [(units, list(candidates(units, reference))) for units in runs]
    lines = [line for _, of_setting in tried for line in of_setting]
    known = [line for line in lines if line["known_to"] <= KNOWN * target]
    least = min((math.sqrt(line["squared_bias"] + line["variance"] / line["repeated"]) for line in known or lines), default=None)
    about = {"target": target, "least_error": least, "longest": max((line["steps"] for line in lines), default=0)}
    good = [priced(line, target) for line in known if line["squared_bias"] < target**2]
    if good:
        return {**about, "resolved": True, **min(good, key=lambda line: line["seconds"])}
    unknown = []
    for units, of_setting in tried:
        whole = [line for line in of_setting if line["steps"] == units.before + units.llc.shape[1] * units.block]
        if whole and min(line["known_to"] for line in whole) > KNOWN * target:
            unknown += [line for line in whole if line["squared_bias"] < target**2]
    if not known:  # the reference itself tells too little, of shorter runs as well
        unknown = unknown or [line for line in lines if line["squared_bias"] < target**2]
    unknown = [priced({**line, "squared_bias": 0.0}, target) for line in unknown]
    if unknown:
        return {**about, "resolved": False, **min(unknown, key=lambda line: line["seconds"])}
    return {**about, "resolved": True, "seconds": None}


def priced(line: Mapping[str, Any], target: float) -> dict[str, Any]:
    """A candidate with the number of units that it takes, and their seconds."""
    units = max(1, math.ceil(line["variance"] / (target**2 - line["squared_bias"])))
    return {**line, "units": units, "seconds": units * line["steps"] * line["step_seconds"]}


def to_change(pairs: Sequence[Sequence[Units]], sizes: Sequence[float], target: float) -> dict[str, Any]:
    r"""The least seconds a checkpoint until the change between neighbours has a given error, in the median over pairs of neighbours.

    No change is known, so each setting is held against its own longest run: a bias that lasts is forgiven.

    Args:
        pairs: for each setting, what was run of each pair of neighbours: the differences, unit by unit.
        sizes: $\hat\lambda$ of each pair, of which the target is a share.
        target: root mean square error.
    """
    good = []
    for of_setting in pairs:
        by_length: dict[tuple[int, float], list[dict[str, Any]]] = {}
        for units, size in zip(of_setting, sizes, strict=True):
            last = units.llc[:, units.llc.shape[1] // 2 :].mean(1)
            scaled = units._replace(llc=1 + (units.llc - last.mean()) / size)  # of a reference of 1
            for line in candidates(scaled, Reference(1.0)):
                if line["squared_bias"] < target**2 and line["known_to"] <= KNOWN * target:
                    by_length.setdefault((line["steps"], line["burn_in"]), []).append(priced(line, target))
        whole = [sorted(lines, key=lambda line: line["seconds"])[len(lines) // 2] for lines in by_length.values() if len(lines) == len(sizes)]
        good += whole
    return {"target": target, "seconds": None} if not good else {"target": target, **min(good, key=lambda line: line["seconds"])}
