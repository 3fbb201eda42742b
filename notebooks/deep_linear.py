# %% [markdown]
# # λ̂ against exact answers: deep linear nets
#
# The learning coefficient of a deep linear net is known exactly (Aoyagi 2024). Here λ̂ is estimated at teachers of every rank of one
# architecture, with default settings but for the step size, and compared with it.

# %%
import os

import jax

jax.config.update("jax_num_cpu_devices", os.cpu_count())

import matplotlib.pyplot as plt
import numpy as np

import jaxllc
from jaxllc.models import linear
from jaxllc.theory import deep_linear_llc

# %%
widths, ranks = (12, 10, 8), (0, 1, 2, 4, 6, 8)
inputs, noise = jax.random.normal(jax.random.key(2), (20_000, widths[0])), jax.random.normal(jax.random.key(3), (20_000, widths[-1]))
estimates = []
for rank in ranks:
    params = linear.teacher(jax.random.key(1), widths, rank or 1)
    params = [0 * params[0], params[1]] if rank == 0 else params
    data = (inputs, linear.apply(params, inputs) + noise)
    estimates.append(
        jaxllc.estimate(linear.squared_loss, params, data, key=jax.random.key(0), sampler=jaxllc.SGLD(1e-5), num_draws=2000, num_burn_in=3000, progress=False)
    )
    print(f"rank {rank}: λ = {deep_linear_llc(widths, rank).value:5.1f}, {estimates[-1]}")

# %% [markdown]
# Rank 0 is special: with one layer at zero and the other not, the *local* coefficient is larger than the global one that the formula gives.

# %%
exact = np.array([deep_linear_llc(widths, rank).value for rank in ranks])
figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
ax.plot([0, exact.max()], [0, exact.max()], color="grey", lw=1, label="equal")
ax.errorbar(exact, [est.llc for est in estimates], [2 * est.std_error for est in estimates], fmt="o", ms=4, capsize=2, label="λ̂ ± 2 standard errors")
ax.set_xlabel("exact learning coefficient λ")
ax.set_ylabel("estimate λ̂")
ax.legend(frameon=False)
figure.savefig(os.environ.get("FIGURE", "deep_linear.png"), dpi=150)
