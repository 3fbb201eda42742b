"""The accuracy benchmark's own arithmetic: what it says of made-up rows, and that rivals and references get the very same nets."""

import numpy as np
import pytest

from benchmarks import accuracy, accuracy_rivals
from benchmarks import deep_linear_nets as nets


def row(llc, step_bias=0.0, std_error=0.1):
    """A shape of two nets whose λ is 10 and 20 and whose posteriors say 9.5 and 19.5."""
    run = {
        "sampler": "SGLD",
        "bars": accuracy.BARS,
        "llc": llc,
        "std_error": [std_error] * 2,
        "step_bias": [step_bias] * 2,
        "ess": [1000.0] * 2,
        "num_diverged": [0, 0],
    }
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
    assert (ours["covered"], ours["clean"]) == (1, 1)
    assert ours["median_error_to_posterior"] == pytest.approx((0.1 / 9.5 + 0.4 / 19.5) / 2)
    assert (ours["with_findings"], ours["diverged"], ours["order_preserved"]) == (0.5, 0.0, 1.0)
    assert left_in["bias_to_posterior"] == pytest.approx((0.9 / 9.5 + 1.4 / 19.5) / 2)
    assert accuracy.table([own, ours, left_in]).count("\n") == 4


def test_error_bars_of_before_are_not_shown():
    one = row([9.4, 19.9])
    one["runs"][0]["bars"] = accuracy.BARS - 1
    ours = accuracy.summarise([one])[2]
    assert "coverage" not in ours
    assert "with_findings" not in ours
    assert accuracy.table([ours]).count("\n") == 2


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
