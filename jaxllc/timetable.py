"""When chains return to the host, and at which iterations probes and slow quantities are evaluated."""

import math
from typing import NamedTuple

import numpy as np

from jaxllc.probes import Probe, Probes
from jaxllc.sampler import BLOCK


class Pace(NamedTuple):
    """What is asked of the blocks of a run; None leaves it to the timetable."""

    block: int | None = None
    """Iterations of a block, at most. The program is the same for all."""
    every: int | None = None
    """Iterations from one evaluation of the slow quantities to the next, where no probe asks for blocks: of a pilot those of the run that it stands for."""


USUAL = Pace()


class Timetable(NamedTuple):
    """When the chains return to the host, and what is evaluated there."""

    block: int
    """Iterations of a block."""
    room: int
    """Iterations that the program of a block has room for, a multiple of `every`: runs of other lengths are the same program."""
    every: int
    """Iterations from one evaluation of the slow quantities to the next, a divisor of `block`."""
    probes: dict[str, Probe]
    times: dict[str, np.ndarray]

    def spans(self, num_steps: int, *, whole: bool) -> list[range]:
        """The iterations of each block of a chain, the last of which may go on beyond its end: where a probe is evaluated, or it is to be `whole`."""
        stop = num_steps + -num_steps % (self.block if whole or self.times else self.every)
        return [range(first, min(first + self.block, stop)) for first in range(0, num_steps, self.block)]

    def due(self, stop: int) -> tuple[str, ...]:
        """The probes that are evaluated after so many iterations."""
        return tuple(name for name, times in self.times.items() if stop in times)


SLOW_EVALUATIONS = 64
"""Of the slow quantities along a chain on minibatches, about."""
MOST_EVERY = 64
"""Iterations from one evaluation of them to the next, at most: rarer ones would save nothing, and so all long runs are one program."""


def timetable(probes: Probes, num_burn_in: int, num_steps: int, *, longest: int = BLOCK, full_batch: bool = False, pace: Pace = USUAL) -> Timetable:
    """The blocks of a run, which end wherever a probe is evaluated.

    Args:
        probes: by name.
        num_burn_in: iterations before the first draw.
        num_steps: iterations of a chain.
        longest: iterations of a block at most, unless a probe's `every` has no such divisor.
        full_batch: iterations are so dear that slow quantities cost nothing beside them, and so few that each counts.
        pace: what is asked beside.

    Raises:
        ValueError: no evaluation of a probe lies between burn-in and the end of a chain.
    """
    along = {name: probe for name, probe in probes.items() if probe.along_chains}
    asked, wanted = math.gcd(*(probe.block for probe in along.values())), 1 if full_batch else pace.every or usual_every(num_steps)
    block, every = _block_and_every(asked, num_steps, min(longest, pace.block or longest), wanted)
    room = max(longest, block)
    times = {name: probe.times(num_burn_in, num_steps, block) for name, probe in along.items()}
    for name, probe in along.items():
        if not times[name].size:
            raise ValueError(
                f"the probe {name!r}, every={probe.every}, is evaluated nowhere in chains of {num_steps} iterations, {num_burn_in} of them burn-in; "
                "use a smaller every, or more draws."
            )
    return Timetable(block, room + -room % every, every, along, times)


def usual_every(num_steps: int) -> int:
    """Iterations from one evaluation of the slow quantities to the next, of chains on minibatches of so many iterations: a power of two."""
    return min(2 ** max(0, round(math.log2(num_steps / SLOW_EVALUATIONS))), MOST_EVERY)


def served(num_steps: int, every: int) -> int:
    """The nearest number of iterations that a program with this `usual_every` serves, if it is at most a quarter less or a tenth more; else the same."""
    least, most = math.ceil(SLOW_EVALUATIONS * every / math.sqrt(2)), math.floor(SLOW_EVALUATIONS * every * math.sqrt(2))
    nearest = min(max(num_steps, least if every > 1 else 1), most if every < MOST_EVERY else num_steps)
    return nearest if 0.75 * num_steps <= nearest <= 1.1 * num_steps else num_steps


def _block_and_every(asked: int, num_steps: int, longest: int, wanted: int) -> tuple[int, int]:
    """Iterations of a block, and from one evaluation of slow quantities to the next.

    Args:
        asked: what blocks must divide, for the probes; 0 for nothing.
        num_steps: iterations of a chain.
        longest: iterations of a block at most.
        wanted: iterations from one evaluation to the next.
    """
    if asked:
        block = asked if longest >= BLOCK else max(size for size in _divisors(asked) if size <= longest)
        return block, min(_divisors(block), key=lambda size: abs(math.log(size / wanted)))
    count = math.ceil(num_steps / longest)
    block = math.ceil(num_steps / count)
    every = min(wanted, longest)
    return block + -block % every, every


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
