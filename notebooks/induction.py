# %% [markdown]
# # The induction bump: does λ̂ fall before induction heads form?
#
# Small attention-only transformers learn Python's own tests (`jaxllc.models.python_text`). Late in training the loss falls in a bump, when a head of the
# second layer has learnt to continue what followed the present token before; it needs a head of the first layer that looks at the token before (Elhage et
# al. 2021; Olsson et al., arXiv:2209.11895). Hoogland et al. (arXiv:2402.02364) report that before the bump, while previous-token heads form, λ̂ *falls*
# and the loss hardly moves: a transition that the loss does not show. This notebook goes from checkpoints to a verdict on four seeds. The experiment with
# eight seeds, a control, rules fixed beforehand, the published estimate and λ̂ by head is `python -m research.development headers` (docs/induction.md).
#
# Set `JAXLLC_QUICK=1` for a short run on a small model, in which no head forms, `FIGURE` for the path of the figure, `FOLDER` for a folder that keeps
# checkpoints and draws: a second run with the same folder continues.

# %%
import os
import tempfile
from functools import partial
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", os.cpu_count())  # one XLA device a core, before anything else runs

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.stats import t

import jaxllc
from jaxllc import metrics
from jaxllc.models import python_text, text
from jaxllc.models.train import Recipe, checkpoint_steps, train_seeds
from jaxllc.models.transformer import Transformer, next_token_loss

QUICK = bool(os.environ.get("JAXLLC_QUICK"))
folder = Path(os.environ.get("FOLDER") or tempfile.mkdtemp())

# %% [markdown]
# ## Train
# Four seeds in one program. Windows of 128 tokens of a byte-pair encoding with 1024 tokens, with which heads form within some thousand steps, 16 a step,
# AdamW at a constant 5·10⁻³; every tenth file is held out. What is followed is a moving average of the weights: SGD noise raises the loss at the weights
# themselves, from which λ̂ is measured.

