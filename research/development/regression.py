r"""In-context linear regression (stages LR1 to LR5 of Hoogland et al., arXiv:2402.02364): where λ̂ only mirrors the loss.

Where the mean loss of the chains, E[L], is at or above that of the predictor 0, the chains have left the basin; then E[L] is nearly constant, and
$\hat\lambda = n\beta (E[L] - L)$ says no more than the loss L does. Two settings: the *published* localization (nβ = 66.7, γ = 6.67; our sampler, step size
3e-4) and a *stronger* one, γ = 1000. At each checkpoint E[L] is compared with the loss of the predictor 0, D + σ². Where it is lower, the correlation
of λ̂ with the loss says how much λ̂ adds; elsewhere the correlation is -1 by construction.

The 1500 steps include LR1 (published end: 1000 steps) and the beginning of LR2, in which the model learns to learn in context. LR3 to LR5 (from 40 000 steps
on), where the published λ̂ falls, would take too long.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxllc
from jaxllc.models import regression
from jaxllc.models.train import Recipe, checkpoint_steps, train_seeds
from research.development.analysis import over_seeds
from research.development.common import Workplace, panels

SETTINGS: dict[str, dict[str, Any]] = {
    "published": dict(nbeta=66.7, localization=6.67, sampler=jaxllc.SGLD(3e-4)),
    "stronger": dict(nbeta=66.7, localization=1000.0, sampler=jaxllc.SGLD(1e-4)),
}

MIN_CHECKPOINTS = 4
"""Checkpoints below which no correlation is given."""


def draw_batch(key: jax.Array, _: Any) -> Any:
    """128 fresh sequences."""
    return regression.draw(key, 128)


def run(seeds: int | None, quick: bool) -> dict[str, Any]:
    """Train, estimate λ̂ with both settings, draw."""
    place = Workplace("regression", quick)
    count, num_steps, num_checkpoints = (2, 150, 8) if quick else (5, 1500, 20)
    count = seeds or count
    chains: dict[str, Any] = dict(num_chains=4, num_draws=30, num_burn_in=30) if quick else dict(num_chains=4, num_draws=100, num_burn_in=100)
    model = regression.RegressionTransformer()
    loss_fn = regression.squared_loss(model)
    data = regression.draw(jax.random.key(0), 2048)
    zero, ridge = float(regression.zero_loss(data).mean()), float(regression.ridge_loss(data).mean())
    steps = sorted({0, *checkpoint_steps(num_steps, num_checkpoints, 0, first=10)})
    with place.part("train"):
        recipe = Recipe(loss_fn, draw_batch, jnp.zeros(1), optax.adam(3e-3))
        runs = train_seeds(recipe, model.init_params, key=jax.random.key(1), seeds=range(count), steps=steps, directory=place.folder / "checkpoints")
    trajectories, answers = {}, {}
    for name, setting in SETTINGS.items():
        with place.part(name):
            trajectories[name] = traj = jaxllc.trajectory(
                loss_fn, runs, data, key=jax.random.key(2), batch_size=32, reference_loss=zero, store=place.folder / f"llc-{name}.zarr", progress=False,
                **setting, **chains,
            )  # fmt: skip
        llc, loss, mean_loss = (np.atleast_2d(traj.summary[column].values) for column in ("llc", "loss", "mean_loss"))
        finite = np.isfinite(llc)
        informed = finite & (mean_loss < zero)
        answers[name] = {
            "nbeta": setting["nbeta"],
            "localization": setting["localization"],
            "share_at_or_above_uninformed": float((mean_loss[finite] >= zero).mean()),
            "mean_loss_over_uninformed": over_seeds(np.nanmean(mean_loss, -1) / zero),
            "num_informed": informed.sum(-1),
            "correlation_with_loss": over_seeds(correlations(llc, loss, informed)),
            "correlation_with_loss_elsewhere": over_seeds(correlations(llc, loss, finite & ~informed)),
            "llc": llc,
            "mean_loss": mean_loss,
            "num_diverged": int(traj.summary["num_diverged"].values.sum()),
        }
    final = np.atleast_2d(trajectories["stronger"].summary["loss"].values)
    result = {"num_seeds": count, "num_checkpoints": len(steps), "zero_loss": zero, "ridge_loss": ridge, "step": steps, "loss": final, "settings": answers}
    figure, axes = panels(
        trajectories["stronger"], {f"E[L], {name}": np.asarray(answer["mean_loss"]) for name, answer in answers.items()}, below_label="mean loss of chains"
    )
    axes[2].axhline(zero, color="k", lw=0.8, ls=":", label="the predictor 0")
    axes[2].set_yscale("log")
    axes[2].legend(frameon=False, fontsize="small")
    axes[0].set_title("In-context regression, γ = 1000", loc="left", fontsize="medium")
    return place.save(result, figure)


def correlations(llc: np.ndarray, loss: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Correlation of λ̂ and loss, each `[run, step]`, over the chosen checkpoints of each run, `[run]`; NaN of fewer than `MIN_CHECKPOINTS`."""
    return np.asarray([np.corrcoef(a[c], b[c])[0, 1] if c.sum() >= MIN_CHECKPOINTS else np.nan for a, b, c in zip(llc, loss, chosen, strict=True)])


def table(result: dict[str, Any]) -> str:
    """The settings as Markdown."""
    lines = [
        "| setting | γ | checkpoints with E[L] at or above the predictor 0 | E[L] ÷ its loss | correlation of λ̂ and loss at these | at the others |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["settings"].items():
        ratio, at_these, at_others = (
            "too few" if x["mean"] is None else f"{x['mean']:.2f} ± {x['std_error'] or 0:.2f}"
            for x in (row["mean_loss_over_uninformed"], row["correlation_with_loss_elsewhere"], row["correlation_with_loss"])
        )
        lines.append(f"| {name} | {row['localization']:g} | {row['share_at_or_above_uninformed']:.0%} | {ratio} | {at_these} | {at_others} |")
    return "\n".join(lines)
