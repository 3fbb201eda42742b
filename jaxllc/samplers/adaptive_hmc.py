r"""Hamiltonian Monte Carlo on all data that tunes itself: in the metric of the Hessian at $w^*$, with a step size that burn-in adapts.

Around a checkpoint curvatures differ by $10^4$ to $10^7$. In the metric $M = |n\beta H| + \gamma$ of the leading eigenpairs of the Hessian $H$ at $w^*$
nearly all directions have one frequency, so that a trajectory of a few steps crosses the posterior (Neal, arXiv:1206.1901, § 4.1). Any metric leaves the law
exact; away from $w^*$, where the Hessian is another, the step size makes up for it.
"""

from typing import ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxllc import _struct as struct
from jaxllc._tree import at_least_float32
from jaxllc._typing import Batch, Key, Params, Scalar
from jaxllc.full_data import losses_and_gradient
from jaxllc.posterior import LocalPosterior
from jaxllc.sampler import Info, Sampler, check_range, no_steps
from jaxllc.samplers.noise import gaussian
from jaxllc.spectrum import Spectrum

LARGEST_STEP = 1.0
"""Where it begins: half of the limit of stability of a direction of which the metric is exact."""
GAIN, DECAY = 1.5, 0.6
r"""The logarithm of the step moves by $1.5\, (t + 1)^{-0.6}$ times the acceptance above its target (Robbins & Monro 1951; Andrieu & Thoms 2008)."""
LARGEST_FACTOR = 1.25
"""Each trajectory has a step of its own, the adapted one times this times the root of a uniform number. With one step for all a direction could come back to
where it was, and a chain that has entered a narrow part of the posterior would hardly leave it: one in twenty-five is below a quarter of the adapted one."""
MAX_ENERGY_ERROR = 1000.0
"""Of a trajectory: one that gains or loses more has left the numbers that its precision can add up, and is refused; so would be the way back."""
LEAST_FLOOR = 1e-6
"""Of the largest curvature, where a localization of 0 leaves flat directions without any."""


class AdaptiveHMCState(NamedTuple):
    """The free weights, the logarithm of the step, its sum over the second half of adaptation, the steps of the last trajectory, and the iterations made."""

    position: Params
    log_step: jax.Array
    log_step_sum: jax.Array
    num_integration_steps: jax.Array
    steps: jax.Array


