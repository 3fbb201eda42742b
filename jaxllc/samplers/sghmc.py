r"""Underdamped Langevin dynamics on minibatches (SGHMC, Chen et al., arXiv:1402.4102) by the splitting BAOAB (Leimkuhler & Matthews, arXiv:1203.5428).

With unit mass, momentum $v$, friction $\alpha$ and $h = \sqrt\epsilon$, a step is a kick $v \mathrel{-}= h \nabla U(w)$ (B), half a drift
$w \mathrel{+}= \frac{h}{2} v$ (A), an exact Ornstein-Uhlenbeck step $v \mathrel{:=} e^{-\alpha h} v + \sqrt{1 - e^{-2 \alpha h}}\, \xi$ (O), and half a
drift (A). The two half kicks that meet at one position are one, so it costs one gradient. At infinite friction it is
$w' = w - \frac{\epsilon}{2} \nabla U + \sqrt\epsilon\, \frac{\xi + \xi'}{2}$, each $\xi$ serving two steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllc import _struct as struct
from jaxllc._typing import Batch, Params, Scalar
from jaxllc.posterior import LocalPosterior
from jaxllc.sampler import Info, no_steps, zeros
from jaxllc.samplers.gradients import Minibatch
from jaxllc.samplers.noise import NOISES, Random
from jaxllc.samplers.underdamped import Underdamped, drift, heat, kick, refresh


class SGHMCState(NamedTuple):
    """The free weights, their momenta, and the number of steps."""

    position: Params
    momentum: Params
    steps: jax.Array


@struct.dataclass
class SGHMC(Underdamped):
    r"""Langevin dynamics with momentum: $dw = v\,dt$, $dv = -\nabla U\,dt - \alpha v\,dt + \sqrt{2\alpha}\,dW$, unit mass, $h = \sqrt\epsilon$ a step.

    On a quadratic the law of the positions is exact at any stable step ($\epsilon a < 4$ at curvature $a$) as long as the gradient is: see
    `jaxllc.theory.sghmc_variance`. Noise of minibatches heats the chain by $h n^2\beta^2 s^2 / 2\alpha$; `ControlVariate` takes most of it away.

    Args:
        step_size: $\epsilon = h^2$, in units of the weights squared; a number or a schedule of optax. None leaves it to `jaxllc.estimate`.
        friction: $\alpha$, in units of one over time; None is $2\sqrt\gamma$, at which the Gaussian prior is critically damped, and needs
            $\gamma > 0$. Zero is none.
        gradient: how the gradient is estimated.
        noise: `"five-point"`, whose moments match up to the fifth (the splitting has weak order two), `"gaussian"` or `"rademacher"`.

    Raises:
        ValueError: `noise` has another name.

    Examples:
        >>> settings = jaxllc.Settings(jaxllc.SGHMC(1e-3, friction=10.0))
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0)).llc)
        2
    """

    def init(self, position: Params) -> SGHMCState:
        """A chain that starts at `position`; its momenta are drawn in the first step."""
        return SGHMCState(position, zeros(position), no_steps())

    def step(self, key: Random, state: SGHMCState, posterior: LocalPosterior, batch: Batch) -> tuple[SGHMCState, Info]:
        """One step on one batch; `Info` tells the losses before it."""
        time = jnp.sqrt(self.step_size_at(state.steps))
        first = state.steps == 0
        losses, grad = self.gradient(state.position, posterior, batch)
        kicked = kick(time, state.position, state.momentum, grad, posterior)
        decay = jnp.where(first, jnp.zeros_like(time), jnp.exp(-self.friction_at(posterior.localization).astype(time.dtype) * time))
        xi = NOISES[self.noise](key, state.position)
        momentum = refresh(decay, jnp.sqrt(1 - decay**2), kicked, xi)
        position = drift(time, drift(time, state.position, kicked), momentum)
        excess = step_bias(kicked, decay)
        return SGHMCState(position, momentum, state.steps + 1), Info(losses, jnp.where(first, jnp.zeros_like(excess), excess))

    @property
    def counts_absorbed_noise(self) -> bool:
        """Whether `step_bias` counts gradient noise that the prior absorbs: that of plain minibatches."""
        return isinstance(self.gradient, Minibatch)

    def noise_gain(self, localization: Scalar, iteration: jax.Array) -> jax.Array:
        r"""`step_bias` of a prior-dominated direction for each unit of its $n^2\beta^2 s^2$ after so many iterations, `float[]`.

        $E[v^2]$ exceeds one by $\epsilon\, n^2\beta^2 s^2 / (1 - c^2)$ after a kick, of which $1 - c^{2t}$ is there after $t$ steps: $\frac{\epsilon}{8}
        \frac{1 + c}{1 - c} (1 - c^{2t})$, and $\frac{\epsilon}{2} t$ without friction.
        """
        step_size = self.step_size_at(iteration)
        rate = self.friction_at(localization).astype(step_size.dtype) * jnp.sqrt(step_size)
        steps = iteration.astype(rate.dtype)
        small = rate * steps < 1e-4
        safe = jnp.where(small, jnp.ones_like(rate), rate)
        return step_size * jnp.where(small, steps / 2, -jnp.expm1(-2 * safe * steps) / (8 * jnp.tanh(safe / 2)))


def step_bias(kicked: Params, decay: jax.Array) -> jax.Array:
    r"""$\frac{(1 + c)^2}{8}\,(\lVert v \rVert^2 - d)$ after a kick, whose mean is what noisy gradients add to $E[U]$.

    That is what they add to $n\beta\, E[L]$ but for what the prior absorbs, which `jaxllc.estimator` takes back.
    On a quadratic of curvature $a$ the stationary law has $a E[w^2] - 1 = \frac{(1 + c)^2}{4} (E[v^2] - 1)$ along each axis, $c = e^{-\alpha h}$ being the
    momentum that an O step keeps: the fixed point of $E[w^2]$, $E[wv]$ and $E[v^2]$. It is zero with exact gradients, at any step.
    """
    excess = heat(kicked)
    return ((1 + decay.astype(excess.dtype)) / 2) ** 2 * excess
