r"""Reference chains for any small net: Hamiltonian Monte Carlo on all data, in the metric of the Hessian at $w^*$.

With $H = V \operatorname{diag}(h) V^\top$ the chains move in $z$, $w = w^* + V \operatorname{diag}(n\beta |h| + \gamma)^{-1/2} z$, where the posterior near
$w^*$ has unit curvature in every direction; eigenvalues with $n\beta |h| < \gamma$, where the prior dominates, and those beyond the 256 largest share one
scale. A trajectory is a quarter of the period of such a direction, of random length within 30 %. Every other chain starts at a draw of $N(0, 1/4)$ in $z$,
the others at $w^*$. The step size is adapted in burn-in to an acceptance of 0.8, for each chain alone in the first half and for all together in the second, and
then stays. Nothing of `jaxllc` is used, so that an error there is not repeated here.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import ndtri

TARGET = 0.8
"""The acceptance rate that the step size is adapted to."""
QUARTER_PERIOD = math.pi / 2
MAX_LEAPS = 400
"""Leapfrog steps of a trajectory at most."""
FEWEST = 100
"""Draws that are made however long they take."""
BLOCK = 20
"""Draws of one call of the program."""
HESSIAN_EXAMPLES = 1024
"""Examples that the metric is estimated from, which need not be exact."""
MAX_STIFF = 256
"""Directions that have a scale of their own at most: more would cost more than the gradient."""
MAX_RHAT = 1.01


@dataclasses.dataclass(frozen=True)
class Length:
    """How long the chains are."""

    chains: int = 8
    burn_in: int = 200
    draws: int = 8000
    """At first; twice as many while an R-hat is not below `MAX_RHAT`, and the time allows it."""
    seconds: float = 100.0
    """After which no more draws are made, but for the first `FEWEST`."""
    together: bool = False
    """All chains at once, as accelerators want it, in the place of one after the other."""


class Chains(NamedTuple):
    """What is kept of the draws, `[draw, chain]`."""

    llc: np.ndarray
    """The difference of nbeta times the mean loss to that at w*, nats."""
    distance: np.ndarray
    """The squared distance to w*."""
    acceptance: np.ndarray
    leaps: np.ndarray
    step_size: float


class _Carry(NamedTuple):
    z: jax.Array
    log_step: jax.Array
    t: jax.Array


def sample(
    loss_fn: Callable[[Any, Any], jax.Array], params: Any, data: Any, nbeta: float, localization: float, length: Length, seed: int = 0
) -> dict[str, Any]:
    """The mean of the coefficient under the posterior, with its standard error, the R-hat of quarter-chains of both quantities, and how it was made.

    Args:
        loss_fn: `loss_fn(params, batch) -> float[batch]`.
        params: w*, arrays of one floating dtype, in which the chains move.
        data: all of it.
        nbeta: of the posterior.
        localization: of the posterior.
        length: how many chains and draws.
        seed: of the random numbers.
    """
    began = time.perf_counter()
    center, unravel = ravel_pytree(params)
    dtype = center.dtype
    rest, scales, basis = metric(lambda w, batch: loss_fn(unravel(w), batch).mean(), center, data, nbeta, localization)

    def place(z: jax.Array) -> jax.Array:
        return rest * z + basis @ ((scales - rest) * (z @ basis))

    def potential(z: jax.Array, data: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        moved = place(z)
        loss, squared = loss_fn(unravel(center + moved), data).mean(), jnp.vdot(moved, moved)
        return nbeta * loss + localization / 2 * squared, (loss, squared)

    with_grad = jax.value_and_grad(potential, has_aux=True)

    def draw(key: jax.Array, z: jax.Array, log_step: jax.Array, leaps: jax.Array, data: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        momentum_key, accept_key = jax.random.split(key)
        step = jnp.exp(log_step)
        p = jax.random.normal(momentum_key, z.shape, dtype)
        (u, aux), grad = with_grad(z, data)

        def leap(_: jax.Array, carry: Any) -> Any:
            z, p, _u, _aux, grad = carry
            p = p - step / 2 * grad
            z = z + step * p
            (u, aux), grad = with_grad(z, data)
            return z, p - step / 2 * grad, u, aux, grad

        z_new, p_new, u_new, aux_new, _ = jax.lax.fori_loop(0, leaps, leap, (z, p, u, aux, grad))
        change = u + jnp.vdot(p, p) / 2 - u_new - jnp.vdot(p_new, p_new) / 2
        rate = jnp.where(jnp.isfinite(change), jnp.exp(jnp.minimum(change, 0.0)), 0.0).astype(dtype)
        accepted = jax.random.uniform(accept_key, (), dtype) < rate
        loss, squared = (jnp.where(accepted, new, old) for new, old in zip(aux_new, aux, strict=True))
        return jnp.where(accepted, z_new, z), (loss, squared, rate)

    def block(key: jax.Array, carry: _Carry, data: Any, burn_in: int) -> tuple[_Carry, Any]:
        def one(carry: _Carry, _: None) -> tuple[_Carry, Any]:
            keys = jax.random.split(jax.random.fold_in(key, carry.t), length.chains + 2)
            vary = jax.random.uniform(keys[-1], (), dtype, 0.8, 1.2)
            span = QUARTER_PERIOD * jax.random.uniform(keys[-2], (), dtype, 0.7, 1.3)
            leaps = jnp.clip(jnp.ceil(span / jnp.exp(jnp.median(carry.log_step)) / vary), 1, MAX_LEAPS).astype(jnp.int32)
            chains = keys[:-2], carry.z, carry.log_step + jnp.log(vary)
            z, (loss, squared, rate) = jax.lax.map(
                lambda of: draw(of[0], of[1], of[2], leaps, data), chains, batch_size=length.chains if length.together else None
            )
            since = jnp.mod(carry.t, burn_in // 2).astype(dtype)
            gain = jnp.where(carry.t < burn_in, 1.5 / (since + 1.0) ** 0.6, 0.0)
            together = carry.t >= burn_in // 2
            log_step = jnp.where(together, jnp.median(carry.log_step) + gain * (rate.mean() - TARGET), carry.log_step + gain * (rate - TARGET))
            return _Carry(z, log_step, carry.t + 1), (loss, squared, rate, jnp.full_like(rate, 1) * leaps.astype(dtype), jnp.exp(jnp.median(log_step)))

        return jax.lax.scan(one, carry, length=BLOCK)

    compiled = jax.jit(block, static_argnums=3)
    size = center.size
    starts = jnp.where(jnp.arange(length.chains)[:, None] % 2, 0.0, 0.5 * jax.random.normal(jax.random.key(seed + 1000), (length.chains, size), dtype))
    carry = _Carry(starts.astype(dtype), jnp.full(length.chains, math.log(min(0.5, size**-0.25)), dtype), jnp.int32(0))
    blocks: list[Any] = []
    at_center = float(jax.jit(lambda data: loss_fn(unravel(center), data).mean())(data))

    def run(draws: int) -> None:
        nonlocal carry
        for _ in range(math.ceil(draws / BLOCK)):
            if (len(blocks) - skip) * BLOCK >= FEWEST and time.perf_counter() - began > length.seconds:
                return
            carry, found = compiled(jax.random.key(seed), carry, data, length.burn_in)
            blocks.append(jax.tree.map(lambda x: np.asarray(x, float), found))

    skip = math.ceil(length.burn_in / BLOCK)
    run(length.burn_in)
    run(length.draws)
    while True:
        loss, squared, acceptance, leaps = (np.concatenate([block[i] for block in blocks[skip:]]) for i in range(4))
        chains = Chains(nbeta * (loss - at_center), squared, acceptance, leaps, float(blocks[-1][4][-1]))
        took = time.perf_counter() - began
        if max(rhat(chains.llc), rhat(chains.distance)) < MAX_RHAT or took > length.seconds:
            break
        run(len(loss))
    return summary(chains) | {"seconds": round(took, 1), "dtype": str(dtype), "weights": int(size)}


def metric(
    mean_loss: Callable[[jax.Array, Any], jax.Array], center: jax.Array, data: Any, nbeta: float, localization: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""The scale of all other directions, the scales $(n\beta |h| + \gamma)^{-1/2}$ of the stiff ones, and these, `[weight, stiff]`.

    From the Hessian at w* of at most twice `HESSIAN_EXAMPLES` examples, spread over the data.
    """
    count = len(jax.tree.leaves(data)[0])
    some = jax.tree.map(lambda x: x[:: max(1, count // HESSIAN_EXAMPLES)], data)

    @jax.jit
    def hessian(center: jax.Array, some: Any) -> jax.Array:
        grad = jax.grad(mean_loss)
        return jax.lax.map(lambda v: jax.jvp(lambda w: grad(w, some), (center,), (v,))[1], jnp.eye(center.size, dtype=center.dtype), batch_size=16)

    full = np.asarray(hessian(center, some), float)
    values, vectors = np.linalg.eigh((full + full.T) / 2)
    order = np.argsort(-np.abs(values))
    precision = nbeta * np.abs(values[order]) + localization
    stiff = min(int((precision > 2 * localization).sum()), MAX_STIFF)
    rest = precision[stiff] if stiff < len(precision) else localization
    arrays = rest**-0.5, precision[:stiff] ** -0.5, vectors[:, order[:stiff]]
    return tuple(jnp.asarray(array, center.dtype) for array in arrays)  # pyright: ignore[reportReturnType]


def summary(chains: Chains) -> dict[str, Any]:
    """Mean, standard error (the larger by the spread of chains and of their quarters), R-hats, and how the chains moved."""
    spread = [means.std(ddof=1) / math.sqrt(len(means)) for means in (chains.llc.mean(0), _quarters(chains.llc).mean(0))]
    return {
        "llc": float(chains.llc.mean()), "std_error": float(max(spread)), "rhat": round(rhat(chains.llc), 4), "rhat_distance": round(rhat(chains.distance), 4),
        "distance": float(chains.distance.mean()), "acceptance": round(float(chains.acceptance.mean()), 3), "leaps": round(float(chains.leaps.mean()), 1),
        "step_size": float(f"{chains.step_size:.3g}"), "chains": chains.llc.shape[1], "draws": chains.llc.shape[0],
    }  # fmt: skip


def rhat(draws: np.ndarray) -> float:
    """Rank-normalised R-hat (Vehtari et al., arXiv:1903.08008) of the quarters of all chains; draws `[draw, chain]`."""
    quarters = _quarters(draws)
    ranks = quarters.ravel().argsort().argsort().reshape(quarters.shape)
    z = ndtri((ranks + 0.625) / (quarters.size + 0.25))
    within, between = z.var(0, ddof=1).mean(), z.mean(0).var(ddof=1)
    return float(np.sqrt((len(z) - 1) / len(z) + between / within)) if within > 0 else math.inf


def _quarters(draws: np.ndarray) -> np.ndarray:
    """Each chain as four: `[draw / 4, 4 * chain]`."""
    length = len(draws) // 4
    return np.concatenate([draws[i * length : (i + 1) * length] for i in range(4)], 1)
