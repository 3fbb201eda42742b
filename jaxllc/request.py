"""What a calibration is asked for, and what it answers."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import jax
from jax.sharding import Mesh

from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.components import ComponentLike, Moving
from jaxllc.data import InMemory
from jaxllc.plan import Plan, make_plan
from jaxllc.select import FreeLike
from jaxllc.settings import Settings
from jaxllc.stream import Data

BUDGET = 120.0
"""Seconds of an estimate, by default."""
TARGET_ERROR = 0.02
"""Standard error that lengths aim at, as a share of the coefficient."""


class Given(TypedDict, total=False):
    """Settings that a calibration takes as given."""

    nbeta: float | None
    localization: float | None
    num_chains: int


class Aims(Given, total=False):
    """What else a calibration aims at."""

    target_error: float
    """The standard error that lengths aim at, as a share of the coefficient."""


def given(overrides: Mapping[str, Any]) -> Given:
    """Of the keywords of a call those that a calibration takes as given."""
    return Given(**{name: overrides[name] for name in Given.__annotations__ if name in overrides})


@dataclasses.dataclass(frozen=True)
class Request:
    """What a calibration is asked for: the arguments of `jaxllc.calibrate`, but for the checkpoints."""

    loss_fn: LossFn
    data: Batch | Data
    key: Key
    free: FreeLike = None
    mesh: Mesh | None = None
    budget: float = BUDGET
    target_error: float = TARGET_ERROR
    nbeta: float | None = None
    localization: float | None = None
    num_chains: int = Settings.num_chains
    components: Mapping[str, ComponentLike] | None = None

    @property
    def least_localization(self) -> float:
        r"""$\gamma$ as given, or what it is raised from."""
        return 1.0 if self.localization is None else self.localization

    def with_arrays(self) -> "Request":
        """The same of the arrays of an `InMemory`, whose batch size is open too."""
        data = self.data
        return dataclasses.replace(self, data=jax.tree.map(lambda leaf: leaf[: data.num_examples], data.arrays)) if isinstance(data, InMemory) else self

    def plan(self, checkpoints: Mapping[Any, Params], settings: Settings) -> Plan:
        """A plan of these settings."""
        return make_plan(self.loss_fn, checkpoints, self.data, settings, key=self.key, free=Moving(self.free, self.components), probes={}, mesh=self.mesh)


class Choice(NamedTuple):
    """A plan, and what is to be said of it."""

    plan: Plan
    reasons: list[str]
    cost: float
    serves: bool
    points: list[dict[str, Any]]
    compilation: float
    """Seconds for a program that the run uses again."""
