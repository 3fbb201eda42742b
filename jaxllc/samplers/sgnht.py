r"""Langevin dynamics with a thermostat (SGNHT, Ding et al. 2014): the friction itself moves until the momenta have the right temperature.

The splitting of `sghmc` with half a step of the thermostat on each side of O, symmetric as in BADODAB (Leimkuhler & Shang, arXiv:1505.06889).
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxllc import _struct as struct
from jaxllc._typing import Batch, Params
from jaxllc.posterior import LocalPosterior
from jaxllc.sampler import Info, no_steps, zeros
from jaxllc.samplers.noise import NOISES, Random
from jaxllc.samplers.underdamped import Underdamped, drift, heat, kick, refresh
from jaxllc.stream import Data


class SGNHTState(NamedTuple):
    r"""The free weights, their momenta, the thermostat $\zeta$ (its excess over the friction $\alpha$), and the number of steps."""

    position: Params
    momentum: Params
    thermostat: jax.Array
    steps: jax.Array


@struct.dataclass
class SGNHT(Underdamped):
    r"""Langevin dynamics whose friction holds the momenta at the right temperature, $h = \sqrt\epsilon$ a step, unit masses.

    $$dw = v\,dt, \quad dv = -\nabla U\,dt - (\alpha + \zeta) v\,dt + \sqrt{2\alpha}\,dW, \quad d\zeta = (\lVert v\rVert^2 / d - 1)\,dt.$$

    Noise of unknown size in the gradients, if it is the same in all directions, is taken up by $\zeta$. In the stationary law the mean of
    $\lVert v\rVert^2 / d$ is one. Noise that differs by direction heats stiff directions and cools flat ones, unseen by the momenta: `Info.step_bias` is
    zero and no finding tells of it.

    It goes with the time step $h$, the root of $\epsilon$, which is how it is extrapolated; with all data at each step there is none of it.

    Args:
        step_size: $\epsilon = h^2$, see `SGHMC`.
        friction: $\alpha$, see `SGHMC`.
        gradient: how the gradient is estimated.
        noise: see `SGHMC`.

    Raises:
        ValueError: `noise` has another name.

    Examples:
        >>> settings = jaxllc.Settings(jaxllc.SGNHT(1e-3))
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0)).llc)
        2
    """

    bias_order: ClassVar[float | None] = 0.5

    def check(self, posterior: LocalPosterior, data: Data) -> None:
        """Raise where one thermostat would hold weights that feel noise together with others that feel none.

        Raises:
            ValueError: components that are parts of what moves; or whatever other samplers raise.
        """
        super().check(posterior, data)
        if posterior.mask is not None:
            raise ValueError("SGNHT has one thermostat for all weights, so it cannot sample parts of leaves or several components; use SGLD or SGHMC.")

    def init(self, position: Params) -> SGNHTState:
        """A chain that starts at `position` without thermostat; its momenta are drawn in the first step."""
        dtype = jax.tree.leaves(position)[0].dtype
        return SGNHTState(position, zeros(position), jnp.zeros((), dtype), no_steps())

    def step(self, key: Random, state: SGNHTState, posterior: LocalPosterior, batch: Batch) -> tuple[SGNHTState, Info]:
        """One step on one batch; `Info` tells the losses before it."""
        dtype = state.thermostat.dtype
        friction = self.friction_at(posterior.localization).astype(dtype)
        time = jnp.sqrt(self.step_size_at(state.steps).astype(dtype))
        first = state.steps == 0
        losses, grad = self.gradient(state.position, posterior, batch)
        kicked = kick(time, state.position, state.momentum, grad, posterior)
        thermostat = jnp.where(first, jnp.zeros((), dtype), state.thermostat + time / 2 * _excess(kicked))
        # O with friction r = alpha + zeta of either sign: v' = e^{-rh} v + sqrt(2 alpha (1 - e^{-2rh}) / 2r) xi.
        rate = (friction + thermostat) * time
        small = jnp.abs(rate) < 1e-4
        safe = jnp.where(small, jnp.ones_like(rate), rate)
        spread = 2 * friction * time * jnp.where(small, 1 - rate, -jnp.expm1(-2 * safe) / (2 * safe))
        decay = jnp.where(first, jnp.zeros_like(rate), jnp.exp(-rate))
        amplitude = jnp.where(first, jnp.ones_like(rate), jnp.sqrt(spread))
        momentum = refresh(decay, amplitude, kicked, NOISES[self.noise](key, state.position))
        position = drift(time, drift(time, state.position, kicked), momentum)
        thermostat += jnp.where(first, jnp.zeros((), dtype), time / 2 * _excess(momentum))
        return SGNHTState(position, momentum, thermostat, state.steps + 1), Info(losses, jnp.zeros((), dtype))


def _excess(momentum: Params) -> jax.Array:
    r"""$\lVert v \rVert^2 / d - 1$."""
    return heat(momentum) * 2 / sum(leaf.size for leaf in jax.tree.leaves(momentum))
