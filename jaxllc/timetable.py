"""When chains return to the host, and at which iterations probes and slow quantities are evaluated."""

import math
from typing import NamedTuple

import numpy as np

from jaxllc.probes import Probe, Probes
from jaxllc.sampler import BLOCK


class Timetable(NamedTuple):
    """When the chains return to the host, and what is evaluated there."""

    block: int
    """Iterations of a block."""
    every: int
    """Iterations from one evaluation of the slow quantities to the next, a divisor of `block`."""
    probes: dict[str, Probe]
    times: dict[str, np.ndarray]

    def spans(self, num_steps: int) -> list[range]:
        """The iterations of each block of a chain, the last of which may go on beyond its end."""
        return [range(first, first + self.block) for first in range(0, num_steps, self.block)]

    def due(self, stop: int) -> tuple[str, ...]:
        """The probes that are evaluated after so many iterations."""
        return tuple(name for name, times in self.times.items() if stop in times)


SLOW_EVALUATIONS = 64
"""Of the slow quantities along a chain on minibatches, about."""


def timetable(probes: Probes, num_burn_in: int, num_steps: int, *, longest: int = BLOCK, full_batch: bool = False) -> Timetable:
    """The blocks of a run, which end wherever a probe is evaluated.

    Args:
        probes: by name.
        num_burn_in: iterations before the first draw.
        num_steps: iterations of a chain.
        longest: iterations of a block at most, unless a probe's `every` has no such divisor.
        full_batch: iterations are so dear that slow quantities cost nothing beside them, and so few that each counts.

    Raises:
        ValueError: no evaluation of a probe lies between burn-in and the end of a chain.
    """
    along = {name: probe for name, probe in probes.items() if probe.along_chains}
    block, every = _block_and_every(math.gcd(*(probe.block for probe in along.values())), num_steps, longest, 1 if full_batch else SLOW_EVALUATIONS)
    times = {name: probe.times(num_burn_in, num_steps, block) for name, probe in along.items()}
    for name, probe in along.items():
        if not times[name].size:
            raise ValueError(
                f"the probe {name!r}, every={probe.every}, is evaluated nowhere in chains of {num_steps} iterations, {num_burn_in} of them burn-in; "
                "use a smaller every, or more draws."
            )
    return Timetable(block, every, along, times)


def _block_and_every(asked: int, num_steps: int, longest: int, evaluations: int) -> tuple[int, int]:
    """Iterations of a block, and from one evaluation of slow quantities to the next.

    Args:
        asked: what blocks must divide, for the probes; 0 for nothing.
        num_steps: iterations of a chain.
        longest: iterations of a block at most.
        evaluations: of the slow quantities along a chain, about; 1 for all iterations.
    """
    wanted = 1 if evaluations == 1 else max(1, round(num_steps / evaluations))
    if asked:
        block = asked if longest >= BLOCK else max(size for size in _divisors(asked) if size <= longest)
        return block, min(_divisors(block), key=lambda size: abs(math.log(size / wanted)))
    count = math.ceil(num_steps / longest)
    block = math.ceil(num_steps / count)
    wanted = min(wanted, block)
    # Of evaluations up to twice as rare as wanted, those of which whole numbers fill a block best.
    every = min(range(wanted, 2 * wanted), key=lambda size: -block % size)
    return block + -block % every, every


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
