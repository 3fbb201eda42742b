"""Which run of a sampler counts, and the table, of made-up lines, and how long a run is."""

import jaxllc
from benchmarks import report_calibration, zoo
from research import slow_directions

REFERENCE = {"one": 10.0}


def line(sampler, step, llc, slow_ess=40.0):
    return {"problem": "one", "sampler": sampler, "step": step, "llc": llc, "std_error": 0.1, "slow_ess": slow_ess, "seconds": 20.0, "findings": []}


LINES = [line("SGLD", 1.0, 8.0), line("SGLD", 4.0, 9.5), line("SGLD", 16.0, None), line("NUTS", 1.0, None)]


def test_the_run_nearest_to_the_reference_counts():
    chosen = report_calibration.nearest(LINES, REFERENCE)
    assert chosen["one", "SGLD"]["step"] == 4.0
    assert chosen["one", "NUTS"]["llc"] is None


def test_the_table_has_errors_and_effective_draws_a_second():
    lines = [*LINES, line("MALA", 1.0, 11.0) | {"findings": ["not-mixed"]}]
    table = report_calibration.slow_directions(lines, [{"problem": "one", "llc": 10.0}, {"problem": "other", "llc": None}])
    assert table.splitlines()[2:] == ["| SGLD | -5.0% · 2 |", "| NUTS | diverged |", "| MALA | +10.0% · 2 (not-mixed) |"]


def test_a_run_is_as_long_as_the_seconds_allow(monkeypatch):
    """A quarter of it is burn-in; a longer one has as many draws as a shorter one, thinned."""
    monkeypatch.setattr(slow_directions, "SECONDS", 0.2)
    monkeypatch.setattr(slow_directions, "MOST_DRAWS", 50)
    found = slow_directions.estimate(zoo.make("quadratic-1e2"), jaxllc.SGLD(1e-4), 64)
    assert found["iterations"] >= 64
    assert found["llc"] is not None


def test_each_sampler_is_tried_at_every_step():
    arms = slow_directions.arms(jaxllc.SGLD(1e-3))
    names = [name for name, *_ in arms]
    assert names.count("SGLD") == len(slow_directions.FACTORS)
    assert {step for name, step, *_ in arms if name == "SGLD, RMSProp"} == set(slow_directions.RMSPROP_STEPS)
    assert [float(sampler.step_size) for name, _, sampler, _ in arms if name == "SGLD"] == [1e-3, 4e-3, 16e-3]
