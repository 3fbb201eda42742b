"""What every sampler is: a dataclass of hyperparameters with two pure methods, and what the engine and the estimator need to know of it."""

import json
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxllc import _struct as struct
from jaxllc._plain import Plain, from_plain, load_function, to_plain
from jaxllc._tree import at_least_float32
from jaxllc._typing import Batch, Key, Params, Scalar
from jaxllc.posterior import LocalPosterior
from jaxllc.stream import Data, Stream

BLOCK = 256
"""Iterations between two returns to the host: what a progress bar, an interrupt or a store can see."""

Schedule: TypeAlias = Callable[[jax.Array], ArrayLike]
"""A number as a function of the iteration of the chain, such as those of optax."""


class Info(NamedTuple):
    """What a reader of the run needs of one iteration.

    Examples:
        >>> posterior, sampler = jaxllc.LocalPosterior(loss_fn, params, nbeta=145.0), jaxllc.SGLD(1e-3)
        >>> state, info = sampler.step(jax.random.key(0), sampler.init(posterior.position()), posterior, data)
        >>> info.losses.shape
        (1000,)
    """

    losses: jax.Array
    """Losses of the iteration's batch at the position *before* it, as `LocalPosterior.losses` gives them."""
    step_bias: jax.Array
    r"""What finite steps and noisy gradients add to $n\beta\, E[L_n]$, `float[]`, of which the mean over iterations counts; zero for a sampler without it."""
    acceptance_rate: jax.Array | None = None
    """The probability with which the proposal was accepted, `float[]`; None for a sampler that accepts every step."""
    virial: jax.Array | None = None
    r"""$\frac{\epsilon}{8}\, n\beta\, g \cdot G (w - w^*)$, `float[]`, by which `jaxllc.absorbed` reads off what `step_bias` counts too much; None: nothing."""


