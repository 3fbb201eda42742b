r"""Stochastic-gradient Langevin dynamics (Welling & Teh 2011), localised as in Lau et al. (arXiv:2308.12108)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxllc._typing import Batch, Key, Params, Scalar
from jaxllc.posterior import LocalPosterior
from jaxllc.samplers.base import Info
from jaxllc.samplers.noise import NOISES


class SGLDState(NamedTuple):
    """The free weights."""

    position: Params


@struct.dataclass
class SGLD:
    r"""Langevin dynamics on minibatches: $w' = w - \frac{\epsilon}{2}\,(n\beta\, g + \gamma (w - w^*)) + \sqrt{\epsilon}\,\xi$.

    $g$ is the gradient of the minibatch's mean loss. Its noise and the finite step both widen the stationary law: see
    `jaxllc.theory.sgld_variance`.

    Args:
        step_size: $\epsilon$, in units of the weights squared.
        noise: what $\xi$ is: `"rademacher"` (signs, cheap) or `"gaussian"`; they differ at second order in $\epsilon$.

    Raises:
        ValueError: `noise` has another name.
    """

    step_size: Scalar
    noise: str = struct.field(pytree_node=False, default="rademacher")

    def __post_init__(self) -> None:
        if self.noise not in NOISES:
            raise ValueError(f"noise={self.noise!r} is not known; choose one of {', '.join(map(repr, NOISES))}.")

    def init(self, position: Params) -> SGLDState:
        """A chain that starts at `position`."""
        return SGLDState(position)

    def step(self, key: Key, state: SGLDState, posterior: LocalPosterior, batch: Batch) -> tuple[SGLDState, Info]:
        """One step on one batch; `Info` tells the losses before it."""
        losses, grad = posterior.loss_and_grad(state.position, batch)
        noise = NOISES[self.noise](key, state.position)

        def move(w: jax.Array, g: jax.Array, center: jax.Array, xi: jax.Array) -> jax.Array:
            step_size, nbeta, localization = (jnp.asarray(x, w.dtype) for x in (self.step_size, posterior.nbeta, posterior.localization))
            return w - step_size / 2 * (nbeta * g + localization * (w - center)) + jnp.sqrt(step_size) * xi

        bias = step_bias(self.step_size, jax.tree.map(lambda g: jnp.asarray(posterior.nbeta, g.dtype) * g, grad))
        return SGLDState(jax.tree.map(move, state.position, grad, posterior.position(), noise)), Info(losses, bias)


def step_bias(step_size: Scalar, drift: Params) -> jax.Array:
    r"""$\frac{\epsilon}{8} \lVert n\beta g \rVert^2$, whose mean is what a finite step and the noise of its batches add to $\hat\lambda$.

    A stationary law keeps $E\lVert w - w^*\rVert^2$ from step to step, hence
    $E[(w - w^*) \cdot \nabla U] = d + \frac{\epsilon}{4} E\lVert \nabla U\rVert^2$, the second term being the excess over the continuous law. On a quadratic
    $n\beta L$ is half of $n\beta\, (w - w^*) \cdot \nabla L$, so half of the excess is that of $\hat\lambda$: exactly so where $n\beta h \gg \gamma$.
    """
    squares = [jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(drift)]
    return jnp.asarray(step_size, squares[0].dtype) / 8 * sum(square.astype(squares[0].dtype) for square in squares)
