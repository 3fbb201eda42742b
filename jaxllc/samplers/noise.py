r"""Noise for a step, drawn for a whole tree at once: the only file that knows how.

Rademacher signs, 32 to a random word, cost a fraction of threefry Gaussians on a CPU (see docs/performance.md). The Euler scheme has weak order
one, and so matching moments up to the third are enough (Kloeden & Platen 1992, ch. 14): for the mean of a loss both kinds are equally right.
A scheme of weak order two needs those up to the fifth: the five points, eight to a word.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxllc._typing import Key, Params

_BITS = 32

_MIDDLE, _TAIL = (2 / 3) ** 0.5, (14 / 3) ** 0.5
"""The outer values of five points with probabilities 1/16, 5/16, 4/16, 5/16, 1/16 that have the mean square 1 and the mean fourth power 3."""


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


def five_point(key: Key, like: Params) -> Params:
    r"""Independent numbers $0, \pm\sqrt{2/3}, \pm\sqrt{14/3}$ that share the moments of a standard normal up to the fifth, from four bits of one draw each."""
    leaves, structure = jax.tree.flatten(like)
    words = [-(-leaf.size // 8) for leaf in leaves]
    bits = jnp.split(jax.random.bits(key, (sum(words),), jnp.uint32), _ends(words))
    return structure.unflatten([_five_points(piece, leaf) for piece, leaf in zip(bits, leaves, strict=True)])


def _five_points(words: jax.Array, like: jax.Array) -> jax.Array:
    fours = (words[:, None] >> (4 * jnp.arange(8, dtype=jnp.uint32))[None]) & jnp.uint32(15)
    middle, tail, zero = (jnp.asarray(x, like.dtype) for x in (_MIDDLE, _TAIL, 0.0))
    size = jnp.where(fours < 2, tail, jnp.where(fours < 12, middle, zero))
    return jnp.where(fours & jnp.uint32(1), -size, size).reshape(-1)[: like.size].reshape(like.shape)


def _signs(words: jax.Array, like: jax.Array) -> jax.Array:
    bits = (words[:, None] >> jnp.arange(_BITS, dtype=jnp.uint32)[None]) & jnp.uint32(1)
    return (bits.astype(like.dtype) * 2 - 1).reshape(-1)[: like.size].reshape(like.shape)


def _ends(sizes: list[int]) -> list[int]:
    return [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]


NOISES: dict[str, Callable[[Key, Params], Params]] = {"rademacher": rademacher, "five-point": five_point, "gaussian": gaussian}
"""The kinds of noise by the name that samplers take."""


def check_noise(name: str) -> None:
    """Raise a ValueError for a name that is not in `NOISES`."""
    if name not in NOISES:
        raise ValueError(f"noise={name!r} is not known; choose one of {', '.join(map(repr, NOISES))}.")
