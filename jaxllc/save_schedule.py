"""When a training run saves its weights: at steps that are even in log-time, where stages of development are looked for."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


class SaveSchedule:
    """Training steps at which to save, as a policy that Orbax takes: of `CheckpointManagerOptions(save_decision_policy=)` and of v1's
    `training.Checkpointer(save_decision_policy=)`. `step in schedule` tells any other loop.

    Unlike the default policy of v1, it leaves out no step because the one before is still being written.

    Args:
        steps: whole numbers from 0 on, in any order.

    Raises:
        ValueError: a step that is negative or no whole number, or none.

    Examples:
        >>> jaxllc.SaveSchedule.log_spaced(1000, 7)
        SaveSchedule(0, 1, 3, 10, 32, 100, 316, 1000)
    """

    def __init__(self, steps: Iterable[int]) -> None:
        self._steps = sorted(set(steps))
        if wrong := [step for step in self._steps if not np.isfinite(step) or step < 0 or step != int(step)]:
            raise ValueError(f"steps must be whole numbers from 0 on, got {wrong[0]}; give the steps at which to save.")
        if not self._steps:
            raise ValueError("a schedule needs at least one step, got none.")

    @classmethod
    def log_spaced(cls, last: int, count: int, *, first: int = 1) -> "SaveSchedule":
        """Step 0, and `count` steps from `first` to `last` whose ratios are equal; fewer where these round to the same.

        Raises:
            ValueError: `first` is not between 1 and `last`, or `count` is below 2.
        """
        if count < 2:
            raise ValueError(f"count must be 2 or more, got {count}.")
        return cls([0, *checkpoint_steps(last, count, 0, first)])

    def should_save(self, step: Any, previous_steps: Any = (), *, context: Any = None) -> bool:
        """Whether to save at `step.step`: what Orbax asks."""
        return step.step in self

    def __contains__(self, step: object) -> bool:
        return step in self._steps

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        return f"SaveSchedule({', '.join(map(str, self._steps))})"


def checkpoint_steps(num_steps: int, num_log: int, num_linear: int, first: int = 1) -> list[int]:
    """`num_log` log- and `num_linear` linearly spaced steps from `first` to the last one, without repeats.

    Raises:
        ValueError: `first` is not between 1 and `num_steps`.

    Examples:
        >>> from jaxllc.save_schedule import checkpoint_steps
        >>> checkpoint_steps(1000, num_log=4, num_linear=3)
        [1, 10, 100, 500, 1000]
    """
    if not 1 <= first <= num_steps:
        raise ValueError(f"first must lie between 1 and num_steps {num_steps}, got {first}; save step 0 by adding it to the list.")
    return sorted({round(float(step)) for step in (*np.geomspace(first, num_steps, num_log), *np.linspace(first, num_steps, num_linear))})
