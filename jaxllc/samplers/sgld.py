r"""Stochastic-gradient Langevin dynamics (Welling & Teh 2011), localised as in Lau et al. (arXiv:2308.12108)."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxllc import _struct as struct
from jaxllc._typing import Batch, Key, Params, Scalar
from jaxllc.posterior import LocalPosterior
from jaxllc.sampler import Info, Schedule, Scheduled, SteppedSampler, check_range, no_steps
from jaxllc.samplers.gradients import GradientEstimator, Minibatch
from jaxllc.samplers.noise import NOISES, Random, ahead, check_noise
from jaxllc.samplers.precondition import Identity, Preconditioner
from jaxllc.stepsize import LargerInBurnIn


class SGLDState(NamedTuple):
    """The free weights, what the preconditioner remembers, and the number of steps."""

    position: Params
    preconditioner: Any
    steps: jax.Array


@struct.dataclass
class SGLD(SteppedSampler):
    r"""Langevin dynamics on minibatches: $w' = w - \frac{\epsilon}{2} G\,(n\beta\, g + \gamma (w - w^*)) + \sqrt{\epsilon G}\,\xi$.

    $g$ estimates the gradient of the mean loss. Its noise and the finite step both widen the stationary law (`jaxllc.theory.sgld_variance`), which raises the
    mean loss by `step_bias`.

    Args:
        step_size: $\epsilon$, in units of the weights squared where $G = 1$; a number or a schedule of optax. None leaves it to `jaxllc.estimate`.
        preconditioner: how the diagonal $G$ follows the gradients.
        gradient: how $g$ is estimated: `Minibatch()` or `ControlVariate()`.
        noise: what $\xi$ is: `"rademacher"` (signs, cheap), `"five-point"` or `"gaussian"`; they differ at second order in $\epsilon$.
        burn_in_factor: where the step size is left open, the multiple of it that burn-in begins with (`jaxllc.stepsize.LargerInBurnIn`). Four reaches flat
            directions sooner (docs/accuracy.md), but loses chains where the loss is far more curved away from $w^*$ than at it.

    Raises:
        ValueError: `noise` has another name, or `burn_in_factor` is below one, or above it beside a step size of your own.

    Examples:
        >>> est = jaxllc.estimate(loss_fn, params, data, sampler=jaxllc.SGLD(1e-3), batch_size=256, key=jax.random.key(0))
        >>> round(est.llc), est.step_bias < est.llc / 4
        (2, True)
    """

    step_size: Scalar | Schedule | None
    preconditioner: Preconditioner = Identity()
    gradient: GradientEstimator = Minibatch()
    noise: str = struct.field(pytree_node=False, default="rademacher")
    burn_in_factor: float = struct.field(pytree_node=False, default=1.0)

    default_fraction: ClassVar[float | None] = 1 / 32
    r"""A default step size, as a share of $4/a$, where the chain becomes unstable along the largest curvature $a$ at $w^*$.

    Along that direction it adds a 31st to the variance; more where chains meet larger curvatures away from $w^*$. See docs/accuracy.md.
    """

    def __post_init__(self) -> None:
        if self.burn_in_factor != 1 and self.step_size is not None and not isinstance(self.step_size, Scheduled):
            raise ValueError(f"burn_in_factor = {self.burn_in_factor} is for step_size=None; pass a schedule of your own as step_size instead.")
        super().__post_init__()
        check_range("burn_in_factor", self.burn_in_factor, 1.0)
        check_noise(self.noise)

    @property
    def needs_center_grad(self) -> bool:
        r"""Whether the gradient estimator reads $\nabla L_n(w^*)$."""
        return self.gradient.needs_center_grad

    @property
    def is_overdamped(self) -> bool:
        """Whether it has no preconditioner."""
        return isinstance(self.preconditioner, Identity)

    def noise_gain(self, localization: Scalar, iteration: jax.Array) -> jax.Array:
        r"""$\epsilon / 8$, without a preconditioner, `float[]`."""
        return self.step_size_at(iteration) / 8

    def with_default_step_size(self, step_size: float, num_burn_in: int) -> "SGLD":
        """The same sampler with a step size that follows from the curvature at $w^*$, larger in burn-in by `burn_in_factor`.

        Raises:
            ValueError: a preconditioner, which sets a scale of its own.
        """
        if not isinstance(self.preconditioner, Identity):
            raise ValueError(f"{self!r} has a preconditioner, which changes what a step size means; pass step_size as a number.")
        larger = Scheduled(LargerInBurnIn(self.burn_in_factor, num_burn_in), step_size)
        return self.with_step_size(step_size if self.burn_in_factor == 1 else larger)

    def relaxation_time(self, localization: float, num_iterations: int) -> float | None:
        r"""$2 / \epsilon\gamma$; None with a preconditioner, which has steps of its own for each direction."""
        rate = self.mean_step_size(num_iterations) * localization / 2
        return 1 / rate if rate > 0 and isinstance(self.preconditioner, Identity) else None

    def init(self, position: Params) -> SGLDState:
        """A chain that starts at `position`."""
        return SGLDState(position, self.preconditioner.init(position), no_steps())

    def ahead(self, key: Key, position: Params) -> jax.Array | None:
        """The words of the step's noise, where these are few."""
        return ahead(self.noise, key, position)

    def step(self, key: Random, state: SGLDState, posterior: LocalPosterior, batch: Batch) -> tuple[SGLDState, Info]:
        """One step on one batch; `Info` tells the losses before it."""
        losses, grad = self.gradient(state.position, posterior, batch)
        followed, scale, memory = self.preconditioner.update(grad, state.preconditioner)
        step_size = self.step_size_at(state.steps)
        noise = NOISES[self.noise](key, state.position)

        def move(w: jax.Array, slope: jax.Array, xi: jax.Array, scale: jax.Array | None = None) -> jax.Array:
            epsilon = jnp.asarray(step_size, w.dtype)
            epsilon = epsilon if scale is None else epsilon * scale
            return w - epsilon / 2 * slope + jnp.sqrt(epsilon) * xi

        slope = posterior.slope(state.position, followed)
        moved = jax.tree.map(move, state.position, slope, noise, *([] if scale is None else [scale]))
        of_grad = virial(step_size, state.position, posterior, grad, scale)
        of_followed = of_grad if followed is grad else virial(step_size, state.position, posterior, followed, scale)
        bias = step_bias(step_size, posterior, followed, of_followed, scale)
        if followed is not grad:
            bias += memory_bias(state.position, posterior, grad, followed)
        return SGLDState(moved, memory, state.steps + 1), Info(losses, bias, virial=of_grad)


