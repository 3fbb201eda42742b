# %% [markdown]
# # Superposition: λ̂ at known critical points, and along training
#
# The toy model of superposition (Elhage et al., arXiv:2209.10652) with six features in two dimensions. The critical points of its population loss are
# polygons, whose learning coefficient is half the rank of the Hessian (Chen et al., arXiv:2310.06301): 8.5 for five corners with the bias of the sixth
# feature on, 7 for five corners with a dead feature, 8.5 for six corners.
#
# First λ̂ at these polygons, at three nβ: at low nβ ReLUs switch on and off within the posterior and λ̂ need not have reached its limit. Then λ̂ along
# training from random weights, where each sudden drop of the loss is compared with the change of λ̂ over the same checkpoints. The loss counts as nats under
# output noise of variance one half. Set `JAXLLC_QUICK=1` for a short run, `FIGURE` for the path of the figure.

# %%
import os
import tempfile

import jax

jax.config.update("jax_num_cpu_devices", os.cpu_count())  # one XLA device a core, before anything else runs

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxllc
from jaxllc.estimator import corrected_draws
from jaxllc.models import tms
from jaxllc.models.train import Recipe, checkpoint_steps, train_seeds

QUICK = bool(os.environ.get("JAXLLC_QUICK"))

# %% [markdown]
# ## The polygons
# A polygon is a critical point of the population loss; with a million examples it is nearly one of the sample's loss too. γ has its default, 1.

# %%
POLYGONS = {"5 corners, sixth bias on": (5, "on"), "5 corners, sixth feature dead": (5, "dead"), "6 corners": (6, "dead")}
NBETAS = (300.0, 3000.0, 30_000.0)
data = jaxllc.InMemory.of(tms.examples(jax.random.key(0), 100_000 if QUICK else 1_000_000), 1024)
draws = dict(num_draws=500, num_burn_in=500) if QUICK else dict(num_draws=6000, num_burn_in=4000)

at_polygons = {}
print(f"{'polygon':32} {'exact λ':>8} {'nβ':>8} {'λ̂':>8}   findings")
for name, (corners, spare) in POLYGONS.items():
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tms.polygon(corners, spare=spare))
    for nbeta in NBETAS:
        est = jaxllc.estimate(tms.squared_loss, params, data, key=jax.random.key(1), nbeta=nbeta, num_chains=8, progress=False, **draws)
        at_polygons[name, nbeta] = est
        codes = ", ".join(finding.code for finding in est.findings) or "none"
        print(f"{name:32} {tms.polygon_llc(corners, spare=spare):8g} {nbeta:8g} {est.llc:8.2f} ± {est.std_error:.2f}   {codes}")

# %% [markdown]
# At nβ = 30 000 all three are right and the dead feature is told from the live one; at nβ = 300 the chains do not mix, which the findings say.
#
# ## Training
# Gradient descent on fresh batches, at nβ = 3000 and γ = 10.

# %%
num_seeds, num_steps, num_checkpoints = (2, 2000, 16) if QUICK else (6, 20_000, 60)
steps = checkpoint_steps(num_steps, num_checkpoints, 0, first=20)


def draw_batch(key, _):
    """1024 fresh inputs."""
    return tms.examples(key, 1024)


def steps_of_loss(step, loss, llc, steep=0.03):
    """The sudden drops of a run's loss, each with the change of λ̂ over it and the standard error of the change.

    A drop is a stretch of checkpoints over each of which the loss falls by at least `steep` of its fall over the whole run. `step` and `loss` are
    `[step]`, `llc` is `[step, chain]`: chains share their random numbers along the run, so the change is taken chain by chain.
    """
    is_steep = -np.diff(loss) >= steep * (loss[0] - loss.min())
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_steep, [False]]).astype(int)))
    drops = []
    for first, last in edges.reshape(-1, 2):
        change = llc[last] - llc[first]
        error = change.std(ddof=1) / np.sqrt(len(change))
        where = dict(start=int(step[first]), end=int(step[last]), delta_loss=float(loss[last] - loss[first]))
        drops.append(where | dict(delta_llc=float(change.mean()), delta_llc_error=float(error)))
    return drops


