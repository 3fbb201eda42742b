"""Small things that pytrees of weights need in several places."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxllc._typing import Params


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf, `layers_0/kernel`; the attribute `value` of an nnx variable is not told."""
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Params) -> dict[str, Any]:
    """Leaves by their name."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def at_least_float32(value: Any) -> jax.Array:
    """A number or a leaf as float32, or as float64 if it is that: chains and losses never live in bfloat16, in which steps of 1e-3 drown."""
    value = jnp.asarray(value)
    return value if value.dtype == jnp.float64 else value.astype(jnp.float32)


def is_real(leaf: Any) -> bool:
    """Whether a leaf holds real floating-point numbers, which alone can be sampled."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


@jax.jit
def stack(trees: list[Params]) -> Params:
    """Stack trees of one structure along a new leading axis, in one program for all leaves."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def broadcast_leading(tree: Params, size: int) -> Params:
    """Repeat each leaf `size` times along a new leading axis."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *jnp.shape(leaf))), tree)


def split_objects(params):
    return params, None


class WithObjects:
    pass