class Sampler(Plain):
    """The base class of all samplers: a pytree of hyperparameters. Numbers that may be swept are leaves, what changes code is static.

    A sampler of your own is a dataclass (`flax.struct.dataclass`) that derives from this class, or from `SteppedSampler` where it has a step size, and
    defines `init` and `step`. Structure, dtype and sharding of a state come out of `step` as they went in.

    Examples:
        >>> jaxllc.Sampler.from_dict({"name": "SGHMC", "step_size": 1e-3, "friction": 2.0}).describe()
        "SGHMC(step_size=0.001, friction=2.0, gradient=Minibatch(), noise='five-point')"
    """

    full_batch: ClassVar[bool] = False
    """Whether it needs the loss of all examples at each iteration."""
    min_acceptance: ClassVar[float | None] = None
    """The acceptance rate below which chains may never enter narrow parts of the posterior; None where no proposal is refused."""
    bias_order: ClassVar[float | None] = None
    r"""The power of $\epsilon$ with which the bias of a finite step vanishes, for extrapolation; None where there is no such bias."""
    block: ClassVar[int] = BLOCK
    """Iterations between two returns to the host, at most."""
    default_fraction: ClassVar[float | None] = None
    r"""A default step size, as a share of $4 / a$, where the chain becomes unstable along the largest curvature $a$ at $w^*$; None: it has no default."""

    @property
    def needs_center_grad(self) -> bool:
        r"""Whether `step` reads `LocalPosterior.center_grad`, $\nabla L_n(w^*)$."""
        return False

    @property
    def hessian_rank(self) -> int:
        """Leading eigenpairs of the Hessian at $w^*$ that `step` reads from `LocalPosterior.center_hessian`; 0: none."""
        return 0

    @property
    def needs_step_size(self) -> bool:
        """Whether the step size was left open, to follow from the curvature at $w^*$."""
        return False

    def with_burn_in(self, num_burn_in: int) -> Self:
        """The same sampler, with what was left open and follows from the length of burn-in."""
        return self

    def disperse(self, noise: Params, posterior: LocalPosterior, scale: Scalar) -> Params:
        r"""A start away from $w^*$: a draw of $N(w^*, s^2 / \gamma)$ with $s$ the `scale`, made of standard normal numbers."""
        localization = jnp.asarray(posterior.localization)
        spread = jnp.where(localization > 0, scale / jnp.sqrt(localization), 0)
        return jax.tree.map(lambda w, z: w + jnp.asarray(spread, w.dtype) * z, posterior.position(), noise)

    @property
    def counts_absorbed_noise(self) -> bool:
        """Whether `Info.step_bias` counts gradient noise that the prior absorbs, and no `Info.virial` tells how much (see `jaxllc.estimator`)."""
        return False

    @property
    def is_overdamped(self) -> bool:
        r"""Whether an iteration is a step of length $\epsilon$ of $dw = -\frac12 \nabla U\,dt + dW$, so that `noise_gain` is $\epsilon / 8$."""
        return False

    def check(self, posterior: LocalPosterior, data: Data) -> None:
        """Raise where this sampler cannot sample this posterior with these batches.

        Raises:
            ValueError: minibatches for a sampler that needs all data, or a stream for one that needs their gradient at w*.
        """
        if self.full_batch and data.batch_size < data.num_examples:
            way = "pass the arrays themselves, or a sampler on minibatches such as SGLD" if isinstance(data, Stream) else "pass batch_size=None"
            raise ValueError(
                f"{type(self).__name__} needs the loss of all {data.num_examples} examples at each step, but batches have {data.batch_size}; {way}."
            )
        if isinstance(data, Stream) and self.needs_center_grad:
            raise ValueError(
                f"{type(self).__name__} with a ControlVariate needs the gradient of all data at w*, which a Stream does not give; leave gradient= out, or pass "
                "the arrays themselves."
            )

    def init(self, position: Params) -> Any:
        """The state of a chain that starts at `position`; it has a field `position`."""
        raise NotImplementedError

    def ahead(self, key: Key, position: Params) -> Any:
        """What `step` takes in the place of this key: random numbers for the shapes of a position, cheaper if many are drawn at once. None: the key itself."""
        return None

    def step(self, key: Key, state: Any, posterior: LocalPosterior, batch: Batch) -> tuple[Any, Info]:
        """One iteration on one batch, with a key, or what `ahead` drew with it."""
        raise NotImplementedError

    def with_step_size(self, step_size: Any) -> Self:
        """The same sampler with this step size; a TypeError where it has none."""
        raise TypeError(f"{self!r} has no step_size; set the parameters of its algorithm instead.")

    def with_default_step_size(self, step_size: float, num_burn_in: int) -> Self:
        """The same sampler with a step size that follows from the curvature at $w^*$."""
        return self.with_step_size(step_size)

    def with_step_factors(self, factors: jax.Array) -> Self:
        """A stack of this sampler, whose step sizes are `factors`, `[K]`, times its own; a TypeError where it has no step size."""
        raise TypeError(f"extrapolation halves the step size, and {self!r} has none; leave extrapolate out.")

    def noise_gain(self, localization: Scalar, iteration: jax.Array) -> jax.Array:
        r"""`Info.step_bias` of a prior-dominated direction for each unit of its gradient noise $n^2\beta^2 s^2$, `float[]`."""
        raise NotImplementedError

    def relaxation_time(self, localization: float, num_iterations: int) -> float | None:
        r"""Iterations in which a direction that the loss does not curve forgets where it was, by a factor e of its mean; None where that is not known.

        Args:
            localization: $\gamma$, which alone holds such a direction.
            num_iterations: of a chain, over which a schedule of steps is averaged.
        """
        return None

    def describe(self, num_steps: int = 1) -> str:
        """The call that makes it, with its numbers; a schedule is what it gives over so many iterations."""
        return _describe(self, num_steps)


@struct.dataclass
class Scheduled(Plain):
    """A schedule times a number that may be swept. A new schedule is a new program; a new factor is not."""

    schedule: Schedule = struct.field(pytree_node=False)
    factor: Scalar = 1.0

    def __call__(self, count: jax.Array) -> jax.Array:
        """The value at an iteration."""
        with jax.numpy_dtype_promotion("standard"):  # optax divides integers
            return jnp.asarray(self.factor) * jnp.asarray(self.schedule(count))


class NamedSchedule(Plain):
    """A schedule that can be written down: the function that makes it, by name, and its arguments.

    Args:
        of: `module:name` of a function that gives a schedule.
        arguments: its keyword arguments.

    Raises:
        ValueError: there is no such function.

    Examples:
        >>> schedule = jaxllc.NamedSchedule("optax:cosine_decay_schedule", init_value=1e-3, decay_steps=1000)
        >>> settings = jaxllc.Settings(jaxllc.SGLD(schedule))
        >>> jaxllc.Settings.from_dict(settings.to_dict()) == settings
        True
    """

    def __init__(self, of: str, **arguments: Any) -> None:
        self.of: str = of
        self.arguments: dict[str, Any] = from_plain(to_plain(arguments, "NamedSchedule.arguments"))
        self._schedule: Schedule = load_function(of)(**self.arguments)

    def __call__(self, count: jax.Array) -> ArrayLike:
        """The value at an iteration."""
        return self._schedule(count)

    def to_dict(self) -> dict[str, Any]:
        """The name of the function and its arguments."""
        return {"name": "NamedSchedule", "of": self.of, "arguments": to_plain(self.arguments, "NamedSchedule.arguments")}

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> "NamedSchedule":
        if "of" not in fields:
            raise ValueError(f"NamedSchedule needs 'of', the 'module:name' of a function that gives a schedule; got {fields!r}.")
        return cls(fields["of"], **fields.get("arguments", {}))

    def _identity(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedSchedule) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"NamedSchedule({', '.join([repr(self.of), *(f'{name}={value!r}' for name, value in self.arguments.items())])})"


