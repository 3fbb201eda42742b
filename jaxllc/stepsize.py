r"""The step size where it is left open: a share of $4 / a$, where the chain becomes unstable along the largest curvature $a$ of $U$ at $w^*$."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxllc._plain import Plain
from jaxllc._tree import at_least_float32, is_real
from jaxllc._typing import Batch, Params
from jaxllc.data import InMemory
from jaxllc.layout import is_split
from jaxllc.placement import on_devices
from jaxllc.posterior import LocalPosterior
from jaxllc.sampler import Sampler

NUM_ITERATIONS = 20
"""Of power iteration, a Hessian-vector product each."""


def default_step_size(sampler: Sampler, curvatures: Mapping[Any, float]) -> float:
    r"""$\epsilon$ as the sampler's share of $4 / a$, which must suit all places whose largest curvature $a$ is given by name.

    Raises:
        ValueError: a curvature that is not finite or not positive, or a sampler without a default.
    """
    for name, curvature in curvatures.items():
        if curvature == 0:
            raise ValueError(
                f"the loss at {name} does not depend on the free weights and localization is 0, so no step size follows and chains would wander off; "
                "pass a localization above 0, or free other weights."
            )
        if not (np.isfinite(curvature) and curvature > 0):
            raise ValueError(
                f"the largest curvature at {name} is {curvature}, from which no step size follows; see whether weights and loss are finite there, "
                f"or pass sampler={type(sampler).__name__}(step_size)."
            )
    if sampler.default_fraction is None:
        raise ValueError(f"{type(sampler).__name__} has no default step size; pass sampler={type(sampler).__name__}(step_size).")
    return sampler.default_fraction * 4 / max(curvatures.values())


@dataclasses.dataclass(frozen=True)
class LargerInBurnIn(Plain):
    """A multiple of the step size: larger in the first half of burn-in, whose draws are not kept, falling to one at four fifths of it.

    Flat directions forget the start at a rate in proportion to the step. The last fifth, of some hundred steps or more, is for the steep ones to forget the
    larger steps.
    """

    factor: float
    num_burn_in: int

    def __call__(self, count: jax.Array) -> jax.Array:
        """The multiple at an iteration."""
        return self.factor ** jnp.clip((0.8 * self.num_burn_in - count) / (0.3 * max(self.num_burn_in, 1)), 0.0, 1.0)


def curvature(posterior: LocalPosterior, data: InMemory, mesh: Mesh) -> float:
    """The largest curvature of the potential at the centre, on the first batch; in the context in which chains run, so that the loss is traced once.

    Args:
        posterior: around one checkpoint.
        data: what the batch is taken from.
        mesh: the devices of the chains.
    """
    rng = np.random.default_rng(0)  # on the host: a normal draw would have to be compiled

    def draw(leaf: jax.Array) -> Any:
        values = rng.normal(size=leaf.shape).astype(leaf.dtype)
        return jax.device_put(values, leaf.sharding) if is_split(leaf) else values

    direction = jax.tree.map(draw, posterior.position())
    return float(_on_mesh(posterior, data, direction, mesh=mesh))


@partial(jax.jit, static_argnames="mesh")
def _on_mesh(posterior: LocalPosterior, data: InMemory, direction: Params, *, mesh: Mesh) -> jax.Array:
    at = jnp.zeros((), jnp.int32)
    measure = on_devices(lambda p, d, v: largest_curvature(p, v, d.batch(at)), mesh, in_specs=P(), out_specs=P())
    return measure(posterior, data, direction)


def largest_curvature(posterior: LocalPosterior, direction: Params, batch: Batch) -> jax.Array:
    r"""The largest curvature $a$ of $U$ at $w^*$ in absolute value, $n\beta\, |h|_{\max} + \gamma$, by power iteration on a batch.

    Power iteration approaches it from below. The Hessian times a vector is the difference of two gradients, a tenth of the posterior's width
    $1 / \sqrt a$ to either side: that compiles faster than a derivative of the gradient, and sees the kinks of ReLUs as chains do.

    Args:
        posterior: around one checkpoint.
        direction: where the iteration begins, a position at random.
        batch: examples that the curvature is taken of.
    """
    # In bfloat16 such a step is below the spacing of the numbers.
    wide = posterior.replace(center=jax.tree.map(lambda leaf: at_least_float32(leaf) if is_real(leaf) else leaf, posterior.center))  # pyright: ignore[reportAttributeAccessIssue]
    position = wide.position()
    tiny = jnp.finfo(jnp.float32).tiny

    def of_potential(curvature: jax.Array) -> jax.Array:
        return jnp.asarray(posterior.nbeta, jnp.float32) * curvature + jnp.asarray(posterior.localization, jnp.float32)

    def iterate(carry: tuple[Params, jax.Array], _: None) -> tuple[tuple[Params, jax.Array], None]:
        vector, curvature = carry  # the norm of the vector, which at first is no curvature but any number
        reach = 0.1 / jnp.sqrt(jnp.maximum(of_potential(curvature), tiny))

        def gradient(side: jax.Array) -> Params:
            along = jnp.where(curvature > 0, side * reach / jnp.maximum(curvature, tiny), 0.0)  # a loss that is flat everywhere has no direction
            return wide.loss_and_grad(jax.tree.map(lambda w, v: w + along.astype(w.dtype) * v, position, vector), batch)[1]

        sides = jax.lax.map(gradient, jnp.asarray([1.0, -1.0], reach.dtype))
        image = jax.tree.map(lambda g: (g[0] - g[1]) / (2 * reach).astype(g.dtype), sides)
        return (image, _norm(image)), None

    (_, curvature), _ = jax.lax.scan(iterate, (direction, _norm(direction)), None, length=NUM_ITERATIONS)
    return of_potential(curvature)


def _norm(vector: Params) -> jax.Array:
    return jnp.sqrt(jnp.asarray(sum(jnp.vdot(leaf, leaf).astype(jnp.float32) for leaf in jax.tree.leaves(vector))))
