# %% [markdown]
# # Heads: λ̂ of each attention head, influence and susceptibilities while an induction head forms
#
# A two-layer attention-only transformer of 107 000 weights learns to read Python's own tests (`jaxllc.models.python_text`). Late in training the loss falls
# in a bump: a head of the second layer begins to attend to what followed earlier occurrences of the present token, by way of a head of the first layer that
# looks at the token before (Elhage et al. 2021; Olsson et al., arXiv:2209.11895).
#
# One call of `jaxllc.trajectory` follows λ̂ of all weights and of each head by itself (the refined coefficient of Wang et al., arXiv:2410.02984: all other
# weights stay at w\*), and the losses of single tokens of held-out text along the same chains. From these come the influence of tokens on each other (Kreer
# et al., arXiv:2509.26544; over training Lee et al., arXiv:2510.12071) and the susceptibilities of the heads (Baker et al., arXiv:2504.18274).
#
# Set `JAXLLC_QUICK=1` for a short run on a small model, in which no head forms, `FIGURE` for the path of the figure, `FOLDER` for a folder that keeps
# checkpoints and draws: a second run with the same folder continues.

# %%
import dataclasses
import os
import tempfile
from functools import partial
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", os.cpu_count())  # one XLA device a core, before anything else runs

import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage

import jaxllc
from jaxllc import metrics
from jaxllc.models import python_text, text
from jaxllc.models.train import Recipe, train
from jaxllc.models.transformer import Transformer, next_token_loss, token_losses

BUMP = (4500, 9000)
"""Training steps while the prefix-matching head forms, in which most of its rise lies."""
QUICK = bool(os.environ.get("JAXLLC_QUICK"))
folder = Path(os.environ.get("FOLDER") or tempfile.mkdtemp())

# %% [markdown]
# ## Train
# Windows of 128 tokens of a byte-pair encoding with 512 tokens, 16 a step, AdamW at a constant 5·10⁻³; every tenth file is held out.

