r"""What samplers with momentum share: their hyperparameters, the moves of their splittings, and the heat of their momenta.

With unit mass, momentum $v$ and $h = \sqrt\epsilon$: a kick $v \mathrel{-}= h \nabla U(w)$, half a drift $w \mathrel{+}= \frac{h}{2} v$, and a refreshment
$v \mathrel{:=} c v + s \xi$.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxllc import _struct as struct
from jaxllc._typing import Key, Params, Scalar
from jaxllc.layout import inner
from jaxllc.posterior import LocalPosterior
from jaxllc.sampler import Schedule, SteppedSampler
from jaxllc.samplers.gradients import GradientEstimator, Minibatch
from jaxllc.samplers.noise import ahead, check_noise
from jaxllc.stream import Data


@struct.dataclass
class Underdamped(SteppedSampler):
    """The hyperparameters of `SGHMC` and `SGNHT`, which tell what they mean."""

    step_size: Scalar | Schedule | None
    friction: Scalar | None = None
    gradient: GradientEstimator = Minibatch()
    noise: str = struct.field(pytree_node=False, default="five-point")

    default_fraction: ClassVar[float | None] = 1 / 8
    """A default step size, as a share of the limit of stability at the largest curvature at $w^*$ (see `SGLD.default_fraction`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise)

    @property
    def needs_center_grad(self) -> bool:
        r"""Whether the gradient estimator reads $\nabla L_n(w^*)$."""
        return self.gradient.needs_center_grad

    def check(self, posterior: LocalPosterior, data: Data) -> None:
        """Raise where this sampler cannot sample this posterior.

        Raises:
            ValueError: the friction would follow from a localization of 0.
        """
        super().check(posterior, data)
        if self.friction is None and np.any(np.asarray(posterior.localization) == 0):
            raise ValueError(
                f"{type(self).__name__}(friction=None) takes its friction from the localization, which is 0, and without friction a chain does not forget its "
                "energy; pass friction=, in units of one over time (0.0 for none)."
            )

    def ahead(self, key: Key, position: Params) -> jax.Array | None:
        """The words of the step's noise, where these are few."""
        return ahead(self.noise, key, position)

    def relaxation_time(self, localization: float, num_iterations: int) -> float | None:
        r"""Of $\ddot w = -\gamma w - \alpha \dot w$, the slower of its two decays; None without friction."""
        half = float(self.friction_at(localization)) / 2
        rate = (half - math.sqrt(max(half**2 - localization, 0.0))) * math.sqrt(self.mean_step_size(num_iterations))
        return 1 / rate if rate > 0 else None

    def friction_at(self, localization: Scalar) -> jax.Array:
        r"""$\alpha$, by default $2\sqrt\gamma$."""
        return 2 * jnp.sqrt(jnp.asarray(localization)) if self.friction is None else jnp.asarray(self.friction)


def kick(time: jax.Array, position: Params, momentum: Params, grad: Params, posterior: LocalPosterior) -> Params:
    r"""$v - h \nabla U(w)$."""
    return jax.tree.map(lambda v, slope: v - jnp.asarray(time, v.dtype) * slope, momentum, posterior.slope(position, grad))


def drift(time: jax.Array, position: Params, momentum: Params) -> Params:
    r"""$w + \frac{h}{2} v$."""
    return jax.tree.map(lambda w, v: w + jnp.asarray(time, w.dtype) / 2 * v, position, momentum)


def refresh(decay: jax.Array, amplitude: jax.Array, momentum: Params, xi: Params) -> Params:
    r"""$c v + s \xi$."""
    return jax.tree.map(lambda v, x: jnp.asarray(decay, v.dtype) * v + jnp.asarray(amplitude, v.dtype) * x, momentum, xi)


def heat(momentum: Params) -> jax.Array:
    r"""$\frac12 (\lVert v \rVert^2 - d)$, of which the mean is zero at the right temperature."""
    return (inner(momentum, momentum) - sum(leaf.size for leaf in jax.tree.leaves(momentum))) / 2
