r"""MALA, HMC, NUTS and MCLMC on the loss of all data, by BlackJAX.

In BlackJAX's own units a step of MALA is half of our $\epsilon$, and one of HMC and NUTS is its root.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxllc import _struct as struct
from jaxllc._typing import Key, Params, Scalar
from jaxllc.sampler import Schedule, SteppedSampler, check_range
from jaxllc.samplers.full_batch import FullBatchSampler

MIN_ACCEPTANCE = 0.55
"""Just below 0.574, the optimum of MALA on a smooth target; those of HMC and NUTS are higher."""


@struct.dataclass
class MALA(FullBatchSampler, SteppedSampler):
    r"""SGLD's step on all data, accepted or not (Metropolis-adjusted Langevin): exact at any $\epsilon$.

    Args:
        step_size: $\epsilon$ of $w' = w - \frac{\epsilon}{2} \nabla U + \sqrt\epsilon\, \xi$. None leaves it to `jaxllc.estimate`.

    Examples:
        >>> settings = jaxllc.Settings(jaxllc.MALA(1e-3), batch_size=None)
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0)).llc)
        2
    """

    step_size: Scalar | Schedule | None

    default_fraction: ClassVar[float | None] = 1 / 16
    min_acceptance: ClassVar[float | None] = MIN_ACCEPTANCE
    bias_order: ClassVar[float | None] = None

    def relaxation_time(self, localization: float, num_iterations: int) -> float | None:
        r"""$2 / \epsilon\gamma$, where all proposals are accepted."""
        rate = self.mean_step_size(num_iterations) * localization / 2
        return 1 / rate if rate > 0 else None

    def algorithm(self, log_density: Callable[[Params], jax.Array], masses: jax.Array, steps: jax.Array, key: Key) -> Any:
        """`blackjax.mala`."""
        import blackjax  # loaded by those who use it

        return blackjax.mala(log_density, self.step_size_at(steps).astype(masses.dtype) / 2)


@struct.dataclass
class HMC(FullBatchSampler, SteppedSampler):
    r"""Hamiltonian Monte Carlo with unit masses: leapfrog steps of length $h$, accepted or not. One such step is MALA's.

    At each draw $h$ is $\sqrt\epsilon$ times a random number between 0.8 and 1.2. With one $h$ for all draws, a direction in which the trajectory is half a
    period long, or a whole one, would come back to plus or minus itself whatever its momentum (Neal, arXiv:1206.1901).

    Args:
        step_size: $\epsilon$, the square of the middle $h$. None leaves it to `jaxllc.estimate`.
        num_integration_steps: leapfrog steps a draw, a gradient each.

    Examples:
        >>> settings = jaxllc.Settings(jaxllc.HMC(1e-3, num_integration_steps=5), batch_size=None)
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0)).llc)
        2
    """

    step_size: Scalar | Schedule | None
    num_integration_steps: int = struct.field(pytree_node=False, default=10)

    default_fraction: ClassVar[float | None] = 1 / 8
    min_acceptance: ClassVar[float | None] = MIN_ACCEPTANCE
    bias_order: ClassVar[float | None] = None

    def algorithm(self, log_density: Callable[[Params], jax.Array], masses: jax.Array, steps: jax.Array, key: Key) -> Any:
        """`blackjax.hmc`."""
        import blackjax

        step_size = jnp.sqrt(self.step_size_at(steps)).astype(masses.dtype)
        varied = step_size * jax.random.uniform(key, (), step_size.dtype, 0.8, 1.2)
        return blackjax.hmc(log_density, varied, masses, self.num_integration_steps)


@struct.dataclass
class NUTS(FullBatchSampler, SteppedSampler):
    r"""The no-U-turn sampler (Hoffman & Gelman, arXiv:1111.4246) with unit masses: HMC that chooses its length.

    Chains that run side by side all wait for the longest trajectory.

    Args:
        step_size: $\epsilon = h^2$, see `HMC`. None leaves it to `jaxllc.estimate`.
        max_num_doublings: a draw takes at most two to this power of leapfrog steps.

    Examples:
        >>> settings = jaxllc.Settings(jaxllc.NUTS(1e-3), batch_size=None)
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0)).llc)
        2
    """

    step_size: Scalar | Schedule | None
    max_num_doublings: int = struct.field(pytree_node=False, default=8)

    default_fraction: ClassVar[float | None] = 1 / 8
    min_acceptance: ClassVar[float | None] = MIN_ACCEPTANCE
    bias_order: ClassVar[float | None] = None

    def algorithm(self, log_density: Callable[[Params], jax.Array], masses: jax.Array, steps: jax.Array, key: Key) -> Any:
        """`blackjax.nuts`."""
        import blackjax

        step_size = jnp.sqrt(self.step_size_at(steps)).astype(masses.dtype)
        return blackjax.nuts(log_density, step_size, masses, max_num_doublings=self.max_num_doublings)


@struct.dataclass
class MCLMC(FullBatchSampler, SteppedSampler):
    r"""Microcanonical Langevin Monte Carlo (Robnik & Seljak, arXiv:2212.08549), uncorrected: a direction of fixed speed that loses its memory over a length.

    Its law is right only for small steps; nothing is accepted or refused.

    Args:
        step_size: $\epsilon$: a step moves the $d$ weights by $\sqrt{\epsilon d}$ in all, as one of SGLD does on average. None leaves it to `jaxllc.estimate`.
        memory: steps over which the direction is forgotten.

    Raises:
        ValueError: `memory` is not above 0.

    Examples:
        >>> settings = jaxllc.Settings(jaxllc.MCLMC(1e-3), batch_size=None)
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0)).llc)
        2
    """

    step_size: Scalar | Schedule | None
    memory: Scalar = 30.0
    min_acceptance: ClassVar[float | None] = None

    default_fraction: ClassVar[float | None] = 1 / 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("MCLMC(memory)", self.memory, 0, above=True)

    def algorithm(self, log_density: Callable[[Params], jax.Array], masses: jax.Array, steps: jax.Array, key: Key) -> Any:
        """`blackjax.mclmc`."""
        import blackjax

        step = jnp.sqrt(self.step_size_at(steps) * masses.size).astype(masses.dtype)
        return blackjax.mclmc(log_density, jnp.asarray(self.memory, step.dtype) * step, step)
