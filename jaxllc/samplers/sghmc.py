r"""Underdamped Langevin dynamics on minibatches (SGHMC, Chen et al., arXiv:1402.4102) by the splitting BAOAB (Leimkuhler & Matthews, arXiv:1203.5428).

With unit mass, momentum $v$, friction $\alpha$ and $h = \sqrt\epsilon$, a step is a kick $v \mathrel{-}= h \nabla U(w)$ (B), half a drift
$w \mathrel{+}= \frac{h}{2} v$ (A), an exact Ornstein-Uhlenbeck step $v \mathrel{:=} e^{-\alpha h} v + \sqrt{1 - e^{-2 \alpha h}}\, \xi$ (O), and half a
drift (A). The two half kicks that meet at one position are one, so it costs one gradient. At infinite friction it is
$w' = w - \frac{\epsilon}{2} \nabla U + \sqrt\epsilon\, \frac{\xi + \xi'}{2}$, each $\xi$ serving two steps.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxllc._typing import Batch, Key, Params, Scalar
from jaxllc.posterior import LocalPosterior
from jaxllc.samplers.base import HasStepSize, Info, Schedule, no_steps, zeros
from jaxllc.samplers.gradients import GradientEstimator, Minibatch
from jaxllc.samplers.noise import NOISES, check_noise


class SGHMCState(NamedTuple):
    """The free weights, their momenta, and the number of steps."""

    position: Params
    momentum: Params
    steps: jax.Array


@struct.dataclass
class SGHMC(HasStepSize):
    r"""Langevin dynamics with momentum: $dw = v\,dt$, $dv = -\nabla U\,dt - \alpha v\,dt + \sqrt{2\alpha}\,dW$, unit mass, $h = \sqrt\epsilon$ a step.

    On a quadratic the law of the positions is exact at any stable step ($\epsilon a < 4$ at curvature $a$) as long as the gradient is: see
    `jaxllc.theory.sghmc_variance`. Noise of minibatches heats the chain by $h n^2\beta^2 s^2 / 2\alpha$; `ControlVariate` takes most of it away.

    Args:
        step_size: $\epsilon = h^2$, in units of the weights squared; a number or a schedule of optax. None leaves it to `jaxllc.estimate`.
        friction: $\alpha$, in units of one over time; None is $2\sqrt\gamma$, at which the pull to $w^*$ is critically damped. Zero is none.
        gradient: how the gradient is estimated.
        noise: `"five-point"`, whose moments match up to the fifth (the splitting has weak order two), `"gaussian"` or `"rademacher"`.

    Raises:
        ValueError: `noise` has another name.
    """

    step_size: Scalar | Schedule | None
    friction: Scalar | None = None
    gradient: GradientEstimator = Minibatch()
    noise: str = struct.field(pytree_node=False, default="five-point")

    share_of_limit: ClassVar[float] = 1 / 8
    """A default step size, as a share of the limit of stability at the largest curvature at $w^*$ (see `SGLD.share_of_limit`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise)

    def init(self, position: Params) -> SGHMCState:
        """A chain that starts at `position`; its momenta are drawn in the first step."""
        return SGHMCState(position, zeros(position), no_steps())

    def step(self, key: Key, state: SGHMCState, posterior: LocalPosterior, batch: Batch) -> tuple[SGHMCState, Info]:
        """One step on one batch; `Info` tells the losses before it."""
        friction = 2 * jnp.sqrt(jnp.asarray(posterior.localization)) if self.friction is None else jnp.asarray(self.friction)
        time = jnp.sqrt(self.step_size_at(state.steps))
        losses, grad = self.gradient(state.position, posterior, batch)
        kicked = kick(time, state.position, state.momentum, grad, posterior)
        kept = jnp.where(state.steps == 0, jnp.zeros_like(time), jnp.exp(-friction.astype(time.dtype) * time))
        xi = NOISES[self.noise](key, state.position)
        momentum = refresh(kept, jnp.sqrt(1 - kept**2), kicked, xi)
        position = drift(time, drift(time, state.position, kicked), momentum)
        return SGHMCState(position, momentum, state.steps + 1), Info(losses, heat(kicked))


def kick(time: jax.Array, position: Params, momentum: Params, grad: Params, posterior: LocalPosterior) -> Params:
    r"""$v - h \nabla U(w)$."""

    def push(w: jax.Array, v: jax.Array, g: jax.Array, center: jax.Array) -> jax.Array:
        h, nbeta, localization = (jnp.asarray(x, w.dtype) for x in (time, posterior.nbeta, posterior.localization))
        return v - h * (nbeta * g + localization * (w - center))

    return jax.tree.map(push, position, momentum, grad, posterior.position())


def drift(time: jax.Array, position: Params, momentum: Params) -> Params:
    r"""$w + \frac{h}{2} v$."""
    return jax.tree.map(lambda w, v: w + jnp.asarray(time, w.dtype) / 2 * v, position, momentum)


def refresh(kept: jax.Array, amplitude: jax.Array, momentum: Params, xi: Params) -> Params:
    r"""$c v + s \xi$."""
    return jax.tree.map(lambda v, x: jnp.asarray(kept, v.dtype) * v + jnp.asarray(amplitude, v.dtype) * x, momentum, xi)


def heat(kicked: Params) -> jax.Array:
    r"""$\frac12 (\lVert v \rVert^2 - d)$ after a kick, whose mean is about what the chain's excess temperature adds to $\hat\lambda$.

    It is zero on a quadratic with exact gradients, at any step.
    """
    squares = [jnp.vdot(leaf, leaf) - leaf.size for leaf in jax.tree.leaves(kicked)]
    return 0.5 * jnp.asarray(sum(square.astype(squares[0].dtype) for square in squares))
