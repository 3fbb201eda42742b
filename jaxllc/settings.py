"""What a run does, of one checkpoint or of many: the arguments of `estimate` and `trajectory`, checked, and their defaults filled in."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxllc import results
from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.data import InMemory
from jaxllc.devices import default_mesh
from jaxllc.engine import check_counts, sharpness
from jaxllc.free import Free, FreeLike, as_free, take_free
from jaxllc.held import is_known
from jaxllc.posterior import LocalPosterior, default_nbeta
from jaxllc.samplers.base import LargerInBurnIn, Sampler, Scheduled
from jaxllc.samplers.precondition import Identity
from jaxllc.samplers.sgld import SGLD

Extrapolate: TypeAlias = bool | Literal["step_size", "nbeta"]
"""What is extrapolated from two: nothing, the step size (True says so too), or nbeta."""

DEFAULT_SAMPLER = SGLD(step_size=None)
"""What samples where none is given."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run does, of one checkpoint or of many; the keyword arguments of `estimate` after their defaults are filled in."""

    loss_fn: LossFn
    data: InMemory
    key: Key
    sampler: Sampler
    nbeta: float
    localization: float
    free: Free
    num_chains: int
    num_draws: int
    num_burn_in: int
    thinning: int
    extrapolate: Literal[False, "step_size", "nbeta"] = False
    mesh: Mesh | None = None

    def posterior(self, center: Params) -> LocalPosterior:
        """The posterior around a centre, or around several in a stack."""
        return LocalPosterior(self.loss_fn, center, self.nbeta, self.localization, self.free)

    @property
    def num_steps(self) -> int:
        """Steps of a chain."""
        return self.num_burn_in + (self.num_draws - 1) * self.thinning + 1

    def attributes(self) -> dict[str, Any]:
        """Every setting and the versions, as plain values that a store can keep."""
        return {
            "loss_fn": f"{getattr(self.loss_fn, '__module__', '')}.{getattr(self.loss_fn, '__qualname__', type(self.loss_fn).__name__)}",
            "key": np.asarray(jax.random.key_data(self.key)).tolist(),
            "sampler": describe(self.sampler, self.num_steps),
            "nbeta": float(self.nbeta),
            "localization": float(self.localization),
            "free": repr(self.free),
            "num_examples": self.data.num_examples,
            "batch_size": self.data.batch_size,
            "num_chains": self.num_chains,
            "num_draws": self.num_draws,
            "num_burn_in": self.num_burn_in,
            "thinning": self.thinning,
            "extrapolate": self.extrapolate == "step_size" or self.extrapolate,
            "estimator": f"nbeta * excess loss - {'(step_bias - held noise)' if is_known(self.sampler, self.data, self.num_chains) else 'step_bias'}",
            "schema": results.SCHEMA,
            "versions": {name: importlib.metadata.version(name) for name in ("jaxllc", "jax", "numpy")},
        }


def settle(
    loss_fn: LossFn,
    examples: Mapping[Any, Params],
    data: Batch | InMemory,
    *,
    key: Key,
    sampler: Sampler | None,
    nbeta: float | None,
    localization: float,
    free: FreeLike,
    batch_size: int | None,
    extrapolate: Extrapolate = False,
    mesh: Mesh | None = None,
    **counts: int,
) -> Settings:
    """The settings with their defaults filled in and everything checked that can be before a step is made.

    A default step size must suit all `examples`, checkpoints by name.
    """
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function loss_fn(params, batch), got {type(loss_fn).__name__}; it is the first argument.")
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0):
        raise TypeError(f"key must be one typed key, as jax.random.key(0) makes it, got {key!r}.")
    if sampler is not None and not (hasattr(sampler, "init") and hasattr(sampler, "step")):
        raise TypeError(f"sampler must be a sampler such as jaxllc.SGLD(step_size=1e-5), got {sampler!r}.")
    _check_number("nbeta", nbeta, positive=True)
    _check_number("localization", localization, positive=False)
    sampler = DEFAULT_SAMPLER if sampler is None else sampler
    for number in jax.tree.leaves(sampler):
        _check_number(f"every number of {describe(sampler)}", number, positive=False)
    check_counts(**counts)
    over = "step_size" if extrapolate is True else extrapolate
    if over is not False and over not in tuple(results.OTHER_RUNG):
        raise ValueError(f"extrapolate must be False, True, 'step_size' or 'nbeta', got {extrapolate!r}.")
    selection = as_free(free)
    for params in examples.values():
        take_free(selection, params)
    data = data if isinstance(data, InMemory) else InMemory.of(data, batch_size)
    nbeta = default_nbeta(data.num_examples) if nbeta is None else float(nbeta)
    settings = Settings(loss_fn, data, key, sampler, nbeta, float(localization), selection, **counts, extrapolate=over, mesh=mesh)
    if over and not hasattr(sampler, "step_size"):
        raise TypeError(f"extrapolate={extrapolate!r} halves the step size, and {describe(sampler)} has none.")
    if over == "step_size" and getattr(sampler, "bias_order", None) is None:
        raise ValueError(f"{type(sampler).__name__} has no bias of its step, so extrapolate={extrapolate!r} would double its noise for nothing; leave it out.")
    if not needs_step_size(sampler):
        return settings
    mesh = settings.mesh or default_mesh(settings.num_chains)
    curvatures = {name: sharpness(settings.posterior(params), data, mesh) for name, params in examples.items()}
    for name, curvature in curvatures.items():
        if not (np.isfinite(curvature) and curvature > 0):
            raise ValueError(
                f"the largest curvature at {name} is {curvature}, from which no step size follows; see whether weights and loss are finite there, "
                f"or pass sampler={type(sampler).__name__}(step_size)."
            )
    step_size = getattr(sampler, "share_of_limit", DEFAULT_SAMPLER.share_of_limit) * 4 / max(curvatures.values())
    return dataclasses.replace(settings, sampler=with_step_size(sampler, step_size, settings.num_burn_in))


