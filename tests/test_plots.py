"""Pictures show the numbers of their result."""

import itertools

import jax
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from problems import Quadratic, quadratic_loss, shifted
from trajectories import RUN, SHORT, follow

import jaxllc
from jaxllc import diagnostics, plots
from jaxllc.estimator import corrected_draws
from jaxllc.plots import plot_estimate, plot_trajectory

mpl.use("agg")
from matplotlib import pyplot as plt


def test_a_trajectory_is_drawn():
    problem = Quadratic()
    run = {step: shifted(problem.params, 0.01 * step) for step in (0, 1, 10, 100)}
    traj = jaxllc.trajectory(
        quadratic_loss,
        run,
        problem.data,
        key=jax.random.key(0),
        **SHORT,
    )
    top, bottom = traj.plot()
    np.testing.assert_allclose(top.lines[0].get_ydata(), traj.table()["llc"])
    np.testing.assert_allclose(bottom.lines[1].get_ydata(), traj.table()["loss"])
    band = top.collections[0].get_paths()[0].vertices[:, 1]
    table = traj.table()
    assert np.isclose(band.max(), (table["llc"] + 2 * table["std_error"]).max())
    shown = sum(len(line.get_xdata()) for line in top.lines if line.get_marker() == "o")
    assert shown == 4
    plt.close(top.figure)


def curve(llc, suspect):
    """A picture of values of λ̂ with errors of 0.1, and its axes."""
    step, llc = 10 * 2 ** np.arange(len(llc)), np.array(llc, float)
    lines = {"llc": llc, "std_error": np.full(len(llc), 0.1), "loss": -np.log(step), "mean_loss": -np.log(step)}
    summary = xr.Dataset({name: ("step", values) for name, values in lines.items()}, coords={"step": step})
    return plot_trajectory(summary, np.isin(np.arange(len(llc)), suspect))


def test_a_value_with_a_finding_far_outside_does_not_flatten_the_others():
    """It is told by an arrow at the edge; one without a finding, or not so far outside, has its place in the picture."""
    top = curve([-345, 8, 9, 12, 11, 10], [0])[0]
    assert -5 < top.get_ylim()[0] < 8
    assert [text.get_text() for text in top.texts] == ["-345"]
    plt.close(top.figure)
    most = [*range(4)]
    for llc, suspect in (
        ([-345, 8, 9, 12, 11, 10], []),
        ([7, 8, 9, 12, 11, 10], [0]),
        ([-345, np.nan, 10], [0, 1, 2]),
        ([2, 5, 9, 12, 30, 31], most),
    ):
        top = curve(llc, suspect)[0]
        assert top.get_ylim()[0] < llc[0]
        assert not top.texts
        plt.close(top.figure)


def test_numbers_at_the_edge_leave_room_for_each_other():
    """Of eight checkpoints far below, each has an arrow, and some their number."""
    top = curve([*range(-1000, -200, 100), *range(20, 40)], list(range(8)))[0]
    top.figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in top.texts if text.get_text()), key=lambda box: box.x0)
    assert len(top.texts) == 8
    assert 2 <= len(boxes) < 8
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    plt.close(top.figure)


def test_stages_of_several_runs_are_no_picture():
    traj = follow({"one": RUN, "two": RUN})
    stages = pd.DataFrame({"run": ["one", "two"], "start": [0.0, 0.0], "end": [1.0, 1.0], "type": ["A", "B"]})
    with pytest.raises(ValueError, match=r"stages are of several runs or components; pass those of one"):
        traj.plot(stages)
    plt.close("all")


def test_stages_are_shaded_and_named():
    """In both axes, with the intervals of the boundaries; the type stands above the middle of its stage."""
    stages = pd.DataFrame({"start": [10.0, 40.0], "end": [40.0, 320.0], "end_low": [35.0, 320.0], "end_high": [45.0, 320.0], "type": ["A", "undecided"]})
    axes = plots.plot_stages(stages, curve([7, 8, 9, 12, 11, 10], []))
    for axis in axes:
        spans = [patch.get_extents().transformed(axis.transData.inverted()) for patch in axis.patches]
        np.testing.assert_allclose([(box.x0, box.x1) for box in spans], [(10, 40), (40, 320), (35, 45)])
    middles = [axes[0].transData.inverted().transform(axes[0].transAxes.transform(text.get_position()))[0] for text in axes[0].texts]
    assert [text.get_text() for text in axes[0].texts] == ["A", "?"]
    np.testing.assert_allclose(middles, [20, np.sqrt(40 * 320)], rtol=1e-6)
    plt.close(axes[0].figure)


