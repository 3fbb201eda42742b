"""A rise, or a fall, that levels off is no noise about a line, whatever errors are claimed for it."""

import numpy as np
import pytest
from scipy.stats import binom

from jaxllc.stages import find_stages


@pytest.mark.parametrize("claimed", [None, 0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_change_of_many_errors_that_levels_off_is_no_noise(direction, claimed):
    """A rise of thirteen errors or more; the errors are larger at its start, and common to all checkpoints.

    Seen to fail where correlated noise may grow along the run past its bound: the rise was noise about a falling line, of type B.
    """
    llc = np.array([11.00, 12.64, 13.44, 13.83, 14.03, 14.14, 14.19, 14.21, 14.22, 14.21, 14.18, 14.15, 14.11])
    error = np.array([0.25, 0.19, 0.18, 0.16, 0.14, 0.135, 0.131, 0.1285, 0.127, 0.126, 0.1255, 0.125, 0.125])
    loss = 0.54 + 0.049 * np.exp(-np.linspace(0, 5, len(llc)))
    table = find_stages(np.linspace(2000, 6000, len(llc)), direction * llc, None if claimed is None else claimed * error, loss)
    assert table["type"][0] == {1: "A", -1: "B"}[direction]
    assert abs(direction * table["delta_llc"][0] - 3.22) < 0.1


def test_rises_that_level_off_are_never_falls():
    """Of 24 rises with small scatter and a larger error that all checkpoints share, none is of type B; most are of type A.

    Before correlated noise was bounded at both ends of the run, two thirds of such curves were of type A, and a few of type B.
    """
    types = []
    for seed in range(24):
        rng = np.random.default_rng([seed, 5])
        x = np.linspace(0, 1, (13, 25)[seed % 2])
        rise, error = rng.uniform(2, 10), rng.uniform(0.02, 0.08) * np.exp(-rng.uniform(0, 1) * x)
        llc = 12 + rise * (1 - np.exp(-x / rng.uniform(0.08, 0.5)) + error * (rng.standard_normal() + 0.1 * rng.standard_normal(len(x))))
        types.append("".join(find_stages(2000 * (1 + 2 * x), llc, rise * error, 2 - 0.3 * x + 0.003 * rng.standard_normal(len(x)))["type"]))
    assert not any("B" in each for each in types)
    assert types.count("A") >= binom.ppf(0.001, 24, 0.95)
