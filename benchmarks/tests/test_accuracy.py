"""The accuracy benchmark's own arithmetic: what it says of made-up rows, and that rivals and references get the very same nets."""

import numpy as np
import pytest

from benchmarks import accuracy, accuracy_bars, accuracy_best, accuracy_rivals
from benchmarks import deep_linear_nets as nets


def row(llc, step_bias=0.0, std_error=0.1):
    """A shape of two nets whose λ is 10 and 20 and whose posteriors say 9.5 and 19.5."""
    run = {"sampler": "SGLD", "llc": llc, "std_error": [std_error] * 2, "step_bias": [step_bias] * 2, "ess": [1000.0] * 2, "num_diverged": [0, 0]}
    own = {"llc": [9.5, 19.5], "std_error": [0.0, 0.0], "rhat": [1.0, 1.005]}
    ladder = {"llc": [9.9, 19.9], "std_error": [0.0, 0.0], "rhat": [1.0, 1.001]}
    return {
        "class": "1K",
        "num_examples": 20_000,
        "widths": [2, 2, 2],
        "llc": [10.0, 20.0],
        "reference": own,
        "ladder_reference": ladder,
        "runs": [run | {"findings": ["", "ess: only 5 effective draws"]}],
    }


def test_lines_of_made_up_rows():
    own, own_of_ladder, ours, left_in = accuracy.summarise([row([9.4, 19.9], step_bias=1.0)])
    assert (own_of_ladder["max_rhat"], own_of_ladder["bias_to_llc"]) == (1.001, pytest.approx((-0.01 - 0.005) / 2))
    assert (own["max_rhat"], own["median_error_to_posterior"]) == (1.005, 0.0)
    assert ours["coverage"] == 0.5  # one standard error away, and four
    assert ours["median_error_to_posterior"] == pytest.approx((0.1 / 9.5 + 0.4 / 19.5) / 2)
    assert (ours["with_findings"], ours["diverged"], ours["order_preserved"]) == (0.5, 0.0, 1.0)
    assert left_in["bias_to_posterior"] == pytest.approx((0.9 / 9.5 + 1.4 / 19.5) / 2)
    assert accuracy.table([own, ours, left_in]).count("\n") == 4


def test_the_best_step_of_a_rival_is_the_one_nearest_to_the_posterior():
    """A net that diverged counts as infinitely wrong, and rivals and ours are compared on the nets that all ran."""
    found = [
        {"widths": [2, 2, 2], "net": k, "rival": "other", "method": "SGLD", "share": share, "llc": value}
        for share, values in ((1 / 64, (9.6, 19.6)), (1 / 4, (9.5, None)))
        for k, value in enumerate(values, 1)
    ]
    lines = accuracy_rivals.summarise(found, [row([9.5, 19.5])], {"SGLD": "reference"})
    best = {(line["rival"], line["share"]) for line in lines if line.get("best")}
    assert best == {("other", 1 / 64), ("jaxllc", None)}
    assert [line["nets"] for line in lines] == [2, 2, 2]
    assert lines[1]["p90_error_to_posterior"] == np.inf
    assert "| 1K | jaxllc | **SGLD** |" in accuracy_rivals.table([{"class": "1K", **line} for line in lines])


def test_rivals_get_the_same_nets(tmp_path):
    """The stored arrays give the loss of the benchmark's own function at w*, to rounding."""
    made = nets.make((6, 8, 5), 2, 300)
    accuracy_rivals.store(made, tmp_path / "nets.npz")
    with np.load(tmp_path / "nets.npz") as stored:
        x, noise, product, signs = (stored[name] for name in ("x", "noise", "2/product", "2/signs"))
        outputs = np.linalg.multi_dot([x, stored["2/layer0"], stored["2/layer1"]])
    center = made.centers[2]
    ours = np.asarray(nets.loss(center, made.arrays))
    np.testing.assert_allclose(0.5 * ((outputs - (x @ product + noise * signs)) ** 2).sum(-1), ours, rtol=1e-4)


def test_a_ladder_is_held_to_its_own_posteriors():
    one = row([9.8, 20.0])
    one["runs"] = [run | {"sampler": accuracy.LADDER} for run in one["runs"]]
    *_, ours = accuracy.summarise([one])
    assert ours["coverage"] == 1.0
    assert ours["median_error_to_posterior"] == pytest.approx((0.1 / 9.9 + 0.1 / 19.9) / 2)


