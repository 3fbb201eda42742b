"""Side by side or one after the other: how many calls of a program one device should run as one `vmap`."""

import math
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

CACHE_BYTES = 2**22
"""What the calls that run side by side on one CPU core may write."""
MEMORY_SHARE = 0.5
"""Of an accelerator's memory, what they may write there."""
RESIDENT_WEIGHTS = 2**20
"""Weights of all chains and checkpoints together that run in one program by default: more spills the caches of a CPU."""
RESIDENT_ON_ACCELERATOR = 2**28
"""The same on an accelerator: a gibibyte, enough to fill it, and little enough to lose when a run is stopped."""


def side_by_side(function: Callable[..., Any], *arguments: Any) -> int:
    """How many calls to run side by side on one device: as many as keep what they write within the caches of a CPU, or within half an accelerator's memory.

    On a CPU a vmapped step beyond the caches is slower than one chain after the other. An accelerator that does not tell its memory takes any number.

    Args:
        function: what would be batched.
        arguments: of one call, arrays or their shapes.
    """
    room = CACHE_BYTES if jax.default_backend() == "cpu" else _accelerator_bytes()
    return max(1, room // max(1, bytes_written(jax.make_jaxpr(function)(*arguments).jaxpr)))


def _accelerator_bytes() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(MEMORY_SHARE * stats["bytes_limit"]) if "bytes_limit" in stats else sys.maxsize


def resident_checkpoints(num_weights: int, num_chains: int) -> int:
    """How many checkpoints of a model to run in one program by default."""
    most = RESIDENT_WEIGHTS if jax.default_backend() == "cpu" else RESIDENT_ON_ACCELERATOR
    return max(1, most // (num_weights * num_chains))


def bytes_written(jaxpr: Any) -> int:
    """Bytes of all intermediate results of a program, before any fusion."""
    total: int = 0
    for equation in jaxpr.eqns:
        inner = [bytes_written(getattr(sub, "jaxpr", sub)) for sub in jaxprs_in_params(equation.params)]
        total += sum(inner) if inner else sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars if hasattr(v.aval, "size"))
    return total


def even_width(size: int, most: int) -> int:
    """The width of even groups of at most `most` that `size` calls are cut into; the last group may be smaller."""
    return math.ceil(size / math.ceil(size / max(1, most)))


def batched(function: Callable[..., Any], width: int, *arguments: Any) -> Any:
    """`vmap` over the leading axis, or a loop of `vmap`s of the given width."""
    size = jax.tree.leaves(arguments)[0].shape[0]
    if size == 1:  # a batch axis of one keeps a matrix product from the fast path of a CPU
        return jax.tree.map(lambda leaf: leaf[None], function(*jax.tree.map(lambda leaf: leaf[0], arguments)))
    if width >= size:
        return jax.vmap(function)(*arguments)
    return jax.lax.map(lambda each: function(*each), arguments, batch_size=width if width > 1 else None)
