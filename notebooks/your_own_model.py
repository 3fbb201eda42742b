# %% [markdown]
# # Your own model: from a flax module to its stages
#
# A classifier that is not part of jaxllc is trained, saved with Orbax and followed: λ̂(t), what makes a number suspect, stages, and a figure. The steps are
# those for any model of yours:
#
# 1. a loss of one number for each example, in nats;
# 2. checkpoints at log-spaced steps;
# 3. settings for all of them, by `jaxllc.calibrate`;
# 4. `jaxllc.trajectory`, its findings and its stages.
#
# The task is made so that it can be looked up what the network knows. There are eight classes. One of four *groups* can be read off two inputs. Which of the
# two classes of a group it is tells whether two other inputs have the same sign, which no single input tells: this comes later. Set `JAXLLC_QUICK=1` for a
# run of seconds, `FIGURE` for the path of the figure.

# %%
import os
import tempfile
import textwrap

import jax

jax.config.update("jax_num_cpu_devices", os.cpu_count())  # one XLA device a core, before anything else runs

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import orbax.checkpoint as ocp
import pandas as pd
from flax import nnx

import jaxllc
from jaxllc.models.from_nnx import from_nnx
from jaxllc.plots import BLUE, GREY, ORANGE, plot_stages

QUICK = bool(os.environ.get("JAXLLC_QUICK"))

# %% [markdown]
# ## The data and the model
# Every tenth label is replaced by a random one. So the best possible loss is known, and the loss of a model that knows the group alone.

# %%
N, NUM_CLASSES, RANDOM = 2000 if QUICK else 4000, 8, 0.1


def label(x):
    """The class: twice the group, which has the signs of two inputs, and whether two others have the same sign."""
    return 4 * (x[:, 0] > 0) + 2 * (x[:, 1] > 0) + (x[:, 2] * x[:, 3] > 0)


keys = jax.random.split(jax.random.key(0), 4)
x = jax.random.normal(keys[0], (N, 6))
y = jnp.where(jax.random.uniform(keys[1], (N,)) < RANDOM, jax.random.randint(keys[2], (N,), 0, NUM_CLASSES), label(x))
test_x = jax.random.normal(keys[3], (N, 6))
right, wrong = 1 - RANDOM + RANDOM / NUM_CLASSES, RANDOM / NUM_CLASSES
BEST_LOSS = -right * np.log(right) - 7 * wrong * np.log(wrong)
GROUP_LOSS = -(right + wrong) * np.log((right + wrong) / 2) - 6 * wrong * np.log(wrong)