# %%
VOCAB_SIZE, BATCH = 512, 16
CONTEXT, WIDTH = (32, 16) if QUICK else (128, 64)
HEADS = [(layer, head) for layer in range(2) for head in range(2 if QUICK else 4)]
corpus = python_text.python_text(VOCAB_SIZE, tests=False, num_files=40) if QUICK else python_text.python_text(VOCAB_SIZE)
model = Transformer(VOCAB_SIZE, CONTEXT, WIDTH, num_heads=len(HEADS) // 2)
loss_fn = next_token_loss(model)
STEPS = [200, 1216, 3000, 4740, 5915, 6608, 7382, 8246, 10291, 12842]  # log-spaced, closer where the induction head forms
steps = [10, 60] if QUICK else STEPS


def draw_windows(key, tokens):
    """A batch of windows of the training text."""
    starts = jax.random.randint(key, (BATCH,), 0, len(tokens) - CONTEXT)
    return tokens[starts[:, None] + jnp.arange(CONTEXT + 1)]


def is_matrix(params):
    """Which leaves decay: all but the scales and biases of norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


rate = optax.linear_schedule(0.0, 5e-3, 100)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.05, mask=is_matrix))
checkpoints = train(
    Recipe(loss_fn, draw_windows, jnp.asarray(corpus.train), optimizer),
    model.init_params(jax.random.key(0)),
    key=jax.random.key(1),
    steps=steps,
    directory=folder / "checkpoints",
    on_step=lambda step: print(f"step {step}", flush=True),
)

# %% [markdown]
# ## What the heads do
# On held-out text: the attention from a token to the one before, and from a token to the successors of its earlier occurrences.

# %%
probe_windows = text.windows(corpus.held_out, 8 if QUICK else 64, CONTEXT + 1, seed=1)
read = jnp.asarray(probe_windows[:, :-1], jnp.int32)
behaviour = {
    "held_out_loss": lambda params: loss_fn(params, probe_windows).mean(),
    "previous": metrics.pattern_probe(model, read, metrics.previous_token_score),
    "prefix": metrics.pattern_probe(model, read, partial(metrics.prefix_matching_score, tokens_BxL=read)),
}

# %% [markdown]
# ## λ̂ of all weights and of each head, and the losses of tokens along the same chains
# nβ = 600 and γ = 1000 for all, so that coefficients compare. Each head has 4096 weights. The losses of all tokens of 12 held-out windows are kept every
# 16 iterations.

# %%
draws = dict(num_chains=2, num_draws=32, num_burn_in=16) if QUICK else dict(num_chains=4, num_draws=160, num_burn_in=80)
settings = jaxllc.Settings(jaxllc.SGLD(1e-4), nbeta=600.0, localization=1000.0, batch_size=4, **draws)
data = text.windows(corpus.train, 2000, CONTEXT + 1)
names = [f"{layer}.{head}" for layer, head in HEADS]
token_windows = text.windows(corpus.held_out, 4 if QUICK else 12, CONTEXT + 1, seed=2)
traj = jaxllc.trajectory(
    loss_fn,
    {step: checkpoints[step] for step in steps},
    data,
    settings,
    key=jax.random.key(3),
    components={f"{layer}.{head}": jaxllc.Heads(f"layers_{layer}/*", head) for layer, head in HEADS} | {"all": None},
    probes=behaviour | {"losses": jaxllc.Probe(token_losses(model), token_windows, every=16)},
    reference_loss=float(np.log(VOCAB_SIZE)),
    store=folder / "llc.zarr",
    group_size=1,  # each checkpoint is kept as soon as it is done
    progress=False,
)

table = traj.table()
llc, error = (table[name].unstack("component") for name in ("llc", "std_error"))
previous, prefix = (traj.data[f"probes/{name}"].values for name in ("previous", "prefix"))
print(llc.round(2).to_string(), error.round(2).to_string(), sep="\n")
print("findings:", pd.Series([finding.code for some in traj.findings() for finding in some]).value_counts().to_dict(), f"on {len(table)} values")

# %% [markdown]
# ## Heads in clusters, without labels, and by what they attend to
# Ward's method on the curves λ̂(t) as they are, and on each divided by its mean, which leaves the shape.


# %%
def label(layer, previous, prefix, least=0.25):
    """What a head does at the end, by its scores."""
    return "induction" if prefix > least else f"previous token, layer {layer}" if previous > least else f"other, layer {layer}"


def clusters(curves, number):
    """The cluster of each curve, from 1 up: a cut of the tree of Ward's method."""
    return fcluster(linkage(np.asarray(curves), "ward"), number, "maxclust")


curves = llc[names].values.T
heads = pd.DataFrame({"label": [label(layer, previous[-1, layer, head], prefix[-1, layer, head]) for layer, head in HEADS]}, index=names)
heads["previous"], heads["prefix"] = previous[-1].ravel(), prefix[-1].ravel()
for number in (2, 3, 4):
    heads[f"level, {number}"] = clusters(curves, number)
    heads[f"shape, {number}"] = clusters(curves / curves.mean(1, keepdims=True), number)
print(heads.round(2).to_string())

# %% [markdown]
# ## Influence between kinds of tokens
# A *repeated pair* is a token that already followed the token before it in the same window: induction predicts it. A *new token* did not occur in the
# window. What is averaged is the correlation of the losses of two tokens along the chains, minus their influence, over pairs from different windows.


# %%
def mean_by_kind(matrix, kinds, windows):
    """The mean over pairs of tokens from different windows, by the kinds of the two, `[kind, kind]`."""
    apart = windows[:, None] != windows[None, :]
    member = np.eye(kinds.max() + 1)[kinds]
    return member.T @ np.where(apart, matrix, 0) @ member / (member.T @ apart @ member)


def jackknife(statistic, num_chains):
    """A statistic of a list of chains, and its error from leaving out one after the other."""
    chains = list(range(num_chains))
    without = np.array([statistic(chains[:i] + chains[i + 1 :]) for i in chains])
    return statistic(chains), np.sqrt((num_chains - 1) * without.var(0))


def at(result, **index):
    """The part of a result at some checkpoints or chains."""
    return jaxllc.Trajectory(result.data.isel(index))


def correlations(result, step, chains):
    """Mean correlations of the losses by kind, along some of the chains."""
    found = jaxllc.influence(at(result, step=[step], chain=chains), "losses", correlation=True)
    return mean_by_kind(-found.value[0], kinds, windows)


kinds = python_text.kinds_of_tokens(token_windows).ravel()
windows = np.repeat(np.arange(len(token_windows)), CONTEXT)
print("tokens of each kind:", dict(zip(python_text.KINDS, np.bincount(kinds), strict=True)))
induction_head = names[int(np.argmax(prefix[-1].ravel()))]
dynamics = {}
for name in ("all", induction_head):
    part = traj.component(name)
    found = [jackknife(partial(correlations, part, i), settings.num_chains) for i in range(len(steps))]
    dynamics[name] = np.array(found)  # [step, value or error, kind, kind]
    for i in range(len(steps)):
        (value, wrong) = dynamics[name][i]
        pairs = {"repeated-repeated": (0, 0), "new-new": (2, 2), "repeated-new": (0, 2)}
        print(f"{name:>4} {steps[i]:6}", *(f"{pair} {value[where]:6.3f} ± {wrong[where]:.3f}" for pair, where in pairs.items()))

# %% [markdown]
# ## Susceptibilities of the heads to kinds of tokens

# %%
by_kind = jaxllc.susceptibilities(traj, "losses", whole="all", groups=np.array(python_text.KINDS)[kinds])
chi, chi_error = (by_kind.data[name].sel(component=names, group=list(python_text.KINDS)).values for name in ("value", "std_error"))
for i in sorted({0, len(steps) // 2, len(steps) - 1}):
    told = np.array([[f"{1e3 * x:.2f} ± {1e3 * e:.2f}" for x, e in zip(*row, strict=True)] for row in zip(chi[i], chi_error[i], strict=True)])
    print(f"step {steps[i]}, thousandths of a squared nat", pd.DataFrame(told, names, python_text.KINDS).to_string(), sep="\n")
print("findings of the susceptibilities:", pd.Series([finding.code for some in by_kind.findings for finding in some]).value_counts().to_dict())

last = jaxllc.susceptibilities(at(traj, step=[len(steps) - 1]), "losses", whole="all")
last = dataclasses.replace(last, data=last.data.sel(component=names))
last.plot(np.array(python_text.KINDS)[kinds])  # each token by its susceptibilities of the eight heads

# %% [markdown]
# ## In one figure

# %%
COLORS = {
    "induction": "#c1272d",
    "previous token, layer 0": "#0000a7",
    "previous token, layer 1": "#5ab4e5",
    "other, layer 0": "#8a8a8a",
    "other, layer 1": "#c9a227",
}
figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
scores, coefficients, influences, responses = axes.ravel()

for name, (layer, head) in zip(names, HEADS, strict=True):
    color = COLORS[heads.label[name]]
    score = prefix if heads.label[name] == "induction" else previous
    scores.plot(steps, score[:, layer, head], color=color, lw=1.5)
    scores.annotate(name, (steps[-1], score[-1, layer, head]), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8, color=color)
    coefficients.errorbar(steps, llc[name], 2 * error[name], color=color, lw=1.2, elinewidth=0.6, label=None)
    coefficients.annotate(name, (steps[-1], llc[name].iloc[-1]), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8, color=color)
for kind in dict.fromkeys(heads.label):
    coefficients.plot([], [], color=COLORS[kind], label=kind)
coefficients.legend(frameon=False, fontsize=8)
loss = scores.twinx()
loss.plot(steps, traj.data["probes/held_out_loss"].values, color="k", lw=1, ls=":")
loss.set_ylabel("held-out loss, nats a token (dotted)")
scores.set(ylabel="attention score", title="What each head attends to (layer.head)")
coefficients.set(ylabel="λ̂ of one head ± 2 standard errors", title="λ̂ of each head by itself")

pairs = {"two repeated pairs": ((0, 0), "#c1272d"), "two new tokens": ((2, 2), "#8a8a8a"), "one of each": ((0, 2), "#0000a7")}
for (where, color), pair in zip(pairs.values(), pairs, strict=True):
    for name, style in (("all", "-"), (induction_head, "--")):
        value, wrong = dynamics[name][:, 0][:, *where], dynamics[name][:, 1][:, *where]
        influences.errorbar(steps, value, 2 * wrong, color=color, ls=style, lw=1.2, elinewidth=0.6, label=pair if style == "-" else None)
influences.axhline(0, color="k", lw=0.5)
influences.set(ylabel="mean correlation ± 2 errors", title=f"Losses of tokens in different windows (dashed: head {induction_head} alone moves)")
influences.legend(frameon=False, fontsize=8)
for ax in (scores, coefficients, influences):
    ax.set(xscale="log", xlabel="training step")
    ax.axvspan(*BUMP, color="k", alpha=0.06, lw=0)

image = responses.imshow(1e3 * chi[-1], cmap="RdBu_r", norm=mpl.colors.CenteredNorm(), aspect="auto")
for (i, j), value in np.ndenumerate(1e3 * chi[-1]):
    responses.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, fontweight="bold" if abs(chi[-1, i, j]) > 3 * chi_error[-1, i, j] else None)
responses.set_xticks(range(3), python_text.KINDS)
responses.set_yticks(range(len(names)), [f"{name}  {heads.label[name]}" for name in names], fontsize=8)
responses.set_title(f"Susceptibilities at step {steps[-1]}, 10⁻³ nats²; bold: over 3 errors")
figure.savefig(os.environ.get("FIGURE", "heads.png"), dpi=110)
