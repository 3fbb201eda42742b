r"""The toy model of superposition: six features in two dimensions (Chen et al., arXiv:2310.06301).

At the polygons the coefficient of the population loss is known: 8.5 for five corners with the spare bias on, 7 for five with a dead feature, 8.5 for six.
They are estimated at several nβ, since at a finite temperature ReLUs switch within the cloud and $\hat\lambda$ need not have reached its limit; γ = 1.
The loss is in nats under an output variance of one half. Then runs from random weights, with the coefficient along: phase transitions are steps of the loss
down and of the coefficient up. Each step of the loss is paired with the change of the coefficient over the same checkpoints.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxllc
from jaxllc.models import tms
from jaxllc.models.train import Recipe, checkpoint_steps, train_seeds
from jaxllc.results import values
from research.development.analysis import over_chains
from research.development.common import Workplace, panels

KINDS = ((5, "on"), (5, "dead"), (6, "dead"))
NBETAS = (300.0, 3000.0, 30_000.0)
NUM_EXAMPLES = 1_000_000
"""So many that the polygon, a critical point of the population, is one of the sample too at these nβ."""

STEEP = 0.03
"""The loss takes a step where it falls by this share of its whole fall from one checkpoint to the next."""


def draw_batch(key: jax.Array, _: Any) -> jax.Array:
    """1024 fresh inputs."""
    return tms.examples(key, 1024)


def run(seeds: int | None, quick: bool) -> dict[str, Any]:
    """The polygons against theory; then runs."""
    place = Workplace("superposition", quick)
    count, num_steps, num_checkpoints = (2, 2000, 16) if quick else (6, 20_000, 60)
    count = seeds or count
    chains: dict[str, Any] = dict(num_chains=8, num_draws=1000, num_burn_in=1000) if quick else dict(num_chains=8, num_draws=6000, num_burn_in=4000)
    data = jaxllc.InMemory.of(tms.examples(jax.random.key(0), NUM_EXAMPLES // 10 if quick else NUM_EXAMPLES), 1024)
    points: list[dict[str, Any]] = []
    with place.part("polygons"):
        for corners, spare in KINDS:
            params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tms.polygon(corners, spare=spare))
            for nbeta in NBETAS:
                est = jaxllc.estimate(tms.squared_loss, params, data, key=jax.random.key(1), nbeta=nbeta, progress=False, **chains)
                row = {"corners": corners, "spare": spare, "nbeta": nbeta, "llc": est.llc, "std_error": est.std_error, "rhat": est.rhat}
                points.append(row | {"exact": tms.polygon_llc(corners, spare=spare), "findings": [finding.code for finding in est.findings]})
    steps = checkpoint_steps(num_steps, num_checkpoints, 0, first=20)
    with place.part("train"):
        recipe = Recipe(tms.squared_loss, draw_batch, jnp.zeros(1), optax.sgd(0.05))
        runs = train_seeds(recipe, tms.init_params, key=jax.random.key(2), seeds=range(count), steps=steps, directory=place.folder / "checkpoints")
    with place.part("coefficients"):
        traj = jaxllc.trajectory(
            tms.squared_loss, runs, data, key=jax.random.key(3), nbeta=NBETAS[1], localization=10.0, num_chains=8, num_draws=500, num_burn_in=500,
            store=place.folder / "llc.zarr", progress=False,
        )  # fmt: skip
    sizes = np.asarray([[np.sort(np.linalg.norm(np.asarray(runs[name][step]["weight"]), axis=0)) for step in steps] for name in runs])
    stages = traj.stages()
    loss, llc = values(traj.data, "constant_data/full_center_loss"), values(traj.data, "posterior/llc").mean(-1)
    paired = [{"run": str(run), **row} for run, *curves in zip(runs, loss, llc, strict=True) for row in steps_of_loss(np.asarray(steps), *curves)]
    ends = traj.table().groupby("run", sort=False).last()
    result = {
        "num_seeds": count,
        "num_checkpoints": len(steps),
        "polygons": points,
        "steps_of_loss": paired,
        "stages": stages.to_dict("records"),
        "type_counts": stages["type"].value_counts().to_dict(),
        "ends": [{"run": str(run), "loss": row["loss"], "llc": row["llc"], "std_error": row["std_error"]} for run, row in ends.iterrows()],
        "features_at_end": (sizes[:, -1] > 0.5).sum(-1),
    }
    figure, axes = panels(traj.data, {"features with a norm above 0.5": (sizes > 0.5).sum(-1)}, below_label="features")
    axes[0].set_title("The toy model of superposition: training runs; dotted: 7 and 8.5", loc="left", fontsize="medium")
    axes[0].set_ylim(-20, 15)  # before the loss has fallen, chains find far better weights than the checkpoint's
    for value in (7.0, 8.5):
        axes[0].axhline(value, color="#7f7f7f", lw=0.7, ls=":", zorder=0)
    return place.keep(result, figure)


def steps_of_loss(step: np.ndarray, loss: np.ndarray, llc: np.ndarray) -> list[dict[str, Any]]:
    """The steps of a run's loss, each with the change of the coefficient over it.

    A step is a stretch of neighbouring checkpoints between each two of which the loss falls by at least `STEEP` of its fall over the whole run.

    Args:
        step: `[step]`.
        loss: at the checkpoints, `[step]`.
        llc: `[step, chain]`; the error of the change is paired by chain.
    """
    steep = -np.diff(loss) >= STEEP * (loss[0] - loss.min())
    edges = np.flatnonzero(np.diff(np.concatenate([[False], steep, [False]]).astype(int)))
    found = []
    for first, last in edges.reshape(-1, 2):
        change, error = over_chains(llc[last] - llc[first])
        place = {"start": int(step[first]), "end": int(step[last]), "delta_loss": float(loss[last] - loss[first])}
        direction = "opposite" if change > 2 * error else "same" if change < -2 * error else "undecided"
        found.append(place | {"delta_llc": change, "delta_llc_error": error, "direction": direction})
    return found


def table(result: dict[str, Any]) -> str:
    """The polygons and the steps of the runs as Markdown."""
    lines = ["| corners | spare feature | exact λ | nβ | λ̂ | findings |", "|---|---|---|---|---|---|"]
    for row in result["polygons"]:
        found = f"{row['llc']:.2f} ± {row['std_error']:.2f} | {', '.join(row['findings']) or 'none'}"
        lines.append(f"| {row['corners']} | {row['spare'] if row['corners'] < 6 else 'none'} | {row['exact']:g} | {row['nbeta']:g} | {found} |")
    lines += ["", "| run | step of the loss | change of the loss | change of λ̂ | directions |", "|---|---|---|---|---|"]
    for row in result["steps_of_loss"]:
        changes = f"{row['delta_loss']:.3f} | {row['delta_llc']:.2f} ± {row['delta_llc_error']:.2f}"
        lines.append(f"| {row['run']} | {row['start']} to {row['end']} | {changes} | {row['direction']} |")
    return "\n".join(lines)
