"""Reference chains: full-batch HMC in float64 with a warm-up of the step size, repeated until R-hat is small."""

from collections.abc import Callable
from typing import TypeVar

import optax

from jaxllc.sampler import Schedule

Found = TypeVar("Found")

MAX_RHAT = 1.01
WARM_UP = 24
"""Draws in which the step size grows to its final value.

A chain that starts at w* has less potential energy than a typical draw. Large leapfrog steps are then rejected, more often the more weights there are, so the
first steps are short.
"""


def warming_up(step_size: float) -> Schedule:
    """From a 1024th of a step size up to it, twice as large every other draw."""
    return optax.exponential_decay(step_size / 1024, 2, 2.0, end_value=step_size)


def until_mixed(run: Callable[[int], Found], rhat: Callable[[Found], float], num_draws: int) -> Found:
    """The result of chains of `num_draws` draws; where R-hat is not below `MAX_RHAT`, of twice as many, and finally of four times as many."""
    found = run(num_draws)
    for factor in (2, 4):
        if rhat(found) < MAX_RHAT:
            break
        found = run(factor * num_draws)
    return found
