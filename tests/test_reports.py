"""What a store says of itself."""

import jax
import numpy as np
import pytest
from problems import quadratic_loss
from trajectories import PROBLEM, RUN, SHORT, follow, stopped

import jaxllc
from jaxllc import reports
from jaxllc.reading import Overview, SeenWriter, overview
from jaxllc.results import Place


def test_a_steady_rate_is_found():
    """Ten places, one each 30 seconds, and 12 seconds since."""
    written = 1000 + 30 * np.arange(10.0)
    assert reports.rate(list(written), written[-1] + 12) == pytest.approx(1 / 30, rel=0.05)


def test_bursts_count_as_the_groups_that_they_are():
    """Groups of eight every 600 seconds, whatever the time since; one group tells no more than a bound. Seen to fail with all places over the whole time."""
    written = [600 * group + 0.1 * i for group in range(5) for i in range(8)]
    for since in (1, 300, 599):
        assert reports.rate(written, written[-1] + since) == pytest.approx(8 / 600, rel=0.01)
    assert reports.rate(written[:8], 0.7 + 500) == pytest.approx(8 / 500.7)


def test_no_rate_of_one_place():
    assert reports.rate([], 5.0) is None
    assert reports.rate([1.0], 5.0) is None


def test_only_the_last_places_count():
    """A hundred slow ones, then a hundred fast ones."""
    written = [*(100.0 * i for i in range(100)), *(10_000 + 1.0 * i for i in range(100))]
    assert reports.rate(written, written[-1]) == pytest.approx(1.0, rel=0.06)


def test_a_status_line_by_line(monkeypatch):
    """Of a store half done, with a failure, a writer that lives and a dead one."""
    places = [Place("a", 10 * i) for i in range(10)]
    written = {place: 60.0 * i for i, place in enumerate(places[:5])}
    writers = [SeenWriter("node1", 17, (0, 2), True), SeenWriter("node2", 18, (1, 2), False)]
    seen = Overview({}, places, places[:5], {places[9]: "the weights are NaN"}, written, writers)
    monkeypatch.setattr(reports, "overview", lambda _: seen)
    monkeypatch.setattr(reports, "_findings", lambda _: "not-mixed 2")
    monkeypatch.setattr(reports.time, "time", lambda: 300.0)
    assert reports.status("llc.zarr").splitlines() == [
        "llc.zarr",
        "  done       5 of 10 places, 1 failed",
        "  rate       60 places an hour, the last one written 1 min ago",
        "  time left  4 min at this rate",
        "  findings   not-mixed 2",
        "  failed     step 90 of run 'a': the weights are NaN",
        "  writer     part 1 of 2, pid 17 on node1",
        "  writer     part 2 of 2, pid 18 on node2, dead",
    ]


def test_findings_are_counted(tmp_path):
    traj = follow(store=tmp_path / "llc.zarr")
    counts = [finding.code for some in traj.findings() for finding in some]
    assert counts
    shown = reports.status(tmp_path / "llc.zarr")
    for code in set(counts):
        assert f"{code} {counts.count(code)}" in shown
    assert "rate" not in shown


def test_a_store_half_done(tmp_path, monkeypatch):
    stopped(3, monkeypatch, store=tmp_path / "llc.zarr", group_size=1)
    seen = overview(tmp_path / "llc.zarr")
    assert seen.done == [Place(None, step) for step in (0, 10, 20)]
    assert seen.places == [Place(None, step) for step in RUN]
    assert seen.written.keys() == set(seen.done)
    assert "3 of 5 places" in reports.status(tmp_path / "llc.zarr")


def test_a_store_with_nothing_done(tmp_path, monkeypatch):
    """`jaxllc.open` would raise; a status has something to say."""
    monkeypatch.setattr(reports, "open_store", lambda _: pytest.fail("opened"))
    seen = Overview({}, [Place(None, 0)], [], {}, {}, [])
    monkeypatch.setattr(reports, "overview", lambda _: seen)
    assert reports.status("llc.zarr").split() == ["llc.zarr", "done", "0", "of", "1", "places", "findings", "none", "yet", "writer", "none"]


def test_one_estimate_has_a_status_and_a_table(tmp_path):
    est = jaxllc.estimate(quadratic_loss, PROBLEM.params, PROBLEM.data, key=jax.random.key(0), **SHORT)
    est.save(tmp_path / "one.zarr")
    assert "1 of 1 places" in reports.status(tmp_path / "one.zarr")
    table = reports.table(tmp_path / "one.zarr")
    assert list(table.index) == [0]
    assert table["llc"].item() == pytest.approx(est.llc)
    assert table["findings"].item() == " ".join(finding.code for finding in est.findings)
