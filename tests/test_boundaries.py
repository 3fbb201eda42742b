"""Turns and pauses of curves whose slope is known exactly, and of noisy ones."""

import numpy as np
import pytest
from curves import STEP, U, sigmoid

from jaxllc.boundaries import find_boundaries, sample_boundaries
from jaxllc.smoothing import Slope
from jaxllc.stages import find_stages

X = np.linspace(0, 1, 201)


def known(mean, error):
    """A slope with independent errors at the grid points."""
    return Slope(X, mean, error**2 * np.eye(len(X)))


def points_of(slope, certainty=3.0):
    return [(boundary.point, boundary.is_pause) for boundary in find_boundaries(slope, certainty)]


def valley(shift=0):
    """The slope of a cosine over two thirds of a period, least `shift` grid points after the middle, and steepest 75 points to either side."""
    return -np.sin(2 * np.pi * (1 / 6 + 2 / 3 * (X - X[1] * shift)))


def test_turns_are_the_extrema():
    """A cosine has one turn, at its least; it may lie between the steepest points."""
    slope = known(valley(), 1e-3)
    assert points_of(slope) == [(0, False), (100, False), (200, False)]
    turn = find_boundaries(slope, 3.0)[1]
    assert (turn.left, turn.right) == (25, 175)


@pytest.mark.parametrize(("certainty", "turns"), [(2.5, [100]), (3.5, [])])
def test_a_turn_needs_a_certain_change_on_both_sides(certainty, turns):
    """A rise by 1/2 and a fall by 1/2, each of whose errors is e √100 Δx = 1/6: three standard errors.

    At three and a half the curve is one stage.
    """
    slope = known(np.sign(0.5 - X), 1 / 6 / (10 * X[1]))
    assert [point for point, _ in points_of(slope, certainty)[1:-1]] == turns


@pytest.mark.parametrize(("speed", "pauses"), [(0.3, [100]), (0.7, [])])
def test_a_pause_is_slow(speed, pauses):
    """A dip of the slope from 1 to 0.3 is a pause at its lowest point; one to 0.7 is faster than half of the slope beside it."""
    slope = known(1 - (1 - speed) * np.exp(-(((X - 0.5) / 0.1) ** 2)), 1e-3)
    assert points_of(slope) == [(0, False), *((point, True) for point in pauses), (200, False)]
    falling = known(-slope.mean, 1e-3)
    assert points_of(falling) == points_of(slope)


def test_a_pause_must_be_certain():
    slope = 1 - 0.7 * np.exp(-(((X - 0.5) / 0.1) ** 2))
    assert len(points_of(known(slope, 3.0))) == 2
    assert len(points_of(known(slope, 0.3))) == 3


def test_a_slowdown_at_the_end_of_a_rise_is_no_pause():
    assert points_of(known(np.exp(-5 * X), 1e-3)) == [(0, False), (200, False)]


def test_boundaries_of_samples_are_their_own():
    """Of a shifted curve the turn is shifted as much, but no further than the steepest points of the mean curve."""
    shifts = np.array([-90, -30, 0, 45, 90])
    slope = known(valley(), 1e-3)
    points = sample_boundaries(slope, find_boundaries(slope, 3.0), np.stack([valley(shift) for shift in shifts]))
    np.testing.assert_array_equal(points, np.stack([np.zeros(5), np.clip(100 + shifts, 25, 175), np.full(5, 200)], -1))


def test_a_pause_is_a_boundary():
    """Two rises with a level stretch between are two stages of type A, which meet in that stretch."""
    rng = np.random.default_rng(0)
    llc = 20 * sigmoid(U, 0.25, 0.04) + 10 * sigmoid(U, 0.75, 0.04) + 0.2 * rng.standard_normal(len(U))
    table = find_stages(STEP, llc, np.full(len(U), 0.2), 6 - 3 * U + 0.01 * rng.standard_normal(len(U)))
    assert list(table["type"]) == ["A", "A"]
    assert (np.abs(table["delta_llc"] - [20, 10]) < 3 * table["delta_llc_error"]).all()
    assert 0.35 < np.log(table["end"][0] / STEP[0]) / np.log(STEP[-1] / STEP[0]) < 0.65
