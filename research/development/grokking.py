"""Grokking: addition modulo 53, learnt by heart first and understood later (Power et al., arXiv:2201.02177), with the coefficient of the training loss along.

A net of one hidden layer of 128, all training sums at each step, AdamW. The coefficient is that of the training loss at nβ = n / ln n for its n sums, and
knows nothing of the test sums; their loss and accuracy are observables.
"""

from typing import Any

import jax
import numpy as np
import optax

import jaxllc
from jaxllc.models import modular
from jaxllc.models.train import Recipe, checkpoint_steps, train_seeds
from jaxllc.results import values
from research.development.analysis import crossing, over_seeds
from research.development.common import Workplace, count_findings, panels

MODULUS, TRAIN_FRACTION = 53, 0.5
LEARNING_RATE, WEIGHT_DECAY = 1e-2, 1.0


def all_sums(key: jax.Array, data: Any) -> Any:
    """The whole training set at each step."""
    return data


def run(seeds: int | None, quick: bool) -> dict[str, Any]:
    """Train, follow, draw."""
    place = Workplace("grokking", quick)
    count, num_steps, num_checkpoints = (1, 1000, 12) if quick else (3, 5000, 40)
    count = seeds or count
    chains: dict[str, Any] = dict(num_chains=4, num_draws=50, num_burn_in=50) if quick else dict(num_chains=8, num_draws=200, num_burn_in=200)
    model = modular.ModularNet(MODULUS)
    loss_fn = modular.cross_entropy(model)
    training, test = modular.split(jax.random.key(0), MODULUS, TRAIN_FRACTION)
    steps = sorted({0, *checkpoint_steps(num_steps, num_checkpoints, 0, first=20)})
    with place.part("train"):
        recipe = Recipe(loss_fn, all_sums, training, optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY))
        runs = train_seeds(recipe, model.init_params, key=jax.random.key(1), seeds=range(count), steps=steps, directory=place.folder / "checkpoints")
    watched = {
        "test_loss": lambda params: loss_fn(params, test).mean(),
        "test_accuracy": lambda params: modular.accuracy(model, params, test),
        "train_accuracy": lambda params: modular.accuracy(model, params, training),
    }
    with place.part("coefficients"):
        traj = jaxllc.trajectory(
            loss_fn, runs, training, key=jax.random.key(2), localization=100.0, observables=watched, reference_loss=float(np.log(MODULUS)),
            store=place.folder / "llc.zarr", progress=False, **chains,
        )  # fmt: skip
    step = np.asarray(traj.data.coords["step"].values)
    curves = {name: values(traj.data, f"observables/{name}") for name in watched}
    llc = values(traj.data, "posterior/llc").mean((-2, -1))
    rows = []
    for i, name in enumerate(runs):
        learnt, grokked = (
            float(next((s for s, a in zip(step, curves[which][i], strict=True) if a > 0.95), np.nan)) for which in ("train_accuracy", "test_accuracy")
        )
        peak = int(llc[i].argmax())
        rows.append(
            {
                "run": name,
                "by_heart_at": learnt,
                "understood_at": grokked,
                "test_half_rise": crossing(step, curves["test_accuracy"][i], 0.5),
                "llc_peak_at": float(step[peak]),
                "llc_peak": llc[i, peak],
                "llc_at_end": llc[i, -1],
                "test_accuracy_at_end": curves["test_accuracy"][i, -1],
            }
        )
    result = {
        "num_seeds": count,
        "num_checkpoints": len(steps),
        "nbeta": float(traj.data.attrs["nbeta"]),
        "step_size": float(traj.data.attrs["default_step_size"]),
        "rows": rows,
        "llc_at_end": over_seeds(llc[:, -1]),
        "findings": count_findings(traj),
        "stages": traj.stages().to_dict("records"),
    }
    figure, axes = panels(traj.data, {name.replace("_", " "): curves[name] for name in ("train_accuracy", "test_accuracy")}, below_label="accuracy")
    for curve in curves["test_loss"]:
        axes[1].plot(step, curve, color="#cc79a7", lw=0.9)
    axes[1].plot([], [], color="#cc79a7", label="of the test sums")
    axes[1].legend(frameon=False, fontsize="small")
    axes[0].set_title("Addition modulo 53: the coefficient of the training loss", loc="left", fontsize="medium")
    return place.keep(result, figure)


def table(result: dict[str, Any]) -> str:
    """The seeds as Markdown."""
    lines = ["| run | by heart at | understood at | λ̂ greatest at | λ̂ there | λ̂ at the end | test accuracy at the end |", "|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        at = " | ".join("never" if row[name] is None else f"{row[name]:.0f}" for name in ("by_heart_at", "understood_at", "llc_peak_at"))
        lines.append(f"| {row['run']} | {at} | {row['llc_peak']:.1f} | {row['llc_at_end']:.1f} | {row['test_accuracy_at_end']:.2f} |")
    return "\n".join(lines)