class Classifier(nnx.Module):
    """One hidden layer."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(6, 24, rngs=rngs)
        self.out = nnx.Linear(24, NUM_CLASSES, rngs=rngs)

    def __call__(self, x):
        """Logits of the classes."""
        return self.out(nnx.tanh(self.hidden(x)))


# %% [markdown]
# jaxllc wants weights as a pytree and a pure function of them. `from_nnx` makes both of a module, in evaluation mode (for equinox, haiku and others see
# docs/frameworks.md). The loss is one number for each example, not their mean; cross-entropy is in nats already.

# %%
apply, params = from_nnx(Classifier(nnx.Rngs(0)))


def loss_fn(params, batch):
    """Cross-entropy of each example."""
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y)


# %% [markdown]
# ## Train, and save checkpoints
# A loop as you have one, with an Orbax `CheckpointManager`. Stages lie close together early and far apart late, so steps are spaced evenly on a log axis.

# %%
NUM_STEPS, NUM_CHECKPOINTS = (3000, 16) if QUICK else (8000, 32)
steps = sorted({0, *np.geomspace(5, NUM_STEPS, NUM_CHECKPOINTS).round().astype(int).tolist()})
optimizer = optax.adam(3e-3)


@jax.jit
def update(params, opt_state):
    """One step on all data."""
    gradient = jax.grad(lambda params: loss_fn(params, (x, y)).mean())(params)
    updates, opt_state = optimizer.update(gradient, opt_state)
    return optax.apply_updates(params, updates), opt_state


directory = tempfile.mkdtemp()
opt_state = optimizer.init(params)
with ocp.CheckpointManager(directory) as manager:
    for step in range(NUM_STEPS + 1):
        if step in steps:
            manager.save(step, args=ocp.args.StandardSave({"params": params, "opt_state": opt_state}))
        params, opt_state = update(params, opt_state)

# %% [markdown]
# `OrbaxCheckpoints` opens such a directory as a mapping from the step to the weights, and reads each when its turn comes.

# %%
checkpoints = jaxllc.OrbaxCheckpoints(directory)
print(checkpoints)

# %% [markdown]
# ## One setting for all checkpoints
# λ̂ at different nβ and γ must not be compared, so these are settled once. nβ is n / ln n by default. γ says how near to the weights chains stay: at γ = 1
# chains of early checkpoints would go wherever the loss is lower. We take 100. The rest is measured, at the first, the middle and the last checkpoint.

# %%
calibration = jaxllc.calibrate(loss_fn, checkpoints, (x, y), key=jax.random.key(1), localization=100.0, budget=0.5 if QUICK else 2.0)
print(calibration.settings, *(textwrap.fill(reason, 80) for reason in calibration.reasons), sep="\n")

# %% [markdown]
# ## λ̂ over training
# Probes are evaluated at each checkpoint too: here how often the network is right about the group and about the class within the group. All checkpoints use
# the same random numbers, so a change from one to the next is known better than the values are.


# %%
def share_right(part):
    """A probe: how often a part of the class is right, on inputs that were not trained on."""
    return lambda params: (part(apply(params, test_x).argmax(-1)) == part(label(test_x))).mean()


traj = jaxllc.trajectory(
    loss_fn,
    checkpoints,
    (x, y),
    calibration.settings,
    key=jax.random.key(2),
    probes={"group": share_right(lambda k: k // 2), "within": share_right(lambda k: k % 2)},
    progress=False,
)
table = traj.table()
print(table[["llc", "std_error", "change", "change_error", "loss", "group", "within"]].round(2).to_string())
print(*(f"step {step}: {codes}" for step, codes in table["findings"].items() if codes), sep="\n")

# %% [markdown]
# `below-center` means that chains found a much lower loss than that of the checkpoint: it is no minimum, and λ̂ far below zero is no coefficient. It is the
# usual finding early in training. docs/findings.md says what each means, and what to do.
#
# ## Stages
# *Type A*: λ̂ rises and the loss falls, so the network learns something. *Type B*: λ̂ falls and the loss does not rise, so it becomes simpler. *Undecided*: the
# change is within the noise.

# %%
stages = traj.stages()
print(stages[["start", "end", "end_low", "end_high", "type", "delta_llc", "delta_llc_error", "delta_loss"]].round(2).to_string())

# %% [markdown]
# ## Beside the published stages
# Hoogland et al. (arXiv:2402.02364, table 1) divide the training of a language model with 3 million weights into five stages, four of type A and one of type
# B, LM3. The right side has λ̂ and the test loss at the ends of these stages as they stand in the authors' public data. (Their λ̂ contains ten times the loss,
# by how its baseline is computed: research/development.md.)
#
# **What to see.** Left: until about step 100 λ̂ is far below zero, off the plot, and only mirrors the loss. Then it pauses where the network knows the groups
# and little else, and rises a second time while it learns the classes within them. The first boundary lies in this pause. (The short run has too few
# checkpoints to find it.) Later boundaries have wide intervals, grey: little can be built on them. Right: the published λ̂ rises in stages of type A too, and
# falls once, over LM3, where the loss hardly moves. Ours has no such stage. That one thing is learnt after another makes no stage of type B.

# %%
PUBLISHED = pd.DataFrame({"start": [0, 900, 6500, 8500, 17_500], "end": [900, 6500, 8500, 17_500, 49_900], "type": ["A", "A", "B", "A", "A"]})
PUBLISHED_LLC, PUBLISHED_LOSS = [123.6, 149.9, 172.4, 170.9, 179.5, 181.3], [7.94, 4.35, 3.63, 3.56, 3.29, 3.22]

layout = [["llc", "published llc"], ["loss", "published llc"], ["right", "published loss"]]
figure, axes = plt.subplot_mosaic(layout, figsize=(11, 8), height_ratios=(3, 2, 2), layout="constrained")
for ax in axes.values():
    ax.set(xscale="log", xlabel="training step (0 at the left edge)")
    ax.spines[["top", "right"]].set_visible(False)
first, published_first = steps[1] / 2, 100  # where step 0 is drawn
at = np.maximum(table.index, first)
suspect = (table["findings"] != "").to_numpy()
num_weights = sum(leaf.size for leaf in jax.tree.leaves(params))
axes["llc"].axhline(0, color="k", lw=0.6)
axes["llc"].errorbar(at, table["llc"], 2 * table["std_error"], color=BLUE, lw=1.2, capsize=2)
axes["llc"].plot(at[~suspect], table["llc"][~suspect], "o", color=BLUE, ms=4.5, label="no findings")
axes["llc"].plot(at[suspect], table["llc"][suspect], "o", color=BLUE, ms=4.5, mfc="white", label="with findings")
axes["llc"].set(ylim=(-12, 1.1 * table["llc"].max()), xlabel="", ylabel="λ̂ ± 2 standard errors")
axes["llc"].set_title(f"this network, {num_weights} weights", pad=20)
axes["llc"].legend(frameon=False, fontsize="small", loc="upper left")
axes["loss"].plot(at, table["loss"], color=ORANGE, lw=1.5, label="at the checkpoint")
axes["loss"].axhline(GROUP_LOSS, color=GREY, lw=1.2, ls=":", label="of a model that knows the group alone")
axes["loss"].axhline(BEST_LOSS, color=GREY, lw=1.2, ls="--", label="of a perfect model")
axes["loss"].set(ylim=(0, None), xlabel="", ylabel="loss (nats)")
axes["loss"].legend(frameon=False, fontsize="small", loc="upper right", borderaxespad=0)
axes["right"].plot(at, table["group"], color="#009e73", lw=1.5, label="the group")
axes["right"].plot(at, table["within"], color="#cc79a7", lw=1.5, ls="--", label="the class within it")
axes["right"].set(ylim=(0, 1.05), ylabel="share right")
axes["right"].legend(frameon=False, fontsize="small", loc="lower right")
plot_stages(stages.assign(start=np.maximum(stages["start"], first)), [axes[name] for name in ("llc", "loss", "right")])

at = [published_first, *PUBLISHED["end"]]
axes["published llc"].plot(at, PUBLISHED_LLC, "o-", color=BLUE, lw=1.2, ms=4.5)
axes["published llc"].set(xlabel="", ylabel="λ̂")
axes["published llc"].set_title("published: a language model, 3 million weights", pad=20)
axes["published loss"].plot(at, PUBLISHED_LOSS, "o-", color=ORANGE, lw=1.5, ms=4.5)
axes["published loss"].set(ylim=(0, None), ylabel="test loss (nats)")
PUBLISHED["start"] = np.maximum(PUBLISHED["start"], published_first)
plot_stages(PUBLISHED.assign(end_low=PUBLISHED["end"], end_high=PUBLISHED["end"]), [axes["published llc"], axes["published loss"]])
for i, stage in PUBLISHED.iterrows():
    middle = np.sqrt(stage["start"] * stage["end"])
    axes["published llc"].text(middle, 0.02, f"LM{i + 1}", transform=axes["published llc"].get_xaxis_transform(), ha="center", fontsize="small")
figure.savefig(os.environ.get("FIGURE", "your_own_model.png"), dpi=150)
