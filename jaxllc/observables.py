"""Numbers of a checkpoint beside its coefficient: functions of the weights alone, such as a head's prefix-matching score."""

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxllc._typing import Params
from jaxllc.watch import Watch

Observables: TypeAlias = Mapping[str, Callable[[Params], jax.Array]]
"""Functions `fn(params) -> array` by name; the array is real, a scalar or of any fixed shape."""


class AlongChains(dict[str, Callable[[Params], jax.Array]]):
    """Observables that `jaxllc.trajectory` evaluates at each checkpoint *and* along its chains: their values under the local posterior.

    Args:
        functions: `fn(params) -> array` by name.
        every: steps of a chain from one evaluation to the next; those after burn-in count.

    Raises:
        ValueError: `every` is below one.
    """

    def __init__(self, functions: Observables, *, every: int) -> None:
        super().__init__(functions)
        if every < 1:
            raise ValueError(f"AlongChains(every) must be at least 1, got {every}.")
        self.every = every


def watch_of(observables: Observables | None, num_burn_in: int, num_steps: int) -> Watch | None:
    """What the engine has to watch; None where observables are of checkpoints alone.

    Raises:
        ValueError: no multiple of `every` lies between burn-in and the end of a chain.
    """
    if not isinstance(observables, AlongChains):
        return None
    watch = Watch(tuple(observables.items()), observables.every)
    if not watch.times(num_burn_in, num_steps).size:
        raise ValueError(
            f"AlongChains(every={watch.every}) evaluates nothing in chains of {num_steps} steps, {num_burn_in} of them burn-in; a smaller every, or more draws."
        )
    return watch


def check_observables(observables: Observables | None, taken: tuple[str, ...]) -> dict[str, Callable[[Params], jax.Array]]:
    """The observables as a dictionary, whose names can be those of arrays.

    Raises:
        TypeError: no mapping from names to functions.
        ValueError: a name that is no identifier, or one that is `taken`.
    """
    if observables is None:
        return {}
    if not isinstance(observables, Mapping):
        raise TypeError(f"observables must be a mapping from names to functions fn(params), got {type(observables).__name__}.")
    for name, function in observables.items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"an observable is named by an identifier such as 'prefix_matching', got {name!r}.")
        if name in taken or re.search(r"_dim_\d+$", name):
            raise ValueError(f"the observable {name!r} has the name of something else in the result; give it another.")
        if not callable(function):
            raise TypeError(f"the observable {name!r} must be a function fn(params), got {type(function).__name__}.")
    return dict(observables)


def shapes(observables: Observables, params: Params) -> dict[str, list[int]]:
    """The shape of each observable, without computing any.

    Raises:
        TypeError: one of them gives something other than one real array.
        ValueError: one gives an array without elements.
    """
    found = {}
    for name, function in observables.items():
        try:
            value = jax.eval_shape(jax.jit(function), jax.tree.map(jnp.asarray, params))
        except Exception as error:
            error.add_note(f"in the observable {name!r}, which was given the weights of the first checkpoint")
            raise
        if not isinstance(value, jax.ShapeDtypeStruct):
            raise TypeError(f"the observable {name!r} must give one array, got {type(value).__name__}; make several observables of it.")
        if not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == bool):
            raise TypeError(f"the observable {name!r} must give real numbers, got {value.dtype}.")
        if 0 in value.shape:
            raise ValueError(f"the observable {name!r} gives an array of shape {value.shape}, which holds nothing.")
        found[name] = list(value.shape)
    return found


def observe(observables: Observables, stacked: Params) -> dict[str, np.ndarray]:
    """Each observable of a stack of checkpoints, `[K, ...]` in float32; one program for all stacks of a size."""
    return {name: np.asarray(jax.vmap(jax.jit(function))(stacked), np.float32) for name, function in observables.items()}
