"""The quantities of the induction experiment on made-up runs with a planted fall and a planted lag, and the table of the answers."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from jaxllc import results
from jaxllc.trajectory import Trajectory
from research.development.analysis import log_step
from research.development.answers import judge
from research.development.bump import Curves, control_answer, levels_passed, other_windows, over_all, plant, rows, scatter, stages_of
from research.development.common import plain
from research.development.fall import BINS, RATIO
from research.development.induction_report import figure, table
from research.development.tasks import window_steps

RUNS, CHAINS, DRAWS = 6, 4, 3
CORRECTION = 0.5
"""Stored apart from the draws; without it all coefficients would be lower."""
GRID = np.asarray([0, *np.geomspace(10, 250, 10).round(), *np.arange(260, 2000, 30)])


def development(event, lag, depth, *, formed=True, layers=2, rng):
    """Runs whose prefix matching sets in at given steps, previous-token attention `lag` (of log-time) before; a dip, and a rise of 12 afterwards."""
    u = log_step(GRID)[None] - np.log(np.asarray(event))[:, None]
    width = 0.045
    rise, earlier = (1 / (1 + np.exp(-(u + early) / width + np.log(9))) for early in (0, lag))  # a tenth at the event
    llc = 20 + 12 * rise - depth * np.exp(-(((u + 0.15) / 0.08) ** 2))
    noise = 0.2 * rng.standard_normal((len(event), len(GRID), CHAINS, 1)) + 0.01 * rng.standard_normal((len(event), len(GRID), CHAINS, DRAWS))
    loss = 3.5 - 0.05 * log_step(GRID) - 0.7 * rise
    heads = np.zeros((len(event), len(GRID), layers, 2))
    previous, prefix = heads.copy(), heads.copy()
    previous[..., 0, 1] = 0.05 + 0.7 * earlier
    prefix[..., -1, 0] = 0.05 + (0.9 if formed else 0.02) * rise
    arrays = {
        ("posterior", "llc"): llc[..., None, None] + noise - CORRECTION,
        ("constant_data", "llc_correction"): np.full(llc.shape, CORRECTION),
        ("sample_stats", "loss"): loss[..., None, None] + 0.01 + 0 * noise,
        ("constant_data", "full_center_loss"): loss,
        ("constant_data", "gaussian_llc"): (30 + 30 * rise)[..., None] + np.zeros(CHAINS),
        ("probes", "previous_token"): previous,
        ("probes", "prefix_matching"): prefix,
        ("probes", "in_context"): -rise,
    }
    sizes = {"chain": CHAINS, "draw": DRAWS, "iteration": DRAWS}
    zeros = {name: np.zeros((*llc.shape, *(sizes[axis] for axis in axes))) for name, axes in results.DIMS.items()}
    arrays = {name: array.reshape(-1, *array.shape[2:]) for name, array in (zeros | arrays).items()}
    places = [results.Place(f"seed_{i}", int(step)) for i in range(len(event)) for step in GRID]
    probes = {name: {"at_checkpoint": True} for group, name in arrays if group == "probes"}
    lengths = {
        "num_weights": 100,
        "batch_size": 8,
        "num_examples": 1024,
        "localization": 1000.0,
        "relaxation_time": None,
        "num_chains": CHAINS,
        "num_draws": DRAWS,
        "num_burn_in": 0,
        "thinning": 1,
        "slow_every": 1,
    }
    return Trajectory(results.to_tree(arrays, places, {"nbeta": 1000.0, "probes": probes, **lengths}))


@pytest.fixture(scope="module")
def planted():
    """Six runs with a dip of 3 and a lag of 0.3, one of which is then made to form no induction head, and a control of one layer."""
    rng = np.random.default_rng(0)
    event = np.geomspace(500, 900, RUNS)
    traj = development(event, 0.3, 3.0, rng=rng)
    results.values(traj.data, "probes/prefix_matching")[-1] = 0.05
    control = development([700.0, 700.0], 0.0, 0.0, layers=1, rng=rng)
    results.values(control.data, "probes/previous_token")[:] *= 0.2
    return traj, control, rows(traj, stages_of(traj), 2.9)


def test_a_planted_dip_and_lag_come_out(planted):
    """Through rows and answers: a known lag, a dip where it is, a loss that keeps to its trend, a cloud that does not fall, and the seed without an induction
    head counted apart. Seen to fail with the window ending at the half rise, where the fall of the loss lies inside.
    """
    _, _, found = planted
    answer = over_all(found)
    assert [row["formed"] for row in found] == [True] * 5 + [False]
    assert answer["num_formed"] == 5
    for lag in (answer["log_lag_half"], answer["log_lag_third"]):
        assert lag.mean == pytest.approx(0.3, abs=0.03)
    assert answer["share_previous_token_first"] == 1
    middle = event_shares()[answer["llc_drop"].last]
    assert middle == pytest.approx(np.exp(-0.15), abs=0.05)
    assert 2 < answer["llc_drop_mean"] < 3 + 4 * answer["llc_drop_std_error"]  # a bin is wider than the dip's summit
    assert answer["gaussian_llc_drop"].depth.high <= 0
    assert answer["loss_excess"].high < 0.25
    assert answer["llc_rise"].mean == pytest.approx(12, abs=1.5)
    assert answer["log_lags_to_half"]["llc_half"].mean == pytest.approx(0, abs=0.05)
    assert answer["verdict"].startswith("replicates")
    assert np.isnan(found[-1]["log_lag_half"])
    assert np.isnan(found[-1]["llc"]).all()
    assert np.isfinite(found[-1]["drop_while_previous_token_rises"])


def event_shares():
    return np.exp(np.log(RATIO) * ((np.arange(BINS) + 0.5) / BINS - 1))


def test_a_planted_fall_changes_the_coefficient_and_nothing_else(planted):
    """By its depth after 0.87 of the event's step, by nothing before 0.66, in every draw of every chain; the original stays."""
    traj, _, found = planted
    formed = [row for row in found if row["formed"]]
    old = results.values(traj.data, "posterior/llc").copy()
    tree = plant(traj, formed, 5.0).data
    shift = old[:5] - results.values(tree, "posterior/llc")
    for i, row in enumerate(formed):
        share = GRID / row["window"][1]
        np.testing.assert_allclose(shift[i, share > 0.87], 5)
        np.testing.assert_allclose(shift[i, share < 0.66], 0)
    np.testing.assert_array_equal(results.values(traj.data, "posterior/llc"), old)
    np.testing.assert_array_equal(results.values(tree, "constant_data/full_center_loss"), results.values(traj.data, "constant_data/full_center_loss")[:5])


