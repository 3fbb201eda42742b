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

        return SGLDState(jax.tree.map(move, state.position, grad, posterior.position(), noise)), Info(losses)
