r"""Saddle to saddle: a deep linear net of small first weights learns one mode after another (Saxe et al., arXiv:1312.6120; Jacot et al., arXiv:2106.15933).

With r modes learnt the net stands near a saddle of its loss whose product of matrices has rank r. A coefficient belongs to a function, so each plateau is asked
twice, at the checkpoint nearest to the saddle: against the *task's* labels, on which the chains may fall off it, and against labels of the plateau's *own*
function (its product cut to rank r, with unit noise), whose exact coefficient is `jaxllc.theory.deep_linear_llc(widths, r)`, as nβ goes to infinity. Such
points are singular, where
$\hat\lambda$ approaches its limit as slowly as 1 / ln nβ (times the multiplicity less one).
"""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxllc
from jaxllc.models import linear
from jaxllc.models.train import Recipe, checkpoint_steps, train_seeds
from jaxllc.results import values
from jaxllc.theory import deep_linear_llc
from research.development.analysis import Interval, over_seeds
from research.development.common import Workplace, panels

WIDTHS = (8, 8, 8, 8)
MODES = (8.0, 5.0, 3.0, 1.8)
"""Singular values of the task, in the first coordinates."""
FIRST_WEIGHTS = 0.02
"""Standard deviation of the weights at step 0."""
LEARNING_RATE = 0.005
NUM_EXAMPLES = 1000
SAMPLER = jaxllc.SGHMC(6e-6)
"""Momentum and all data at each step: near zero the loss is so flat that chains of SGLD would take 100 000 steps to leave, and they find far larger curvatures
where they go, so the step is a fiftieth of the limit of stability at two modes."""


def init_params(key: jax.Array) -> list[jax.Array]:
    """Small weights."""
    shapes = list(pairwise(WIDTHS))
    return [FIRST_WEIGHTS * jax.random.normal(key, shape) for key, shape in zip(jax.random.split(key, len(shapes)), shapes, strict=True)]


def draw_batch(key: jax.Array, data: Any) -> Any:
    """256 examples out of the data."""
    rows = jax.random.randint(key, (256,), 0, NUM_EXAMPLES)
    return jax.tree.map(lambda leaf: leaf[rows], data)


def product(params: Any) -> np.ndarray:
    """Of all matrices."""
    return np.linalg.multi_dot([np.asarray(weight, float) for weight in params])


def shares_learnt(params: Any) -> np.ndarray:
    """The singular values of the product over those of the task's modes, `[modes]`."""
    return np.linalg.svd(product(params), compute_uv=False)[: len(MODES)] / np.asarray(MODES)


def labels_of(function: np.ndarray, key: jax.Array) -> Any:
    """Normal inputs with a function's outputs and unit noise."""
    return linear.examples(key, [jnp.asarray(function, jnp.float32)], NUM_EXAMPLES)


def plateau(steps: list[int], shares: np.ndarray, rank: int) -> int | None:
    """Of the checkpoints that have learnt more than half of just so many modes, the one nearest to the saddle; None where there are none.

    Args:
        steps: of the checkpoints.
        shares: `shares_learnt` of each, `[steps, modes]`.
        rank: modes learnt.
    """
    off = np.abs(shares - (np.arange(shares.shape[1]) < rank)).max(-1)
    off[(shares > 0.5).sum(-1) != rank] = np.inf
    return steps[int(off.argmin())] if np.isfinite(off).any() else None


