"""Lines in the log, and how times and rates read."""

import logging

import pytest

from jaxllc import progress
from jaxllc.progress import duration, logged, rounded


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.6, "1 s"),
        (59, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3599.7, "1 h"),
        (18_600, "5 h 10 min"),
        (187_300, "2 d 4 h"),
        (90_001, "1 d 1 h"),
    ],
)
def test_a_time_in_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(0.3249, "0.32"), (8.13, "8.1"), (99.4, "99"), (99.6, "100"), (12_345.6, "12 346")])
def test_a_rate(rate, text):
    assert rounded(rate) == text


def test_each_group_is_told_when_it_is_done(monkeypatch, caplog):
    """Three places in 60 seconds are 180 an hour, and the two others take 40 more."""
    now = iter([100.0, 160.0, 200.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    groups = logged([[1, 2, 3], [4, 5]], 5)
    with caplog.at_level(logging.INFO, "jaxllc"):
        assert next(groups) == [1, 2, 3]
        assert caplog.messages == []
        assert list(groups) == [[4, 5]]
    assert caplog.messages == ["3 of 5 places done, 180 an hour, 40 s left", "5 of 5 places done, 180 an hour, 0 s left"]
