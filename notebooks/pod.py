# %% [markdown]
# # A pod on your laptop: two processes share the checkpoints of one run
#
# On a TPU pod or a cluster many processes follow one training run: each takes checkpoints that no other has taken, and all write into one store
# (docs/batch.md). The same can be seen on a laptop, with two processes that `jax.distributed` connects over localhost. This notebook
#
# 1. trains a small network that memorises sums modulo 53 and then generalises (grokking, Power et al., arXiv:2201.02177), and saves checkpoints;
# 2. follows λ̂ over them with one process, for comparison;
# 3. does it again with two, and kills one of them in the middle of its work: the other ends it.
#
# Nothing becomes faster by that on one laptop, whose cores one process uses all. On a pod each process has its own. Set `JAXLLC_QUICK=1` for a run of seconds,
# `FIGURE` for the path of the figure.

# %%
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxllc
from jaxllc.models.train import Recipe, checkpoint_steps, train

QUICK = bool(os.environ.get("JAXLLC_QUICK"))
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## What every process needs
# A module that names the loss and the data, and a configuration. The probe notes which process evaluates a checkpoint.

# %%
MODEL = '''
"""What run.toml names."""

import jax
import jax.numpy as jnp

from jaxllc.models import modular

net = modular.ModularNet(53)
loss = modular.cross_entropy(net)


def data():
    """The sums that are trained on."""
    return modular.split(jax.random.key(0), 53, 0.5)[0]


def probes():
    """Which process this is."""
    return {"process": lambda params: jnp.asarray(jax.process_index())}
'''
RUN = f"""
loss = "pod_model:loss"
data = "pod_model:data"
probes = "pod_model:probes"
checkpoints = "checkpoints"  # the directory of Orbax
store = "llc.zarr"
group_size = 1               # each checkpoint is written as soon as it is done

[settings]
sampler = {{ name = "SGLD" }}
localization = 100.0
num_chains = 4
num_draws = {100 if QUICK else 1000}
num_burn_in = {100 if QUICK else 1000}
"""
(folder / "pod_model.py").write_text(MODEL)
(folder / "run.toml").write_text(RUN)
sys.path.insert(0, str(folder))
import pod_model

# %% [markdown]
# ## The training run

# %%
NUM_STEPS, NUM_CHECKPOINTS = (1000, 8) if QUICK else (5000, 24)
steps = sorted({0, *checkpoint_steps(NUM_STEPS, NUM_CHECKPOINTS, 0, first=10)})
recipe = Recipe(pod_model.loss, lambda key, data: data, pod_model.data(), optax.adamw(1e-2, weight_decay=1.0))
weights = pod_model.net.init_params(jax.random.key(1))
train(recipe, weights, key=jax.random.key(2), steps=steps, directory=folder / "checkpoints")
print(f"{len(steps)} checkpoints, {sum(leaf.size for leaf in jax.tree.leaves(weights))} weights")

# %% [markdown]
# ## One process
# `jaxllc run` is what a scheduler starts; see docs/batch.md for SLURM, TPU pods and Kubernetes.


# %%
def start(store, *arguments, core=None):
    """`jaxllc run` in a process of its own, which writes a store of this name; on one core where the machine can be told so."""
    pinned = ["taskset", "-c", str(core)] if core is not None and shutil.which("taskset") else []
    command = [*pinned, sys.executable, "-m", "jaxllc", "run", folder / "run.toml", "--store", folder / store, "--no-progress", *arguments]
    return subprocess.Popen(list(map(str, command)), env=os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}, stderr=subprocess.PIPE, text=True)


began = time.monotonic()
alone = start("alone.zarr")
log = alone.communicate()[1]
print(log)
assert alone.returncode == 0
reference = jaxllc.open(folder / "alone.zarr").table()
print(f"{len(reference)} checkpoints in {time.monotonic() - began:.0f} s")

# %% [markdown]
# ## Two processes, of which one is killed
# Each is told where the first one listens, how many there are and which one it is. On a pod JAX finds that out by itself. Another program, like this notebook,
# can open the store while it grows. The first of the two that has written some checkpoints is killed, as if its machine failed.

