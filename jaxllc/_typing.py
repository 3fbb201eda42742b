"""Names for the types that stand in public signatures."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jax.typing import ArrayLike

Key: TypeAlias = jax.Array
"""A typed JAX key, as `jax.random.key` makes it."""

Params: TypeAlias = Any
"""A pytree of arrays: the weights of a model, of any JAX framework."""

Batch: TypeAlias = Any
"""A pytree of arrays that share their leading axis, the examples."""

LossFn: TypeAlias = Callable[[Params, Batch], jax.Array]
"""`loss_fn(params, batch) -> float[batch]`, nats per example; a scalar mean is accepted."""

Scalar: TypeAlias = ArrayLike
"""One real number, a Python float or an array without axes; it may be traced."""
