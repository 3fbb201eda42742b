r"""Boundaries between stages: where a smooth curve turns, and where its rise or fall pauses.

A *turn* is an extremum with a certain change of the curve on both sides; a *pause* is a stretch where the slope is certainly smaller than before and after
it (Hoogland et al., arXiv:2402.02364, draw such boundaries by eye). *Certain* is a number of standard errors of the slope's distribution
(`jaxllc.smoothing.Slope`).
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from jaxllc.smoothing import Slope

PAUSE_SPEED = 0.5
"""The largest mean slope of a pause, as a share of the smaller slope beside it."""
TINY = np.finfo(float).tiny


class Boundary(NamedTuple):
    """A grid point between two stages, and the first and last grid point at which the boundary may lie."""

    point: int
    left: int
    right: int
    is_pause: bool = False


def find_boundaries(slope: Slope, certainty: float) -> list[Boundary]:
    """The two ends of the curve, its turns, and the pauses between them, in order.

    Args:
        slope: of the smooth curve.
        certainty: standard errors at which a change is certain.
    """
    turns = _turns(slope, certainty)
    stretches = list(pairwise(turns))
    steepest = [start + int(np.argmax(np.abs(slope.mean[start : end + 1]))) for start, end in stretches]
    ends = [Boundary(point, point, point) for point in (turns[0], turns[-1])]
    inner = [Boundary(point, left, right) for point, (left, right) in zip(turns[1:-1], pairwise(steepest), strict=True)]
    return sorted(ends + inner + [pause for start, end in stretches for pause in _pauses(slope, start, end, certainty)])


def sample_boundaries(slope: Slope, boundaries: list[Boundary], slope_samples: np.ndarray) -> np.ndarray:
    """The grid point of each boundary in sampled curves, `int[sample, boundary]`: the extremum of a turn, the slowest point of a pause.

    Args:
        slope: of the smooth curve.
        boundaries: of `find_boundaries`; a boundary of a sample lies between its `left` and `right`.
        slope_samples: of `slope.sample`, `[sample, grid]`.
    """
    points = np.tile([boundary.point for boundary in boundaries], (len(slope_samples), 1))
    curves = slope.integrate(slope_samples)
    for i, (before, boundary) in enumerate(pairwise(boundaries[:-1]), start=1):
        values = -slope_samples if boundary.is_pause else curves
        stretch = _direction(slope, before.point, boundary.point) * values[:, boundary.left : boundary.right + 1]
        points[:, i] = boundary.left + np.argmax(stretch, axis=1)
    return points


def _turns(slope: Slope, certainty: float) -> list[int]:
    """Extrema of the smooth curve between which every change is certain: the least certain change is removed until all are."""
    last = len(slope.x) - 1
    points = sorted({0, *(np.flatnonzero(np.diff(slope.mean >= 0)) + 1).tolist(), last})
    while len(points) > 2:
        changes = [slope.contrast(slope.change(start, end)) for start, end in pairwise(points)]
        certainties = [abs(mean) / max(error, TINY) for mean, error in changes]
        least = int(np.argmin(certainties))
        if certainties[least] >= certainty:
            break
        # Between two stages of one direction, the stage and both its boundaries are removed; at an end of the run, one boundary.
        points = [point for i, point in enumerate(points) if point in (0, last) or i not in (least, least + 1)]
    curve = slope.integrate(slope.mean)
    for i in range(1, len(points) - 1):
        before, after = points[i - 1], points[i + 1]
        side = np.sign(2 * curve[points[i]] - curve[before] - curve[after])
        points[i] = before + int(np.argmax(side * curve[before : after + 1]))
    return points


def _pauses(slope: Slope, start: int, end: int, certainty: float) -> list[Boundary]:
    """The pauses of a stretch of one direction: the slowest one, and those on either side of it."""
    direction = _direction(slope, start, end)
    speed = direction * slope.mean
    minima = [i for i in range(start + 1, end) if speed[i - 1] >= speed[i] < speed[i + 1]]
    pauses = [pause for pause in (_pause(slope, start, i, end, certainty) for i in minima) if pause]
    if not pauses:
        return []
    slowest = min(pauses, key=lambda pause: speed[pause.point])
    return [*_pauses(slope, start, slowest.point, certainty), slowest, *_pauses(slope, slowest.point, end, certainty)]


def _pause(slope: Slope, start: int, point: int, end: int, certainty: float) -> Boundary | None:
    """The pause around a minimum of the speed, or None: it is slow beside the fast stretches around it by `PAUSE_SPEED`, and certainly."""
    direction = _direction(slope, start, end)
    speed = direction * slope.mean

    def mean_speed(weights: np.ndarray) -> float:
        return direction * slope.contrast(weights)[0]

    beside = min(mean_speed(slope.average(*stretch)) for stretch in ((start, point), (point, end)))
    fast = speed >= (speed[point] + beside) / 2
    left, right = _run_of_true(~fast, point, start, end)
    if left == start or right == end:
        return None
    slow = slope.average(left, right)
    before, after = slope.average(_run_of_true(fast, left - 1, start, end)[0], left), slope.average(right, _run_of_true(fast, right + 1, start, end)[1])
    slow_enough = mean_speed(slow) <= PAUSE_SPEED * min(mean_speed(weights) for weights in (before, after))
    certain = all(direction * mean >= certainty * error for mean, error in (slope.contrast(weights - slow) for weights in (before, after)))
    return Boundary(point, left, right, is_pause=True) if slow_enough and certain else None


def _direction(slope: Slope, start: int, end: int) -> float:
    """The sign of the change between two grid points: 1 where the curve rises, -1 where it falls."""
    return float(np.sign(slope.contrast(slope.change(start, end))[0]))


def _run_of_true(mask: np.ndarray, inside: int, start: int, end: int) -> tuple[int, int]:
    """First and last index of the run of True around `inside`, within `start` to `end`."""
    left = right = inside
    while left > start and mask[left - 1]:
        left -= 1
    while right < end and mask[right + 1]:
        right += 1
    return left, right