def step_bias(step_size: Scalar, posterior: LocalPosterior, grad: Params, virial: jax.Array, scale: Params | None = None) -> jax.Array:
    r"""$\frac{\epsilon}{8}\, n\beta g \cdot G\, \nabla U$, whose mean is what a finite step and the noise of its batches add to $n\beta\,(E[L] - L(w^*))$.

    With $\nabla U = n\beta g + \gamma (w - w^*)$ it is $\frac{\epsilon}{8}\, n^2\beta^2\, g \cdot G g$ and $\gamma$ times the virial.

    A stationary law keeps $E\lVert w - w^*\rVert^2$ (in the metric $G^{-1}$) from step to step, hence
    $E[(w - w^*) \cdot \nabla U] = d + \frac{\epsilon}{4} E\lVert \nabla U\rVert_G^2$, the second term being the excess over the continuous law. On a quadratic
    half of it is the excess of $U$, and of each direction the loss has the share that it has of $\nabla U$. So it is exact there but for the noise of
    gradients along prior-dominated directions. A loss that slopes at $w^*$ adds nothing, since the mean of $\nabla U$ is zero.

    Args:
        step_size: $\epsilon$.
        posterior: whose $n\beta$ and $\gamma$ count.
        grad: $g$.
        virial: of $g$, as the function of this name gives it.
        scale: the diagonal $G$; None is one.
    """
    square = posterior.inner(grad, grad if scale is None else jax.tree.map(jnp.multiply, grad, scale))
    step, nbeta, localization = (jnp.asarray(x, square.dtype) for x in (step_size, posterior.nbeta, posterior.localization))
    return step / 8 * nbeta**2 * square + localization * virial


def virial(step_size: Scalar, position: Params, posterior: LocalPosterior, grad: Params, scale: Params | None = None) -> jax.Array:
    r"""$\frac{\epsilon}{8}\, n\beta\, g \cdot G (w - w^*)$, whose covariance with $n\beta L_B$ over batches tells what `step_bias` counts too much."""
    product = posterior.inner(_moved(position, posterior), grad if scale is None else jax.tree.map(jnp.multiply, grad, scale))
    return jnp.asarray(step_size, product.dtype) / 8 * jnp.asarray(posterior.nbeta, product.dtype) * product


def memory_bias(position: Params, posterior: LocalPosterior, grad: Params, followed: Params) -> jax.Array:
    r"""$\frac12 n\beta\, (w - w^*) \cdot (g - m)$, whose mean is what following $m$ in the place of $g$ adds to $E[U]$, on a quadratic.

    The stationary law of `step_bias` holds for the slope that is followed, so $E[(w - w^*) \cdot \nabla U]$ has $n\beta\,(w - w^*) \cdot (g - m)$ more. $g$ is
    of a batch that the position has not seen, so its own noise adds nothing. Where the memory is felt, along stiff directions, nearly all of $U$ is the loss.
    """
    product = posterior.inner(_moved(position, posterior), jax.tree.map(jnp.subtract, grad, followed))
    return jnp.asarray(posterior.nbeta, product.dtype) / 2 * product


def _moved(position: Params, posterior: LocalPosterior) -> Params:
    """$w - w^*$."""
    return jax.tree.map(jnp.subtract, position, posterior.position())