def needs_step_size(sampler: Sampler | None) -> bool:
    """Whether the step size is left open, to follow from the curvature at the checkpoints."""
    sampler = DEFAULT_SAMPLER if sampler is None else sampler
    return getattr(sampler, "step_size", 0.0) is None


def with_step_size(sampler: Sampler | None, step_size: float, num_burn_in: int) -> Any:
    """The sampler with this step size, in burn-in larger by its `burn_in_factor`.

    Raises:
        ValueError: a preconditioner sets the scale, so none follows from the curvature.
    """
    sampler = DEFAULT_SAMPLER if sampler is None else sampler
    if not isinstance(getattr(sampler, "preconditioner", Identity()), Identity):
        raise ValueError(f"{describe(sampler)} has a preconditioner, which changes what a step size means; pass step_size as a number.")
    factor = getattr(sampler, "burn_in_factor", 1.0)
    steps = step_size if factor == 1 else Scheduled(LargerInBurnIn(factor, num_burn_in), step_size)
    return dataclasses.replace(sampler, step_size=steps)  # type: ignore[type-var]


def _check_number(name: str, value: Any, *, positive: bool) -> None:
    if value is None:
        return
    if isinstance(value, str) or np.ndim(value) != 0:
        raise TypeError(f"{name} must be one number, got {value!r}.")
    number = float(value)
    if not np.isfinite(number) or number < 0 or (positive and number == 0):
        raise ValueError(f"{name} must be finite and {'positive' if positive else 'at least 0'}, got {value}.")


def describe(sampler: Any, num_steps: int = 1) -> str:
    """A sampler as the call that makes it, with its numbers; a schedule is what it gives over so many steps.

    Fields marked as not `described`, which say how others are filled in, are left out.
    """
    if isinstance(sampler, Scheduled):
        return _values(sampler, num_steps)
    if not dataclasses.is_dataclass(sampler):
        return repr(sampler)
    fields = [field.name for field in dataclasses.fields(sampler) if field.metadata.get("described", True)]
    return f"{type(sampler).__name__}({', '.join(f'{name}={_plain(getattr(sampler, name), num_steps)}' for name in fields)})"


def _plain(value: Any, num_steps: int) -> str:
    if dataclasses.is_dataclass(value):
        return describe(value, num_steps)
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    return repr(value) if value is None or isinstance(value, str | bool | int | tuple) else repr(float(value))


def _values(schedule: Scheduled, num_steps: int) -> str:
    """Its values at steps 0, 1, 10, ... and the last, and their mean over all steps, which tells apart what differs in between."""
    values = np.asarray(jax.vmap(schedule)(jnp.arange(num_steps)), float)
    counts = sorted({0, *(10**i for i in range(len(str(num_steps))) if 10**i < num_steps), num_steps - 1})
    return f"schedule({', '.join(f'{count}: {values[count]:.5g}' for count in counts)}, mean: {values.mean():.5g})"
