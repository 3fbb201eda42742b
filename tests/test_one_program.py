"""What is compiled: a calibration and the run after it are one program, runs of other lengths too, and nothing small is compiled on the side."""

import math
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_adaptive_hmc import linear_regression, squared_error

import jaxllc
from jaxllc.timetable import MOST_EVERY, Pace, served, timetable, usual_every

COMPILED = "/jax/core/compile/backend_compile_duration"
SIDE = {"<lambda>", "_losses", "_on_mesh", "_mean_gain", "stack", "dynamic_slice"}
"""Programs beside the engine's: the gradient that is timed, the looks at the loss and at its curvature, and the gain of a schedule of steps."""


@pytest.fixture
def compiled():
    """How often a program of each name is compiled, or read from the cache on disk."""
    found: Counter[str] = Counter()

    def listen(event, _, **about):
        if event == COMPILED:
            found[about["fun_name"].removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def own_loss():
    """A new function, of which nothing is compiled yet."""
    return lambda w, batch: squared_error(w, batch)


@pytest.mark.parametrize("sampler", [jaxllc.AdaptiveHMC, jaxllc.SGLD])
def test_a_calibration_and_the_run_after_it_are_one_program(compiled, sampler, monkeypatch):
    """Also where they are two calls, and the run is longer. Seen to fail with pilots of SGLD that hold all points, and with their own `every`."""
    if sampler is jaxllc.SGLD:
        monkeypatch.setattr(sys.modules["jaxllc.calibrate"], "hamiltonian", lambda *_: None)
    weights, data, _ = linear_regression(np.array([3.0, 1, 1]), n=3000)
    loss = own_loss()
    calibration = jaxllc.calibrate(loss, weights, data, key=jax.random.key(0), budget=20.0, localization=100.0)
    assert isinstance(calibration.settings.sampler, sampler)
    settings = calibration.settings.replace(num_draws=64 * MOST_EVERY, thinning=1)
    jaxllc.estimate(loss, weights, data, settings, key=jax.random.key(1), progress=False)
    assert compiled["_block"] == 1, compiled
    assert compiled["start_chains"] == 1, compiled


def test_runs_of_other_lengths_are_one_program(compiled):
    """Where slow quantities are evaluated as often. What is beyond a block's end is not recorded."""
    weights, data, _ = linear_regression(np.array([3.0, 1, 1]))
    loss = own_loss()
    sampled = [
        jaxllc.estimate(loss, weights, data, key=jax.random.key(0), progress=False, batch_size=32, num_chains=4, num_draws=draws, num_burn_in=1000)
        for draws in (100, 333, 400)
    ]
    assert compiled["_block"] == 1, compiled
    one, two = (est.data["posterior/llc"].values for est in sampled[:2])
    np.testing.assert_allclose(one, two[..., :100], rtol=1e-5, atol=1e-6)
    for est in sampled:
        distances = est.data["slow/squared_distance"].values
        assert (distances[..., 1:] > 0).all()


def test_nothing_small_is_compiled_on_the_side(compiled):
    """Each tiny program takes some tens of milliseconds. Seen to fail with weights rounded by JAX, one program a leaf and dtype."""
    weights, data, _ = linear_regression(np.array([3.0, 1, 1]))
    parts = {"a": weights[:2], "b": weights[2:]}
    loss, key = own_loss(), jax.random.key(0)
    compiled.clear()
    jaxllc.estimate(lambda p, b: loss(jnp.concatenate([p["a"], p["b"]]), b), parts, data, key=key, progress=False, batch_size=32, num_draws=20, num_burn_in=0)
    small = {name: count for name, count in compiled.items() if name not in SIDE | {"_block", "start_chains"}}
    assert set(small) <= {"stage", "convert_element_type", "broadcast_in_dim", "_identity_fn"}, small
    assert sum(small.values()) <= 20, small


@pytest.mark.parametrize(("num_steps", "every"), [(16, 1), (90, 1), (91, 2), (1000, 16), (1500, 32), (4096, 64), (100_000, 64)])
def test_how_often_slow_quantities_are_evaluated(num_steps, every):
    assert usual_every(num_steps) == every


@pytest.mark.parametrize("every", [1, 2, 8, MOST_EVERY])
def test_lengths_are_moved_a_little_into_what_a_program_serves(every):
    """A quarter less or a tenth more at most; beyond that a run has a program of its own, and within it nothing moves."""
    for num_steps in range(20, 9000, 7):
        moved = served(num_steps, every)
        assert moved == num_steps or (usual_every(moved) == every and 0.75 <= moved / num_steps <= 1.1)
        assert (usual_every(num_steps) != every) or moved == num_steps
    edge = math.floor(64 * every * 2**0.5)
    assert served(edge + edge // 8, every) == (edge + edge // 8 if every == MOST_EVERY else edge)


@pytest.mark.parametrize("num_steps", [48, 300, 1500, 4099])
def test_room_is_that_of_all_lengths(num_steps):
    """Blocks hold whole stretches, and no more of them than the program has room for."""
    plans = [timetable({}, 0, num_steps, pace=Pace(most, 16)) for most in (None, 16, 100)]
    assert {(plan.room, plan.every) for plan in plans} == {(256, 16)}
    for plan in plans:
        assert plan.block % 16 == 0
        assert plan.block <= plan.room
        assert 0 <= plan.spans(num_steps, whole=False)[-1].stop - num_steps < 16
        assert len(plan.spans(num_steps, whole=True)[-1]) == plan.block
