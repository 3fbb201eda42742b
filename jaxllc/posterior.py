r"""The density that the chains sample: the loss around one checkpoint, with a Gaussian prior around it.

$$p(w) \propto e^{-U(w)}, \qquad U(w) = n\beta\, L_n(w) + \tfrac{\gamma}{2} \lVert w - w^* \rVert^2,$$

over the free weights; the others stay at $w^*$ (Lau et al., arXiv:2308.12108; Wang et al., arXiv:2410.02984).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxllc import _struct as struct
from jaxllc._tree import at_least_float32
from jaxllc._typing import Batch, LossFn, Params, Scalar
from jaxllc.convolutions import by_products
from jaxllc.layout import Layout, inner
from jaxllc.select import put_free, take_free
from jaxllc.selections import Free
from jaxllc.spectrum import Spectrum


def default_nbeta(num_examples: int) -> float:
    r"""$n\beta = n / \ln n$, the inverse temperature at which WBIC and $\hat\lambda$ are defined (Watanabe 2013).

    Args:
        num_examples: $n$, the number of things that the loss is a mean over: examples, or tokens when the loss is in nats per token.

    Raises:
        ValueError: fewer than three examples, where $\ln n$ is no temperature.

    Examples:
        >>> round(jaxllc.default_nbeta(1000), 1)
        144.8
    """
    if num_examples < 3:
        raise ValueError(f"n / ln n needs at least 3 examples, got {num_examples}; pass nbeta= yourself.")
    return num_examples / math.log(num_examples)


@struct.dataclass
class LocalPosterior:
    r"""$U(w) = n\beta L_n(w) + \frac{\gamma}{2}\lVert w - w^*\rVert^2$ over the free weights.

    A *position* holds the free weights only, in the structure of `center` with None at fixed leaves, and in float32 at least.

    Args:
        loss_fn: `loss_fn(params, batch) -> float[batch]`, nats per example, or their mean.
        center: $w^*$, a pytree of arrays.
        nbeta: $n\beta$, where $n$ counts what the loss is a mean over.
        localization: $\gamma$, in units of one over weights squared.
        free: which leaves move.
        center_grad: $\nabla L_n(w^*)$ of all data, a position, for gradient estimators that need it; `jaxllc.sample` fills it in.
        center_hessian: leading eigenpairs of the Hessian of $L_n$ at $w^*$, for samplers whose metric it makes; `jaxllc.sample` fills it in.
        weights_dtype: a narrow dtype to which the model rounds wider weights, where that is known.
        layout: how the weights are split over devices; `jaxllc.sample` fills it in.
        mask: which elements of the free leaves move, bools like a position, each of a shape that broadcasts to that of its leaf; None for all. In the loss the
            others stay at $w^*$. Their coordinates count nowhere: samplers on minibatches hold them at $w^*$, those on all data sample the prior in them.

    Examples:
        >>> posterior = jaxllc.LocalPosterior(loss_fn, params, nbeta=145.0, localization=1.0, free=jaxllc.Paths("linear"))
        >>> jax.tree.map(jnp.shape, posterior.position())
        {'linear': (2,), 'square': None}
    """

    loss_fn: LossFn = struct.field(pytree_node=False)
    center: Params
    nbeta: Scalar
    localization: Scalar = 1.0
    free: Free = struct.field(pytree_node=False, default=Free())
    center_grad: Params | None = None
    center_hessian: Spectrum | None = None
    weights_dtype: str | None = struct.field(pytree_node=False, default=None)
    layout: Layout | None = struct.field(pytree_node=False, default=None)
    mask: Params | None = None

    def position(self) -> Params:
        """The free weights of the centre, where chains start."""
        return jax.tree.map(at_least_float32, take_free(self.free, self.center))

    def params(self, position: Params) -> Params:
        """All weights at a position, each in the dtype that the model has."""
        return put_free(self.masked(position), jax.tree.map(jnp.asarray, self.center))

    def masked(self, position: Params) -> Params:
        """The position with all elements that do not move at $w^*$."""
        if self.mask is None:
            return position
        return jax.tree.map(lambda w, center, moves: jnp.where(moves, w, center.astype(w.dtype)), position, self.position(), self.mask)

    def losses(self, position: Params, batch: Batch) -> jax.Array:
        """Loss of each example of a batch, `float[batch]` in nats, or their mean where `loss_fn` gives that.

        `loss_fn` goes through `jax.jit`, so that forward passes, gradients and all checkpoints share one trace of it. On a CPU its convolutions run as
        matrix products (`jaxllc.convolutions`).

        Raises:
            ValueError: the loss has neither shape `[batch]` nor `[]`, or is not real.
        """
        losses = by_products(jax.jit(self.loss_fn))(self.params(position), batch)
        size = jax.tree.leaves(batch)[0].shape[0]
        if not isinstance(losses, jax.Array) or not jnp.issubdtype(losses.dtype, jnp.floating):
            kind = losses.dtype if isinstance(losses, jax.Array) else type(losses).__name__
            raise ValueError(f"loss_fn must return one real array, got {kind}; return losses only, without auxiliary values.")
        if losses.shape not in ((size,), ()):
            raise ValueError(
                f"loss_fn returned shape {losses.shape} for a batch of {size} examples; return one loss an example, shape ({size},) "
                "(average over tokens or outputs yourself), or their mean, shape ()."
            )
        return at_least_float32(losses)

    def loss_and_grad(self, position: Params, batch: Batch) -> tuple[jax.Array, Params]:
        r"""The losses of a batch, and the gradient of their mean, which estimates $\nabla L_n$."""

        def mean_loss(position: Params) -> tuple[jax.Array, jax.Array]:
            losses = self.losses(position, batch)
            return losses.mean(), losses

        grad, losses = jax.grad(mean_loss, has_aux=True)(position)
        return losses, grad

    def potential(self, position: Params, losses: jax.Array) -> jax.Array:
        r"""$n\beta$ times the mean of losses at a position, or of their differences from others, plus $\frac{\gamma}{2} \lVert w - w^* \rVert^2$, `float[]`."""
        loss = losses.mean()
        nbeta, localization = (jnp.asarray(x, loss.dtype) for x in (self.nbeta, self.localization))
        return nbeta * loss + localization / 2 * squared_distance(position, self).astype(loss.dtype).sum()

    def slope(self, position: Params, grad: Params) -> Params:
        r"""$\nabla U = n\beta\, g + \gamma (w - w^*)$ at a position, of an estimate $g$ of the mean loss's gradient there."""

        def add(w: jax.Array, g: jax.Array, center: jax.Array) -> jax.Array:
            return jnp.asarray(self.nbeta, w.dtype) * g + jnp.asarray(self.localization, w.dtype) * (w - center)

        return jax.tree.map(add, position, grad, self.position())

    def inner(self, a: Params, b: Params) -> jax.Array:
        r"""$a \cdot b$ over the free weights, `float[]`; where these are split, what each device adds to it (see `jaxllc.layout`).

        Args:
            a: like a position.
            b: like a position.
        """
        return inner(a, b, self.position_layout())

    def position_layout(self) -> Layout | None:
        """How the free weights are split over devices."""
        if self.layout is None:
            return None
        free = jax.tree.structure(self.center).flatten_up_to(take_free(self.free, self.center))
        return dataclasses.replace(self.layout, specs=tuple(spec for spec, leaf in zip(self.layout.specs, free, strict=True) if leaf is not None))


def squared_distance(position: Params, posterior: LocalPosterior) -> jax.Array:
    r"""$\lVert w - w^* \rVert^2$ over the coordinates of a position, `float[]`; of split weights what each device adds to it (see `jaxllc.layout`)."""
    if posterior.layout is not None:
        moved = jax.tree.map(lambda w, center: w - center.astype(w.dtype), position, posterior.position())
        return posterior.inner(moved, moved)
    pairs = zip(jax.tree.leaves(position), jax.tree.leaves(posterior.position()), strict=True)
    squares = [jnp.sum(jnp.square(w - center.astype(w.dtype))) for w, center in pairs]
    return jnp.asarray(sum(square.astype(squares[0].dtype) for square in squares))