recipe = Recipe(tms.squared_loss, draw_batch, jnp.zeros(1), optax.sgd(0.05))
runs = train_seeds(recipe, tms.init_params, key=jax.random.key(2), seeds=range(num_seeds), steps=steps, directory=tempfile.mkdtemp())
traj = jaxllc.trajectory(
    tms.squared_loss, runs, data, key=jax.random.key(3), nbeta=3000.0, localization=10.0, num_chains=8, num_draws=500, num_burn_in=500, progress=False,
)  # fmt: skip
table = traj.table()
by_chain = dict(zip(runs, corrected_draws(traj.data).mean(-1), strict=True))  # [step, chain] of each run

# %% [markdown]
# λ̂ rises at every drop of the loss, but by about nβ times the drop: before it, chains find far lower losses than the checkpoint's (λ̂ is below zero, finding
# `below-center`), so λ̂ mirrors the loss. This is no evidence of a transition between critical points. The last column is the change of λ̂ divided by nβ
# times the drop, 1 where λ̂ only mirrors the loss.

# %%
print(f"{'run':8} {'drop of the loss':>18} {'change of loss':>15} {'change of λ̂':>19} {'share mirrored':>15}")
for run in runs:
    loss = table["loss"].xs(run, level="run").to_numpy()
    for drop in steps_of_loss(np.asarray(steps), loss, by_chain[run]):
        span = f"{drop['start']} to {drop['end']}"
        change = f"{drop['delta_llc']:.1f} ± {drop['delta_llc_error']:.1f}"
        print(f"{run:8} {span:>18} {drop['delta_loss']:15.3f} {change:>19} {drop['delta_llc'] / (-3000 * drop['delta_loss']):15.2f}")

# %% [markdown]
# ## Beside the published picture
# Chen et al. describe training as a way from high loss and low complexity to low loss and high complexity, with plateaus at these polygons. Their λ of the
# polygons are the dotted lines.
#
# **What to see:** left, λ̂ reaches the exact values (dotted) once nβ is large; right, λ̂ rises from far below zero as the loss falls, and is level near
# 7 or 8.5 once the loss is (hollow points: λ̂ below zero, so the checkpoint is no minimum). The ends are as published. That λ̂ is low before a drop because
# the network is simple there cannot be told from this curve.

# %%
figure, axes = plt.subplot_mosaic([["polygons", "llc"], ["polygons", "loss"]], figsize=(11, 5.5), height_ratios=(3, 2), layout="constrained")
for i, (name, (corners, spare)) in enumerate(POLYGONS.items()):
    x = [nbeta * 1.12 ** (i - 1) for nbeta in NBETAS]
    y, error = ([getattr(at_polygons[name, nbeta], what) for nbeta in NBETAS] for what in ("llc", "std_error"))
    axes["polygons"].errorbar(x, y, [2 * e for e in error], fmt="o", ms=5, capsize=2, color=f"C{i}", label=name)
    axes["polygons"].axhline(tms.polygon_llc(corners, spare=spare), color=f"C{i}", lw=1, ls=(0, (1, 1 + i)))
axes["polygons"].set(xscale="log", xlabel="nβ", ylabel="λ̂ ± 2 standard errors", title="At the polygons; dotted: exact")
axes["polygons"].legend(frameon=False, fontsize="small", loc="lower right")
for i, run in enumerate(runs):
    one = table.xs(run, level="run")
    low = (one["llc"] < 0).to_numpy()
    axes["llc"].plot(steps, one["llc"], color=f"C{i}", lw=0.9)
    for chosen, face in ((low, "white"), (~low, f"C{i}")):
        axes["llc"].plot(np.asarray(steps)[chosen], one["llc"][chosen], "o", ms=3.5, color=f"C{i}", mfc=face)
    axes["loss"].plot(steps, one["loss"], color=f"C{i}", lw=1)
for value in (7.0, 8.5):
    axes["llc"].axhline(value, color="0.5", lw=0.8, ls=":", zorder=0)
axes["llc"].set_yscale("symlog", linthresh=10)
axes["llc"].set(xscale="log", ylabel="λ̂ (linear to ± 10, then log)", title=f"Along training, {num_seeds} seeds; dotted: 7 and 8.5")
axes["loss"].set(xscale="log", xlabel="training step", ylabel="loss")
figure.savefig(os.environ.get("FIGURE", "superposition.png"), dpi=150)
