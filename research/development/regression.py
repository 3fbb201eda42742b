r"""In-context linear regression (stages LR1 to LR5 of Hoogland et al., arXiv:2402.02364): where λ̂ only mirrors the loss.

Where the mean loss of the chains, E[L], is at or above that of the predictor 0, the chains have left the basin; then E[L] is nearly constant, and
$\hat\lambda = n\beta (E[L] - L)$ says no more than the loss L does. Two settings: the *published* localization (nβ = 66.7, γ = 6.67; our sampler, step size
3e-4) and a *stronger* one, γ = 1000. At each checkpoint E[L] is compared with the loss of the predictor 0, D + σ². Where it is lower, the correlation
of λ̂ with the loss says how much λ̂ adds; elsewhere the correlation is -1 by construction.

Training is that of the paper at a fifth of its length: 100 000 steps of Adam on 256 fresh sequences, the learning rate rising to 3e-3 until the middle and
falling to the end. In its 500 000 steps the published λ̂ falls from step 40 000 to 320 000 (LR3 and LR4). A third setting, *sharp*, nβ = γ = 1000, keeps
chains nearest to w*; whether λ̂ falls is asked of it and of *stronger* alone, from bin to bin of log-time after step 1000 (`fall`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxllc
from jaxllc.estimator import corrected_draws
from jaxllc.models import regression
from jaxllc.models.train import Recipe, checkpoint_steps, train_seeds
from jaxllc.results import values
from research.development.analysis import over_seeds
from research.development.common import Workplace, count_findings, panels
from research.development.fall import binned, largest_fall
from research.development.induction_report import interval, number

SETTINGS: dict[str, dict[str, Any]] = {
    "published": dict(nbeta=66.7, localization=6.67, sampler=jaxllc.SGLD(3e-4)),
    "stronger": dict(nbeta=66.7, localization=1000.0, sampler=jaxllc.SGLD(1e-4)),
    "sharp": dict(nbeta=1000.0, localization=1000.0, sampler=jaxllc.SGLD(3e-5)),
}
FALL_FROM, FALL_BINS = 100, 14
"""The share of the run, one over this, from which on a fall is sought, and the bins of log-time from there to the end."""

MIN_CHECKPOINTS = 4
"""Checkpoints below which no correlation is given."""


def draw_batch(key: jax.Array, _: Any) -> Any:
    """256 fresh sequences."""
    return regression.draw(key, 256)


def optimizer(num_steps: int) -> optax.GradientTransformation:
    """Adam, its learning rate linear up to 3e-3 in the middle of the run and down again."""
    half = num_steps // 2
    return optax.adam(optax.join_schedules([optax.linear_schedule(3e-3 / 25, 3e-3, half), optax.linear_schedule(3e-3, 3e-7, num_steps - half)], [half]))


def run(seeds: int | None, quick: bool) -> dict[str, Any]:
    """Train, estimate λ̂ with both settings, draw."""
    place = Workplace("regression", quick)
    count, num_steps, num_checkpoints = (2, 150, 8) if quick else (5, 100_000, 48)
    count = seeds or count
    chains: dict[str, Any] = dict(num_chains=4, num_draws=30, num_burn_in=30) if quick else dict(num_chains=4, num_draws=200, num_burn_in=100)
    model = regression.RegressionTransformer()
    loss_fn = regression.squared_loss(model)
    data = regression.draw(jax.random.key(0), 2048)
    zero, ridge = float(regression.zero_loss(data).mean()), float(regression.ridge_loss(data).mean())
    steps = sorted({0, *checkpoint_steps(num_steps, num_checkpoints, 0, first=10)})
    with place.part("train"):
        recipe = Recipe(loss_fn, draw_batch, jnp.zeros(1), optimizer(num_steps))
        runs = train_seeds(recipe, model.init_params, key=jax.random.key(1), seeds=range(count), steps=steps, directory=place.folder / "checkpoints")
    looks, trajectories, answers = probes(model), {}, {}
    for name, setting in SETTINGS.items():
        with place.part(name):
            trajectories[name] = jaxllc.trajectory(
                loss_fn, runs, data, key=jax.random.key(2), batch_size=32, reference_loss=zero, probes=looks, store=place.folder / f"llc-{name}.zarr",
                progress=False, **setting, **chains,
            )  # fmt: skip
        answers[name] = answer_of(trajectories[name], setting, zero)
    stronger = trajectories["stronger"]
    final, seen = np.atleast_2d(stronger.summary["loss"].values), {name: np.round(values(stronger.data, f"probes/{name}"), 4) for name in looks}
    result = {"num_seeds": count, "num_checkpoints": len(steps), "zero_loss": zero, "ridge_loss": ridge, "step": steps, "loss": final, "probes": seen}
    result |= {"settings": answers}
    figure, axes = panels(stronger, {f"E[L], {name}": np.asarray(answer["mean_loss"]) for name, answer in answers.items()}, below_label="mean loss of chains")
    axes[2].axhline(zero, color="k", lw=0.8, ls=":", label="the predictor 0")
    axes[2].set_yscale("log")
    axes[2].legend(frameon=False, fontsize="small")
    axes[0].set_title("In-context regression, γ = 1000", loc="left", fontsize="medium")
    return place.save(result, figure)


def answer_of(traj: jaxllc.Trajectory, setting: dict[str, Any], zero: float) -> dict[str, Any]:
    """What λ̂ says beside the loss at one setting."""
    llc, loss, mean_loss = (np.atleast_2d(traj.summary[column].values) for column in ("llc", "loss", "mean_loss"))
    finite = np.isfinite(llc)
    informed = finite & (mean_loss < zero)
    return {
        "nbeta": setting["nbeta"],
        "localization": setting["localization"],
        "share_at_or_above_uninformed": float((mean_loss[finite] >= zero).mean()),
        "mean_loss_over_uninformed": over_seeds(np.nanmean(mean_loss, -1) / zero),
        "num_informed": informed.sum(-1),
        "correlation_with_loss": over_seeds(correlations(llc, loss, informed)),
        "correlation_with_loss_elsewhere": over_seeds(correlations(llc, loss, finite & ~informed)),
        "llc": llc,
        "mean_loss": mean_loss,
        "fall": falls(traj) if setting["localization"] > 100 else None,
        "findings": count_findings(traj),
        "num_diverged": int(traj.summary["num_diverged"].values.sum()),
    }


def probes(model: regression.RegressionTransformer) -> dict[str, Any]:
    """What the paper's stages are told by: the mean square of predictions, the gain from context, and the loss on inputs three times as large."""
    near, far = regression.draw(jax.random.key(8), 512), regression.draw(jax.random.key(9), 512, input_scale=3.0)

    def predictions(params: Any, batch: Any) -> jax.Array:
        return jnp.asarray(model.apply({"params": params}, *batch))

    def in_context(params: Any) -> jax.Array:
        errors = jnp.square(predictions(params, near) - near[1])
        return (errors[:, -1] - errors[:, 0]).mean()

    loss = regression.squared_loss(model)
    return {
        "mean_square": lambda params: jnp.square(predictions(params, near)).mean(),
        "in_context": in_context,
        "far": lambda params: loss(params, far).mean(),
    }


