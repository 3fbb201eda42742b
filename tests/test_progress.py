"""Lines in the log, and how times and rates read."""

import logging

import pytest

from jaxllc import progress
from jaxllc.progress import Tally, announce, duration, rounded


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
    """Three places in 60 seconds are 180 an hour, and the two others take 40 more; one that was another process's share comes on top."""
    now = iter([100.0, 160.0, 200.0, 220.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with caplog.at_level(logging.INFO, "jaxllc"):
        tally = Tally(5)
        for count in (3, 2, 1):
            tally.add(count)
    ends = ["3 of 5 places done, 180 an hour, 40 s left", "5 of 5 places done, 180 an hour, 0 s left", "6 of 6 places done, 180 an hour, 0 s left"]
    assert caplog.messages == ends


@pytest.mark.parametrize("show", [True, False])
def test_what_takes_time_without_a_bar_is_announced(show, capsys, caplog):
    """In the log always, on the terminal where bars are shown; never in what a program prints."""
    with caplog.at_level(logging.INFO, "jaxllc"):
        announce("finding settings", show)
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", "finding settings" if show else "")
    assert caplog.messages == ["finding settings"]