# %%
with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
cluster = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--devices", 1]
began = time.monotonic()
processes = [start("llc.zarr", *cluster, "--process-id", i, core=cores[i % len(cores)]) for i in range(2)]
BEFORE_DEATH = 2 if QUICK else 6
written, dead, killed = {}, None, np.nan
while any(process.poll() is None for process in processes):
    time.sleep(0.1)
    try:
        by = jaxllc.open(folder / "llc.zarr").table()["process"]
    except (FileNotFoundError, ValueError):  # no checkpoint is done yet
        continue
    for step in by.index:
        written.setdefault(step, time.monotonic() - began)
    if dead is None and by.value_counts().max() >= BEFORE_DEATH:
        dead = int(by.value_counts().idxmax())
        processes[dead].kill()
        processes[dead].wait()
        killed = time.monotonic() - began
for i, process in enumerate(processes):
    print(f"process {i} ended with {process.wait()}", process.stderr.read(), sep="\n")

# %% [markdown]
# The store is whole: the process that lived did its share and what the other one left, and ended with 0. Had both been killed, the same line would go on
# from what is written. The findings are those of these λ̂, whoever computed them: at γ = 100 a Gaussian cloud gives nearly the same at most checkpoints
# (`grokking.py`), and in the short run chains are far too short.

# %%
table = jaxllc.open(folder / "llc.zarr").table()
assert list(table.index) == steps
assert processes[1 - dead].returncode == 0
difference = (table["llc"] - reference["llc"]).abs()
print(table[["llc", "std_error", "process"]].assign(alone=reference["llc"], difference=difference).to_string())
print("findings:", table["findings"].str.split().explode().value_counts().to_dict())
share = (difference / table["std_error"]).max()
print(f"by process 0: {(table['process'] == 0).sum()}, by process 1: {(table['process'] == 1).sum()}; process {dead} was killed after {killed:.0f} s")
print(f"largest difference from the run of one process: {difference.max():.1e}, {share:.1e} of its standard error")

# %% [markdown]
# **What to see.** Above: λ̂ rises while the sums are memorised and falls as the network generalises, and the points of two processes lie on the line of one.
# Middle: when each checkpoint was written. The two began at different ends; after the death of one (dashed) the other took on what that one had left. Below:
# the points differ from the line by rounding or not at all, thousands of times less than the error that λ̂ has anyhow. Random numbers are found by position,
# so they do not depend on who draws them. No figure like this was published; what stands beside the two processes is the one.

# %%
figure, axes = plt.subplots(3, 1, figsize=(7, 8), sharex=True, height_ratios=(3, 2, 1.5), layout="constrained")
x = np.maximum(table.index, steps[1] / 2)  # step 0 at the left edge of a log axis
began = min(written.values())
at = np.array([written.get(step, np.nan) for step in table.index]) - began
axes[0].plot(x, reference["llc"], color="0.6", lw=2.5, label="one process")
for process, color, marker in ((0, "#0072b2", "o"), (1, "#d55e00", "s")):
    mine = (table["process"] == process).to_numpy()
    label = f"process {process}{', which was killed' if process == dead else ''}"
    axes[0].errorbar(x[mine], table["llc"][mine], 2 * table["std_error"][mine], color=color, ls="none", marker=marker, ms=6, capsize=2, label=label)
    axes[1].plot(x[mine], at[mine], marker, color=color, ms=6)
    axes[2].plot(x[mine], np.maximum(difference / table["llc"], 1e-9)[mine], marker, color=color, ms=6)
axes[1].axhline(killed - began, color="k", lw=1, ls="--", label=f"process {dead} is killed")
axes[2].plot(x, table["std_error"] / table["llc"], color="k", lw=1.2, label="standard error")
axes[0].set(ylabel="λ̂ ± 2 standard errors", ylim=(0, None), title=f"Addition modulo {pod_model.net.modulus}: {len(steps)} checkpoints")
axes[1].set(ylabel="written, seconds\nafter the first one")
axes[2].set(ylabel="difference, as a share of λ̂\n(none: at the lower edge)", ylim=(5e-10, 1), yscale="log")
axes[2].set(xlabel="training step (0 at the left edge)", xscale="log")
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small", loc="best")
figure.savefig(os.environ.get("FIGURE", "pod.png"), dpi=150)
