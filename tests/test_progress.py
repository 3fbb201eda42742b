"""Lines in the log, and how times and rates read."""

import logging

import pytest

from jaxllc import progress
from jaxllc.progress import Tally, announce, duration, is_interactive, progress_bar, rounded


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.6, "600 ms"),
        (0.9996, "1 s"),
        (float("inf"), "inf s"),
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


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
@pytest.mark.parametrize("interactive", [True, False])
@pytest.mark.parametrize("show", [True, False])
def test_what_takes_time_without_a_bar_is_announced_once(show, interactive, level, monkeypatch, capsys, caplog):
    """In the log if it listens, else on the terminal where bars are shown; never in what a program prints."""
    monkeypatch.setattr(progress, "is_interactive", lambda: interactive)
    with caplog.at_level(level, "jaxllc"):
        announce("finding settings", show)
    out, err = capsys.readouterr()
    logs = level == logging.INFO
    assert (out, err.strip()) == ("", "finding settings" if show and interactive and not logs else "")
    assert caplog.messages == (["finding settings"] if logs else [])


@pytest.mark.parametrize(("interactive", "show"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_bar_where_someone_looks_on_and_lines_in_the_log_elsewhere(interactive, show, monkeypatch, capsys, caplog):
    """Two lines in 150 seconds; a redirected stderr stays empty."""
    now = iter([0.0, 10.0, 80.0, 90.0, 150.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(progress, "is_interactive", lambda: interactive)
    with caplog.at_level(logging.INFO, "jaxllc"), progress_bar(100, show) as on_steps:
        for count in (10, 30, 10, 25):
            on_steps(count)
    assert bool(capsys.readouterr().err) == (interactive and show)
    lines = ["40 of 100 steps done, 2 min left", "75 of 100 steps done, 50 s left"]
    assert caplog.messages == (lines if show and not interactive else [])


def test_a_file_is_nobody_who_looks_on(monkeypatch, tmp_path):
    """Nor a pipe; a terminal is, and so is a notebook."""
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(progress.sys, "stderr", file)
        assert not is_interactive()
        monkeypatch.setitem(progress.sys.modules, "ipykernel", progress)
        assert is_interactive()


def test_a_notebook_without_widgets_has_a_bar_of_text(monkeypatch, capsys):
    """And no warning that there are no widgets, which is an error here."""
    monkeypatch.setitem(progress.sys.modules, "ipykernel", progress)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    with progress_bar(10, True) as on_steps:
        on_steps(10)
    assert "0.00/10.0" in capsys.readouterr().err