@struct.dataclass
class AdaptiveHMC(Sampler):
    r"""Hamiltonian Monte Carlo in the metric of the Hessian at $w^*$; each chain adapts its step size in burn-in, so nothing is to be set.

    A trajectory is as long as a quarter of the slowest period, $\frac{\pi}{2} \sqrt{m / \gamma}$ in units in which the metric is one, where $m$ is the metric
    of the directions that are not among the leading ones. An iteration costs its steps plus one gradients of all data, for all chains as many as for the
    slowest.

    Args:
        num_adaptation: iterations in which the step size is adapted, from the first one on; None leaves it to `jaxllc.estimate`, which takes burn-in.
        target_acceptance: the mean acceptance rate that the step size is adapted to.
        max_integration_steps: of a trajectory; longer ones are cut short, and chains then mix more slowly.
        rank: leading eigenpairs of the Hessian in the metric where there are more than 256 weights, else all.

    Raises:
        ValueError: a number out of its range.

    Examples:
        >>> settings = jaxllc.Settings(jaxllc.AdaptiveHMC(), batch_size=None, num_burn_in=100, dispersion=0.5)
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0)).llc)
        2
    """

    num_adaptation: Scalar | None = None
    target_acceptance: Scalar = 0.85
    max_integration_steps: Scalar = 1000.0
    rank: int = struct.field(pytree_node=False, default=64)

    full_batch: ClassVar[bool] = True
    block: ClassVar[int] = 16
    min_acceptance: ClassVar[float | None] = 0.4

    def __post_init__(self) -> None:
        check_range("AdaptiveHMC(num_adaptation)", self.num_adaptation, 0)
        check_range("AdaptiveHMC(target_acceptance)", self.target_acceptance, 0, 1, above=True)
        check_range("AdaptiveHMC(max_integration_steps)", self.max_integration_steps, 1)
        check_range("AdaptiveHMC(rank)", self.rank, 1)

    @property
    def hessian_rank(self) -> int:
        """Leading eigenpairs of the Hessian at $w^*$ that `step` reads from `LocalPosterior.center_hessian`."""
        return self.rank

    def with_burn_in(self, num_burn_in: int) -> Self:
        """The same sampler, which adapts its step size in burn-in."""
        return self if self.num_adaptation is not None else self.replace(num_adaptation=float(num_burn_in))  # pyright: ignore[reportAttributeAccessIssue]

    def init(self, position: Params) -> AdaptiveHMCState:
        """A chain that starts at `position`."""
        dtype = at_least_float32(jax.tree.leaves(position)[0]).dtype
        size = sum(leaf.size for leaf in jax.tree.leaves(position))
        first = jnp.asarray(np.log(min(LARGEST_STEP, 2 * size**-0.25)), dtype)
        return AdaptiveHMCState(position, first, jnp.zeros((), dtype), no_steps(), no_steps())

    def disperse(self, noise: Params, posterior: LocalPosterior, scale: Scalar) -> Params:
        """A start from the Gaussian law of the metric around $w^*$, with `scale` times its standard deviations."""
        moved = Metric.of(posterior).velocity(noise)
        return jax.tree.map(lambda w, v: w + jnp.asarray(scale, w.dtype) * v, posterior.position(), moved)

    def step(self, key: Key, state: AdaptiveHMCState, posterior: LocalPosterior, batch: Batch) -> tuple[AdaptiveHMCState, Info]:
        """One trajectory, accepted or not; `Info` tells the losses before it.

        Raises:
            ValueError: the posterior lacks the Hessian at the centre, or `num_adaptation` was left open.
        """
        if self.num_adaptation is None:
            raise ValueError("AdaptiveHMC(num_adaptation=None) is filled in by jaxllc.estimate; jaxllc.sample needs a number.")
        metric = Metric.of(posterior)
        velocity_key, step_key, accept_key = jax.random.split(key, 3)
        dtype = state.log_step.dtype
        momentum = gaussian(velocity_key, state.position)
        adapted = jnp.exp(state.log_step)
        length = metric.quarter_period().astype(dtype) / adapted
        count = jnp.ceil(jnp.clip(length, 1, jnp.asarray(self.max_integration_steps, dtype))).astype(jnp.int32)
        h = adapted * LARGEST_FACTOR * jnp.sqrt(jax.random.uniform(step_key, (), dtype))

        def leap(_: jax.Array, carry: tuple[Params, Params, Params, jax.Array]) -> tuple[Params, Params, Params, jax.Array]:
            position, velocity, force, _ = carry
            velocity = _add(velocity, -h / 2, force)
            position = _add(position, h, velocity)
            losses, force = self._force(position, posterior, batch, metric)
            return position, _add(velocity, -h / 2, force), force, losses

        losses, force = self._force(state.position, posterior, batch, metric)
        first = state.position, metric.velocity(momentum), force, losses
        position, velocity, _, new_losses = jax.lax.fori_loop(0, count, leap, first)
        # The loss by differences of examples, which lose less to rounding than a difference of means.
        gain = posterior.potential(state.position, losses - new_losses) - posterior.potential(position, jnp.zeros_like(losses))
        gain += (_square(momentum) - metric.square(velocity)) / 2
        stable = jnp.abs(gain) < MAX_ENERGY_ERROR  # NaN is not
        rate = jnp.minimum(jnp.exp(jnp.where(stable, gain, -jnp.inf)), 1).astype(dtype)
        accepted = jax.random.uniform(accept_key, (), dtype) < rate
        position = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), position, state.position)
        log_step, log_step_sum = self._adapt(state, rate)
        return AdaptiveHMCState(position, log_step, log_step_sum, count, state.steps + 1), Info(losses, jnp.zeros((), losses.dtype), rate.astype(losses.dtype))

    def _force(self, position: Params, posterior: LocalPosterior, batch: Batch, metric: "Metric") -> tuple[jax.Array, Params]:
        """The losses at a position, and the slope of the potential in the metric."""
        losses, grad = losses_and_gradient(posterior, position, batch)
        return losses, metric.inverse(posterior.slope(position, grad))

    def _adapt(self, state: AdaptiveHMCState, rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The next logarithm of the step: that of Robbins and Monro while it is adapted, then its mean over the second half of adaptation."""
        dtype, count = state.log_step.dtype, state.steps.astype(state.log_step.dtype)
        num, target = jnp.asarray(self.num_adaptation, dtype), jnp.asarray(self.target_acceptance, dtype)
        moved = state.log_step + GAIN * (count + 1) ** -DECAY * (rate - target)
        half = jnp.floor(num / 2)
        total = jnp.where((count >= half) & (count < num), state.log_step_sum + moved, state.log_step_sum)
        mean = total / jnp.maximum(num - half, 1)
        return jnp.where(count + 1 < num, moved, jnp.where(num > 0, mean, state.log_step)), total


class Metric(NamedTuple):
    r"""$M = |n\beta H| + \gamma$ at $w^*$, by the leading eigenpairs of $H$; the other directions have the least of their values."""

    spectrum: Spectrum
    rest: jax.Array
    floor: jax.Array

    @classmethod
    def of(cls, posterior: LocalPosterior) -> "Metric":
        """The metric of a posterior.

        Raises:
            ValueError: it does not know its Hessian at the centre.
        """
        hessian = posterior.center_hessian
        if hessian is None:
            raise ValueError("AdaptiveHMC needs LocalPosterior.center_hessian, the Hessian at w*; jaxllc.sample and all verbs above fill it in.")
        dtype = hessian.values.dtype
        curvatures = jnp.asarray(posterior.nbeta, dtype) * jnp.abs(hessian.values)
        floor = jnp.maximum(jnp.asarray(posterior.localization, dtype), LEAST_FLOOR * curvatures.max())
        floor = jnp.where(floor > 0, floor, 1)
        values = curvatures + floor
        led = values.size == sum(leaf.size for leaf in jax.tree.leaves(posterior.position()))
        return cls(Spectrum(values, hessian.vectors), floor if led else values.min(), floor)

    def velocity(self, momentum: Params) -> Params:
        r"""$M^{-1/2}$ times standard normal numbers: velocities, or weights of the Gaussian law."""
        return self.spectrum.apply(lambda a: a**-0.5, self.rest, momentum)

    def inverse(self, tree: Params) -> Params:
        r"""$M^{-1}$ times a tree."""
        return self.spectrum.apply(lambda a: 1 / a, self.rest, tree)

    def square(self, velocity: Params) -> jax.Array:
        r"""$v^\top M v$."""
        return self.spectrum.square(self.rest, velocity)

    def quarter_period(self) -> jax.Array:
        """Of the slowest direction, in units in which the metric is one."""
        return jnp.pi / 2 * jnp.sqrt(self.rest / self.floor)


def _add(tree: Params, factor: jax.Array, direction: Params) -> Params:
    return jax.tree.map(lambda x, d: x + jnp.asarray(factor, x.dtype) * d, tree, direction)


def _square(tree: Params) -> jax.Array:
    squares = [jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.asarray(sum(square.astype(squares[0].dtype) for square in squares))
