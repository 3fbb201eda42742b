"""Convolutions as matrix products: the same numbers and gradients in every layout, within programs, loops and branches; dense models stay as they are."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllc import InMemory, LocalPosterior, sample
from jaxllc.convolutions import by_products, convolves, product
from jaxllc.samplers.sgld import SGLD

NHWC = ("NHWC", "HWIO", "NHWC")
CASES = {
    "same": ((2, 6, 6, 3), (3, 3, 3, 4), {"dimension_numbers": NHWC}),
    "valid and strides": ((2, 7, 6, 3), (3, 2, 3, 4), {"dimension_numbers": NHWC, "window_strides": (2, 3), "padding": "VALID"}),
    "a window that tiles": ((2, 8, 8, 3), (4, 4, 3, 5), {"dimension_numbers": NHWC, "window_strides": (4, 4), "padding": "VALID"}),
    "dilated kernel": ((2, 8, 8, 3), (3, 3, 3, 4), {"dimension_numbers": NHWC, "rhs_dilation": (2, 3)}),
    "dilated inputs": ((2, 4, 5, 3), (3, 3, 3, 4), {"dimension_numbers": NHWC, "lhs_dilation": (2, 3), "padding": ((2, 1), (0, 2))}),
    "cropped": ((2, 8, 8, 3), (3, 3, 3, 4), {"dimension_numbers": NHWC, "padding": ((-1, 0), (0, -2))}),
    "channels first": ((2, 3, 6, 5), (4, 3, 3, 3), {}),
    "outputs in another order": ((2, 3, 6, 5), (3, 3, 3, 4), {"dimension_numbers": ("NCHW", "WHIO", "CWNH")}),
    "one axis": ((2, 9, 3), (4, 3, 5), {"dimension_numbers": ("NWC", "WIO", "NWC"), "window_strides": (2,)}),
    "three axes": ((2, 4, 5, 4, 2), (3, 2, 3, 2, 3), {"dimension_numbers": ("NDHWC", "DHWIO", "NDHWC"), "window_strides": (1, 2, 1)}),
    "no axis": ((2, 3), (3, 4), {"dimension_numbers": ("NC", "IO", "NC"), "window_strides": (), "padding": ()}),
    "a window larger than the inputs": ((2, 2, 2, 3), (3, 3, 3, 4), {"dimension_numbers": NHWC, "padding": "VALID"}),
}


def convolution(x, kernel, options):
    strides = (1,) * (x.ndim - 2)
    return jax.lax.conv_general_dilated(x, kernel, **{"window_strides": strides, "padding": "SAME", **options})


def primitives(program):
    """The names of all equations of a program."""
    inner = [item for equation in program.eqns for value in equation.params.values() for item in (value if isinstance(value, tuple) else (value,))]
    programs = [getattr(item, "jaxpr", item) for item in inner]
    return {e.primitive.name for e in program.eqns}.union(*(primitives(p) for p in programs if hasattr(p, "eqns")))


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_gradients_are_those_of_the_convolution(name):
    """Alone and under vmap of the kernel. Seen to fail with `out_axes` not inverted."""
    lhs, rhs, options = CASES[name]
    x, kernel = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate((lhs, rhs)))

    def known(x, kernel):
        return convolution(x, kernel, options)

    cotangent = jax.random.normal(jax.random.key(2), known(x, kernel).shape)
    found = by_products(known)
    assert "conv_general_dilated" not in primitives(jax.make_jaxpr(found)(x, kernel).jaxpr)
    for ours, theirs in zip(jax.vjp(found, x, kernel)[1](cotangent), jax.vjp(known, x, kernel)[1](cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found(x, kernel), known(x, kernel), rtol=1e-5, atol=1e-5)
    kernels = jnp.stack([kernel, 2 * kernel])
    np.testing.assert_allclose(jax.vmap(found, (None, 0))(x, kernels), jax.vmap(known, (None, 0))(x, kernels), rtol=1e-5, atol=1e-5)


def test_the_dtype_of_the_result_is_the_one_asked_for():
    x, kernel = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2), jnp.bfloat16)
    for options in ({}, {"preferred_element_type": jnp.float32}):
        known = jax.make_jaxpr(partial(convolution, options={"dimension_numbers": NHWC, **options}))(x, kernel)
        (equation,) = [e for e in known.eqns if e.primitive.name == "conv_general_dilated"]
        assert product(x, kernel, **equation.params).dtype == equation.outvars[0].aval.dtype


def nested(x, kernel):
    """Convolutions in a program, a loop, a branch and a checkpoint."""

    def conv(x):
        return jax.nn.relu(convolution(x, kernel, {"dimension_numbers": NHWC}))

    x = jax.lax.scan(lambda x, _: (0.5 * conv(x), x.sum()), x, None, length=2)[0]
    x = jax.lax.cond(x.sum() > 0, conv, lambda x: x, x)
    x = jax.lax.fori_loop(0, 2, lambda _, x: jax.jit(conv)(x), x)
    return jax.checkpoint(conv)(x)


def test_convolutions_within_programs_are_replaced_too():
    x, kernel = jax.random.normal(jax.random.key(0), (2, 5, 5, 2)), jax.random.normal(jax.random.key(1), (3, 3, 2, 2)) / 4
    found = jax.make_jaxpr(by_products(nested))(x, kernel).jaxpr
    assert "conv_general_dilated" not in primitives(found)
    assert {"scan", "cond"} <= primitives(found)
    np.testing.assert_allclose(by_products(nested)(x, kernel), nested(x, kernel), rtol=1e-5, atol=1e-6)


def test_a_function_with_its_own_derivative_keeps_it():
    @jax.custom_vjp
    def own(x):
        return x

    own.defvjp(lambda x: (x, None), lambda _, g: (3 * g,))

    def loss(kernel):
        return own(convolution(jnp.ones((1, 4, 4, 1)), kernel, {"dimension_numbers": NHWC})).sum()

    kernel = jnp.ones((3, 3, 1, 1))
    np.testing.assert_allclose(jax.grad(by_products(loss))(kernel), jax.grad(loss)(kernel), rtol=1e-6)


def test_elsewhere_and_without_convolutions_the_function_itself_runs(monkeypatch):
    dense = jax.jit(lambda x: jnp.tanh(x @ x))
    assert not convolves(jax.make_jaxpr(dense)(jnp.eye(2)))
    assert str(jax.make_jaxpr(by_products(dense))(jnp.eye(2))) == str(jax.make_jaxpr(dense)(jnp.eye(2)))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert by_products(nested) is nested


class Net(nn.Module):
    """Three kinds of convolution of flax, with statistics of none."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = nn.relu(nn.Conv(4, (3, 3), feature_group_count=4)(x))  # stays a convolution
        return nn.ConvTranspose(3, (2, 2), strides=(2, 2))(x).mean((1, 2, 3))


def test_chains_of_a_net_agree_with_those_of_its_convolutions(monkeypatch):
    """To rounding, over a run of SGLD."""
    net, images = Net(), jax.random.normal(jax.random.key(0), (40, 6, 6, 1))
    params = net.init(jax.random.key(1), images[:1])["params"]

    def run():
        posterior = LocalPosterior(lambda params, batch: jnp.square(net.apply({"params": params}, batch)), params, 20.0)
        return sample(jax.random.key(2), SGLD(1e-4), posterior, InMemory.of(images, 8), num_chains=4, num_draws=20)

    found = run()
    monkeypatch.setattr("jaxllc.posterior.by_products", lambda function: function)
    known = run()
    np.testing.assert_allclose(found.excess_loss, known.excess_loss, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(found.full_center_loss, known.full_center_loss, rtol=1e-5)
