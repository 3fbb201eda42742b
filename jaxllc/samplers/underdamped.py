r"""What samplers with momentum share: their hyperparameters, the moves of their splittings, and the heat of their momenta.

With unit mass, momentum $v$ and $h = \sqrt\epsilon$: a kick $v \mathrel{-}= h \nabla U(w)$, half a drift $w \mathrel{+}= \frac{h}{2} v$, and a refreshment
$v \mathrel{:=} c v + s \xi$.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from jaxllc._typing import Params, Scalar
from jaxllc.posterior import LocalPosterior
from jaxllc.samplers.base import HasStepSize, Schedule
from jaxllc.samplers.gradients import GradientEstimator, Minibatch
from jaxllc.samplers.noise import check_noise


@struct.dataclass
class Underdamped(HasStepSize):
    """The hyperparameters of `SGHMC` and `SGNHT`, which tell what they mean."""

    step_size: Scalar | Schedule | None
    friction: Scalar | None = None
    gradient: GradientEstimator = Minibatch()
    noise: str = struct.field(pytree_node=False, default="five-point")

    share_of_limit: ClassVar[float] = 1 / 8
    """A default step size, as a share of the limit of stability at the largest curvature at $w^*$ (see `SGLD.share_of_limit`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise)

    def friction_in(self, posterior: LocalPosterior) -> jax.Array:
        r"""$\alpha$, by default $2\sqrt\gamma$."""
        return 2 * jnp.sqrt(jnp.asarray(posterior.localization)) if self.friction is None else jnp.asarray(self.friction)


def kick(time: jax.Array, position: Params, momentum: Params, grad: Params, posterior: LocalPosterior) -> Params:
    r"""$v - h \nabla U(w)$."""
    return jax.tree.map(lambda v, slope: v - jnp.asarray(time, v.dtype) * slope, momentum, posterior.slope(position, grad))


def drift(time: jax.Array, position: Params, momentum: Params) -> Params:
    r"""$w + \frac{h}{2} v$."""
    return jax.tree.map(lambda w, v: w + jnp.asarray(time, w.dtype) / 2 * v, position, momentum)


def refresh(kept: jax.Array, amplitude: jax.Array, momentum: Params, xi: Params) -> Params:
    r"""$c v + s \xi$."""
    return jax.tree.map(lambda v, x: jnp.asarray(kept, v.dtype) * v + jnp.asarray(amplitude, v.dtype) * x, momentum, xi)


def heat(momentum: Params) -> jax.Array:
    r"""$\frac12 (\lVert v \rVert^2 - d)$, of which the mean is zero at the right temperature."""
    squares = [jnp.vdot(leaf, leaf) - leaf.size for leaf in jax.tree.leaves(momentum)]
    return 0.5 * jnp.asarray(sum(square.astype(squares[0].dtype) for square in squares))