def test_the_control_is_asked_in_the_same_windows(planted):
    """A level control neither falls nor passes a third of the two-layer runs' rise; it passes a tenth, where no onset of these may therefore be sought."""
    traj, control, found = planted
    answer = control_answer(control, found)
    assert answer["num_seeds"] == 2
    assert answer["mean_plus_3_sd_at_most"]["previous_token"] == pytest.approx(0.15, abs=0.01)
    tenth, third, half = levels_passed(traj, control, found)
    assert all(tenth["control_passes_at"])
    assert third["control_passes_at"] == half["control_passes_at"] == [None, None]


def test_the_windows_steps_are_all_inside_and_one_on_each_side():
    steps = [0, 10, 20, 30, 40, 50, 60]
    assert window_steps(steps, 25, 45) == [20, 30, 40, 50]
    assert window_steps(steps, 20, 40) == [20, 30, 40]


def test_curves_of_runs_and_chains():
    """The greatest head of the first layer for previous tokens, of the last for prefix matching; chains averaged over their draws."""
    traj = development([600.0, 700.0], 0.3, 0.0, rng=np.random.default_rng(2))
    curves = Curves.of(traj)
    np.testing.assert_allclose(curves.scores["previous_token"], results.values(traj.data, "probes/previous_token")[:, :, 0, 1])
    np.testing.assert_allclose(curves.scores["prefix_matching"], results.values(traj.data, "probes/prefix_matching")[:, :, 1, 0])
    assert curves.llc.shape == curves.cloud.shape == (2, len(GRID), CHAINS)
    draws = results.values(traj.data, "posterior/llc")
    np.testing.assert_allclose(curves.llc, draws.mean(-1) + CORRECTION)


def test_scatter_is_that_of_white_noise():
    """Noise of 0.3 about any straight line gives 0.3; seeds without a window are left out."""
    rng = np.random.default_rng(0)
    values = np.arange(7) * 2.0 + 0.3 * rng.normal(size=(400, 1, 7))
    assert scatter(values) == pytest.approx(0.3, abs=4 * 0.3 / np.sqrt(2 * 400 * 5 / 3))
    assert scatter(np.concatenate([values, np.full((1, 1, 7), np.nan)])) == pytest.approx(scatter(values))


def test_the_table_tells_the_answers(planted):
    """Every claim, every seed and the control stand in it; real text that was not run is said to be missing."""
    traj, control, found = planted
    result = plain(
        {**over_all(found), "rows": found, "type_b_power": {2.0: 0.5}, "other_windows": other_windows(traj, found), "text": None}
        | {"themselves": over_all(found), "sensitivity": [{"setting": {"nbeta": 300.0}, **SENSITIVE}, {"setting": {}, **SENSITIVE}]}
        | {"control": control_answer(control, found) | {"levels_passed": levels_passed(traj, control, found)}, "seconds_by_part": {"train": 1.0}}
    )
    told = table(result)
    assert told.count("| yes |") == 4
    assert all(f"| seed_{i} |" in told for i in range(RUNS))
    assert all(part in told for part in ("not run", "50% at a depth of 2", "| train | 1 |"))
    assert "| nbeta 300 | 0.50 ± 0.10 | -1.00 ± 0.20 | ess 2 |" in told
    assert "| as above | 0.50 ± 0.10 |" in told


SENSITIVE = {"drop": [0.5], "drop_error": [0.1], "change": [-1.0], "change_error": [0.2], "findings": [{"ess": 2}]}


def test_the_result_of_a_run_is_that_of_its_parts(planted):
    """`judge` puts together what the functions above give, and the optional parts are still empty."""
    traj, control, seeds = planted
    result, answer = judge(traj, control, 2.9)
    assert plain(answer) == plain(over_all(seeds)) == {name: plain(result)[name] for name in plain(answer)}
    assert plain(result["rows"]) == plain(seeds)
    assert plain(result["control"]) == plain(control_answer(control, seeds) | {"levels_passed": levels_passed(traj, control, seeds)})
    assert (result["num_seeds"], result["num_chains"]) == (RUNS, CHAINS)
    assert (result["sensitivity"], result["themselves"], result["text"]) == ([], None, None)


def test_the_figure_shows_the_means_over_seeds(planted):
    """In the panel of λ̂ the thick line is the mean over seeds and chains; the windows of the seeds with an induction head are shaded."""
    traj, control, seeds = planted
    both = figure(traj, control, None, seeds, over_all(seeds))
    panels = np.reshape(both.axes, (3, 3))
    mean = panels[1, 0].containers[0].lines[0].get_ydata()
    np.testing.assert_allclose(mean, Curves.of(traj).llc.mean((0, -1)), rtol=1e-6)
    assert len(panels[1, 0].patches) == sum(seed["formed"] for seed in seeds)
    plt.close(both)
