# %% [markdown]
# # Calibration: what `jaxllc.calibrate` chooses, and whether it is right
#
# λ̂ asks for a sampler with its step size ε, an inverse temperature nβ, the strength γ of the Gaussian prior that keeps chains near the weights, and lengths
# of chains. The usual way to find them is to sweep: λ̂ on a grid of ε and nβ, and a look at where it is flat. Its published picture is that of devinterp 1.3
# (`EpsilonBetaAnalyzer`, notebook `examples/epsilon_beta.ipynb`): λ̂ over ε and nβ on log axes, with the true λ as a plane where there is one.
#
# `jaxllc.calibrate` measures instead what an iteration costs, how curved the loss is, how slowly chains forget where they began and what a finite step adds;
# it gives settings, the reasons for them, and the seconds that an estimate will take. Here it meets two networks: a linear one whose λ is known exactly, and
# a tanh network whose λ is not known. Set `JAXLLC_QUICK=1` for a run of seconds, `FIGURE` for the path of the figure.

# %%
import os
import textwrap
import time

import jax

jax.config.update("jax_num_cpu_devices", os.cpu_count())  # one XLA device a core, before anything else runs

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxllc
from jaxllc.models import linear
from jaxllc.theory import deep_linear_llc

QUICK = bool(os.environ.get("JAXLLC_QUICK"))

# %% [markdown]
# ## Two networks
# Two matrices, 6-5-4, without biases, at the weights that made the labels. There are 50 of them, of which only the product of the two matters, so λ is far
# below the 25 of a regular model with as many weights (Aoyagi 2024). Labels carry no noise, so that these weights are the minimum.

# %%
N = 500 if QUICK else 2000
WIDTHS = (6, 5, 4)
linear_net = linear.teacher(jax.random.key(0), WIDTHS)
inputs = jax.random.normal(jax.random.key(1), (N, WIDTHS[0]))
linear_data = (inputs, linear.apply(linear_net, inputs))
EXACT = deep_linear_llc(WIDTHS, min(WIDTHS)).value
print(f"exact λ = {EXACT}, of {sum(leaf.size for leaf in linear_net)} weights")

# %% [markdown]
# A tanh network 4-8-1, trained on noisy labels of a smaller one. The squared error is in nats: it is divided by twice the variance of the noise.

# %%
NOISE = 0.3


def predict(params, x):
    """The output of the network for each input."""
    return jnp.tanh(x @ params["in"] + params["bias"]) @ params["out"]


def tanh_loss(params, batch):
    """One loss for each example, in nats."""
    x, y = batch
    return jnp.square(predict(params, x) - y) / (2 * NOISE**2)


def random_weights(key, width):
    """A network 4-width-1."""
    keys = jax.random.split(key)
    return {"in": jax.random.normal(keys[0], (4, width)) / 2, "bias": jnp.zeros(width), "out": jax.random.normal(keys[1], (width,))}


x = jax.random.normal(jax.random.key(2), (N, 4))
y = predict(random_weights(jax.random.key(3), 3), x) + NOISE * jax.random.normal(jax.random.key(4), (N,))
NUM_STEPS = 4000 if QUICK else 40_000
optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, NUM_STEPS))


def update(_, state):
    """One step on all data."""
    params, opt_state = state
    updates, opt_state = optimizer.update(jax.grad(lambda p: tanh_loss(p, (x, y)).mean())(params), opt_state)
    return optax.apply_updates(params, updates), opt_state


first = random_weights(jax.random.key(5), 8)
tanh_net = jax.jit(lambda state: jax.lax.fori_loop(0, NUM_STEPS, update, state))((first, optimizer.init(first)))[0]
print(f"loss {tanh_loss(tanh_net, (x, y)).mean():.4f}, {sum(leaf.size for leaf in tanh_net.values())} weights")

# %% [markdown]
# ## The choice, and its reasons
# With half a minute for an estimate, and for the tanh network with a tenth of a second too. `cal.cost` is the time that an estimate is expected to take; what
# it took, compilation included, is printed beside it. Where a tenth of a second does not suffice for chains at γ = 1, the calibration raises γ until they can
# mix, and says so. That is another question, with another λ̂.

# %%
LINEAR, TANH = "linear 6-5-4", "tanh 4-8-1"
NETS = {LINEAR: (linear.squared_loss, linear_net, linear_data), TANH: (tanh_loss, tanh_net, (x, y))}
SHORT, LONG = 0.1, 10.0 if QUICK else 30.0
found = {}
for name, budget in [(LINEAR, LONG), (TANH, SHORT), (TANH, LONG)]:
    cal = jaxllc.calibrate(*NETS[name], key=jax.random.key(6), budget=budget, maps=budget == LONG)
    began = time.perf_counter()
    est = jaxllc.estimate(*NETS[name], cal.settings, key=jax.random.key(7), progress=False)
    took = time.perf_counter() - began
    found[name, budget] = cal, est
    codes = ", ".join(finding.code for finding in est.findings) or "none"
    print(f"{name}, {budget:g} s: {type(cal.settings.sampler).__name__}, nβ {cal.settings.nbeta:.0f}, γ {cal.settings.localization:g}")
    print(f"  λ̂ = {est.llc:.2f} ± {est.std_error:.2f}, findings: {codes}; expected {cal.cost:.1f} s, took {took:.1f} s")
    print(*(textwrap.fill(reason, 80, initial_indent="  - ", subsequent_indent="    ") for reason in cal.reasons), "", sep="\n")

# %% [markdown]
# ## Around the choice
# With `maps=True` a calibration also runs a quarter, once and four times of its γ and nβ, in short chains. `cal.plot()` shows λ̂ there; the choice has a
# frame. nβ and γ say *which* λ̂ is meant (docs/choosing.md), so values that differ over the map are no error: they are what to name beside λ̂.

