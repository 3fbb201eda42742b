# %% [markdown]
# # Saddle to saddle: λ̂ at the plateaus of a deep linear network
#
# From small weights a deep linear network learns one singular value of its task after another (Saxe et al., arXiv:1312.6120; Jacot et al.,
# arXiv:2106.15933). With r of them learnt it stands near a saddle of the loss whose product of matrices has rank r.
#
# At the saddle, chains on the task's labels fall to lower loss, and λ̂ is far below zero. A learning coefficient belongs to the function that the weights
# compute, so each plateau is also given labels of its own function, the product cut to rank r plus unit noise; for these λ is known exactly
# (`jaxllc.theory.deep_linear_llc`).
#
# With n = 1000 the estimate at the default nβ, n / ln n, comes out a fifth too low, for the reasons that `deep_linear.py` measures: finite n and finite
# temperature. `extrapolate="nbeta"` at nβ = 500 mends both: the slope of E[L] in 1 / nβ does not contain $L_n(w^*)$, which is off the minimum by
# the noise of the labels and by the distance from the saddle, and the larger nβ is nearer to the limit.
#
# Set `JAXLLC_QUICK=1` for a short run, `FIGURE` for the path of the figure.

# %%
import os
import tempfile
from itertools import pairwise

import jax

jax.config.update("jax_num_cpu_devices", os.cpu_count())  # one XLA device a core, before anything else runs

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxllc
from jaxllc.models import linear
from jaxllc.models.train import Recipe, checkpoint_steps, train_seeds
from jaxllc.theory import deep_linear_llc

QUICK = bool(os.environ.get("JAXLLC_QUICK"))

# %% [markdown]
# ## Train
# The singular values of the task, in the first coordinates; gradient descent with batches of 256 from weights of standard deviation 0.02.

# %%
WIDTHS = (8, 8, 8, 8)
MODES = (8.0, 5.0, 3.0, 1.8)
N = 1000
num_seeds, num_steps, num_checkpoints = (1, 2200, 18) if QUICK else (3, 3000, 26)


def init_params(key):
    """Small weights."""
    shapes = list(pairwise(WIDTHS))
    return [0.02 * jax.random.normal(key, shape) for key, shape in zip(jax.random.split(key, len(shapes)), shapes, strict=True)]


def draw_batch(key, data):
    """256 examples out of the data."""
    chosen = jax.random.randint(key, (256,), 0, N)
    return jax.tree.map(lambda leaf: leaf[chosen], data)


def product(params):
    """The matrix that the network multiplies its input by."""
    return np.linalg.multi_dot([np.asarray(weight, float) for weight in params])


def shares_learnt(params):
    """Singular values of the product divided by those of the task, `[modes]`."""
    return np.linalg.svd(product(params), compute_uv=False)[: len(MODES)] / np.asarray(MODES)


def plateau(steps, shares, rank):
    """Of the checkpoints that have learnt more than half of just `rank` modes, the one nearest to the saddle; None if there is none.

    `shares` are the `shares_learnt` of each checkpoint, `[steps, modes]`.
    """
    off = np.abs(shares - (np.arange(shares.shape[1]) < rank)).max(-1)
    off[(shares > 0.5).sum(-1) != rank] = np.inf
    return steps[int(off.argmin())] if np.isfinite(off).any() else None


task = np.zeros((WIDTHS[0], WIDTHS[-1]))
task[range(len(MODES)), range(len(MODES))] = MODES
data = linear.examples(jax.random.key(0), [jnp.asarray(task, jnp.float32)], N)
steps = sorted({0, *checkpoint_steps(num_steps, 4, num_checkpoints, first=10)})
recipe = Recipe(linear.squared_loss, draw_batch, data, optax.sgd(0.005))
runs = train_seeds(recipe, init_params, key=jax.random.key(1), seeds=range(num_seeds), steps=steps, directory=tempfile.mkdtemp())

# %% [markdown]
# ## λ̂ on the task's labels, at every checkpoint
# Momentum and all data at each iteration: near zero weights the loss is so flat that chains of SGLD would need 100 000 iterations to leave.

# %%
sampling = dict(sampler=jaxllc.SGHMC(6e-6), batch_size=None, num_chains=8, progress=False)
traj = jaxllc.trajectory(linear.squared_loss, runs, data, key=jax.random.key(2), num_draws=1000, num_burn_in=500, **sampling)
curves = traj.table()["llc"].unstack("run")

