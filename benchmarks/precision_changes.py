r"""Seconds a checkpoint until the change of $\hat\lambda$ between neighbours is known to 1 % of $\hat\lambda$: thirty checkpoints of the digits MLP.

Every sampler runs the same random numbers at each checkpoint, as far as it can: ours shares noise and batches, other packages get the same seeds. What that is
worth shows in the spread of the differences over units, so nothing is assumed. Other packages run at `PAIRS` pairs of neighbours.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import jaxllc
from benchmarks.precision_chains import BLOCK, LOOP, OURS, PACKAGES, Theirs, blocked, loop_chains, step_costs
from benchmarks.precision_problems import Problem, checkpoints
from benchmarks.precision_store import Kept
from benchmarks.time_to_error import Units, to_change

SHARES = (1 / 64, 1 / 16, 1 / 4)
PAIRS = (0, 9, 19, 28)
"""Of neighbours, by the index of the first."""
TARGET = 0.01
UNITS, STEPS, SECONDS = 16, 4000, 10.0
"""Chains, their iterations, and the seconds of those of a setting at a checkpoint, at most, on an idle machine: longer ones are cut."""


def ours(problem: Problem, weights: dict[int, Any], step_size: float, units: int, steps: int) -> np.ndarray:
    """Block means of all checkpoints in one program, `[checkpoint, chain, block]`."""
    traj = jaxllc.trajectory(
        problem.loss_fn, weights, problem.data, sampler=jaxllc.SGLD(step_size), batch_size=problem.batch_size, num_chains=units, num_draws=steps, num_burn_in=0,
        key=jax.random.key(0), progress=False, group_size=len(weights), **problem.options,
    )  # fmt: skip
    draws = traj.data["posterior"]["llc"].transpose("step", "chain", "draw").values
    return blocked(np.asarray(draws, float) + np.asarray(traj.data["constant_data"]["llc_correction"].values, float)[:, None, None], BLOCK)


def measure(kept: Kept, quick: bool, stages: Sequence[str], rivals: Sequence[str]) -> None:
    """The traces that are missing, the costs of an iteration, and the time that follows."""
    problem, weights = checkpoints()
    steps, units, shares = (200, 4, SHARES[1:2]) if quick else (STEPS, UNITS, SHARES)
    pairs = PAIRS[:1] if quick else PAIRS
    at = sorted({index for pair in pairs for index in (pair, pair + 1)})
    chosen = dict(list(weights.items())[: 4 if quick else None])
    part = kept.part
    if "limits" not in part:
        part["limits"] = {str(i): problem._replace(params=list(weights.values())[i]).limit() for i in at}
    limit = min(part["limits"].values())
    part |= {"label": "digits MLP, 30 checkpoints", "pairs": list(pairs), "checkpoints": len(chosen)}
    if "costs" in stages and not {OURS, *rivals} <= {*part.get("costs", {})}:
        part["costs"] = part.get("costs", {}) | step_costs(problem, limit, rivals, quick)
        kept.save()
    if "chains" in stages:
        how = {"shares": shares, "units": units, "steps": steps, "limit": limit, "at": at, "rivals": rivals, "seconds": 1.0 if quick else SECONDS}
        _chains(problem, chosen, kept, how)
    if part.get("costs"):
        part["found"] = {name: found for name in (OURS, LOOP, *PACKAGES) if (found := result(name, kept, len(chosen), at)) is not None}
    kept.save()


def _chains(problem: Problem, weights: dict[int, Any], kept: Kept, how: dict[str, Any]) -> None:
    some = [list(weights.values())[i] for i in how["at"]]
    units = how["units"]

    def steps(name: str, units: int) -> int:
        affordable = how["seconds"] / units / kept.part["costs"][name]["seconds"]
        return max(10 * BLOCK, int(min(how["steps"], affordable)) // BLOCK * BLOCK)

    for share in how["shares"]:
        step_size = share * how["limit"]
        if not kept.has(OURS, share):
            kept.add(OURS, share, ours(problem, weights, step_size, units, steps(OURS, units)))
        if not kept.has(LOOP, share):
            kept.add(LOOP, share, np.stack([loop_chains(problem, params, step_size, units, steps(LOOP, units)) for params in some]))
    for name in how["rivals"]:
        if all(kept.has(name, share) for share in how["shares"]):
            continue
        count = units // 2 if name.startswith("canonical") else units
        theirs = Theirs(name, problem, how["limit"], some)
        for share in how["shares"]:
            if not kept.has(name, share):
                kept.add(name, share, np.stack([theirs.chains(i, share * how["limit"], count, steps(name, count)) for i in range(len(some))]))
        theirs.close()


def result(name: str, kept: Kept, count: int, at: Sequence[int]) -> dict[str, Any] | None:
    """The least seconds of a sampler, and how much smaller common random numbers make the variance of a change; None where it was not run."""
    if name not in kept.part["costs"] or not kept.of(name):
        return None
    cost, differences, shared = kept.part["costs"][name]["seconds"], [], {}
    sizes: list[float] = []
    for share, llc in kept.of(name):
        present = list(range(count)) if name == OURS else list(at)
        pairs = [(i, i + 1) for i in range(len(present) - 1) if present[i + 1] == present[i] + 1 and (name == OURS or present[i] in kept.part["pairs"])]
        sizes = sizes or [abs(float(np.nanmean(llc[j][:, llc.shape[-1] // 2 :]))) for _, j in pairs]
        differences.append([Units(f"1/{1 / share:.0f}", llc[j] - llc[i], BLOCK, cost) for i, j in pairs])
        late = llc[..., llc.shape[-1] // 2 :].mean(-1)
        gains = [(late[i].var(ddof=1) + late[j].var(ddof=1)) / (late[j] - late[i]).var(ddof=1) for i, j in pairs]
        if np.isfinite(gains).all():
            shared[f"1/{1 / share:.0f}"] = statistics.median(map(float, gains))
    return {**to_change(differences, sizes, TARGET), "gain_by_common_numbers": shared}
