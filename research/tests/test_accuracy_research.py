"""What is changed in the accuracy benchmark's settings, what it is compared with, and the tables of made-up lines."""

import numpy as np
import pytest

from benchmarks import accuracy, report_accuracy
from benchmarks import deep_linear_nets as nets
from research import accuracy_bars, accuracy_best

RUN = {"llc": [9.4, 19.9], "std_error": [0.1, 0.1], "step_bias": [0.0, 0.0], "ess": [1000.0] * 2, "num_diverged": [0, 0], "findings": ["", ""]}
GROUP = {
    "class": "1K",
    "num_examples": accuracy.NUM_EXAMPLES,
    "widths": [2, 2, 2],
    "seed": 0,
    "nbeta": 40.0,
    "localization": 6.0,
    "llc": [10.0, 20.0],
    "reference": {"llc": [9.5, 19.5], "std_error": [0.0, 0.0]},
    "ladder_reference": {"llc": [9.9, 19.9], "std_error": [0.0, 0.0]},
    "runs": [RUN | {"sampler": name} for name in accuracy.BEST],
}
"""A group of two nets whose λ is 10 and 20."""


def without(options, *names):
    return {name: value for name, value in options.items() if name not in names}


@pytest.mark.parametrize(("sampler", "cost"), [(accuracy.LARGER, 1), (accuracy.LADDER, 2)])
def test_a_change_of_a_setting_changes_that_alone(sampler, cost, monkeypatch):
    """Half the step with twice the gradients is half the step of the table's own run, over the same time."""
    made = nets.make((6, 8, 5), 2, 300)
    runs = []
    monkeypatch.setattr(accuracy, "run_group", lambda name, options, made, gradients, seed: runs.append((options, gradients, seed)) or {})
    for change in (accuracy_bars.UNCHANGED, *accuracy_bars.CHANGES):
        accuracy_bars.run("1K", made, sampler, change)
    (first, more, half, large, hot), gradients, seeds = zip(*runs, strict=True)
    of_table = accuracy.samplers(made, accuracy.GRADIENTS["1K"], [sampler])[sampler]
    setting = accuracy.posterior_setting(made.widths, 300) if cost == 1 else {}
    assert without(first, "batch_size") == setting | of_table
    assert (gradients, set(seeds)) == ((4000, 8000, 8000, 4000, 4000), {accuracy_bars.SEED})
    assert without(more, "sampler") == without(half, "sampler") == without(first, "sampler")
    assert more["sampler"].step_size.factor == pytest.approx(first["sampler"].step_size.factor)
    assert half["sampler"].step_size.factor == pytest.approx(first["sampler"].step_size.factor / 2)
    assert more["sampler"].step_size.schedule.num_burn_in == half["sampler"].step_size.schedule.num_burn_in == 8000 // cost // 3
    assert without(large, "batch_size") == without(first, "batch_size")
    assert (first["batch_size"], large["batch_size"]) == (256, 1024)
    assert without(hot, "nbeta", "sampler") == without(first, "nbeta", "sampler")
    assert hot["nbeta"] == first["nbeta"] / 2


def test_lines_are_compared_with_the_references_of_their_groups(monkeypatch):
    """Half of nbeta has a reference of its own, two temperatures have theirs; a second call measures nothing, and lines of other groups are refused."""
    references, changes, lines, saved = [], [], [], []
    monkeypatch.setattr(accuracy_bars, "SHAPES", [("1K", (2, 2, 2))])
    monkeypatch.setattr(accuracy_bars, "run", lambda name, made, sampler, change: changes.append(change) or RUN | {"sampler": sampler})
    monkeypatch.setattr(accuracy_bars.gibbs, "values", lambda made, temperatures, *rest: references.append((temperatures, rest[0])) or {"llc": "hot"})
    for _ in range(2):
        accuracy_bars.measure([GROUP], lines, lambda: saved.append(len(lines)))
    assert references == [({20.0: 1.0}, 6.0)]
    assert (len(changes), saved) == (7, list(range(1, 10)))
    for line in lines:
        exact = {"llc": "hot"} if line["setting"]["nbeta"] == 0.5 else GROUP["ladder_reference" if line["sampler"] == accuracy.LADDER else "reference"]
        assert line["reference"] == exact
    with pytest.raises(ValueError, match="older"):
        accuracy_bars.measure([GROUP | {"reference": GROUP["ladder_reference"]}], lines, lambda: None)
    with pytest.raises(ValueError, match=r"no nets of \(2, 2, 2\)"):
        accuracy_bars.measure([], lines, lambda: None)


def test_tables_of_made_up_lines():
    line = {
        "class": "1K",
        "widths": [2, 2, 2],
        "sampler": accuracy.LADDER,
        "setting": {"name": "none"},
        "reference": {"llc": [9.5, 19.5], "std_error": [0.0, 0.24]},
    }
    line |= {"llc": [8.9, 19.9], "std_error": [0.1, 0.1], "step_bias": [0.89, 1.99]}
    assert report_accuracy.intervals([line]).splitlines()[-1] == "| 2-2-2 | two temperatures | none | 10.0% | 0.78% | -6.32% | +2.05% | 1 of 2 | 6.0 |"
    more = [line, line | {"widths": [3, 3, 3]}, line | {"sampler": accuracy.LARGER, "setting": {"name": "other"}, "llc": [9.5, 19.6]}]
    assert report_accuracy.coverage(more).splitlines()[2:] == ["| 1K | two temperatures | 2 of 4 |  |", "| 1K | one temperature |  | 2 of 2 |"]


def test_the_best_setting_runs_on_what_is_missing(monkeypatch):
    """One full-rank and one lower-rank net of a shape, by `accuracy.best_setting`, compared with the exact value at its two temperatures; once."""
    references, lines, saved = [], [], []
    setting = {"nbeta": 40.0, "localization": 6.0, "batch_size": 50, "num_chains": 2, "num_draws": 4, "num_burn_in": 0, "sampler": accuracy.SGLD(1e-5)}
    monkeypatch.setattr(accuracy, "best_setting", lambda widths, n: setting)
    monkeypatch.setattr(accuracy, "NUM_EXAMPLES", 200)
    monkeypatch.setattr(accuracy_best.gibbs, "values", lambda made, temperatures, *rest: references.append(temperatures) or {"llc": [1.0, 1.0]})
    for _ in range(2):
        accuracy_best.measure([("1K", (3, 4, 2))], lines, lambda: saved.append(len(lines)))
    assert references == [{40.0: 2.0, 80.0: -1.0}]
    assert saved == [1]
    (line,) = lines
    assert (line["class"], line["widths"], line["num_examples"], len(line["llc"])) == ("1K", [3, 4, 2], 200, accuracy_best.NETS)
    assert np.isfinite(line["llc"]).all()


def test_the_table_of_the_best_setting():
    line = {"class": "1K", "num_examples": 20_000, "llc": [8.9, 19.9], "std_error": [0.1, 0.1], "findings": ["", "ess"], "truth": [10.0, 20.0]}
    text = accuracy_best.table([line | {"reference": {"llc": [9.5, 19.5], "std_error": [0.0, 0.24]}}])
    assert text.splitlines()[-1] == "| 1K | 20,000 | 2 | 4.2% | 6.3% | 0.78% | 50% | 6.0 | 5.8% | 11.0% | 50% |"
