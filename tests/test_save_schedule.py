"""Schedules of saving: their steps, and that Orbax saves at these alone."""

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint import v1

import jaxllc
from jaxllc import SaveSchedule

PARAMS = {"w": jnp.arange(3.0)}


def test_log_spaced_steps_have_equal_ratios():
    """Up to the rounding to whole steps."""
    steps = list(SaveSchedule.log_spaced(100_000, 11, first=100))
    assert steps[0] == 0
    assert len(steps) == 12
    np.testing.assert_allclose(np.diff(np.log(steps[1:])), np.log(1000) / 10, atol=0.01)


def test_a_schedule_is_a_collection_of_steps():
    schedule = SaveSchedule([4, 0, 2, 2])
    assert list(schedule) == [0, 2, 4]
    assert len(schedule) == 3
    assert 2 in schedule
    assert 3 not in schedule
    assert repr(schedule) == "SaveSchedule(0, 2, 4)"
    assert list(SaveSchedule.log_spaced(3, 50)) == [0, 1, 2, 3]


def by_manager(directory, schedule):
    options = ocp.CheckpointManagerOptions(save_decision_policy=schedule)
    with ocp.CheckpointManager(directory, options=options) as manager:
        for step in range(21):
            manager.save(step, args=ocp.args.StandardSave({"params": PARAMS}))


def by_checkpointer(directory, schedule):
    with v1.training.Checkpointer(directory, save_decision_policy=schedule) as checkpointer:
        for step in range(21):
            checkpointer.save_async(step, {"params": PARAMS})


@pytest.mark.parametrize("save", [by_manager, by_checkpointer])
def test_orbax_saves_at_the_steps_of_a_schedule(save, tmp_path):
    """At each of them, those that follow at once too, and at no other; they are read again."""
    schedule = SaveSchedule.log_spaced(20, 8)
    save(tmp_path / "run", schedule)
    checkpoints = jaxllc.OrbaxCheckpoints(tmp_path / "run")
    assert list(checkpoints) == list(schedule)
    np.testing.assert_array_equal(checkpoints[20]["w"], PARAMS["w"])


BAD = [
    ([3, -1], "whole numbers from 0 on, got -1"),
    ([1.5], "whole numbers from 0 on, got 1.5"),
    ([1, float("inf")], "got inf"),
    ([float("nan")], "got nan"),
    ([], "at least one step"),
]


@pytest.mark.parametrize(("steps", "problem"), BAD)
def test_bad_steps(steps, problem):
    with pytest.raises(ValueError, match=problem):
        SaveSchedule(steps)


@pytest.mark.parametrize(
    ("last", "count", "first", "problem"),
    [(10, 5, 0, "first must lie between 1 and num_steps 10, got 0"), (10, 5, 11, "first must lie .* got 11"), (10, 1, 1, "count must be 2 or more, got 1")],
)
def test_bad_ranges(last, count, first, problem):
    with pytest.raises(ValueError, match=problem):
        SaveSchedule.log_spaced(last, count, first=first)
