r"""Noise for a step, drawn for a whole tree at once: the only file that knows how.

Rademacher signs, 32 to a random word, cost a fraction of threefry Gaussians on a CPU (see docs/performance.md). The Euler scheme has weak order
one, and so matching moments up to the third are enough (Kloeden & Platen 1992, ch. 14): for the mean of a loss both kinds are equally right.
A scheme of weak order two needs those up to the fifth: the five points, eight to a word.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxllc._typing import Key, Params
from jaxllc.layout import is_cut

_BITS = 32

_MIDDLE, _TAIL = (2 / 3) ** 0.5, (14 / 3) ** 0.5
"""The outer values of five points with probabilities 1/16, 5/16, 4/16, 5/16, 1/16 that have the mean square 1 and the mean fourth power 3."""


def gaussian(key: Key, like: Params) -> Params:
    """Standard normal numbers in the structure, shapes and dtypes of `like`, from one draw that is split over the leaves."""
    return _drawn(key, like, 1, lambda key, shape: jax.random.normal(key, shape, jnp.float32), lambda draws, dtype: draws.astype(dtype))


def rademacher(key: Key, like: Params) -> Params:
    """Independent signs ±1 in the structure, shapes and dtypes of `like`, unpacked from the bits of one draw."""
    return _drawn(key, like, _BITS, _words, lambda bits, dtype: bits.astype(dtype) * 2 - 1)


def five_point(key: Key, like: Params) -> Params:
    r"""Independent numbers $0, \pm\sqrt{2/3}, \pm\sqrt{14/3}$ that share the moments of a standard normal up to the fifth, from four bits of one draw each."""
    return _drawn(key, like, _BITS // 4, _words, _five_points)


def _words(key: Key, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.bits(key, shape, jnp.uint32)


def _five_points(fours: jax.Array, dtype: Any) -> jax.Array:
    middle, tail, zero = (jnp.asarray(x, dtype) for x in (_MIDDLE, _TAIL, 0.0))
    size = jnp.where(fours < 2, tail, jnp.where(fours < 12, middle, zero))
    return jnp.where(fours & 1, -size, size)


def _drawn(key: Key, like: Params, count: int, draw: Callable[[Key, tuple[int, ...]], jax.Array], read: Callable[[jax.Array, Any], jax.Array]) -> Params:
    """Numbers for each leaf, `count` of them in each element of one `draw` for all leaves, to be `read` in the leaf's dtype.

    Where the compiler cuts the weights over devices, each leaf has a draw of its own that begins where its share of the whole one does and has the leaf's
    axes, so that a device makes its own shard's numbers alone; they are the same.
    """
    leaves, structure = jax.tree.flatten(like)
    sizes = [-(-leaf.size // count) for leaf in leaves]
    if is_cut() and str(jax.random.key_impl(key)) == "threefry2x32" and jax.config.jax_threefry_partitionable:  # pyright: ignore[reportAttributeAccessIssue]
        draws = [draw(_beginning_at(first, key), _shape(leaf, count)) for first, leaf in zip([0, *_ends(sizes)], leaves, strict=True)]
    else:
        draws = jnp.split(draw(key, (sum(sizes),)), _ends(sizes))

    def numbers(values: jax.Array, leaf: jax.Array) -> jax.Array:
        small = _unpacked(values, count)
        return read(_fitted(small, leaf), leaf.dtype) if is_cut() else _fitted(read(small, leaf.dtype), leaf)

    return structure.unflatten([numbers(*pair) for pair in zip(draws, leaves, strict=True)])


def _unpacked(words: jax.Array, count: int) -> jax.Array:
    """The numbers in each word, of which there are `count`, on a further axis; in bytes where weights are large, and what is not fused takes room."""
    if count == 1:
        return words
    bits = jnp.uint32(_BITS // count)
    places = jax.lax.broadcasted_iota(jnp.uint32, (1,) * words.ndim + (count,), words.ndim)
    numbers = (words[..., None] >> (bits * places)) & (jnp.uint32(1) << bits) - jnp.uint32(1)
    return numbers.astype(jnp.uint8) if is_cut() else numbers


def _shape(leaf: jax.Array, count: int) -> tuple[int, ...]:
    """Of a leaf's draw: its own, with a last axis `count` times shorter, or one axis where that does not go."""
    whole = leaf.ndim and leaf.shape[-1] % count == 0
    return (*leaf.shape[:-1], leaf.shape[-1] // count) if whole else (-(-leaf.size // count),)


def _fitted(numbers: jax.Array, leaf: jax.Array) -> jax.Array:
    """Numbers in the shape of a leaf; the last word may hold more than there are weights."""
    if numbers.size > leaf.size:
        numbers = numbers.reshape(-1)[: leaf.size]
        if is_cut():  # the part of something that is split would move between devices
            numbers = jax.lax.with_sharding_constraint(numbers, P(None))
    numbers = numbers.reshape(leaf.shape)
    if is_cut() and jnp.issubdtype(numbers.dtype, jnp.integer):  # else what is done to them next would be done before, in four bytes
        numbers = jax.lax.optimization_barrier(numbers)
    return numbers


def _ends(sizes: list[int]) -> list[int]:
    return [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]


def _beginning_at(first: int, key: Key) -> Key:
    """A key whose draws are those of a threefry key from the element `first` on."""
    place = jnp.asarray([first >> 32, first & 0xFFFFFFFF], jnp.uint32)
    return jax.random.wrap_key_data(jnp.concatenate([jax.random.key_data(key), place]), impl=_from_a_place())


def _bits_from_a_place(data: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    """What `jax_threefry_partitionable` hashes, the position in the whole draw, counted from a place."""
    from jax.extend.random import threefry2x32_p

    assert bit_width == _BITS
    position = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    low = position + data[3]
    high = data[2] + (low < position).astype(jnp.uint32)
    first, second = threefry2x32_p.bind(data[0], data[1], high, low)
    return first ^ second


def _draws_only(*_: Any) -> Any:
    raise NotImplementedError("a key that begins at a place is for draws of 32 bits alone.")


@functools.cache
def _from_a_place() -> Any:
    from jax.extend.random import define_prng_impl  # which loads the languages of kernels, and few runs split their weights

    return define_prng_impl(
        key_shape=(4,), seed=_draws_only, split=_draws_only, random_bits=_bits_from_a_place, fold_in=_draws_only, name="threefry2x32_from_a_place", tag="fryp"
    )


NOISES: dict[str, Callable[[Key, Params], Params]] = {"rademacher": rademacher, "five-point": five_point, "gaussian": gaussian}
"""The kinds of noise by the name that samplers take."""


def check_noise(name: str) -> None:
    """Raise a ValueError for a name that is not in `NOISES`."""
    if name not in NOISES:
        raise ValueError(f"noise={name!r} is not known; choose one of {', '.join(map(repr, NOISES))}.")