# %%
num_seeds, num_steps, num_checkpoints = (2, 100, 12) if QUICK else (4, 10_000, 30)
VOCAB_SIZE, CONTEXT, WIDTH = (256, 32, 16) if QUICK else (1024, 128, 64)
corpus = python_text.python_text(VOCAB_SIZE, tests=False, num_files=40) if QUICK else python_text.python_text(VOCAB_SIZE)
model = Transformer(VOCAB_SIZE, CONTEXT, WIDTH)
loss_fn = next_token_loss(model)
steps = sorted({0, *checkpoint_steps(num_steps, num_checkpoints, 0, first=num_steps // 50)})


def draw_windows(key, tokens):
    """A batch of windows of the training text."""
    starts = jax.random.randint(key, (16,), 0, len(tokens) - CONTEXT)
    return tokens[starts[:, None] + jnp.arange(CONTEXT + 1)]


rate = optax.linear_schedule(0.0, 5e-3, 100)
is_matrix = partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.05, mask=is_matrix))
recipe = Recipe(loss_fn, draw_windows, jnp.asarray(corpus.train), optimizer, average=0.99)
runs = train_seeds(recipe, model.init_params, key=jax.random.key(0), seeds=range(num_seeds), steps=steps, directory=folder / "checkpoints")

# %% [markdown]
# ## λ̂ and the scores
# On held-out text: the attention from a token to the one before, and from a token to the successors of its earlier occurrences. nβ, γ and ε are those that
# `jaxllc.calibrate` chose for the same text in 512 tokens.

# %%
read = jnp.asarray(text.windows(corpus.held_out, 8 if QUICK else 64, CONTEXT + 1, seed=1)[:, :-1], jnp.int32)
probes = {
    "previous": metrics.pattern_probe(model, read, metrics.previous_token_score),
    "prefix": metrics.pattern_probe(model, read, partial(metrics.prefix_matching_score, tokens_BxL=read)),
}
draws = dict(num_chains=4, num_draws=20, num_burn_in=10) if QUICK else dict(num_chains=4, num_draws=150, num_burn_in=100)
settings = jaxllc.Settings(jaxllc.SGLD(1.28e-4), nbeta=100.0, localization=320.0, batch_size=4, **draws)
traj = jaxllc.trajectory(
    loss_fn,
    runs,
    text.windows(corpus.train, 2000, CONTEXT + 1),
    settings,
    key=jax.random.key(1),
    probes=probes,
    reference_loss=float(np.log(VOCAB_SIZE)),
    store=folder / "llc.zarr",
    progress=False,
)

# %% [markdown]
# ## The verdict
# Prefix matching *sets in* where its score has passed a tenth of its rise. The window before it reaches back to a quarter of that step. The change of λ̂ over
# the window is taken chain by chain, since chains share their random numbers, which makes its error smaller than that of two values. A dip within the window
# would show as a fall from its highest checkpoint so far. A seed whose prefix-matching score ends below 0.2 has formed no induction head.


# %%
def crossing(step, score, share):
    """The step from which on a score stays beyond a share of its way from the first to the last level."""
    risen = (score - score[0]) / (score[-1] - score[0])
    below = np.flatnonzero(risen < share)
    return float(step[min(below[-1] + 1, len(step) - 1)]) if len(below) else float(step[0])


def change_over(step, by_chain, start, end):
    """The change of λ̂, `[step, chain]`, between two steps, and its standard error."""
    ends = [np.array([np.interp(np.log(at), np.log(np.maximum(step, 1)), chain) for chain in by_chain.T]) for at in (start, end)]
    change = ends[1] - ends[0]
    return change.mean(), change.std(ddof=1) / np.sqrt(len(change))


def largest_dip(curve):
    """How far a curve falls below its highest value so far."""
    return float((np.maximum.accumulate(curve) - curve).max())


FORMED = 0.2
step = np.asarray(steps)
llc = (traj.data["posterior/llc"].mean("draw") + traj.data["constant_data/llc_correction"]).transpose("run", "step", "chain").values
loss = traj.summary["loss"].values
previous = traj.data["probes/previous"].values[:, :, 0].max(-1)  # the head of the first layer with the greatest score, [run, step]
prefix = traj.data["probes/prefix"].values[:, :, 1].max(-1)
changes, windows = [], []
print(f"{'run':>8} {'previous token':>15} {'prefix matching':>16} {'change of λ̂ before':>20} {'largest dip':>12} {'of the loss':>12} {'of the loss after':>18}")
for i, run in enumerate(runs):
    if prefix[i, -1] < FORMED and not QUICK:
        print(f"{run:>8} formed no induction head")
        continue
    first, onset = crossing(step, previous[i], 0.1), crossing(step, prefix[i], 0.1)
    change, error = change_over(step, llc[i], onset / 4, onset)
    inside = (step >= onset / 4) & (step <= onset)
    dip = largest_dip(llc[i, inside].mean(-1)) if inside.any() else np.nan
    before, at = np.interp(np.log([onset / 4, onset]), np.log(np.maximum(step, 1)), loss[i])
    changes.append(change)
    windows.append((onset / 4, onset))
    print(f"{run:>8} {first:15.0f} {onset:16.0f} {f'{change:.1f} ± {error:.1f}':>20} {dip:12.2f} {at - before:12.2f} {loss[i, -1] - at:18.2f}")
if len(changes) > 1:
    mean, error = np.mean(changes), np.std(changes, ddof=1) / np.sqrt(len(changes))
    sure = t.ppf(0.975, len(changes) - 1) * error  # Student's, for so few seeds
    says = "falls" if mean + sure < 0 else "rises" if mean - sure > 0 else "does not certainly change"
    print(f"mean over seeds {mean:.1f} ± {error:.1f}: λ̂ {says} before prefix matching sets in")
print(traj.stages()[["run", "start", "end", "type", "delta_llc", "delta_loss"]].to_string())

# %% [markdown]
# ## Beside the published curve
# The right side has the run of Hoogland et al., a language model with 3 million weights: loss and λ̂ at the ends of their stages and the scores of one head of
# each kind, as they stand in the authors' public data. LM3, in which λ̂ falls and the loss hardly moves, is shaded. (That λ̂ contains ten times the loss, by
# how its baseline is computed; without it the fall is half as deep. See research/development.md.)
#
# **What to see:** on the right λ̂ dips before the scores rise. Does it in the shaded windows on the left, one for each seed with an induction head? In 10 000
# steps one of four seeds has one; in its window λ̂ rises by 22.6 ± 0.5, and `find_stages` gives type A alone. Chains of this length are `not-mixed` at each
# checkpoint, as the table says. On the eight seeds of docs/induction.md, with longer chains, λ̂ goes on rising with the previous-token score too.

# %%
PUBLISHED = {"step": [0, 900, 6500, 8500, 17_500, 49_900], "loss": [7.94, 4.35, 3.63, 3.56, 3.29, 3.22], "llc": [123.6, 149.9, 172.4, 170.9, 179.5, 181.3]}
PUBLISHED_SCORES = {
    "step": [6500, 8500, 10_000, 12_000, 17_000, 50_000],
    "previous token": [0.039, 0.063, 0.106, 0.160, 0.288, 0.289],
    "prefix matching": [0.008, 0.010, 0.019, 0.030, 0.074, 0.079],
}
PUBLISHED_FALL = (6500, 8500)
"""Stage LM3."""
figure, both = plt.subplots(3, 2, figsize=(11, 8), sharex="col", width_ratios=(3, 2), height_ratios=(2, 3, 2), layout="constrained")
axes, published = both.T
x = np.maximum(step, step[1] / 2)  # step 0 at the left edge of a log axis
for i in range(num_seeds):
    axes[0].plot(x, loss[i], color="#e69f00", lw=1)
    axes[1].errorbar(x, llc[i].mean(-1), 2 * traj.summary["std_error"].values[i], color="#0072b2", lw=1, elinewidth=0.6)
    axes[2].plot(x, previous[i], color="#009e73", lw=1, label="previous token" if i == 0 else None)
    axes[2].plot(x, prefix[i], color="#cc79a7", lw=1, label="prefix matching" if i == 0 else None)
for window in windows:
    axes[1].axvspan(*window, color="#009e73", alpha=0.08, lw=0)
axes[0].set(ylabel="loss (nats a token)", title=f"Python's tests, {num_seeds} seeds")
axes[1].set(ylabel="λ̂ ± 2 standard errors")
axes[2].set(ylabel="attention score", xlabel="training step (0 at the left edge)", xscale="log")
axes[2].legend(frameon=False, fontsize="small")
at = np.maximum(PUBLISHED["step"], 450)  # likewise
published[0].plot(at, PUBLISHED["loss"], "o-", color="#e69f00", lw=1, ms=4)
published[1].plot(at, PUBLISHED["llc"], "o-", color="#0072b2", lw=1, ms=4)
for name, color in (("previous token", "#009e73"), ("prefix matching", "#cc79a7")):
    published[2].plot(PUBLISHED_SCORES["step"], PUBLISHED_SCORES[name], "o-", color=color, lw=1, ms=4, label=name)
published[0].set(ylabel="test loss (nats a token)", title="published: arXiv:2402.02364")
published[1].set(ylabel="λ̂")
published[2].set(ylabel="attention score", xlabel="training step (0 at the left edge)", xscale="log")
published[2].legend(frameon=False, fontsize="small")
for ax in published:
    ax.axvspan(*PUBLISHED_FALL, color="#d55e00", alpha=0.15, lw=0)
figure.savefig(os.environ.get("FIGURE", "induction.png"), dpi=150)