class SteppedSampler(Sampler):
    """For samplers with a field `step_size`: schedules become data, and the value at an iteration is read in one place.

    Examples:
        >>> import optax
        >>> round(jaxllc.SGLD(optax.linear_schedule(2e-3, 0.0, 1000)).mean_step_size(1000), 4)
        0.001
    """

    step_size: Any
    bias_order: ClassVar[float | None] = 1.0

    def __post_init__(self) -> None:
        """Wrap a schedule."""
        if callable(self.step_size) and not isinstance(self.step_size, Scheduled):
            object.__setattr__(self, "step_size", Scheduled(self.step_size))  # pyright: ignore[reportArgumentType]

    @property
    def needs_step_size(self) -> bool:
        """Whether the step size was left open."""
        return self.step_size is None

    def step_size_at(self, count: jax.Array) -> jax.Array:
        r"""$\epsilon$ at an iteration of the chain, in float32 at least; a ValueError where it was left open, to be filled in by `jaxllc.estimate`."""
        if self.step_size is None:
            raise ValueError(f"{type(self).__name__}(step_size=None) has no step size yet; jaxllc.estimate chooses one, jaxllc.sample needs a number.")
        return at_least_float32(self.step_size(count) if callable(self.step_size) else self.step_size)

    def mean_step_size(self, num_iterations: int) -> float:
        r"""The mean of $\epsilon$ over the iterations of a chain."""
        if not callable(self.step_size):
            return float(np.mean(np.asarray(self.step_size_at(no_steps()), float)))
        return float(np.mean(np.asarray(jax.vmap(self.step_size_at)(jnp.arange(num_iterations)), float)))

    def with_step_size(self, step_size: Any) -> Self:
        """The same sampler with this step size."""
        return self.replace(step_size=step_size)  # pyright: ignore[reportAttributeAccessIssue]

    def with_step_factors(self, factors: jax.Array) -> Self:
        """A stack of this sampler, whose step sizes are `factors` times its own."""
        stacked = jax.tree.map(lambda x: jnp.broadcast_to(at_least_float32(x), factors.shape), self)
        return stacked.with_step_size(jax.tree.map(lambda x: x * factors.astype(x.dtype), stacked.step_size))


def check_range(name: str, value: Any, least: float, below: float = math.inf, *, above: bool = False) -> None:
    """Raise a ValueError for a number outside [least, below), or (least, below) with `above`; what JAX puts in the place of a number passes."""
    if isinstance(value, int | float | np.number) and not (least < value < below or (value == least and not above)):
        bound = f"{'above' if above else 'at least'} {least}" + ("" if below == math.inf else f" and below {below}")
        raise ValueError(f"{name} must be {bound}, got {value}.")


def zeros(like: Params) -> Params:
    """Zeros in the structure, shapes and dtypes of `like`."""
    return jax.tree.map(jnp.zeros_like, like)


def no_steps() -> jax.Array:
    """The number of iterations of a chain that has made none."""
    return jnp.zeros((), jnp.int32)


def _describe(value: Any, num_steps: int) -> str:
    if isinstance(value, Scheduled):
        return _schedule_values(value, num_steps)
    if isinstance(value, Plain):
        return f"{type(value).__name__}({', '.join(f'{name}={_describe(field, num_steps)}' for name, field in vars(value).items())})"
    if isinstance(value, float | np.number | jax.Array):
        return repr(float(value))
    return repr(value)


def _schedule_values(schedule: Scheduled, num_steps: int) -> str:
    """Its values at iterations 0, 1, 10, ... and the last, and their mean over all, which tells apart what differs in between."""
    values = np.asarray(jax.vmap(schedule)(jnp.arange(num_steps)), float)
    counts = sorted({0, *(10**i for i in range(len(str(num_steps))) if 10**i < num_steps), num_steps - 1})
    return f"schedule({', '.join(f'{count}: {values[count]:.5g}' for count in counts)}, mean: {values.mean():.5g})"
