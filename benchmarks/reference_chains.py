"""Chains that tell a posterior's own value: HMC on all data in float64, warmed up, until they agree."""

from collections.abc import Callable
from typing import TypeVar

import optax

from jaxllc.samplers.base import Schedule

Found = TypeVar("Found")

MAX_RHAT = 1.01
WARM_UP = 24
"""Draws in which the step grows to its own size.

At w* all weights are colder than anywhere else. What leapfrog steps make of the energy that all of them gain at once is refused, the more surely the more
weights there are, so the first steps are short.
"""


def warming_up(step_size: float) -> Schedule:
    """From a 1024th of a step size up to it, twice as large every other draw."""
    return optax.exponential_decay(step_size / 1024, 2, 2.0, end_value=step_size)


def until_mixed(run: Callable[[int], Found], rhat: Callable[[Found], float], num_draws: int) -> Found:
    """What chains of `num_draws` draws find or, where their R-hat is not below `MAX_RHAT`, twice as long ones, or four times as long ones at last."""
    found = run(num_draws)
    for factor in (2, 4):
        if rhat(found) < MAX_RHAT:
            break
        found = run(factor * num_draws)
    return found
