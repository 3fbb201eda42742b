r"""Noise for a step, drawn for a whole tree at once: the only file that knows how.

Rademacher signs, 32 to a random word, cost a fraction of threefry Gaussians on a CPU (see docs/performance.md). The Euler scheme has weak order
one, and so matching moments up to the third are enough (Kloeden & Platen 1992, ch. 14): for the mean of a loss both kinds are equally right.
A scheme of weak order two needs those up to the fifth: the five points, eight to a word.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxllc._typing import Key, Params
from jaxllc.layout import is_cut

_BITS = 32
PER_WORD = {"rademacher": _BITS, "five-point": _BITS // 4}
"""Numbers that a random word holds, by the kind of noise."""
MOST_AHEAD = 2**16
"""Words of a step that are drawn ahead. Where there are more, drawing them costs so much more than its start that nothing is gained."""
MAX_WASTE = 1.3
"""How many times the bits that a leaf needs may be drawn for it."""

_MIDDLE, _TAIL = (2 / 3) ** 0.5, (14 / 3) ** 0.5
"""The outer values of five points with probabilities 1/16, 5/16, 4/16, 5/16, 1/16 that have the mean square 1 and the mean fourth power 3."""


Random: TypeAlias = Key | jax.Array
"""A key, or the words that `ahead` drew with it."""


def gaussian(key: Random, like: Params) -> Params:
    """Standard normal numbers in the structure, shapes and dtypes of `like`, from one draw that is split over the leaves."""
    return _drawn(key, like, 1, lambda key, shape: jax.random.normal(key, shape, jnp.float32), lambda draws, dtype: draws.astype(dtype))


def rademacher(key: Random, like: Params) -> Params:
    """Independent signs ±1 in the structure, shapes and dtypes of `like`, unpacked from the bits of one draw."""
    return _drawn(key, like, PER_WORD["rademacher"], _words, lambda bits, dtype: bits.astype(dtype) * 2 - 1)


def five_point(key: Random, like: Params) -> Params:
    r"""Independent numbers $0, \pm\sqrt{2/3}, \pm\sqrt{14/3}$ that share the moments of a standard normal up to the fifth, from four bits of one draw each."""
    return _drawn(key, like, PER_WORD["five-point"], _words, _five_points)


def _words(key: Key, shape: tuple[int, ...]) -> jax.Array:
    """Random words. Of a threefry key they are those of the keys that it splits into: two of each hash, of which `jax.random.bits` makes one."""
    size = math.prod(shape)
    if _implementation(key) == "threefry2x32":
        return jax.random.key_data(jax.random.split(key, -(-size // 2))).reshape(-1)[:size].reshape(shape)
    if is_cut() and jax.random.key_impl(key) == _from_a_place():
        return _words_from_a_place(jax.random.key_data(key), shape)
    return jax.random.bits(key, shape, jnp.uint32)


def _implementation(key: Key) -> str:
    return str(jax.random.key_impl(key))


def _five_points(fours: jax.Array, dtype: Any) -> jax.Array:
    middle, tail, zero = (jnp.asarray(x, dtype) for x in (_MIDDLE, _TAIL, 0.0))
    size = jnp.where(fours < 2, tail, jnp.where(fours < 12, middle, zero))
    return jnp.where(fours & 1, -size, size)


def _drawn(key: Random, like: Params, count: int, draw: Callable[[Key, tuple[int, ...]], jax.Array], read: Callable[[jax.Array, Any], jax.Array]) -> Params:
    """Numbers for each leaf, `count` of them in each element of one `draw` for all leaves, to be `read` in the leaf's dtype.

    Where the compiler cuts the weights over devices, each leaf has a draw of its own that begins where its share of the whole one does and has the leaf's
    axes, so that a device makes its own shard's numbers alone; they are the same.
    """
    leaves, structure = jax.tree.flatten(like)
    packed = [_Packed.of(leaf.shape, count) for leaf in leaves]
    sizes = [math.prod(each.shape) for each in packed]
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        draws = jnp.split(key, _ends(sizes))
    elif is_cut() and _implementation(key) == "threefry2x32" and jax.config.jax_threefry_partitionable:  # pyright: ignore[reportAttributeAccessIssue]
        draws = [draw(_beginning_at(first, key), each.shape) for first, each in zip([0, *_ends(sizes)], packed, strict=True)]
    else:
        draws = jnp.split(draw(key, (sum(sizes),)), _ends(sizes))
    draws = [values.reshape(each.shape) for values, each in zip(draws, packed, strict=True)]

    def numbers(values: jax.Array, each: _Packed, leaf: jax.Array) -> jax.Array:
        small = _unpacked(values, count, each.axis)
        return read(_fitted(small, leaf), leaf.dtype) if is_cut() else _fitted(read(small, leaf.dtype), leaf)

    return structure.unflatten([numbers(*triple) for triple in zip(draws, packed, leaves, strict=True)])


def ahead(noise: str, key: Key, like: Params) -> jax.Array | None:
    """The random words that a kind of noise unpacks, `uint32[...]`, for callers that draw those of several steps at once.

    None where they take much room, and of keys whose numbers depend on how many are drawn at once.
    """
    if noise not in PER_WORD or is_cut() or _implementation(key) != "threefry2x32":
        return None
    size = sum(math.prod(_Packed.of(leaf.shape, PER_WORD[noise]).shape) for leaf in jax.tree.leaves(like))
    return _words(key, (size,)) if size <= MOST_AHEAD else None


class _Packed(NamedTuple):
    """How the numbers of a leaf lie in words."""

    shape: tuple[int, ...]
    """Of the words: that of the leaf with one axis shorter, or one axis where that would waste too many bits."""
    axis: int
    """Along which the numbers of a word follow one another."""

    @classmethod
    def of(cls, shape: tuple[int, ...], count: int) -> "_Packed":
        """The layout for a leaf of this shape, with so many numbers to a word.

        Along the first axis the rows that a word holds are all unpacked by the same shift, in loops over whole vectors.
        """
        size, rest = math.prod(shape), math.prod(shape[1:])
        if count == 1:
            return cls(shape, 0)
        if len(shape) > 1 and -(-shape[0] // count) * count * rest <= MAX_WASTE * size:
            return cls((-(-shape[0] // count), *shape[1:]), 0)
        if len(shape) > 1 and shape[-1] % count == 0:
            return cls((*shape[:-1], shape[-1] // count), len(shape) - 1)
        return cls((-(-size // count),), 0)


def _unpacked(words: jax.Array, count: int, axis: int) -> jax.Array:
    """The numbers in each word, of which there are `count`, one after the other along the axis after its own; in bytes where weights are large, and what is
    not fused takes room.
    """
    if count == 1:
        return words
    bits = jnp.uint32(_BITS // count)
    places = jnp.expand_dims(jnp.arange(count, dtype=jnp.uint32), [i for i in range(words.ndim + 1) if i != axis + 1])
    numbers = (jnp.expand_dims(words, axis + 1) >> (bits * places)) & (jnp.uint32(1) << bits) - jnp.uint32(1)
    numbers = numbers.reshape(*words.shape[:axis], words.shape[axis] * count, *words.shape[axis + 1 :])
    return numbers.astype(jnp.uint8) if is_cut() else numbers


def _fitted(numbers: jax.Array, leaf: jax.Array) -> jax.Array:
    """Numbers in the shape of a leaf; the last words of an axis may hold more than there are weights."""
    if numbers.size > leaf.size:
        numbers = numbers[: len(leaf) if numbers.ndim == leaf.ndim > 0 else leaf.size]
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
    """What `jax.random.bits` hashes where `jax_threefry_partitionable` is on, the position in the whole draw, counted from a place."""
    from jax.extend.random import threefry2x32_p

    assert bit_width == _BITS
    first, second = threefry2x32_p.bind(data[0], data[1], *_place(data, shape))
    return first ^ second


def _words_from_a_place(data: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What `_words` makes, counted from a place."""
    from jax.extend.random import threefry2x32_p

    high, low = _place(data, shape)
    first, second = threefry2x32_p.bind(data[0], data[1], high >> 1, (low >> 1) | (high << 31))
    return jnp.where(low & 1, second, first)


def _place(data: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The position of each element in the whole draw, in two words."""
    position = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    low = position + data[3]
    return data[2] + (low < position).astype(jnp.uint32), low


def _draws_only(*_: Any) -> Any:
    raise NotImplementedError("a key that begins at a place is for draws of 32 bits alone.")


@functools.cache
def _from_a_place() -> Any:
    from jax.extend.random import define_prng_impl  # which loads the languages of kernels, and few runs split their weights

    return define_prng_impl(
        key_shape=(4,), seed=_draws_only, split=_draws_only, random_bits=_bits_from_a_place, fold_in=_draws_only, name="threefry2x32_from_a_place", tag="fryp"
    )


NOISES: dict[str, Callable[[Random, Params], Params]] = {"rademacher": rademacher, "five-point": five_point, "gaussian": gaussian}
"""The kinds of noise by the name that samplers take."""


def check_noise(name: str) -> None:
    """Raise a ValueError for a name that is not in `NOISES`."""
    if name not in NOISES:
        raise ValueError(f"noise={name!r} is not known; choose one of {', '.join(map(repr, NOISES))}.")
