"""Crossings, means over seeds, stages before a bump and the verdict, on curves whose answers are known."""

import numpy as np
import pandas as pd
import pytest

from research.development.analysis import Interval, claims, crossing, over_seeds, over_seeds_and_chains, stages_of_bump, verdict

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


def stages(*each):
    return pd.DataFrame([{"type": kind, "start": start, "end": end, "hidden": hidden} for kind, start, end, hidden in each])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (stages(("A", 0, 300, False), ("B", 300, 600, True), ("A", 600, 2000, False)), (True, True)),
        (stages(("A", 0, 300, False), ("B", 300, 600, False), ("A", 600, 2000, False)), (True, False)),
        (stages(("A", 0, 100, False), ("B", 100, 250, True), ("A", 250, 2000, False)), (False, False)),  # over before the onset
        (stages(("A", 0, 900, False), ("B", 900, 2000, True)), (False, False)),  # after the bump
        (stages(("A", 0, 300, False), ("B", 300, 2000, False)), (False, False)),  # no type A follows
    ],
)
def test_a_stage_b_counts_between_the_onset_and_the_rise(found, expected):
    told = stages_of_bump(found, start=350, half=700)
    assert (told["type_b"], told["hidden"]) == expected


def interval(mean, error):
    return Interval(mean, error, mean - 2 * error, mean + 2 * error, 10)


KNOWN, OPEN, NEGATIVE = interval(0.5, 0.1), interval(0.1, 0.06), interval(-0.5, 0.1)
LITTLE, MUCH = interval(0.1, 0.02), interval(0.6, 0.02)
LEVEL = 25.0  # 0.6 % of it, the published fall, is 0.15


@pytest.mark.parametrize(
    ("lag", "drop", "at_most", "excess", "answers"),
    [
        (KNOWN, interval(3, 0.5), 4.0, LITTLE, "yes yes yes"),
        (KNOWN, interval(0, 0.05), 0.1, LITTLE, "yes no yes"),  # even the published share is excluded
        (KNOWN, interval(0, 0.05), 0.2, LITTLE, "yes open yes"),  # a fall as deep as the published is not
        (KNOWN, interval(-3, 0.5), 0.2, LITTLE, "yes open yes"),  # nor where the mean rises
        (KNOWN, interval(3, 1.2), 6.0, LITTLE, "yes open yes"),  # certain, but its error is more than a third of it
        (OPEN, interval(3, 0.5), 4.0, LITTLE, "open yes yes"),
        (NEGATIVE, interval(3, 0.5), 4.0, LITTLE, "no yes yes"),  # prefix matching first
        (KNOWN, interval(3, 0.5), 4.0, MUCH, "yes yes no"),  # the loss falls faster too
        (KNOWN, interval(3, 0.5), 4.0, interval(0.2, 0.1), "yes yes open"),
        (interval(np.nan, np.nan), interval(np.nan, np.nan), np.nan, interval(np.nan, np.nan), "open open open"),  # no seed formed a head
    ],
)
def test_the_verdict_follows_its_rules(lag, drop, at_most, excess, answers):
    """One *no* refutes, only *yes* replicates, anything else is open."""
    found = claims(lag, lag, drop, at_most, 1.0, LEVEL, excess)
    assert [claim.answer for claim in found.values()] == [answers.split()[0], *answers.split()]
    head = "does not replicate" if "no" in answers else "open" if "open" in answers else "replicates"
    assert verdict(found).startswith(f"{head} (")
