"""Where work runs and how it is cut: meshes, vmap widths that fit the caches, even groups, and a loop that gives what a vmap gives."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxllc import placement
from jaxllc.placement import batched, bytes_written, check_mesh, default_mesh, largest_width, resident_checkpoints, vmap_width


@pytest.mark.parametrize(
    ("size", "most", "width"),
    [(8, 1, 1), (8, 2, 2), (8, 3, 3), (8, 5, 4), (8, 7, 4), (8, 8, 8), (8, 100, 8), (7, 4, 4), (7, 6, 4), (1, 5, 1), (5, 0, 1), (8, sys.maxsize, 8)],
)
def test_groups_are_even(size, most, width):
    assert vmap_width(size, most) == width


@pytest.mark.parametrize("size", range(1, 30))
@pytest.mark.parametrize("most", [1, 2, 3, 7, 29])
def test_groups_are_as_few_as_they_can_be_and_no_wider_than_allowed(size, most):
    width = vmap_width(size, most)
    assert 1 <= width <= most
    assert -(-size // width) == -(-size // most)


def program(x):
    """Writes 2 · 400 bytes beside its loop, whose one body writes 400 and 4 bytes."""
    y = jnp.sin(x) * x
    return jax.lax.scan(lambda carry, _: (jnp.cos(carry), carry.sum()), y, None, length=7)


def test_bytes_written_are_those_of_every_intermediate_once():
    """Of 100 float32; a loop counts as one round, whatever its length."""
    assert bytes_written(jax.make_jaxpr(program)(jnp.zeros(100)).jaxpr) == 2 * 400 + 404


def test_as_many_largest_width_as_the_caches_hold(monkeypatch):
    x = jnp.zeros(100)
    for cache, most in ((1, 1), (1204, 1), (2407, 1), (2408, 2), (12_040, 10)):
        monkeypatch.setattr(placement, "CACHE_BYTES", cache)
        assert largest_width(program, x) == most
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert largest_width(program, x) > 10**12  # of a device that tells no memory


class Accelerator:
    """Of 24 080 bytes, half of which a step may write."""

    def memory_stats(self):
        return {"bytes_limit": 24_080}


def test_as_many_largest_width_as_an_accelerator_holds(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [Accelerator()])
    assert largest_width(program, jnp.zeros(100)) == 10


def test_groups_by_default_suit_the_machine(monkeypatch):
    """A model of a million weights goes one by one on a CPU, many together on an accelerator."""
    assert (resident_checkpoints(1000, 8), resident_checkpoints(10**6, 8)) == (131, 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert (resident_checkpoints(10**6, 8), resident_checkpoints(10**9, 8)) == (33, 1)


@pytest.mark.parametrize(("size", "width"), [(1, 1), (6, 1), (6, 2), (6, 3), (6, 6), (6, 9), (7, 3)])
def test_every_width_gives_what_a_vmap_gives(size, width):
    """Over a tree, also where the width does not divide the size."""
    arguments = {"a": jnp.arange(size * 3.0).reshape(size, 3)}, jnp.arange(float(size))
    widths = []

    def function(tree, scale):
        widths.append(getattr(tree["a"], "batch_dim", None))
        return {"sum": tree["a"].sum() * scale, "all": tree["a"] + scale}

    found, wide = batched(function, width, *arguments), jax.vmap(lambda tree, scale: {"sum": tree["a"].sum() * scale, "all": tree["a"] + scale})(*arguments)
    jax.tree.map(np.testing.assert_array_equal, found, wide)
    assert len(widths) == (2 if 1 < width < size and size % width else 1)


def test_one_call_has_no_batch_axis():
    """It keeps a matrix product from the fast path of a CPU. Seen to fail with the branch for one left out."""
    lowered = jax.make_jaxpr(lambda x: batched(lambda m: m @ m, 4, x))(jnp.zeros((1, 3, 3)))
    (product,) = [equation for equation in lowered.jaxpr.eqns if equation.primitive.name == "dot_general"]
    assert product.outvars[0].aval.shape == (3, 3)


def test_the_default_mesh_takes_the_devices_that_divide_the_work():
    """conftest.py makes four."""
    assert dict(default_mesh(8, 1).shape) == {"step": 1, "chain": 4}
    assert dict(default_mesh(6, 4).shape) == {"step": 2, "chain": 2}
    assert dict(default_mesh(3, 5).shape) == {"step": 1, "chain": 3}
    assert dict(default_mesh(1, 5).shape) == {"step": 1, "chain": 1}


def test_a_mesh_that_does_not_fit_is_explained():
    auto = {"axis_types": (AxisType.Auto,)}
    with pytest.raises(ValueError, match="4 devices, which do not divide 6"):
        check_mesh(jax.make_mesh((4,), ("chain",), **auto), 6, 1)
    with pytest.raises(ValueError, match="only 'chain' and 'step'"):
        check_mesh(jax.make_mesh((2,), ("data",), **auto), 4, 1)
    with pytest.raises(ValueError, match=r"AxisType\.Auto"):
        check_mesh(jax.make_mesh((2,), ("chain",), axis_types=(AxisType.Explicit,)), 4, 1)
    check_mesh(jax.make_mesh((2,), ("step",), **auto), 5, 4)
