"""Targets with known answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxllc import MCLMC, NUTS, SGHMC, SGLD, SGNHT, ControlVariate, InMemory, LocalPosterior
from jaxllc.samplers.precondition import Identity, Preconditioner
from jaxllc.theory import quadratic_llc, sghmc_variance, window_variance

CURVATURE = np.array([0.0, 0.02, 0.3, 2.0, 5.0])
"""A flat direction, one where the Gaussian prior dominates (nbeta h is below gamma), and stiffer ones."""

WITH_A_STATE = {"sghmc": SGHMC(2e-3), "sgnht": SGNHT(2e-3), "mclmc": MCLMC(1e-3), "nuts": NUTS(4e-3, max_num_doublings=3)}
"""Samplers that carry more than a position from step to step."""

CENTER = np.array([0.7, -1.3, 0.4, 2.0, -0.6])
"""Away from the origin, so that a prior around the origin is not one around the centre."""


@dataclasses.dataclass(frozen=True)
class Quadratic:
    r"""$\ell_i(w) = \frac12 \sum_j h_j (w_j - c_j)^2 + \sum_j z_{ij} (w_j - c_j)$, whose batches have noisy gradients that do not depend on $w$.

    Two leaves, so that trees matter. `slope` is added to every $z_i$: the gradient at the centre.
    """

    num_examples: int = 400
    batch_size: int = 20
    nbeta: float = 50.0
    localization: float = 3.0
    noise: float = 0.5
    slope: tuple[float, ...] = (0.01, 0.0, -0.02, 0.05, 0.0)

    @property
    def params(self):
        return {"a": jnp.asarray(CENTER[:2], jnp.float32), "b": jnp.asarray(CENTER[2:], jnp.float32)}

    @property
    def rows(self):
        """The gradients of the examples at the centre, in the order of the user."""
        z = np.random.default_rng(1).normal(size=(self.num_examples, len(CURVATURE))) * self.noise * np.sqrt(CURVATURE + 0.1)
        return (z - z.mean(0) + np.asarray(self.slope)).astype(np.float32)

    @property
    def data(self):
        return InMemory.of(self.rows, self.batch_size)

    def posterior(self):
        return LocalPosterior(quadratic_loss, self.params, self.nbeta, self.localization)

    def exact_llc(self, sampler=None, moved=0.0):
        """The stationary mean of the discretised chain, with the noise of its batches, less that of its `step_bias`; of the continuous law for None.

        Of `SGLD` that is the continuous law too, once what `step_bias` counts though the prior absorbs it is known.
        Where the centre is `moved` by a number, the loss slopes there.
        """
        bias = 0.0
        noise = 0.0 if isinstance(getattr(sampler, "gradient", None), ControlVariate) else window_variance(self.shuffled, self.batch_size)
        match sampler:
            case SGLD(preconditioner=Frozen() | Identity()):
                variance = None
            case SGHMC():
                friction = 2 * self.localization**0.5 if sampler.friction is None else sampler.friction
                variance = sghmc_variance(CURVATURE, self.nbeta, self.localization, sampler.step_size, friction, noise)
                bias = np.sum((self.nbeta * CURVATURE + self.localization) * variance - 1) / 2 - self.absorbed(sampler, friction, variance)
            case None:
                variance = None
            case _:
                raise ValueError(f"no exact law is known for {sampler!r}; the continuous one is exact_llc().")
        return quadratic_llc(CURVATURE, self.nbeta, self.localization, gradient=self.rows.mean(0) + CURVATURE * moved, variance=variance) - bias

    def absorbed(self, sampler, friction, variance):
        """What the prior absorbs of SGHMC's `step_bias`, with the variance of examples in the place of that of windows; covariances of chains are left out."""
        if isinstance(sampler.gradient, ControlVariate):
            return 0.0
        kept = np.exp(-friction * sampler.step_size**0.5)
        gain = sampler.step_size / 8 * (1 + kept) / (1 - kept)
        by_example = self.rows.var(0, ddof=1) * (1 / self.batch_size - 1 / self.num_examples)
        return gain * self.nbeta**2 * self.localization * np.sum(by_example * variance)

    @property
    def shuffled(self):
        """The gradients of the examples in the order of `InMemory`."""
        return np.asarray(self.data.arrays)[: self.num_examples]


@struct.dataclass
class Frozen(Preconditioner):
    """A preconditioner that never moves."""

    scale: tuple[float, ...] = struct.field(pytree_node=False, default=(0.3, 2.0, 1.0, 0.5, 0.2))

    def init(self, position):
        return {"a": jnp.asarray(self.scale[:2], jnp.float32), "b": jnp.asarray(self.scale[2:], jnp.float32)}

    def update(self, grad, state):
        return grad, state, state


def quadratic_loss(params, batch):
    """The loss of `Quadratic`, one function for all tests so that programs are shared."""
    x = jnp.concatenate([params["a"], params["b"]]) - jnp.asarray(CENTER, jnp.float32)
    return 0.5 * jnp.vdot(jnp.asarray(CURVATURE, jnp.float32), x * x) + batch @ x


def shifted(params, by):
    """The same weights, moved by a constant."""
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(by, leaf.dtype), params)
