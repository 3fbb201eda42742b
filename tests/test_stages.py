"""Stages: on a published curve, on curves without any, and on curves with known ones."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from jaxllc import results
from jaxllc.stages import find_stages, recurring
from jaxllc.trajectory import Trajectory

PUBLIC = Path(__file__).parents[2] / "shared/data/lm_curve.csv"
STEP = np.unique(np.geomspace(10, 1e5, 60).round())
U = np.log(STEP / STEP[0]) / np.log(STEP[-1] / STEP[0])


def sigmoid(u, middle, width):
    return 1 / (1 + np.exp((middle - u) / width))


def noise(rng, correlation):
    """Gaussian noise of variance one, of which neighbours share a part."""
    values = rng.standard_normal(len(U))
    for i in range(1, len(U)):
        values[i] = correlation * values[i - 1] + np.sqrt(1 - correlation**2) * values[i]
    return values


def without_stages(kind, seed):
    """A smooth rise, or none, of one of three forms, with errors that differ threefold between checkpoints, and a loss that falls smoothly."""
    rng = np.random.default_rng([seed, 1])
    error = 0.3 * np.exp(rng.uniform(-0.7, 0.7, len(U)) + U * rng.uniform(-1, 1))
    rises = sigmoid(U, rng.uniform(0.3, 0.7), rng.uniform(0.06, 0.25)), U ** rng.uniform(0.6, 1.6), 1 - np.exp(-U / rng.uniform(0.15, 0.6))
    llc = 20 + (0 if "flat" in kind else 30) * rises[rng.integers(3)] + error * noise(rng, rng.uniform(0.4, 0.9) if "correlated" in kind else 0.0)
    loss = 2 + 4 * np.exp(-U / rng.uniform(0.15, 0.6)) - ("loss" in kind) * sigmoid(U, rng.uniform(0.3, 0.7), 0.03)
    claimed = error * {"understated": 0.25, "overstated": 5.0}.get(kind, 1.0)
    return STEP, llc, claimed, loss + 0.01 * noise(rng, 0.0), np.full(len(U), 0.01)


KINDS = ("rise", "rise, correlated", "understated", "overstated", "flat", "flat, correlated", "loss only")


def test_no_stage_is_claimed_where_there_is_none():
    """Of 210 curves at most 5 % have a boundary or a stage of type B, and of no kind more than its 30 allow at that rate."""
    wrong = {}
    for kind in KINDS:
        found = [find_stages(*without_stages(kind, seed)) for seed in range(30)]
        wrong[kind] = sum(len(table) > 1 or "B" in set(table["type"]) for table in found)
        if "flat" not in kind and kind != "loss only":
            assert sum(table["type"][0] == "A" for table in found) >= 27
        if "flat" in kind:
            assert sum(set(table["type"]) == {"undecided"} for table in found) >= 27
    assert sum(wrong.values()) <= 0.05 * 30 * len(KINDS), wrong
    assert max(wrong.values()) <= binom.ppf(0.99, 30, 0.05), wrong


def bump(depth, seed, correlation=0.0):
    """Two rises with a fall between, of `depth` standard deviations of a point, at known places."""
    rng = np.random.default_rng([seed, 2])
    fine = np.linspace(0, 1, 20_001)

    def curve(u, fall):
        return 20 * sigmoid(u, 0.25, 0.03) + 20 * sigmoid(u, 0.8, 0.03) - fall * sigmoid(u, 0.52, 0.03)

    inside = (fine > 0.35) & (fine < 0.7)
    fall = 0.3 * depth
    for _ in range(60):  # the rises' tails take some of the fall
        values = curve(fine[inside], fall)
        fall += 0.3 * depth - (values.max() - values[values.argmax() :].min())
    top = fine[inside][values.argmax()]
    bottom = fine[inside][values.argmax() + values[values.argmax() :].argmin()]
    loss = 6 - 3 * U + 0.01 * rng.standard_normal(len(U))
    truth = STEP[0] * (STEP[-1] / STEP[0]) ** np.array([top, bottom])
    return (STEP, curve(U, fall) + 0.3 * noise(rng, correlation), np.full(len(U), 0.3), loss), truth


def fall_of(table):
    """The row of type B between two of type A, or None."""
    return table.iloc[1] if list(table["type"]) == ["A", "B", "A"] else None


@pytest.mark.parametrize(("depth", "power"), [(0.0, 0.0), (4.0, 0.4), (6.0, 0.9), (8.0, 0.95)])
def test_power(depth, power):
    """How often a fall of so many standard deviations of a point, over some ten points, is found as a hidden stage of type B between two of type A."""
    found = [fall_of(find_stages(*bump(depth, seed)[0])) for seed in range(20)]
    share = np.mean([row is not None for row in found])
    assert share >= power if depth else share <= 0.05
    assert np.mean([row["hidden"] for row in found if row is not None] or [1]) >= 0.8


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_boundaries_and_changes_lie_in_their_intervals(correlation):
    """Of a fall of eight: each of 95 % intervals covers the truth in as many of 30 curves as such intervals do, at the level 0.001."""
    rows, truths = [], []
    for seed in range(30):
        curve, truth = bump(8.0, seed, correlation)
        if (row := fall_of(find_stages(*curve))) is not None:
            rows.append(row)
            truths.append(truth)
    found, truth = pd.DataFrame(rows), np.array(truths)
    assert len(found) >= 25
    fewest = binom.ppf(0.001, len(found), 0.95)
    assert (found["start_low"].lt(truth[:, 0]) & found["start_high"].gt(truth[:, 0])).sum() >= fewest
    assert (found["end_low"].lt(truth[:, 1]) & found["end_high"].gt(truth[:, 1])).sum() >= fewest
    assert (np.abs(found["delta_llc"] + 2.4) < 2 * found["delta_llc_error"]).sum() >= fewest


def test_a_pause_is_a_boundary():
    """Two rises with a level stretch between are two stages of type A, which meet in that stretch."""
    rng = np.random.default_rng(0)
    llc = 20 * sigmoid(U, 0.25, 0.04) + 10 * sigmoid(U, 0.75, 0.04) + 0.2 * rng.standard_normal(len(U))
    table = find_stages(STEP, llc, np.full(len(U), 0.2), 6 - 3 * U + 0.01 * rng.standard_normal(len(U)))
    assert list(table["type"]) == ["A", "A"]
    assert (np.abs(table["delta_llc"] - [20, 10]) < 3 * table["delta_llc_error"]).all()
    assert 0.35 < np.log(table["end"][0] / STEP[0]) / np.log(STEP[-1] / STEP[0]) < 0.65


def test_scores():
    """A mirror of the loss scores about nothing; a fall that the loss does not show scores highest; a fall of the loss with it is not hidden."""
    rng = np.random.default_rng(0)
    loss = 6 - 2 * sigmoid(U, 0.25, 0.04) - sigmoid(U, 0.75, 0.04) + 0.001 * rng.standard_normal(len(U))
    mirror = find_stages(STEP, 100 - 10 * loss, None, loss)
    assert len(mirror) == 2
    assert (np.abs(mirror["score"]) < 0.05).all()
    (step, llc, error, smooth), _ = bump(20.0, 0)
    hidden = find_stages(step, llc, error, smooth)
    assert list(hidden["rank"])[1] == 1
    assert hidden["hidden"].tolist() == [False, True, False]
    seen = find_stages(step, llc, error, smooth - 0.5 * sigmoid(U, 0.52, 0.02))
    assert list(seen["type"]) == ["A", "B", "A"]
    assert not seen["hidden"].any()
    assert seen["loss_excess"][1] < -5 * seen["loss_excess_error"][1]


@pytest.fixture(scope="module")
def public():
    if not PUBLIC.exists():
        pytest.skip("the published curve is not here")
    return pd.read_csv(PUBLIC)


@pytest.mark.parametrize("errors", ["stored", "unknown"])
def test_the_published_stages_of_a_language_model(public, errors):
    """The five stages of arXiv:2402.02364 on the reported coefficient, of whose errors only the shape is believed, or nothing."""
    table = find_stages(public["step"], public["llc_reported"], public["llc_std_reported"] if errors == "stored" else None, public["test_loss"])
    assert list(table["type"]) == list("AABAA")
    ends = table["end"].to_numpy()[:-1]
    assert (np.abs(ends / [900, 6500, 8500, 17_000] - 1) < [0.15, 0.15, 0.15, 0.25]).all()
    assert (np.abs(table["delta_llc"] - [26.4, 22.5, -1.57, 8.62, 1.77]) < 2 * table["delta_llc_error"]).all()
    assert table["delta_llc_error"][2] < 0.2
    assert table["hidden"].tolist() == [False, False, True, False, False]
    assert table["rank"][2] == 1


def test_the_published_curve_with_its_baseline_corrected(public):
    """The hidden fall survives, half as deep: -0.75 ± 0.09, eight standard errors from none and nine from what was reported; the pause near 17k does not."""
    table = find_stages(public["step"], public["llc_corrected"], None, public["test_loss"])
    assert list(table["type"]) == list("AABA")
    fall = table.loc[2]
    assert fall["hidden"]
    assert fall["delta_llc_error"] == pytest.approx(0.09, abs=0.015)
    assert fall["delta_llc"] == pytest.approx(-0.745, abs=0.02)
    assert fall["start_low"] < 6700 < fall["start_high"]
    assert fall["end_low"] < 8450 < fall["end_high"]


def test_stages_that_recur():
    """Three runs A B A, of which one lacks the fall and one has a stage more: the alignment tells them apart, lags are paired by run."""
    rows = [
        ("x", "A", 0, 100, 10.0), ("x", "B", 100, 200, -1.0), ("x", "A", 200, 800, 5.0),
        ("y", "A", 0, 110, 12.0), ("y", "B", 110, 440, -2.0), ("y", "A", 440, 800, 5.0), ("y", "B", 800, 900, -7.0),
        ("z", "A", 0, 800, 14.0),
    ]  # fmt: skip
    found = recurring(pd.DataFrame(rows, columns=["run", "type", "start", "end", "delta_llc"]))
    assert list(found["type"][:3]) == ["A", "B", "A"]
    assert list(found["count"][:3]) == [2, 2, 3] or list(found["count"][:3]) == [3, 2, 2]
    assert found["delta_llc"][1] == -1.5
    assert found["delta_llc_error"][1] == pytest.approx(0.5)
    assert found["lag"][1] == pytest.approx(np.log([2, 4]).mean())
    assert found["lag_error"][1] == pytest.approx(np.log(2) / 2)
    with pytest.raises(ValueError, match="column 'run'"):
        recurring(pd.DataFrame({"type": ["A"]}))


def tree_of(llc, loss, rng, tilt):
    """A result whose 8 chains differ from the curve by offsets and lines in log-time; `llc` (row, step)."""
    chains = llc[..., None] + 5 * rng.standard_normal(8) + tilt * U[:, None]
    draws = chains[..., None] + 0.05 * rng.standard_normal((*chains.shape, 20))
    found = {name: np.zeros(draws.shape[:-1]) for name in (("sample_stats", "step_bias"), ("constant_data", "gaussian_llc"))}
    found |= {("posterior", "llc"): draws, ("sample_stats", "loss"): draws, ("constant_data", "full_center_loss"): loss}
    return results.to_tree(found, results.coordinates([int(s) for s in STEP], 8, 20), {"nbeta": 10.0})


def test_errors_of_a_trajectory_are_paired():
    """Chains far apart that move together: a change is known far better than a value, as well as the chains' tilts let it.

    Seen to fail without the chains in the errors.
    """
    rng = np.random.default_rng(0)
    (_, llc, _, loss), _ = bump(20.0, 0)
    tilt = 6 * rng.standard_normal(8)
    tilt -= tilt.mean()
    traj = Trajectory(tree_of(llc, loss, rng, tilt))
    table, alone = traj.stages(), find_stages(STEP, llc, None, loss)
    assert list(table["type"]) == ["A", "B", "A"]
    assert (traj.table()["std_error"] > 0.9).all()
    share = np.diff(np.log([STEP[0], *table["end"]])) / np.log(STEP[-1] / STEP[0])
    expected = np.hypot(alone["delta_llc_error"], share * tilt.std(ddof=1) / np.sqrt(8) * np.sqrt(7 / 5))
    np.testing.assert_allclose(table["delta_llc_error"], expected, rtol=0.25)
    np.testing.assert_allclose(table["delta_llc"], alone["delta_llc"], atol=0.3)


def test_bad_input():
    step, llc, error, loss, _ = without_stages("rise", 0)
    bad = np.where(step == step[3], np.nan, llc)
    with pytest.raises(ValueError, match="at least 8 checkpoints"):
        find_stages(step[:7], llc[:7], None, loss[:7])
    with pytest.raises(ValueError, match="increase; sort"):
        find_stages(step[::-1], llc, error, loss)
    with pytest.raises(ValueError, match="llc is nan at step"):
        find_stages(step, bad, error, loss)
    with pytest.raises(ValueError, match=r"one value for each of \d+ steps, got shape \(3,\)"):
        find_stages(step, llc, error, loss[:3])
    with pytest.raises(ValueError, match="llc_error must be positive, got 0"):
        find_stages(step, llc, 0 * error, loss)
    with pytest.raises(ValueError, match="at least 4 chains"):
        find_stages(step, llc, error, loss, chains=llc[None])
