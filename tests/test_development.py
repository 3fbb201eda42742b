"""The rules of the experiments on stages of development, on curves whose answers are known."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.development.analysis import Interval, change, crossing, over_seeds, over_seeds_and_chains, stages_of_bump, verdict

STEP = np.asarray([0, *np.geomspace(10, 1000, 21)])


def test_a_crossing_is_interpolated_in_the_logarithm():
    """A score that is linear in log t between 10 and 1000, then level, passes half of its way at 100. Seen to fail with interpolation in the step itself."""
    step = np.asarray([*np.geomspace(10, 1000, 8), 2000, 3000, 4000, 5000, 6000])
    score = np.minimum(np.log(step / 10) / np.log(100), 1)
    assert crossing(step, 0.2 + 0.5 * score, 0.5) == pytest.approx(100)
    assert crossing(step, 4 - 3 * score, 0.1) == pytest.approx(10 * 100**0.1)


def test_a_crossing_is_for_good():
    """An early hump does not count. Seen to fail with the first crossing."""
    score = np.where(STEP > 500, 1.0, 0.0)
    score[3:6] = 0.7
    assert 400 < crossing(STEP, score, 0.5) < 600


def test_a_level_score_has_no_crossing():
    assert np.isnan(crossing(STEP, np.full(len(STEP), 0.3), 0.5))


def test_a_change_between_two_steps():
    """Curves linear in log t change by their slope times the log of the ratio; a window that ends before it begins has none."""
    curves = np.asarray([[2.0], [-1.0]]) * np.log(np.maximum(STEP, 5))[None]
    np.testing.assert_allclose(change(STEP, curves, 37.0, 370.0), np.asarray([2.0, -1.0]) * np.log(10), rtol=1e-6)
    assert np.isnan(change(STEP, curves, 100.0, 50.0)).all()


def test_the_interval_over_seeds_is_students():
    """Four values of mean 2.5: the error s / 2 and the 97.5 % point 3.1824 of three degrees of freedom; values that are missing are left out."""
    found = over_seeds(np.asarray([1.0, 2.0, 3.0, 4.0, np.nan]))
    error = np.std([1, 2, 3, 4], ddof=1) / 2
    assert found == pytest.approx(Interval(2.5, error, 2.5 - 3.1824463 * error, 2.5 + 3.1824463 * error, 4))


def test_noise_that_seeds_share_is_counted():
    """Seeds that differ by nothing but share the noise of 8 chains: the error of the mean is that of one seed, over 2000 experiments, within four of its
    standard errors, whose share is the root of 2 / (7 · 2000).

    The spread over seeds alone says 0.
    """
    noise = np.random.default_rng(0).standard_normal((2000, 1, 8))
    squares = [over_seeds_and_chains(np.repeat(chains, 10, 0)).std_error ** 2 for chains in noise]
    assert np.mean(squares) == pytest.approx(1 / 8, rel=4 * np.sqrt(2 / 7 / 2000))


def stages(*rows):
    return pd.DataFrame([{"type": kind, "start": start, "end": end, "hidden": hidden} for kind, start, end, hidden in rows])


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (stages(("A", 0, 300, False), ("B", 300, 600, True), ("A", 600, 2000, False)), (True, True)),
        (stages(("A", 0, 300, False), ("B", 300, 600, False), ("A", 600, 2000, False)), (True, False)),
        (stages(("A", 0, 100, False), ("B", 100, 250, True), ("A", 250, 2000, False)), (False, False)),  # over before the onset
        (stages(("A", 0, 900, False), ("B", 900, 2000, True)), (False, False)),  # after the bump
        (stages(("A", 0, 300, False), ("B", 300, 2000, False)), (False, False)),  # no type A follows
    ],
)
def test_a_stage_b_counts_between_the_onset_and_the_rise(table, expected):
    found = stages_of_bump(table, start=350, half=700)
    assert (found["type_b"], found["hidden"]) == expected


def interval(mean, error):
    return Interval(mean, error, mean - 2 * error, mean + 2 * error, 10)


@pytest.mark.parametrize(
    ("lag", "drop", "share", "hidden", "answer"),
    [
        (interval(0.5, 0.1), interval(3, 0.5), 0.9, interval(0.1, 0.02), "replicates"),
        (interval(0.5, 0.1), interval(-3, 0.5), 0.0, interval(0.1, 0.02), "does not replicate"),
        (interval(0.5, 0.1), interval(0.0, 0.05), 0.0, interval(0.1, 0.02), "does not replicate"),  # less than the published share
        (interval(0.5, 0.1), interval(3, 0.5), 0.2, interval(0.1, 0.02), "undecided"),  # few certain stages B
        (interval(0.5, 0.1), interval(3, 1.4), 0.9, interval(0.1, 0.02), "undecided"),  # the error more than a third
        (interval(-0.5, 0.1), interval(3, 0.5), 0.9, interval(0.1, 0.02), "does not replicate"),  # prefix matching first
        (interval(0.5, 0.1), interval(3, 0.5), 0.9, interval(0.6, 0.02), "does not replicate"),  # the loss falls too
        (interval(0.1, 0.1), interval(3, 0.5), 0.9, interval(0.1, 0.02), "undecided"),
        (interval(np.nan, np.nan), interval(np.nan, np.nan), np.nan, interval(np.nan, np.nan), "undecided"),  # no seed formed a head
    ],
)
def test_the_verdict_follows_its_rules(lag, drop, share, hidden, answer):
    assert verdict(lag, drop, 25.0, share, hidden).startswith(f"{answer} (")


@pytest.mark.slow
def test_the_cheapest_experiment_runs():
    """`saddle --quick` ends and writes its table."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "benchmarks.development", "saddle", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert "| modes learnt | exact λ |" in done.stdout
    assert (root / "benchmarks" / "results" / "development-saddle-quick.png").exists()
