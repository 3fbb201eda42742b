"""How to sample, as one value that a call, a configuration file, a store and a sweep share."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeAlias, TypedDict

import jax
import numpy as np

from jaxllc._plain import to_plain
from jaxllc.sampler import Sampler

Extrapolate: TypeAlias = bool | Literal["step_size", "nbeta"] | None
"""What is extrapolated from two sets of chains: nothing (None or False), the step size (True says so too), or nbeta."""

ALL = "all"
"""In a plain table, a batch of all examples."""


class Counts(TypedDict, total=False):
    """How many chains, and how long they are."""

    num_chains: int
    num_draws: int
    num_burn_in: int
    thinning: int


class Overrides(Counts, total=False):
    """Keyword arguments that override the fields of `Settings` for one call."""

    sampler: Sampler | None
    nbeta: float | None
    localization: float
    batch_size: int | None
    extrapolate: Extrapolate
    dispersion: float


@dataclasses.dataclass(frozen=True)
class Settings:
    r"""How to sample.

    Args:
        sampler: how chains move; None is `SGLD(None)`: settings are never calibrated. A step size of None is a share of the largest that is stable at $w^*$.
        nbeta: $n\beta$; None is $n / \ln n$ for the $n$ examples of the data. Where the loss is a mean over tokens, $n$ counts tokens: pass
            `default_nbeta(num_tokens)`.
        localization: $\gamma$, the strength of the Gaussian prior around $w^*$, in units of one over weights squared.
        batch_size: examples an iteration; None, or more than there are, takes all. An `InMemory` or a `Stream` has its own.
        num_chains: independent chains.
        num_draws: draws kept from each.
        num_burn_in: iterations before the first draw.
        thinning: iterations from one draw to the next.
        extrapolate: None, or what a second set of chains, with the same random numbers and in the same program, is used for; it doubles the cost.
            "step_size" or True: $2 \hat\lambda(\epsilon / 2) - \hat\lambda(\epsilon)$ at each draw, the value at $\epsilon \to 0$ of a bias linear in
            $\epsilon$ (with other weights for a sampler of another `bias_order`).
            "nbeta": $2 \hat\lambda(n\beta) - \hat\lambda(2 n\beta)$ at each draw, with half the step at $2 n\beta$: the slope of $E[L_n]$ in $1 / n\beta$, in
            which $L_n(w^*)$ drops out (Watanabe, arXiv:1208.6338). For the true weights of a model, where $L_n(w^*)$ lies about $\lambda / n$ above the least
            if the model is regular. The second set alone is in `sample_stats/twice_nbeta_llc`. See docs/estimator.md.
        dispersion: every second chain starts at random around $w^*$, with so many times the standard deviations of the sampler's own law of starts (the
            metric of `AdaptiveHMC`, for others the Gaussian prior); 0: all start at $w^*$.

    Raises:
        TypeError: a sampler that is none, or a number that is not one.
        ValueError: a count below its least value, a number that is negative or not finite, an unknown `extrapolate`, or one over the step size of a
            sampler whose steps have no bias.

    Examples:
        >>> settings = jaxllc.Settings(sampler=jaxllc.SGLD(1e-5), nbeta=1000.0, localization=100.0)
        >>> longer = settings.replace(num_draws=4000)
        >>> jaxllc.Settings.from_dict(longer.to_dict()) == longer  # also through JSON and TOML
        True
    """

    sampler: Sampler | None = None
    nbeta: float | None = None
    localization: float = 1.0
    batch_size: int | None = 256
    num_chains: int = 8
    num_draws: int = 1000
    num_burn_in: int = 500
    thinning: int = 1
    extrapolate: Extrapolate = None
    dispersion: float = 0.0

    def __post_init__(self) -> None:
        if self.sampler is not None and not isinstance(self.sampler, Sampler):
            raise TypeError(
                f"sampler must be a sampler such as jaxllc.SGLD(step_size=1e-5), of a class that derives from jaxllc.Sampler; got {self.sampler!r}."
            )
        over = "step_size" if self.extrapolate is True else self.extrapolate or None
        if over not in (None, "step_size", "nbeta"):
            raise ValueError(f"extrapolate must be None, 'step_size' (or True) or 'nbeta', got {self.extrapolate!r}.")
        object.__setattr__(self, "extrapolate", over)
        for name in ("nbeta", "localization", "dispersion"):
            if (value := check_number(name, vars(self)[name], positive=name == "nbeta")) is not None:
                object.__setattr__(self, name, value)
        if self.localization is None:
            raise TypeError("localization must be one number, got None; 0.0 is no prior.")
        if self.dispersion is None:
            raise TypeError("dispersion must be one number, got None; 0.0 starts all chains at w*.")
        if self.sampler is not None and jax.tree_util.all_leaves([self.sampler]) and jax.tree.leaves(self.sampler) == [self.sampler]:
            raise TypeError(f"{type(self.sampler).__name__} is no pytree, so its numbers cannot be traced; make the class a flax.struct.dataclass.")
        for number in jax.tree.leaves(self.sampler):
            check_number(f"every number of {self.sampler!r}", number, positive=False)
        for name, value in self.counts().items():
            object.__setattr__(self, name, as_count(name, value))
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", as_count("batch_size", self.batch_size))
        if over == "step_size" and self.sampler is not None and self.sampler.bias_order is None and self.sampler.full_batch:
            raise ValueError(f"the steps of {type(self.sampler).__name__} have no bias, so extrapolate={self.extrapolate!r} only adds noise; leave it out.")

    @property
    def num_iterations(self) -> int:
        """Iterations of a chain."""
        return self.num_burn_in + (self.num_draws - 1) * self.thinning + 1

    def counts(self) -> Counts:
        """The number of chains, and their length."""
        return Counts(num_chains=self.num_chains, num_draws=self.num_draws, num_burn_in=self.num_burn_in, thinning=self.thinning)

    def replace(self, **changes: Any) -> Self:
        """The same settings but for some fields.

        Raises:
            TypeError: a field that settings have not.
        """
        if unknown := sorted(set(changes) - set(vars(self))):
            way = "; it is an argument of jaxllc.calibrate, whose .settings can be passed" if unknown[0] in ("budget", "target_error", "maps") else ""
            raise TypeError(f"{unknown[0]!r} is neither an argument nor a field of Settings, which has {', '.join(vars(self))}{way}.")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values; None is left out, but a batch of all examples is "all".

        Raises:
            ValueError: a sampler holds something that cannot be written, such as a schedule without a name.
        """
        fields = {name: to_plain(value, f"Settings.{name}") for name, value in vars(self).items() if value is not None}
        return fields | ({"batch_size": ALL} if self.batch_size is None else {})

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """The settings of a table, as `to_dict` or a configuration file gives it; fields that it lacks have their default.

        Raises:
            ValueError: a field or a class that is not known.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(table) - set(names)):
            raise ValueError(f"settings have no field {unknown[0]!r}; they have {', '.join(names)}.")
        fields = dict(table)
        if fields.get("batch_size") == ALL:
            fields["batch_size"] = None
        if isinstance(sampler := fields.get("sampler"), Mapping):
            fields["sampler"] = Sampler.from_dict(sampler)
        elif isinstance(sampler, str):
            fields["sampler"] = Sampler.from_dict({"name": sampler})
        return cls(**fields)

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """The settings of a TOML document."""
        import tomllib  # files of settings are rare, and its parser takes time to load

        return cls.from_dict(tomllib.loads(text))


def override(settings: Settings | None, overrides: Overrides) -> Settings:
    """The settings of one call: those given, or the defaults, with its keywords in their place."""
    if settings is not None and not isinstance(settings, Settings):
        raise TypeError(f"settings must be a jaxllc.Settings, got {type(settings).__name__}; pass single settings by name, such as num_draws=500.")
    return (settings or Settings()).replace(**overrides)


def as_count(name: str, value: Any) -> int:
    """A whole number, also where it is written as 1e3.

    Raises:
        TypeError: no whole number.
        ValueError: below its least value.
    """
    least = 0 if name == "num_burn_in" else 1
    is_number = isinstance(value, int | float | np.number | jax.Array) and not isinstance(value, bool) and np.ndim(value) == 0
    if not is_number or not np.isfinite(value) or int(value) != value:
        raise TypeError(f"{name} must be a whole number of at least {least}, got {value!r}{'; None takes all examples' * (name == 'batch_size')}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}{'; None takes all examples' * (name == 'batch_size')}.")
    return int(value)


def check_number(name: str, value: Any, *, positive: bool) -> float | None:
    """A number as a float.

    Raises:
        TypeError: no single number.
        ValueError: not finite, or below 0.
    """
    if value is None:
        return None
    if isinstance(value, str | complex) or np.ndim(value) != 0:
        raise TypeError(f"{name} must be one number, got {value!r}.")
    number = float(value)
    if not np.isfinite(number) or number < 0 or (positive and number == 0):
        raise ValueError(f"{name} must be finite and {'positive' if positive else 'at least 0'}, got {value}.")
    return number
