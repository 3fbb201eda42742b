"""What a fingerprint of a function tells apart, and what it does not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllc.source import fingerprint


class Scaled:
    """A loss as an object, with a counter of its own."""

    def __init__(self, scale, weights=None):
        self.scale, self.weights, self._calls = scale, weights, id(self)

    def __call__(self, params, batch):
        return self.scale * params

    def method(self, params, batch):
        return params - self.scale


def plain(params, batch):
    return params


def times(scale):
    def decorate(function):
        @functools.wraps(function)
        def scaled(params, batch):
            return scale * function(params, batch)

        return scaled

    return decorate


def default(params, batch, scale=1.0):
    return scale * params


def other_default(scale):
    return functools.partial(default, scale=scale)


DIFFERENT = {
    "attribute of an object": (Scaled(1.0), Scaled(2.0)),
    "array of an object": (Scaled(1.0, np.zeros(3)), Scaled(1.0, np.ones(3))),
    "nested containers of an object": (Scaled(1.0, {"a": [(1, {"b": [2.0]})]}), Scaled(1.0, {"a": [(1, {"b": [3.0]})]})),
    "object of a method": (Scaled(1.0).method, Scaled(2.0).method),
    "method and call": (Scaled(1.0).method, Scaled(1.0)),
    "closure of a wrapper": (times(1.0)(plain), times(2.0)(plain)),
    "wrapped function": (times(1.0)(plain), times(1.0)(default)),
    "wrapper and wrapped": (times(1.0)(plain), plain),
    "argument of a partial": (other_default(1.0), other_default(2.0)),
    "compiled": (jax.jit(times(1.0)(plain)), jax.jit(times(2.0)(plain))),
    "array on a device": (Scaled(jnp.ones(2)).method, Scaled(jnp.zeros(2)).method),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_computes_something_else_differs(one, other):
    assert fingerprint(one) != fingerprint(other)


SAME = {
    "objects made twice": (Scaled(1.0, {"a": np.ones(2)}), Scaled(1.0, {"a": np.ones(2)})),
    "methods of such": (Scaled(1.0).method, Scaled(1.0).method),
    "wrapped twice": (times(2.0)(plain), times(2.0)(plain)),
    "partials": (other_default(1.0), other_default(1.0)),
    "compiled or not": (jax.jit(plain), plain),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_what_is_the_same_is_the_same(one, other):
    """Private attributes, such as counters, do not count."""
    assert fingerprint(one) == fingerprint(other)
