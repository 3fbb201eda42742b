r"""The reference of the demo's transformer: Hamiltonian Monte Carlo on all windows, with the identity as metric, in sessions of some seconds.

A Hessian in full, as `whitened_hmc` takes it, would cost more than the chains. With $\gamma = 2400$ the stiffest direction is some twenty times as stiff as the
prior, so no metric is needed: in units of $1 / \sqrt\gamma$ a trajectory is a quarter of the period of a flat direction, of random length, a dozen leapfrog
steps. Chains start where Langevin dynamics on minibatches has brought them, for a shorter burn-in. The step size is adapted in burn-in to an acceptance of 0.8
and then stays. No sampler of jaxllc is used. All losses and the last positions are in results/precision_reference.npz, from which the next session goes on.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.report import RESULTS
from benchmarks.time_to_error import Reference

PATH = RESULTS / "precision_reference.npz"
CHAINS, BURN_IN, TARGET, FIRST_STEP = 4, 16, 0.8, 0.15
CHUNK = 16
"""Windows of which a gradient is taken at a time, so that it stays in the cache."""
START_STEPS, START_STEP = 1500, 0.015
"""Iterations of Langevin dynamics before the first trajectory, and their step, in units of the prior's variance."""

Loss = Callable[[Any, Any], jax.Array]


class Target(NamedTuple):
    r"""The posterior in z, $w = w^* + z / \sqrt\gamma$."""

    loss_fn: Loss
    params: Any
    data: jax.Array
    nbeta: float
    localization: float

    def place(self, z: jax.Array) -> Any:
        """The weights."""
        center, unravel = ravel_pytree(self.params)
        return unravel(center + z / math.sqrt(self.localization))

    def with_grad(self, z: jax.Array, data: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The mean loss of some windows times nbeta, and its gradient, in chunks."""
        one = jax.value_and_grad(lambda z, chunk: self.nbeta * self.loss_fn(self.place(z), chunk).mean())
        chunks = data.reshape(-1, CHUNK, data.shape[-1])
        zero = (jnp.zeros(()), jnp.zeros_like(z))
        total = jax.lax.scan(lambda sums, chunk: (jax.tree.map(jnp.add, sums, one(z, chunk)), None), zero, chunks)[0]
        return jax.tree.map(lambda x: x / len(chunks), total)

    def start(self, key: jax.Array) -> jax.Array:
        """A position that Langevin dynamics on minibatches reaches."""

        def step(z: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            row_key, noise_key = jax.random.split(key)
            grad = self.with_grad(z, self.data[jax.random.randint(row_key, (CHUNK,), 0, len(self.data))])[1] + z
            return z - START_STEP / 2 * grad + math.sqrt(START_STEP) * jax.random.normal(noise_key, z.shape), None

        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return jax.lax.scan(step, jnp.zeros(size), jax.random.split(key, START_STEPS))[0]

    def draw(self, key: jax.Array, z: jax.Array, step: jax.Array, leaps: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One trajectory: the position after it, nbeta times the mean loss there, and the acceptance."""
        momentum_key, accept_key = jax.random.split(key)
        p = jax.random.normal(momentum_key, z.shape)
        loss, grad = self.with_grad(z, self.data)

        def leap(_: jax.Array, carry: Any) -> Any:
            z, p, _loss, grad = carry
            p = p - step / 2 * (grad + z)
            z = z + step * p
            loss, grad = self.with_grad(z, self.data)
            return z, p - step / 2 * (grad + z), loss, grad

        new, q, loss_new, _ = jax.lax.fori_loop(0, leaps, leap, (z, p, loss, grad))
        change = loss - loss_new + (jnp.vdot(p, p) - jnp.vdot(q, q) + jnp.vdot(z, z) - jnp.vdot(new, new)) / 2
        rate = jnp.exp(jnp.minimum(change, 0.0))
        accepted = jax.random.uniform(accept_key) < rate
        return jnp.where(accepted, new, z), jnp.where(accepted, loss_new, loss), rate


def go_on(loss_fn: Loss, params: Any, data: Any, setting: Mapping[str, float], seconds: float) -> str:
    """More draws for so many seconds, kept; what is known then."""
    began = time.perf_counter()
    target = Target(loss_fn, params, jnp.asarray(data), setting["nbeta"], setting["localization"])
    draw, devices = jax.jit(target.draw), jax.devices()
    if PATH.exists():
        with np.load(PATH) as stored:
            state: dict[str, Any] = dict(stored)
    else:
        at_center = jax.jit(target.with_grad)(jnp.zeros(sum(leaf.size for leaf in jax.tree.leaves(params))), target.data)[0]
        starts = jax.lax.map(jax.jit(target.start), jax.random.split(jax.random.key(1), CHAINS))
        state = {"z": starts, "log_step": math.log(FIRST_STEP), "excess": np.zeros((0, CHAINS)), "acceptance": np.zeros((0, CHAINS)), "at_center": at_center}
        np.savez_compressed(PATH, **jax.tree.map(np.asarray, state))
    z = [jax.device_put(jnp.asarray(one, jnp.float32), devices[i % len(devices)]) for i, one in enumerate(state["z"])]
    log_step, rows = float(state["log_step"]), [np.stack(row) for row in zip(state["excess"], state["acceptance"], strict=True)]
    while True:
        t = len(rows)
        *keys, vary_key = jax.random.split(jax.random.fold_in(jax.random.key(0), t), CHAINS + 1)
        stretch, vary = (float(u) for u in jax.random.uniform(vary_key, (2,), minval=-1, maxval=1))
        step = math.exp(log_step) * (1 + 0.2 * vary)
        leaps = math.ceil(math.pi / 2 * (1 + 0.3 * stretch) / step)
        found = [draw(jax.device_put(key, one.device), one, np.float32(step), np.int32(leaps)) for key, one in zip(keys, z, strict=True)]
        z = [one for one, _, _ in found]
        rows.append(np.asarray([[float(loss) - float(state["at_center"]), float(rate)] for _, loss, rate in found]).T)
        if t < BURN_IN:
            log_step += 1.5 / (t + 2) ** 0.6 * (rows[-1][1].mean() - TARGET)
        excess, acceptance = np.asarray(rows).transpose(1, 0, 2)
        np.savez_compressed(
            PATH, z=np.asarray(z, np.float32), log_step=log_step, excess=excess, acceptance=acceptance, at_center=np.asarray(state["at_center"])
        )
        if time.perf_counter() - began > seconds:
            return f"{len(excess)} draws, step {step:.3f}, {leaps} leaps, acceptance {acceptance[-8:].mean():.2f}, last {excess[-1].round(1)}"


def value() -> Reference:
    """The mean after burn-in, and its standard error by the spread of halves of the chains.

    Raises:
        ValueError: there are too few draws.
    """
    excess = np.zeros((0, CHAINS))
    if PATH.exists():
        with np.load(PATH) as stored:
            excess = stored["excess"][BURN_IN:]
    if len(excess) < 16:
        raise ValueError(f"{PATH} has {len(excess)} draws after burn-in; make more with `python -m benchmarks.precision --reference SECONDS`.")
    half = len(excess) // 2
    parts = np.concatenate([excess[:half].mean(0), excess[half : 2 * half].mean(0)])
    return Reference(float(excess.mean()), float(parts.std(ddof=1) / math.sqrt(len(parts))))
