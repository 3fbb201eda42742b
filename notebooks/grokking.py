# %% [markdown]
# # Grokking: λ̂ of the training loss while a network memorises and then generalises
#
# A small network learns addition modulo 53 from half of all sums (Power et al., arXiv:2201.02177; the network is Gromov's, arXiv:2301.02679). AdamW
# makes it right on the training sums within some sixty steps, and on the test sums only thousands of steps later. λ̂ is that of the training loss
# at nβ = n / ln n for the n training sums; it does not see the test sums, whose loss and accuracy are probes.
#
# Set `JAXLLC_QUICK=1` for a short run (it ends before the network generalises), `FIGURE` for the path of the figure.

# %%
import os
import tempfile

import jax

jax.config.update("jax_num_cpu_devices", os.cpu_count())  # one XLA device a core, before anything else runs

import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxllc
from jaxllc.models import modular
from jaxllc.models.train import Recipe, checkpoint_steps, train_seeds

QUICK = bool(os.environ.get("JAXLLC_QUICK"))

# %% [markdown]
# ## Train
# All training sums at each step, weight decay 1.

# %%
MODULUS, LOCALIZATIONS = 53, (100.0, 10.0)
num_seeds, num_steps, num_checkpoints = (1, 1000, 10) if QUICK else (3, 5000, 40)
model = modular.ModularNet(MODULUS)
loss_fn = modular.cross_entropy(model)
training, test = modular.split(jax.random.key(0), MODULUS, 0.5)
steps = sorted({0, *checkpoint_steps(num_steps, num_checkpoints, 0, first=20)})


def all_sums(key, data):
    """The whole training set at each step."""
    return data


def first_step(step, reached):
    """The first of the steps at which something is reached, or None."""
    return next((int(s) for s, r in zip(step, reached, strict=True) if r), None)


recipe = Recipe(loss_fn, all_sums, training, optax.adamw(1e-2, weight_decay=1.0))
runs = train_seeds(recipe, model.init_params, key=jax.random.key(1), seeds=range(num_seeds), steps=steps, directory=tempfile.mkdtemp())

# %% [markdown]
# ## λ̂ and the probes, at two strengths of the localization
# The weaker one gives the chains more room.

# %%
draws = dict(num_chains=4, num_draws=50, num_burn_in=50) if QUICK else dict(num_chains=8, num_draws=200, num_burn_in=200)
probes = {
    "test_loss": lambda params: loss_fn(params, test).mean(),
    "test_accuracy": lambda params: modular.accuracy(model, params, test),
    "train_accuracy": lambda params: modular.accuracy(model, params, training),
}
trajs = {
    localization: jaxllc.trajectory(
        loss_fn, runs, training, key=jax.random.key(2), localization=localization, probes=probes, reference_loss=float(np.log(MODULUS)), progress=False, **draws
    )
    for localization in LOCALIZATIONS
}
tables = {localization: traj.table() for localization, traj in trajs.items()}
print(f"nβ = {len(training[1]) / np.log(len(training[1])):.0f}, {len(training[1])} training sums")

# %% [markdown]
# *Memorised* and *generalised* are the first checkpoints at which more than 95 % of the training and of the test sums are right. The last column counts the
# checkpoints at which a Gaussian cloud of variance 1/γ around w\*, which knows no gradient, gives the same λ̂ (finding `localization-only`): there λ̂ says
# how the loss answers to noise in all weights alike, and not what the chains find.

# %%
print(f"{'γ':>5} {'run':>8} {'memorised':>10} {'generalised':>12} {'λ̂ greatest at':>15} {'λ̂ there':>9} {'λ̂ at the end':>13} {'localization-only':>18}")
for localization, table in tables.items():
    for run in runs:
        one = table.xs(run, level="run")
        memorised, generalised = (first_step(one.index, one[name] > 0.95) or "never" for name in ("train_accuracy", "test_accuracy"))
        cloud = one["findings"].str.contains("localization-only").sum()
        peak = one["llc"].idxmax()
        numbers = f"{peak:15} {one['llc'][peak]:9.1f} {one['llc'].iloc[-1]:13.1f} {f'{cloud} of {len(one)}':>18}"
        print(f"{localization:5g} {run:>8} {memorised:>10} {generalised:>12} {numbers}")

# %% [markdown]
# At γ = 100 the late fall of λ̂ is one that the Gaussian cloud shows too; at γ = 10 it is not, so there the chains tell more than noise in all weights would.
#
# ## Beside the published figures
# The accuracies are the picture of Power et al. (figure 1), with a much shorter delay. λ̂ beside them is that of an example of devinterp
# (`examples/grokking.ipynb`, also modulo 53): there λ̂ increases during memorisation, then decreases smoothly until the network has generalised, and tracks
# the *test* loss, although it is measured on the training set.
#
# **What to see:** λ̂ rises while the training sums are memorised, peaks when they are, and falls long before and while the test accuracy rises. So it does in
# that example, and here too the test loss (red, middle) peaks and falls as λ̂ does. But at γ = 100 so does the Gaussian cloud, which no chain has walked: that
# part of the curve says how the loss answers to noise in all weights alike.

# %%
figure, axes = plt.subplots(3, 1, figsize=(7, 8), sharex=True, height_ratios=(3, 2, 2), layout="constrained")
x = np.maximum(steps, steps[1] / 2)  # step 0 at the left edge of a log axis
for j, (localization, table) in enumerate(tables.items()):
    for i, run in enumerate(runs):
        one = table.xs(run, level="run")
        error = 2 * one["std_error"]
        axes[0].errorbar(x, one["llc"], error, color=f"C{j}", lw=1, elinewidth=0.6, label=f"γ = {localization:g}" if i == 0 else None)
        if j == 0:
            for ax, names in ((axes[1], ("loss", "test_loss")), (axes[2], ("train_accuracy", "test_accuracy"))):
                for name, color, label in zip(names, ("C2", "C3"), ("training sums", "test sums"), strict=True):
                    ax.plot(x, one[name], color=color, lw=1, label=label if i == 0 else None)
axes[0].set(ylabel="λ̂ ± 2 standard errors", yscale="log", title=f"Addition modulo {MODULUS}, {num_seeds} seed{'s' * (num_seeds > 1)}")
axes[1].set(ylabel="loss (nats)", yscale="log")
axes[2].set(ylabel="accuracy", xlabel="training step (0 at the left edge)", xscale="log")
for ax in axes:
    ax.legend(frameon=False, fontsize="small")
figure.savefig(os.environ.get("FIGURE", "grokking.png"), dpi=150)