def test_a_change_of_a_setting_changes_that_alone(monkeypatch):
    """Half the step with twice the gradients is half the step of the table's own run, over the same time."""
    made = nets.make((6, 8, 5), 2, 300)
    seen = []
    monkeypatch.setattr(accuracy, "run_group", lambda name, options, made, gradients, seed: seen.append((options, gradients, seed)) or {})

    def without(options, *names):
        return {name: value for name, value in options.items() if name not in names}

    for sampler, cost in ((accuracy.LARGER, 1), (accuracy.LADDER, 2)):
        for change in (accuracy_bars.AS_IT_IS, *accuracy_bars.CHANGES):
            accuracy_bars.run("1K", made, sampler, change)
        (first, more, half, large, cold), gradients, seeds = zip(*seen, strict=True)
        seen.clear()
        table = accuracy.samplers(made, accuracy.GRADIENTS["1K"], [sampler])[sampler]
        setting = accuracy.posterior_setting(made.widths, 300) if cost == 1 else {}
        assert without(first, "batch_size") == setting | table
        assert (gradients, set(seeds)) == ((4000, 8000, 8000, 4000, 4000), {accuracy_bars.SEED})
        assert without(more, "sampler") == without(half, "sampler") == without(first, "sampler")
        assert more["sampler"].step_size.factor == pytest.approx(first["sampler"].step_size.factor)
        assert half["sampler"].step_size.factor == pytest.approx(first["sampler"].step_size.factor / 2)
        assert more["sampler"].step_size.schedule.num_burn_in == half["sampler"].step_size.schedule.num_burn_in == 8000 // cost // 3
        assert without(large, "batch_size") == without(first, "batch_size")
        assert (first["batch_size"], large["batch_size"]) == (256, 1024)
        assert without(cold, "nbeta", "sampler") == without(first, "nbeta", "sampler")
        assert cold["nbeta"] == first["nbeta"] / 2


def test_bars_are_held_to_the_references_of_their_rows(monkeypatch):
    """Half of nbeta has a reference of its own, a ladder that of ladders; a second call measures nothing, and lines of other rows are refused."""
    run = row([9.4, 19.9])["runs"][0]
    one = row([9.4, 19.9]) | {"seed": 0, "nbeta": 40.0, "localization": 6.0, "runs": [run | {"sampler": name} for name in accuracy.BEST]}
    asked, ran, known, kept = [], [], [], []
    monkeypatch.setattr(accuracy_bars, "SHAPES", [("1K", (2, 2, 2))])
    monkeypatch.setattr(accuracy_bars, "run", lambda name, made, sampler, change: ran.append(change) or run | {"sampler": sampler})
    monkeypatch.setattr(accuracy_bars.gibbs, "values", lambda made, rungs, localization, sweeps: asked.append((rungs, localization)) or {"llc": "cold"})
    for _ in range(2):
        accuracy_bars.measure([one], known, lambda: kept.append(len(known)))
    assert asked == [({20.0: 1.0}, 6.0)]
    assert (len(ran), kept) == (7, list(range(1, 10)))
    for line in known:
        own = {"llc": "cold"} if line["setting"]["nbeta"] == 0.5 else one["ladder_reference" if line["sampler"] == accuracy.LADDER else "reference"]
        assert line["reference"] == own
    with pytest.raises(ValueError, match="older"):
        accuracy_bars.measure([one | {"reference": one["ladder_reference"]}], known, lambda: None)
    with pytest.raises(ValueError, match=r"no nets of \(2, 2, 2\)"):
        accuracy_bars.measure([], known, lambda: None)


def test_bars_of_made_up_lines():
    line = {
        "class": "1K",
        "widths": [2, 2, 2],
        "sampler": accuracy.LADDER,
        "setting": {"name": "none"},
        "reference": {"llc": [9.5, 19.5], "std_error": [0.0, 0.24]},
    }
    line |= {"llc": [8.9, 19.9], "std_error": [0.1, 0.1], "step_bias": [0.89, 1.99]}
    assert accuracy_bars.table([line]).splitlines()[-1] == "| 2-2-2 | ladder | none | 10.0% | 0.78% | -6.32% | +2.05% | 1 of 2 | 6.0 |"
    more = [line, line | {"widths": [3, 3, 3]}, line | {"sampler": accuracy.LARGER, "setting": {"name": "other"}, "llc": [9.5, 19.6]}]
    assert accuracy_bars.covered(more).splitlines()[2:] == ["| 1K | ladder | 2 of 4 |  |", "| 1K | one nβ |  | 2 of 2 |"]


def test_the_best_setting_on_made_up_nets():
    found = {"class": "1K", "num_examples": 20_000, "llc": [8.9, 19.9], "std_error": [0.1, 0.1], "findings": ["", "ess"], "truth": [10.0, 20.0]}
    text = accuracy_best.table([found | {"reference": {"llc": [9.5, 19.5], "std_error": [0.0, 0.24]}}])
    assert text.splitlines()[-1] == "| 1K | 20,000 | 2 | 4.2% | 6.3% | 0.78% | 50% | 6.0 | 5.8% | 11.0% | 50% |"