# %%
for name in NETS:
    axes = found[name, LONG][0].plot()
    axes[0].set_title(name, fontsize="medium")

# %% [markdown]
# ## The sweep
# Eight ε over the range of devinterp's sweep, three nβ around n / ln n, chains of 300 draws without burn-in, as there; but at γ = 1, which the calibration
# takes, so that one truth belongs to all points. What is drawn is the plain mean, as other packages give it: `est.llc` has what the finite step adds taken
# off, and `step_bias` is that.

# %%
STEP_SIZES = np.geomspace(1e-6, 1e-2, 8)
FACTORS = (0.1, 1.0, 10.0)
began = time.perf_counter()
sweep = {}
for name, net in NETS.items():
    for factor in FACTORS:
        for step_size in STEP_SIZES:
            settings = jaxllc.Settings(
                jaxllc.SGLD(float(step_size)),
                nbeta=factor * jaxllc.default_nbeta(N),
                localization=1.0,
                batch_size=256,
                num_chains=4,
                num_draws=300,
                num_burn_in=0,
            )
            est = jaxllc.estimate(*net, settings, key=jax.random.key(8), progress=False)
            sweep[name, factor, step_size] = est.llc + est.summary["step_bias"].item(), est.findings
print(f"{len(sweep)} estimates in {time.perf_counter() - began:.0f} s")
for name in NETS:
    for factor in FACTORS:
        values = [sweep[name, factor, step_size] for step_size in STEP_SIZES]
        print(f"{name:13} nβ {factor * jaxllc.default_nbeta(N):6.0f}:", *(f"{value:7.2f}{'*' if findings else ' '}" for value, findings in values))
print("from left to right ε =", *(f"{step_size:.1e}" for step_size in STEP_SIZES), "  * has findings, nan: all chains diverged")

# %% [markdown]
# **What to see.** Left, above: the sweep of the linear network climbs with ε to its true λ (green) and past it, at each nβ at another ε, until chains
# diverge or leave the plot (crosses). It climbs because chains that begin at w\* have not left it yet, and goes past because a large step adds to λ̂; no place
# on it is level, and the findings (hollow points) object to nearly all of it. The calibrated estimate (black, with its error) is at the line, and had no line
# to look at. Right, above: the same for the tanh network, where nothing in the sweep says which value is right. Below: λ̂ around the calibrated choice (black
# star). For the linear network γ and nβ hardly matter; for the tanh network nβ does, and λ̂ without its nβ says little.

# %%
COLORS, MARKERS = ("#56b4e9", "#0072b2", "#d55e00"), "so^"
figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
for column, name in enumerate(NETS):
    cal, est = found[name, LONG]
    above, below = axes[:, column]
    top = 2.2 * est.llc
    for factor, color, marker in zip(FACTORS, COLORS, MARKERS, strict=True):
        values = np.array([sweep[name, factor, step_size][0] for step_size in STEP_SIZES])
        suspect = np.array([bool(sweep[name, factor, step_size][1]) for step_size in STEP_SIZES])
        outside = ~(values < top)  # also where all chains diverged
        drawn = np.where(outside, top, values)
        drawn[np.cumsum(outside) > 1] = np.nan  # the first of them will do
        above.plot(STEP_SIZES, drawn, color=color, lw=1.2, marker=marker, ms=6, mfc="white", markevery=(~outside).nonzero()[0].tolist())
        above.plot(STEP_SIZES[outside], drawn[outside], "x", color=color, ms=8, mew=2)
        above.plot(STEP_SIZES[~suspect], values[~suspect], marker, ms=6, color=color)
        above.plot([], [], color=color, lw=1.2, marker=marker, ms=6, mfc="white", label=f"nβ = {factor * jaxllc.default_nbeta(N):.0f}")
    above.axhspan(est.llc - 2 * est.std_error, est.llc + 2 * est.std_error, color="k", alpha=0.2, lw=0)
    above.axhline(est.llc, color="k", lw=1.2, ls="--", label="calibrated ± 2 standard errors")
    points = cal.table().query("checkpoint == 'map'").sort_values("localization")
    if "step_size" in points:  # the calibration took SGLD
        points = points[np.isclose(points["step_size"], cal.settings.sampler.step_size)]
    for i, (nbeta, some) in enumerate(points.groupby("nbeta")):
        at = some["localization"] * 1.04 ** (i - 1)
        below.errorbar(at, some["llc"], 2 * some["std_error"], color=COLORS[i], lw=1.2, marker=MARKERS[i], ms=6, capsize=2, label=f"nβ = {nbeta:.0f}")
    below.errorbar(cal.settings.localization, est.llc, 2 * est.std_error, color="k", ls="none", marker="*", ms=13, capsize=4, zorder=3, label="calibrated")
    ticks = sorted(set(points["localization"]))
    if column == 0:
        for ax in (above, below):
            ax.axhline(EXACT, color="#009e73", lw=2, zorder=1, label="exact λ")
    above.set(xscale="log", ylim=(0, 1.04 * top), xlabel="step size ε of SGLD", ylabel="plain mean, no burn-in", title=f"{name}: the usual sweep")
    below.set(xscale="log", ylim=(0, None), xlabel="localization γ", ylabel="λ̂ ± 2 standard errors", title=f"{name}: around the calibrated choice")
    below.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    below.set_xticks([], minor=True)
for ax in axes.ravel():
    ax.spines[["top", "right"]].set_visible(False)
axes[0, 0].legend(frameon=False, fontsize="small", loc="upper left")
axes[1, 0].legend(frameon=False, fontsize="small", loc="lower center", ncols=2)
figure.savefig(os.environ.get("FIGURE", "calibration.png"), dpi=150)