# %% [markdown]
# ## λ̂ on labels of the plateau's own function

# %%
draws = dict(num_draws=1500, num_burn_in=1000) if QUICK else dict(num_draws=6000, num_burn_in=6000)
lines = []
for run in runs:
    shares = np.stack([shares_learnt(runs[run][step]) for step in steps])
    for rank in range(len(MODES) + 1):
        step = plateau(steps, shares, rank)
        if step is None:
            continue
        left, sizes, right = np.linalg.svd(product(runs[run][step]))
        own = jnp.asarray((left[:, :rank] * sizes[:rank]) @ right[:rank], jnp.float32)
        labels = linear.examples(jax.random.key(3), [own], N)
        same = dict(key=jax.random.key(4), **sampling, **draws)
        one = jaxllc.estimate(linear.squared_loss, runs[run][step], labels, **same)
        two = jaxllc.estimate(linear.squared_loss, runs[run][step], labels, nbeta=500.0, extrapolate="nbeta", **same)
        lines.append(dict(run=run, rank=rank, step=step, task=curves[run][step], one=one.llc, two=two.llc, error=two.std_error))

print("rank  exact λ   own labels, default nβ   own labels, two temperatures   task's labels   plateaus")
for rank in range(len(MODES) + 1):
    mine = [line for line in lines if line["rank"] == rank]
    if mine:
        one, two, of_task = (np.mean([line[name] for line in mine]) for name in ("one", "two", "task"))
        error = np.mean([line["error"] for line in mine])  # all networks share their random numbers, so the mean is hardly better known than one
        print(f"{rank:4} {deep_linear_llc(WIDTHS, rank).value:8.1f} {one:24.1f} {two:22.1f} ± {error:.1f} {of_task:20.1f} {len(mine):10}")

# %% [markdown]
# ## Beside the published pictures
# Saxe et al. give the strength of each mode over time in closed form, as one sigmoid after the other; Jacot et al. conjecture that gradient descent from
# small weights visits saddles of increasing rank. The lower left shows the sigmoids in this network. The coefficients of the saddles follow from Aoyagi
# (2024); λ̂ at them was not published.
#
# **What to see:** left, on the task's labels λ̂ is far below zero at every saddle and near the exact value only once all four singular values are
# learnt; right, on labels of its own function λ̂ from two temperatures (orange) rises with the rank as the exact coefficient does (bars).

# %%
figure, axes = plt.subplot_mosaic([["task", "rank"], ["modes", "rank"]], figsize=(11, 5.5), layout="constrained")
for i, run in enumerate(runs):
    axes["task"].plot(steps, curves[run].loc[steps], ".-", color=f"C{i}", lw=0.9)
    for share in np.stack([shares_learnt(runs[run][step]) for step in steps], 1):
        axes["modes"].plot(steps, share, color=f"C{i}", lw=0.9)
axes["task"].set_yscale("symlog", linthresh=100)
axes["task"].set(ylabel="λ̂ (linear to ± 100, then log)", title=f"Task's labels, {num_seeds} seed{'s' * (num_seeds > 1)}")
axes["task"].axhline(deep_linear_llc(WIDTHS, len(MODES)).value, color="0.5", lw=0.8, ls=":")
axes["modes"].set(xlabel="training step", ylabel="share learnt of each singular value")
for rank in range(len(MODES) + 1):
    exact = deep_linear_llc(WIDTHS, rank).value
    axes["rank"].plot([rank - 0.35, rank + 0.35], [exact, exact], color="0.3", lw=1.5, label="exact λ" if rank == 0 else None)
for name, what, shift, color in (("default nβ", "one", -0.12, "0.6"), ("two temperatures", "two", 0.12, "C1")):
    x = [line["rank"] + shift + 0.06 * (list(runs).index(line["run"]) - (len(runs) - 1) / 2) for line in lines]
    error = [2 * line["error"] if what == "two" else 0 for line in lines]
    axes["rank"].errorbar(x, [line[what] for line in lines], error, fmt="o", ms=4, capsize=2 if what == "two" else 0, color=color, label=name)
axes["rank"].set(
    xlabel="singular values learnt, r", ylabel="λ̂ (± 2 standard errors)", title="Labels of the plateau's own function", xticks=range(len(MODES) + 1)
)
axes["rank"].legend(frameon=False, fontsize="small", loc="lower right")
figure.savefig(os.environ.get("FIGURE", "saddle_to_saddle.png"), dpi=150)
