"""Deep linear nets, whose learning coefficients are known exactly (`jaxllc.theory.deep_linear_llc`)."""

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp

from jaxllc._typing import Key


def apply(params: Sequence[jax.Array], x_BxD: jax.Array) -> jax.Array:
    """The outputs of the net, `[B, d_N]`, for inputs `[B, d_0]`."""
    for weight in params:
        x_BxD = x_BxD @ weight
    return x_BxD


def squared_loss(params: Sequence[jax.Array], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    r"""$\frac12 \lVert f(x) - y \rVert^2$ of each example, `float[B]`: nats under unit output noise, up to a constant."""
    x_BxD, y_BxD = batch
    return 0.5 * jnp.square(apply(params, x_BxD) - y_BxD).sum(-1)


def teacher(key: Key, widths: Sequence[int], rank: int | None = None) -> list[jax.Array]:
    """Random layers `[d_i, d_{i+1}]`, each of the given rank (default full), whose product has that rank; they preserve the variance of activations.

    All layers share the rank, so for widths that only rise or only fall the local coefficient at the teacher is the global one.
    """
    layers = []
    for i, (rows, columns) in enumerate(pairwise(widths)):
        left_key, right_key = jax.random.split(jax.random.fold_in(key, i))
        inner = min(rows, columns) if rank is None else rank
        left = jnp.linalg.qr(jax.random.normal(left_key, (rows, inner)))[0]
        right = jnp.linalg.qr(jax.random.normal(right_key, (columns, inner)))[0]
        layers.append(left @ right.T * (columns / inner) ** 0.5)
    return layers


def examples(key: Key, params: Sequence[jax.Array], num_examples: int) -> tuple[jax.Array, jax.Array]:
    """Standard normal inputs, and the net's outputs with unit noise: `[n, d_0]`, `[n, d_N]`."""
    input_key, noise_key = jax.random.split(key)
    x_BxD = jax.random.normal(input_key, (num_examples, params[0].shape[0]))
    y_BxD = apply(params, x_BxD)
    return x_BxD, y_BxD + jax.random.normal(noise_key, y_BxD.shape)