def falls(traj: jaxllc.Trajectory) -> dict[str, Any]:
    """The largest fall of λ̂ between bins of log-time from `FALL_FROM` on, over seeds, the steps of its bins, and the stages of type B."""
    step = np.asarray(traj.data.coords["step"].values)
    start, end = max(step[-1] / FALL_FROM, 1.0), float(step[-1])
    fall = largest_fall(binned(step, corrected_draws(traj.data).mean(-1).swapaxes(-1, -2), start, end, FALL_BINS))
    edges = np.geomspace(start, end, FALL_BINS + 1)
    certain = [stage for stage in traj.stages().to_dict("records") if stage["type"] == "B"]
    bins = [float(np.sqrt(edges[i] * edges[i + 1])) for i in (fall.first, fall.last)]
    return {**fall._asdict(), "from": bins[0], "to": bins[1], "stages_b": certain}


def correlations(llc: np.ndarray, loss: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Correlation of λ̂ and loss, each `[run, step]`, over the chosen checkpoints of each run, `[run]`; NaN of fewer than `MIN_CHECKPOINTS`."""
    return np.asarray([np.corrcoef(a[c], b[c])[0, 1] if c.sum() >= MIN_CHECKPOINTS else np.nan for a, b, c in zip(llc, loss, chosen, strict=True)])


def table(result: dict[str, Any]) -> str:
    """The settings as Markdown."""
    lines = [
        "| setting | nβ | γ | checkpoints with E[L] at or above the predictor 0 | E[L] ÷ its loss | correlation of λ̂ and loss at these | at the others |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in result["settings"].items():
        ratio, at_these, at_others = (
            "too few" if x["mean"] is None else f"{x['mean']:.2f} ± {x['std_error'] or 0:.2f}"
            for x in (row["mean_loss_over_uninformed"], row["correlation_with_loss_elsewhere"], row["correlation_with_loss"])
        )
        lines.append(
            f"| {name} | {row['nbeta']:g} | {row['localization']:g} | {row['share_at_or_above_uninformed']:.0%} | {ratio} | {at_these} | {at_others} |"
        )
    lines += ["", "| setting | largest fall of λ̂, cross-fitted | of the mean | between steps | not excluded | stages of type B, of all seeds | findings |"]
    lines += ["|---" * 7 + "|"]
    for name, row in result["settings"].items():
        if (fall := row["fall"]) is not None:
            depth, between = interval(fall["depth"]), f"{fall['from']:.0f} and {fall['to']:.0f}"
            certain = "; ".join(f"{one['run']} {one['start']:.0f} to {one['end']:.0f}: {one['delta_llc']:.1f}" for one in fall["stages_b"]) or "none"
            codes = ", ".join(f"{code} {count}" for code, count in row["findings"].items()) or "none"
            lines.append(f"| {name} | {depth} | {number(fall['largest'])} | {between} | {number(fall['at_most'])} | {certain} | {codes} |")
    return "\n".join(lines)
