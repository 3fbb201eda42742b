"""What every sampler is: hyperparameters as data, and two pure methods."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike

from jaxllc._tree import at_least_float32
from jaxllc._typing import Batch, Key, Params, Scalar
from jaxllc.posterior import LocalPosterior

Schedule: TypeAlias = Callable[[jax.Array], ArrayLike]
"""A number as a function of the step of the chain, such as those of optax."""


class Info(NamedTuple):
    """What a reader of the run needs of one step."""

    losses: jax.Array
    """Losses of the step's batch at the position *before* the step, as `LocalPosterior.losses` gives them."""
    step_bias: jax.Array
    r"""What finite steps and noisy gradients add to $\hat\lambda$, `float[]`, of which the mean over steps counts; zero for a sampler without such a bias.

    Where it also counts what they add to the pull, the sampler says so by `counts_held_noise`, and by `noise_gain` how much (`jaxllc.held`).
    """


class Sampler(Protocol):
    """A pytree of hyperparameters; numbers that may be swept are leaves, what changes code is static."""

    def init(self, position: Params) -> Any:
        """The state of a chain that starts at `position`."""
        ...

    def step(self, key: Key, state: Any, posterior: LocalPosterior, batch: Batch) -> tuple[Any, Info]:
        """One step on one batch."""
        ...


@struct.dataclass
class Scheduled:
    """A schedule times a number that may be swept. A new schedule is a new program; a new factor is not."""

    schedule: Schedule = struct.field(pytree_node=False)
    factor: Scalar = 1.0

    def __call__(self, count: jax.Array) -> jax.Array:
        """The value at a step."""
        with jax.numpy_dtype_promotion("standard"):  # optax divides integers
            return jnp.asarray(self.factor) * jnp.asarray(self.schedule(count))


@dataclasses.dataclass(frozen=True)
class LargerInBurnIn:
    """A multiple of the step size: larger in the first half of burn-in, whose draws are not kept, falling to one at four fifths of it.

    Flat directions forget the start at a rate in proportion to the step. The last fifth, of some hundred steps or more, is for the steep ones to forget the
    larger steps.
    """

    factor: float
    num_burn_in: int

    def __call__(self, count: jax.Array) -> jax.Array:
        """The multiple at a step."""
        return self.factor ** jnp.clip((0.8 * self.num_burn_in - count) / (0.3 * max(self.num_burn_in, 1)), 0.0, 1.0)


class HasStepSize:
    """For dataclasses of samplers with a field `step_size`: schedules become data, and the value at a step is read in one place."""

    step_size: Any
    share_of_limit: ClassVar[float]
    """A default step size, as a share of $4 / a$, where the chain becomes unstable along the largest curvature $a$ at $w^*$."""
    bias_order: ClassVar[float | None] = 1.0
    r"""The power of $\epsilon$ with which the bias of a finite step vanishes, for extrapolation; None where steps are accepted or refused and there is none."""

    def __post_init__(self) -> None:
        """Wrap a schedule."""
        schedule: Any = self.step_size
        if callable(schedule) and not isinstance(schedule, Scheduled):
            object.__setattr__(self, "step_size", Scheduled(schedule))  # pyright: ignore[reportArgumentType]

    def step_size_at(self, count: jax.Array) -> jax.Array:
        r"""$\epsilon$ at a step of the chain, in float32 at least.

        Raises:
            ValueError: the step size was left open, which `jaxllc.estimate` and `jaxllc.trajectory` fill in from the curvature at $w^*$.
        """
        if self.step_size is None:
            raise ValueError(f"{type(self).__name__}(step_size=None) has no step size yet; jaxllc.estimate chooses one, jaxllc.sample needs a number.")
        return at_least_float32(self.step_size(count) if callable(self.step_size) else self.step_size)


def check_range(name: str, value: Any, least: float, below: float = math.inf, *, above: bool = False) -> None:
    """Raise a ValueError for a number outside [least, below), or (least, below) with `above`; what JAX puts in the place of a number passes."""
    if isinstance(value, int | float | np.number) and not (least < value < below or (value == least and not above)):
        bound = f"{'above' if above else 'at least'} {least}" + ("" if below == math.inf else f" and below {below}")
        raise ValueError(f"{name} must be {bound}, got {value}.")


def zeros(like: Params) -> Params:
    """Zeros in the structure, shapes and dtypes of `like`."""
    return jax.tree.map(jnp.zeros_like, like)


def no_steps() -> jax.Array:
    """The number of steps of a chain that has made none."""
    return jnp.zeros((), jnp.int32)
