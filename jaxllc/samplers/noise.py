r"""Noise for a step, drawn for a whole tree at once: the only file that knows how.

Rademacher signs, 32 to a random word, cost a fraction of threefry Gaussians on a CPU (see docs/performance.md). The Euler scheme has weak order
one, and so matching moments up to the third are enough (Kloeden & Platen 1992, ch. 14): for the mean of a loss both kinds are equally right.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxllc._typing import Key, Params

_BITS = 32


def gaussian(key: Key, like: Params) -> Params:
    """Standard normal numbers in the structure, shapes and dtypes of `like`, from one draw that is split over the leaves."""
    leaves, structure = jax.tree.flatten(like)
    flat = jax.random.normal(key, (sum(leaf.size for leaf in leaves),), jnp.float32)
    pieces = jnp.split(flat, _ends([leaf.size for leaf in leaves]))
    return structure.unflatten([piece.reshape(leaf.shape).astype(leaf.dtype) for piece, leaf in zip(pieces, leaves, strict=True)])


def rademacher(key: Key, like: Params) -> Params:
    """Independent signs ±1 in the structure, shapes and dtypes of `like`, unpacked from the bits of one draw."""
    leaves, structure = jax.tree.flatten(like)
    words = [-(-leaf.size // _BITS) for leaf in leaves]
    bits = jnp.split(jax.random.bits(key, (sum(words),), jnp.uint32), _ends(words))
    return structure.unflatten([_signs(piece, leaf) for piece, leaf in zip(bits, leaves, strict=True)])


def _signs(words: jax.Array, like: jax.Array) -> jax.Array:
    bits = (words[:, None] >> jnp.arange(_BITS, dtype=jnp.uint32)[None]) & jnp.uint32(1)
    return (bits.astype(like.dtype) * 2 - 1).reshape(-1)[: like.size].reshape(like.shape)


def _ends(sizes: list[int]) -> list[int]:
    return [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]


NOISES: dict[str, Callable[[Key, Params], Params]] = {"rademacher": rademacher, "gaussian": gaussian}
"""The kinds of noise by the name that samplers take."""
