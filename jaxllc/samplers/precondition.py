r"""Diagonal preconditioners $G$, which follow the gradients of the *loss*.

The gradient of the Gaussian prior does not enter them, but is scaled by them, as are drift and noise.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllc import _struct as struct
from jaxllc._plain import Plain
from jaxllc._typing import Params, Scalar
from jaxllc.sampler import check_range, no_steps, zeros


class Preconditioner(Plain):
    """The base class of preconditioners: a pytree of hyperparameters with a state of its own."""

    def init(self, position: Params) -> Any:
        """The state before the first gradient."""
        raise NotImplementedError

    def update(self, grad: Params, state: Any) -> tuple[Params, Params | None, Any]:
        """From the gradient of the mean loss: the gradient to follow, the diagonal of $G$ (None for the identity), and the next state.

        One that follows each gradient as it is gives that very object back.
        """
        raise NotImplementedError


@struct.dataclass
class Identity(Preconditioner):
    """No preconditioning.

    Examples:
        >>> jaxllc.SGLD(1e-3, jaxllc.Identity()) == jaxllc.SGLD(1e-3)  # the default
        True
    """

    def init(self, position: Params) -> None:
        """Nothing to keep."""

    def update(self, grad: Params, state: None) -> tuple[Params, None, None]:
        """The gradient as it is."""
        return grad, None, None


class Moments(NamedTuple):
    """Exponential means of the gradient and of its square, each `float[...]` like the weights, and how many gradients went into them."""

    first: Params | None
    second: Params
    steps: jax.Array


@struct.dataclass
class RMSProp(Preconditioner):
    r"""$G = 1 / (\sqrt{\hat v} + \delta)$ with $v$ the exponential mean of $g^2$ (Li et al., arXiv:1512.07666).

    $\hat v$ is free of the bias of its start at zero. The correction $\Gamma = \nabla \cdot G$ is left out, as is usual: the law is that of a *frozen*
    $G$ only as far as $G$ moves slowly, which long memory and a large $\delta$ see to. The memory should outlast the chain's own; a hundred steps, usual in
    optimisation, leave some per cent in a quadratic where a thousand leave none that shows.

    Args:
        decay: of the mean, per step.
        eps: $\delta$, which bounds $G$ by its inverse; in units of the gradient of the mean loss.

    Raises:
        ValueError: `decay` outside [0, 1), where there is no mean, or `eps` not above 0, where $G$ has no bound.

    Examples:
        >>> settings = jaxllc.Settings(jaxllc.SGLD(1e-4, jaxllc.RMSProp()), num_draws=4000)
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0)).llc)
        2
    """

    decay: Scalar = 0.999
    eps: Scalar = 0.1

    def __post_init__(self) -> None:
        check_range("RMSProp(decay)", self.decay, 0, 1)
        check_range("RMSProp(eps)", self.eps, 0, above=True)

    def init(self, position: Params) -> Moments:
        """No gradient seen."""
        return Moments(None, zeros(position), no_steps())

    def update(self, grad: Params, state: Moments) -> tuple[Params, Params, Moments]:
        """The gradient as it is, $G$, and the moments with this gradient in them."""
        count = state.steps + 1
        second = _mean(self.decay, state.second, jax.tree.map(jnp.square, grad))
        return grad, _scale(_unbiased(self.decay, second, count), self.eps), Moments(None, second, count)


@struct.dataclass
class Adam(Preconditioner):
    r"""RMSProp's $G$, and the drift follows the exponential mean of the gradients (Kim, Song & Liang, arXiv:2009.09535).

    The memory of the drift widens the law by about $\epsilon G a\, b_1 / 2 (1 - b_1)$ of its variance at curvature $a$, which vanishes with $\epsilon$;
    `step_bias` reads it off the chain (`jaxllc.samplers.sgld.memory_bias`).

    Args:
        b1: memory of the mean gradient, per step.
        b2: memory of the mean square.
        eps: $\delta$, see `RMSProp`.

    Raises:
        ValueError: `b1` or `b2` outside [0, 1), or `eps` not above 0.

    Examples:
        >>> settings = jaxllc.Settings(jaxllc.SGLD(1e-4, jaxllc.Adam()), num_draws=4000)
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0)).llc)
        2
    """

    b1: Scalar = 0.9
    b2: Scalar = 0.999
    eps: Scalar = 0.1

    def __post_init__(self) -> None:
        check_range("Adam(b1)", self.b1, 0, 1)
        check_range("Adam(b2)", self.b2, 0, 1)
        check_range("Adam(eps)", self.eps, 0, above=True)

    def init(self, position: Params) -> Moments:
        """No gradient seen."""
        return Moments(zeros(position), zeros(position), no_steps())

    def update(self, grad: Params, state: Moments) -> tuple[Params, Params, Moments]:
        """The mean gradient, $G$, and the moments with this gradient in them."""
        count = state.steps + 1
        first = _mean(self.b1, state.first, grad)
        second = _mean(self.b2, state.second, jax.tree.map(jnp.square, grad))
        return _unbiased(self.b1, first, count), _scale(_unbiased(self.b2, second, count), self.eps), Moments(first, second, count)


def _mean(decay: Scalar, old: Params, new: Params) -> Params:
    def mix(o: jax.Array, n: jax.Array) -> jax.Array:
        d = jnp.asarray(decay, o.dtype)
        return d * o + (1 - d) * n

    return jax.tree.map(mix, old, new)


def _unbiased(decay: Scalar, mean: Params, count: jax.Array) -> Params:
    return jax.tree.map(lambda m: m / (1 - jnp.asarray(decay, m.dtype) ** count.astype(m.dtype)), mean)


def _scale(second: Params, eps: Scalar) -> Params:
    return jax.tree.map(lambda v: 1 / (jnp.sqrt(v) + jnp.asarray(eps, v.dtype)), second)
