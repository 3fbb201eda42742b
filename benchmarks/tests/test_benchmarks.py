"""The measuring of the benchmarks and the tables that are made of it."""

import json
import os
import subprocess
import sys

import pytest

timing = pytest.importorskip("benchmarks.timing")
report = pytest.importorskip("benchmarks.report")


def test_the_marginal_cost_leaves_out_what_a_call_costs_once():
    assert timing.marginal(lambda steps: 7.0 + 0.25 * steps, 80) == pytest.approx(0.25)
    assert timing.slope(lambda steps: 7.0 + 0.25 * steps, 80)() == pytest.approx(0.25e6)


def test_turns_are_interleaved_and_the_first_does_not_count(monkeypatch):
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    asked = []
    runs = {name: lambda name=name: asked.append(name) or float(len(asked)) for name in "ab"}
    assert timing.interleaved(runs, 3) == {"a": [3.0, 5.0, 7.0], "b": [4.0, 6.0, 8.0]}
    assert asked == list("abababab")


def test_ratios_are_those_within_turns():
    """In a slow turn both are slow: the median of the ratios is 2, the ratio of the medians is 3."""
    ours, theirs = [1.0, 10.0, 2.0], [2.0, 20.0, 6.0]
    assert timing.ratios(theirs, ours) == 2
    assert timing.faster("it", {"o": ours, "t": theirs}, "o", "t", 1.5)["measured"] == 2
    assert timing.costs("it", {"o": ours, "t": theirs}, "o", "t", 1.5)["measured"] == 0.5
    assert timing.cheapest({"o": ours, "t": theirs}) == "o"


@pytest.mark.parametrize(("cost", "steps"), [(1e-3, 1200), (1e-5, 120_000), (1.0, 64)])
def test_enough_steps_fill_the_time(cost, steps):
    assert timing.enough_steps(lambda count: 3.0 + cost * count, 1.2) == pytest.approx(steps, abs=4)


def test_a_worker_answers_and_its_last_words_are_told():
    code = "import sys; print('answer {}', flush=True)\nfor line in sys.stdin: print('noise'); print('answer', int(line) / 4, flush=True)"
    worker = timing.Worker([sys.executable, "-c", code])
    assert worker(8) == 2.0
    worker.close()
    with pytest.raises(RuntimeError, match=r"exit status 1(.|\n)*no such thing"):
        timing.Worker([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_goals_say_what_was_missed():
    rows = [timing.row("cost", 1.1, 1.2, at_most=True), timing.row("gain", 3, 4, at_most=False, ours_us=1.0, other_us=4.0)]
    assert report.goals(rows).splitlines()[2:] == ["| cost | ≤ 1.1 | 1.2 | missed |  |", "| gain | ≥ 3 | 4 | met | 1.0 · 4.0 |"]


def test_digits_have_no_exponents():
    assert [report.digits(x, 2) for x in (139.7, 0.91, 12345.0, 0.22, 3.0)] == ["140", "0.91", "12000", "0.22", "3"]


def test_results_of_another_format_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist; run `python -m benchmarks.memory`"):
        report.load("memory", tmp_path)
    (tmp_path / "memory.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(ValueError, match="has an older format"):
        report.load("memory", tmp_path)


@pytest.mark.slow
def test_the_pieces_of_the_benchmarks_run():
    """On a tiny net, in a process of its own since they choose the devices: figures are positive, counts of bytes and operations too."""
    code = (
        "from benchmarks.cases import *\n"
        "from benchmarks import memory, roofline\n"
        "from benchmarks.timing import interleaved, ratios, slope\n"
        "case = deep_linear((4, 4, 4), 20, 512)\n"
        "loops = {'ours': chain_step(case), 'shared': chain_step(case, data_of=SharedBatches), 'blackjax': blackjax_loop(case)} | bare_gradients(case)\n"
        "found = interleaved({name: slope(run, 4096) for name, run in loops.items()}, 3)\n"
        "assert len(found) == 7\n"
        "assert all(ratios(found[name], found['ours']) > 0 for name in found), found\n"
        "assert 1 < memory.per_chain(deep_linear((128,) * 3, 20, 0))['ours'] < 4\n"
        "assert roofline.counts(case)[0] > 2 * 20 * 16\n"
        "for part in roofline.PARTS: assert roofline.without(case, part)(64) > 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=timing.ROOT, env=os.environ | {"DEVICES": "1"})
