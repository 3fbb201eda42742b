"""Convolutions as matrix products, for CPUs: there XLA brings convolutions into the form that its fast kernel takes outside of loops only.

Chains are a loop, so gradients of convolutions would run as loops over single numbers, and so would the grouped convolutions that vmapped weights make of
them. A product of the patches with the kernel is the same sum in another order. It takes memory for the patches: each input as often as the window has places.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CONVOLUTION = "conv_general_dilated"
_PROGRAMS = ("jit", "pjit", "scan", "while", "cond", "checkpoint", "remat2")
"""Equations whose inner programs are rewritten; those with a derivative of their own are left as they are."""


def by_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with matrix products in the place of its convolutions where the default backend is a CPU, and the function itself elsewhere.

    Args:
        function: of arrays; best a jitted one, which is traced once.
    """
    if jax.default_backend() != "cpu":
        return function

    def rewritten(*arguments: Any) -> Any:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        if not convolves(program):
            return function(*arguments)
        from jax.extend.core import jaxpr_as_fun  # which loads the languages of kernels

        return jax.tree.unflatten(jax.tree.structure(shapes), jaxpr_as_fun(_rewritten(program))(*jax.tree.leaves(arguments)))

    return rewritten


def convolves(program: Any) -> bool:
    """Whether a program holds a convolution that `by_products` would replace, which are those without groups; `Jaxpr` or `ClosedJaxpr`."""
    return any(_is_plain(equation) or any(convolves(inner) for inner in _inner(equation)) for equation in program.eqns)


def _is_plain(equation: Any) -> bool:
    return equation.primitive.name == CONVOLUTION and equation.params["batch_group_count"] == equation.params["feature_group_count"] == 1


def _inner(equation: Any) -> list[Any]:
    """The programs within an equation that are rewritten, each `Jaxpr` or `ClosedJaxpr`."""
    if equation.primitive.name not in _PROGRAMS:
        return []
    values = [item for value in equation.params.values() for item in (value if isinstance(value, tuple) else (value,))]
    return [value for value in values if hasattr(value, "eqns")]


def _rewritten(program: Any) -> Any:
    """A program, `Jaxpr` or `ClosedJaxpr`, with products in the place of convolutions, also of those in its inner programs."""
    without_constants = getattr(program, "jaxpr", program)  # since JAX 0.11 that is the program itself
    if without_constants is not program:
        return program.replace(jaxpr=_rewritten(without_constants))
    return program.replace(eqns=[_replaced(equation) for equation in program.eqns])


def _replaced(equation: Any) -> Any:
    if _is_plain(equation):
        made = jax.make_jaxpr(jax.jit(partial(product, **equation.params)))(*(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars))
        (call,) = made.eqns
        return call.replace(invars=equation.invars, outvars=equation.outvars, source_info=equation.source_info, ctx=equation.ctx)
    if not any(convolves(inner) for inner in _inner(equation)):
        return equation
    return equation.replace(params={name: _parameter(value) for name, value in equation.params.items()})


def _parameter(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_parameter(item) for item in value) if any(hasattr(item, "eqns") for item in value) else value
    return _rewritten(value) if hasattr(value, "eqns") else value


def product(
    lhs: jax.Array,
    rhs: jax.Array,
    *,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    **others: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` as the product of patches of the inputs with the kernel.

    Args:
        lhs: the inputs, laid out as `dimension_numbers` says.
        rhs: the kernel.
        window_strides: see `jax.lax.conv_general_dilated`, of whose equation these are the parameters; so are the others.
        padding: of the inputs, after their dilation.
        lhs_dilation: of the inputs.
        rhs_dilation: of the kernel.
        others: `dimension_numbers`, `precision` and `preferred_element_type`; the groups must be one.
    """
    lhs_axes, (out_axis, in_axis, *window_axes), out_axes = others["dimension_numbers"]
    x = jnp.transpose(lhs, (lhs_axes[0], *lhs_axes[2:], lhs_axes[1]))
    kernel = jnp.transpose(rhs, (*window_axes, in_axis, out_axis))
    edges = ((low, high, step - 1) for (low, high), step in zip(padding, lhs_dilation, strict=True))
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    *window, depth, width = kernel.shape
    for axis, (size, stride, dilation) in enumerate(zip(window, window_strides, rhs_dilation, strict=True), 1):
        span = x.shape[axis] - (size - 1) * dilation
        cuts = [jax.lax.slice_in_dim(x, i * dilation, i * dilation + max(span, 0), stride, axis) for i in range(size)]
        x = jnp.stack(cuts, -2)
    places, count = x.shape[: 1 + len(window)], math.prod(window) * depth
    x, kernel = x.reshape(*places, count), kernel.reshape(count, width)
    out = jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), others["precision"], others["preferred_element_type"])
    return jnp.transpose(out, np.argsort((out_axes[0], *out_axes[2:], out_axes[1])).tolist())
