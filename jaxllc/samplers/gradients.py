r"""Estimates of $\nabla L_n(w)$ from one minibatch."""

from typing import ClassVar

import jax

from jaxllc import _struct as struct
from jaxllc._plain import Plain
from jaxllc._typing import Batch, Params
from jaxllc.posterior import LocalPosterior


class GradientEstimator(Plain):
    """The base class of unbiased estimates of the gradient of the mean loss."""

    needs_center_grad: ClassVar[bool] = False
    r"""Whether it reads `LocalPosterior.center_grad`, $\nabla L_n(w^*)$."""

    def __call__(self, position: Params, posterior: LocalPosterior, batch: Batch) -> tuple[jax.Array, Params]:
        """Losses of the batch at the position, and the estimate."""
        raise NotImplementedError


@struct.dataclass
class Minibatch(GradientEstimator):
    """The gradient of the minibatch's mean loss: one gradient a step.

    Examples:
        >>> jaxllc.SGLD(1e-3, gradient=jaxllc.Minibatch()) == jaxllc.SGLD(1e-3)  # the default
        True
    """

    def __call__(self, position: Params, posterior: LocalPosterior, batch: Batch) -> tuple[jax.Array, Params]:
        """Losses of the batch at the position, and their mean's gradient."""
        return posterior.loss_and_grad(position, batch)


@struct.dataclass
class ControlVariate(GradientEstimator):
    r"""$g_B(w) - g_B(w^*) + \nabla L_n(w^*)$: what the minibatch says of the *change* since the centre (Baker et al. 2019, arXiv:1706.05439).

    Its noise vanishes at $w^*$ and grows with the distance from it, where the plain minibatch's noise is always that of the data. It costs two
    gradients a step, and one of all data for each checkpoint.

    Examples:
        >>> settings = jaxllc.Settings(jaxllc.SGLD(1e-3, gradient=jaxllc.ControlVariate()))
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0)).llc)
        2
    """

    needs_center_grad: ClassVar[bool] = True

    def __call__(self, position: Params, posterior: LocalPosterior, batch: Batch) -> tuple[jax.Array, Params]:
        """Losses of the batch at the position, and the estimate.

        Raises:
            ValueError: the posterior does not know its gradient at the centre.
        """
        if posterior.center_grad is None:
            raise ValueError("ControlVariate needs LocalPosterior.center_grad, the full-data gradient at w*; jaxllc.sample and all verbs above fill it in.")
        losses, here = posterior.loss_and_grad(position, batch)
        _, there = posterior.loss_and_grad(posterior.position(), batch)
        return losses, jax.tree.map(lambda g, g_center, full: g - g_center + full, here, there, posterior.center_grad)