def run(seeds: int | None, quick: bool) -> dict[str, Any]:
    """Train, follow, compare with the exact coefficients, draw."""
    place = Workplace("saddle", quick)
    count, num_steps, num_log, num_linear = (2, 1500, 4, 12) if quick else (5, 3000, 4, 26)
    count = seeds or count
    chains: dict[str, Any] = dict(num_chains=8, num_draws=1000, num_burn_in=500) if quick else dict(num_chains=8, num_draws=6000, num_burn_in=6000)
    task = np.zeros((WIDTHS[0], WIDTHS[-1]))
    task[range(len(MODES)), range(len(MODES))] = MODES
    data = labels_of(task, jax.random.key(0))
    steps = sorted({0, *checkpoint_steps(num_steps, num_log, num_linear, first=10)})
    with place.part("train"):
        recipe = Recipe(linear.squared_loss, draw_batch, data, optax.sgd(LEARNING_RATE))
        runs = train_seeds(recipe, init_params, key=jax.random.key(1), seeds=range(count), steps=steps, directory=place.folder / "checkpoints")
    with place.part("coefficients"):
        traj = jaxllc.trajectory(
            linear.squared_loss, runs, data, key=jax.random.key(2), sampler=SAMPLER, batch_size=None, num_chains=8, num_draws=1000, num_burn_in=500,
            store=place.folder / "llc.zarr", progress=False,
        )  # fmt: skip
    shares = {name: np.stack([shares_learnt(runs[name][step]) for step in steps]) for name in runs}
    llc = dict(zip(runs, values(traj.data, "posterior/llc").mean((-2, -1)), strict=True))
    rows: list[dict[str, Any]] = []
    with place.part("plateaus"):
        for name in runs:
            for rank in range(len(MODES) + 1):
                step = plateau(steps, shares[name], rank)
                if step is None:
                    continue
                left, sizes, right = np.linalg.svd(product(runs[name][step]))
                own = (left[:, :rank] * sizes[:rank]) @ right[:rank]
                est = jaxllc.estimate(
                    linear.squared_loss, runs[name][step], labels_of(own, jax.random.key(3)), key=jax.random.key(4), sampler=SAMPLER,
                    batch_size=None, progress=False, **chains,
                )  # fmt: skip
                row = {"run": name, "rank": rank, "step": step, "task_llc": llc[name][steps.index(step)], "own_llc": est.llc, "own_std_error": est.std_error}
                rows.append(row | {"exact": deep_linear_llc(WIDTHS, rank).value, "findings": [finding.code for finding in est.findings]})
    by_rank = {}
    for rank in range(len(MODES) + 1):
        here = [row for row in rows if row["rank"] == rank]
        found: dict[str, Interval] = {name: over_seeds(np.asarray([row[name] for row in here], float)) for name in ("own_llc", "task_llc")}
        by_rank[rank] = {"exact": deep_linear_llc(WIDTHS, rank)._asdict(), "num_plateaus": len(here), **found}
    result = {"num_seeds": count, "num_checkpoints": len(steps), "widths": WIDTHS, "modes": MODES, "nbeta": float(traj.data.attrs["nbeta"])}
    figure, axes = panels(traj.data, {"modes learnt": np.stack([(share > 0.5).sum(-1) for share in shares.values()])}, below_label="modes learnt")
    for rank in range(len(MODES) + 1):
        axes[0].axhline(deep_linear_llc(WIDTHS, rank).value, color="#7f7f7f", lw=0.7, ls=":", zorder=0)
    axes[0].plot([row["step"] for row in rows], [row["own_llc"] for row in rows], "D", color="#cc79a7", ms=4, label="on labels of its own function")
    top = max(float(np.nanmax(np.stack(list(llc.values())))), deep_linear_llc(WIDTHS, len(MODES)).value)
    axes[0].set_ylim(-0.5 * top, 1.15 * top)
    axes[0].legend(frameon=False, fontsize="small")
    axes[0].set_title("A deep linear net from small weights; dotted: the exact coefficient of each rank", loc="left", fontsize="medium")
    return place.keep(result | {"by_rank": by_rank, "rows": rows}, figure)


def table(result: dict[str, Any]) -> str:
    """The plateaus as Markdown."""
    lines = ["| modes learnt | exact λ | λ̂, own labels | λ̂, the task's labels | plateaus |", "|---|---|---|---|---|"]
    for rank, row in result["by_rank"].items():
        own, task = (f"{x['mean']:.1f} ± {x['std_error'] or 0:.1f}" if x["mean"] is not None else "none" for x in (row["own_llc"], row["task_llc"]))
        lines.append(f"| {rank} | {row['exact']['value']:.1f} | {own} | {task} | {row['num_plateaus']} |")
    return "\n".join(lines)
