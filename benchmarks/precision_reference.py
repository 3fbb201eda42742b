r"""The reference of the demo's transformer: Hamiltonian Monte Carlo on all windows, with the identity as metric, in sessions of some seconds.

A Hessian in full, as `whitened_hmc` takes it, would cost more than the chains. With $\gamma = 2400$ the stiffest direction is some twenty times as stiff as the
prior, so no metric is needed: in units of $1 / \sqrt\gamma$ a trajectory is a quarter of the period of a flat direction, of random length, a dozen leapfrog
steps. Every other chain starts at a draw of a quarter of the prior's variance, the others at $w^*$. The step size is adapted in burn-in to an acceptance of 0.8
and then stays. No sampler of jaxllc is used. All losses and the last positions are in results/precision_reference.npz, from which the next session goes on.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.report import RESULTS
from benchmarks.time_to_error import Reference

PATH = RESULTS / "precision_reference.npz"
CHAINS, BURN_IN, TARGET, FIRST_STEP = 4, 24, 0.8, 0.2


def trajectory(loss_fn: Callable[[Any, Any], jax.Array], params: Any, data: Any, nbeta: float, localization: float) -> Callable[..., Any]:
    """`draw(key, z, step, leaps) -> (z, excess, acceptance)` of one chain, z in units of the prior, excess nbeta times the loss less that at w*."""
    center, unravel = ravel_pytree(params)
    at_center = jax.jit(lambda data: loss_fn(params, data).mean())(data)

    def potential(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        excess = nbeta * (loss_fn(unravel(center + z / math.sqrt(localization)), data).mean() - at_center)
        return excess + jnp.vdot(z, z) / 2, excess

    with_grad = jax.value_and_grad(potential, has_aux=True)

    @jax.jit
    def draw(key: jax.Array, z: jax.Array, step: jax.Array, leaps: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        momentum_key, accept_key = jax.random.split(key)
        p = jax.random.normal(momentum_key, z.shape)
        (energy, excess), grad = with_grad(z)

        def leap(_: jax.Array, carry: Any) -> Any:
            z, p, _energy, _excess, grad = carry
            p = p - step / 2 * grad
            z = z + step * p
            (energy, excess), grad = with_grad(z)
            return z, p - step / 2 * grad, energy, excess, grad

        new, q, energy_new, excess_new, _ = jax.lax.fori_loop(0, leaps, leap, (z, p, energy, excess, grad))
        change = energy + jnp.vdot(p, p) / 2 - energy_new - jnp.vdot(q, q) / 2
        rate = jnp.exp(jnp.minimum(change, 0.0))
        accepted = jax.random.uniform(accept_key) < rate
        return jnp.where(accepted, new, z), jnp.where(accepted, excess_new, excess), rate

    return draw


def go_on(loss_fn: Callable[[Any, Any], jax.Array], params: Any, data: Any, nbeta: float, localization: float, seconds: float) -> Reference:
    """More draws for so many seconds, kept; the value of all of them."""
    began = time.perf_counter()
    draw = trajectory(loss_fn, params, jnp.asarray(data), nbeta, localization)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    starts = np.where(np.arange(CHAINS)[:, None] % 2, 0.0, 0.5 * np.asarray(jax.random.normal(jax.random.key(1), (CHAINS, size))))
    state: dict[str, Any] = {"z": starts, "log_step": np.log(FIRST_STEP), "excess": np.zeros((0, CHAINS)), "acceptance": np.zeros((0, CHAINS))}
    if PATH.exists():
        with np.load(PATH) as stored:
            state = {name: stored[name] for name in state}
    z = [jnp.asarray(one, jnp.float32) for one in state["z"]]
    log_step, rows = float(state["log_step"]), [*zip(state["excess"], state["acceptance"], strict=True)]
    while time.perf_counter() - began < seconds:
        t = len(rows)
        of_draw = jax.random.split(jax.random.fold_in(jax.random.key(0), t), CHAINS + 1)
        stretch, vary = (float(u) for u in jax.random.uniform(of_draw[-1], (2,), minval=-1, maxval=1))
        step = math.exp(log_step) * (1 + 0.2 * vary)
        leaps = math.ceil(math.pi / 2 * (1 + 0.3 * stretch) / step)
        found = [draw(key, one, jnp.float32(step), jnp.int32(leaps)) for key, one in zip(of_draw[:-1], z, strict=True)]
        z = [one for one, _, _ in found]
        rows.append((np.asarray([float(excess) for _, excess, _ in found]), np.asarray([float(rate) for _, _, rate in found])))
        if t < BURN_IN:
            log_step += 1.5 / (t + 1) ** 0.6 * (rows[-1][1].mean() - TARGET)
    excess, acceptance = (np.asarray(column) for column in zip(*rows, strict=True))
    np.savez_compressed(PATH, z=np.asarray(z, np.float32), log_step=log_step, excess=excess, acceptance=acceptance)
    return value()


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
