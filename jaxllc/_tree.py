"""Small things that pytrees of weights need in several places."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxllc._typing import Params

_KEPT_APART = {"flax": {"BatchStat", "RngState", "Cache", "Intermediate"}, "equinox": {"State", "StateIndex"}}  # classes whose arrays are no weights
_STATISTIC = re.compile(r"(running|moving|ema)_(mean|var|variance|std|stddev|avg|average|averages)|(mean|var|variance|std|avg|average)_(running|moving|ema)")
_NORM = re.compile(r"batch_?norm|(^|_)(bn|norm)_?\d*(_|$)")

Role: TypeAlias = Literal["weight", "complex", "statistic", "number", "object"]
"""What a leaf is: real weights, complex weights, numbers that a framework marks as no weights, other numbers (integers, bools, keys), or no number."""


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf, `layers_0/kernel`; the attribute `value` of an nnx variable is left out."""
    return jax.tree_util.keystr(_without_value(path), simple=True, separator="/")


def _without_value(path: tuple[Any, ...]) -> tuple[Any, ...]:
    return path[:-1] if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value") else path


def named_leaves(tree: Params) -> dict[str, Any]:
    """Leaves by their name."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


class Leaf(NamedTuple):
    """One leaf of a pytree: its path, the same path as a name, its value, and what it is."""

    path: tuple[str, ...]
    name: str
    value: Any
    role: Role


def leaves_with_roles(tree: Params) -> list[Leaf]:
    """The leaves of a pytree in JAX's order, each with its role.

    Statistics are the numbers in an nnx variable that is a `BatchStat`, `Cache` or `Intermediate` (or derives from one), in an `equinox.nn.State`,
    and those under a path part named `batch_stats`, as linen keeps them. A Python number that is an attribute of a module (the rate of an equinox
    `Dropout`) is a setting of the model, hence an object; in a dict, a list, a tuple or an nnx variable it is a number like any other.
    """
    leaves = []
    for path, value, parent, apart in _walk(tree, (), None, False):
        parts = tuple(jax.tree_util.keystr((key,), simple=True) for key in _without_value(path))
        leaves.append(Leaf(parts, path_name(path), value, _role(value, bool(path) and _is_attribute(path[-1], parent), apart or "batch_stats" in parts)))
    return leaves


def _walk(node: Any, path: tuple[Any, ...], parent: Any, apart: bool) -> Iterator[tuple[tuple[Any, ...], Any, Any, bool]]:
    """Path, leaf, the node that holds it, and whether a node above keeps its arrays apart from the weights."""
    apart = apart or any(kind.__name__ in _KEPT_APART.get(kind.__module__.partition(".")[0], ()) for kind in type(node).__mro__)
    for key, child in jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda other: other is not node):
        if key:
            yield from _walk(child, path + key, node, apart)
        else:
            yield path, node, parent, apart


def _is_attribute(key: Any, parent: Any) -> bool:
    """Whether a leaf is an attribute of a module, and not an item of a container or the value of an nnx variable."""
    item = isinstance(key, jax.tree_util.DictKey | jax.tree_util.SequenceKey) or isinstance(parent, tuple)
    return not item and all(kind.__name__ != "Variable" for kind in type(parent).__mro__)


def _role(value: Any, attribute: bool, apart: bool) -> Role:
    if not is_number(value) or (attribute and type(value) in (bool, int, float, complex)):
        return "object"
    dtype = jnp.result_type(value)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return "number"
    if apart:
        return "statistic"
    return "complex" if jnp.issubdtype(dtype, jnp.complexfloating) else "weight"


def named_like_statistics(leaves: list[Leaf]) -> set[str]:
    """Names of leaves that are called like running statistics.

    Such are `running_mean` and `moving_var`, haiku's `mean_ema/average`, and a mean and a variance that both stand beside a scale or a bias, or in a
    node named like a normalisation. A lone `mean` is none, nor are a mean and a variance by themselves.
    """
    words = {leaf.name: tuple(re.split(r"[/.]", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", leaf.name).lower())) for leaf in leaves}
    beside: dict[tuple[str, ...], set[str]] = {}
    for *above, last in words.values():
        beside.setdefault(tuple(above), set()).add(last)
    return {name for name, parts in words.items() if _is_called_statistic(parts, beside[parts[:-1]])}


def _is_called_statistic(parts: tuple[str, ...], beside: set[str]) -> bool:
    *above, last = parts
    if _STATISTIC.fullmatch(last) or (last in ("average", "hidden") and above and _STATISTIC.fullmatch(above[-1])):
        return True
    if last not in ("mean", "var", "variance") or "mean" not in beside or not beside & {"var", "variance"}:
        return False
    return bool(beside & {"scale", "bias", "gamma", "beta", "weight", "offset"}) or any(_NORM.search(part) for part in above[-2:])


ROWS_BYTES = 2**26
"""Of an array, that are on the host at once where it is read to the end."""


def row_blocks(leaf: Any) -> Iterator[Any]:
    """An array in blocks of rows, one after the other; one that is small, or has no rows, as it is."""
    size, length = getattr(leaf, "nbytes", 0), np.shape(leaf)[0] if np.ndim(leaf) else 0
    if size <= ROWS_BYTES or length < 2:
        yield leaf
        return
    one = leaf.addressable_data(0) if isinstance(leaf, jax.Array) and leaf.is_fully_replicated else leaf
    block = max(1, ROWS_BYTES * length // size)
    yield from (one[start : start + block] for start in range(0, length, block))


def is_number(leaf: Any) -> bool:
    """Whether a leaf is a number or an array that JAX can trace; functions, strings, types and arrays of strings are not."""
    if type(leaf) in (bool, int, float, complex):
        return True
    if isinstance(leaf, type) or not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return False
    try:
        return any(jnp.issubdtype(leaf.dtype, kind) for kind in (jnp.number, jnp.bool_, jax.dtypes.extended))
    except TypeError:  # a dtype that NumPy does not know
        return False


def is_real(leaf: Any) -> bool:
    """Whether a leaf holds real floating-point numbers, which alone can be sampled."""
    return is_number(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


@dataclasses.dataclass(frozen=True)
class Objects:
    """The leaves of a pytree that are no numbers, with their positions among all leaves; hashable, and equal for equal models.

    `structure` is the pytree's structure, None where there are none. Types are part of the value because 0, 0.0 and False compare equal.
    """

    structure: Any = None
    positions: tuple[int, ...] = ()
    leaves: tuple[Any, ...] = ()
    types: tuple[type, ...] = ()


def split_objects(params: Params) -> tuple[Params, Objects]:
    """Cuts the leaves that are no numbers out of a pytree: functions, strings, and Python numbers that are attributes of a module.

    Returns:
        The pytree with None in their place, which JAX can trace and stack, and a hashable value that holds them, for `join_objects`.

    Raises:
        TypeError: one of them cannot be hashed.
    """
    leaves = leaves_with_roles(params)
    at = tuple(index for index, leaf in enumerate(leaves) if leaf.role == "object")
    if not at:
        return params, Objects()
    for index in at:
        try:
            hash(leaves[index].value)
        except TypeError as error:
            kind = type(leaves[index].value).__name__
            raise TypeError(
                f"The leaf {leaves[index].name!r} of params is no array and cannot be hashed ({kind}), so JAX can neither trace it nor keep it fixed; "
                "make it a static field of its module, or keep it out of params."
            ) from error
    structure = jax.tree.structure(params)
    arrays = structure.unflatten([None if leaf.role == "object" else leaf.value for leaf in leaves])
    objects = tuple(leaves[index].value for index in at)
    return arrays, Objects(structure, at, objects, tuple(map(type, objects)))


def join_objects(arrays: Params, rest: Objects) -> Params:
    """The pytree that `split_objects` took apart, with the leaves of `arrays` as they are now."""
    if rest.structure is None:
        return arrays
    leaves = rest.structure.flatten_up_to(arrays)
    for index, leaf in zip(rest.positions, rest.leaves, strict=True):
        leaves[index] = leaf
    return rest.structure.unflatten(leaves)


@dataclasses.dataclass(frozen=True)
class WithObjects:
    """A function of the weights as one of the arrays alone: `(arrays, *arguments) -> loss_fn(join_objects(arrays, rest), *arguments)`.

    Hashable, and equal for one `loss_fn` and equal models, so that JAX compiles it once for all checkpoints.
    """

    loss_fn: Callable[..., jax.Array]
    rest: Objects

    def __call__(self, arrays: Params, *arguments: Any) -> jax.Array:
        """The function of the whole pytree."""
        return self.loss_fn(join_objects(arrays, self.rest), *arguments)


def at_least_float32(value: Any) -> jax.Array:
    """A number or a leaf as float32, or as float64 if it is that: chains and losses never live in bfloat16, in which steps of 1e-3 drown."""
    value = jnp.asarray(value)
    return value if value.dtype == jnp.float64 else value.astype(jnp.float32)


@jax.jit
def stack(trees: list[Params]) -> Params:
    """Stack trees of one structure along a new leading axis, in one program for all leaves."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def broadcast_leading(tree: Params, size: int) -> Params:
    """Repeat each leaf `size` times along a new leading axis."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *jnp.shape(leaf))), tree)