def test_several_runs_are_drawn_with_their_mean():
    problem = Quadratic()
    runs = {f"seed {i}": {step: shifted(problem.params, 0.01 * step + 0.1 * i) for step in (0, 1, 10, 100)} for i in range(3)}
    traj = jaxllc.trajectory(quadratic_loss, runs, problem.data, key=jax.random.key(0), **SHORT)
    top, bottom = traj.plot()
    table, mean = traj.table(), diagnostics.over_runs(traj.summary, corrected_draws(traj.data))
    np.testing.assert_allclose(top.lines[0].get_ydata(), table["llc"].groupby("step").mean(), rtol=1e-6)
    band = top.collections[0].get_paths()[0].vertices[:, 1]
    assert np.isclose(band.max(), (mean["llc"] + 2 * mean["std_error"]).max())
    for ax, column in ((top, "llc"), (bottom, "loss")):
        thin = [line.get_ydata() for line in ax.lines if line.get_linestyle() == "-" and line.get_linewidth() == 0.6]
        np.testing.assert_allclose(thin, [table.loc[name, column] for name in runs])
    assert sum(len(line.get_xdata()) for line in top.lines if line.get_marker() == "o") == 12
    plt.close(top.figure)
    # One run by its name has the band of its own errors, as it would without one.
    table = traj.summary.isel(run=0)
    top = jaxllc.Trajectory(traj.data.isel(run=[0])).plot()[0]
    band = top.collections[0].get_paths()[0].vertices[:, 1]
    assert np.isclose(band.max(), (table["llc"] + 2 * table["std_error"]).max())
    plt.close(top.figure)


def test_checkpoints_with_findings_are_hollow():
    """And those without are full; each of them is drawn once."""
    problem = Quadratic()
    run = {step: shifted(problem.params, 0.01 * step) for step in (0, 1, 10, 100)}
    traj = jaxllc.trajectory(quadratic_loss, run, problem.data, key=jax.random.key(0), **SHORT)
    suspect = np.array([True, False, False, True])
    top = plot_trajectory(traj.summary, suspect)[0]
    points = [line for line in top.lines if line.get_marker() == "o"]
    (full,), (hollow,) = ([line for line in points if (line.get_markerfacecolor() == "white") == wanted] for wanted in (False, True))
    np.testing.assert_array_equal(full.get_xdata(), [1, 10])
    np.testing.assert_array_equal(hollow.get_xdata(), [0, 100])
    np.testing.assert_allclose(hollow.get_ydata(), traj.summary["llc"].values[suspect])
    plt.close(top.figure)


def test_an_estimate_is_drawn():
    """Running means of each chain end at its mean; the means stand beside the whole and its band."""
    problem = Quadratic()
    est = jaxllc.estimate(quadratic_loss, problem.params, problem.data, key=jax.random.key(0), **(SHORT | {"thinning": 3}))
    left, right = est.plot()
    draws = corrected_draws(est.data)
    thick = [line for line in left.lines if line.get_linewidth() == 1.8]
    assert len(thick) == 4
    for line, chain in zip(thick, draws, strict=True):
        np.testing.assert_allclose(line.get_ydata(), chain.cumsum() / np.arange(1, 61))
        np.testing.assert_array_equal(line.get_xdata(), 3 * np.arange(1, 61))
    np.testing.assert_allclose(np.sort(right.lines[0].get_xdata()), np.sort(draws.mean(-1)))
    assert any(np.allclose(line.get_xdata(), est.llc) for line in right.lines[1:])
    plt.close(left.figure)


def test_a_chain_that_diverged_does_not_keep_the_others_from_being_drawn():
    draws = np.random.default_rng(0).normal(size=(3, 100))
    draws[1, 50:] = np.nan
    left, right = plot_estimate(draws, 0.0, 0.1)
    assert np.isfinite(left.get_ylim()).all()
    assert np.isfinite(right.lines[0].get_xdata()).sum() == 2
    plt.close(left.figure)


STEPS = ([20, 77, 900], [0, 1, 3, 10, 100, 1000], [0, 100, 200, 1000, 20_000], [20, 40, 80], [1000, 1500, 2000, 2900], [1, 10, 100, 10_000], [0, 5, 10], [0])


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_labels_of_the_training_step_leave_room_for_each_other(steps):
    figure, axis = plt.subplots(figsize=(4, 2))
    steps = np.array(steps)
    axis.plot(steps, 0.0 * steps, "o")
    plots._log_time(axis, steps)
    figure.canvas.draw()
    ticks = axis.xaxis.get_major_ticks() + axis.xaxis.get_minor_ticks()
    boxes = [tick.label1.get_window_extent() for tick in ticks if tick.label1.get_text() and axis.get_xlim()[0] <= tick.get_loc() <= axis.get_xlim()[1]]
    boxes.sort(key=lambda box: box.x0)
    assert len(boxes) >= (1 if len(steps) == 1 else 2)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    plt.close(figure)
