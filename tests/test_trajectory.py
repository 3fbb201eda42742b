"""A run of checkpoints: groups, paired changes, tables, references, and what is read of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import quadratic_loss, shifted
from trajectories import PROBLEM, RUN, RUNS, SHORT, Counting, draws, follow, stopped

import jaxllc


def test_the_numbers_do_not_depend_on_the_group():
    for size in (1, 2, 3):
        np.testing.assert_allclose(draws(follow(group_size=size)), draws(follow(group_size=5)), rtol=1e-4, atol=1e-4)


def test_a_trajectory_is_its_estimates():
    traj = follow()
    est = jaxllc.estimate(
        quadratic_loss,
        RUN[20],
        PROBLEM.data,
        key=jax.random.key(0),
        **SHORT,
    )
    np.testing.assert_allclose(traj.data["posterior/llc"].sel(step=20), est.data["posterior/llc"], rtol=1e-4, atol=1e-4)
    assert traj.table().loc[20, "llc"] == pytest.approx(est.llc, rel=1e-4)


def test_common_random_numbers_make_changes_sharp():
    """Five checkpoints on a line: chains share all their noise, so the error of a change is far below that of a value."""
    table = follow(num_draws=500).table()
    assert (table["change_error"][1:] < table["std_error"][1:] / 5).all()


def test_table_has_one_line_a_step():
    table = follow().table()
    assert list(table.index) == [0, 10, 20, 30, 40]
    assert {"llc", "std_error", "loss", "mean_loss", "rhat", "ess", "change", "change_error", "findings"} <= set(table.columns)


@pytest.mark.parametrize(
    ("checkpoints", "told"), [("run/checkpoints", r"wrap a directory in jaxllc\.OrbaxCheckpoints"), ([PROBLEM.params], "got list; use a dictionary")]
)
def test_what_is_no_mapping_is_named(checkpoints, told):
    with pytest.raises(TypeError, match=told):
        follow(checkpoints)


@pytest.mark.parametrize(
    ("checkpoints", "told"),
    [
        ({}, "no checkpoints"),
        ({"a": PROBLEM.params}, "keyed by training step, an int; got 'a'"),
        (RUN | {50: {"a": jnp.ones(2), "b": jnp.ones(4)}}, "step 50 have another structure or other shapes than those at step 0"),
    ],
)
def test_bad_checkpoints_are_named(checkpoints, told):
    with pytest.raises(ValueError, match=told):
        follow(checkpoints, group_size=6, strict=True)


def test_the_loss_at_initialisation_is_the_reference():
    """Where step 0 is one: the highest loss of its run, and well above the least. Trained weights under key 0 are none."""
    falling = {step: shifted(PROBLEM.params, (40 - step) * 0.02) for step in RUN}
    traj = follow(falling)
    assert traj.reference_loss == pytest.approx(float(traj.table().loc[0, "loss"]))
    assert follow(reference_loss=3.5).reference_loss == 3.5


def test_the_loss_of_zeros_is_the_reference_where_step_0_is_none():
    """The loss rises from step 0, or there is no step 0, or all are as low. Trained weights under key 0 are no uninformed model."""
    zeros = jax.tree.map(jnp.zeros_like, PROBLEM.params)
    expected = float(quadratic_loss(zeros, PROBLEM.data.first(PROBLEM.num_examples)).mean())
    for checkpoints in (RUN, {step + 1: params for step, params in RUN.items()}, dict.fromkeys(RUN, PROBLEM.params)):
        assert follow(checkpoints).reference_loss == pytest.approx(expected, rel=0.02)


def test_each_checkpoint_is_read_once():
    """In the order of the steps. Seen to fail with weights that are looked at early let go of before they are taken."""
    checkpoints = Counting(RUN)
    follow(checkpoints, group_size=2)
    assert checkpoints.read == list(RUN)


def test_each_checkpoint_is_read_once_with_a_default_step_size():
    """For which some are looked at first, of each run."""
    checkpoints = {name: Counting(run) for name, run in RUNS.items()}
    follow(checkpoints, sampler=None, group_size=2)
    for run in checkpoints.values():
        assert sorted(run.read) == list(RUN)


def test_each_checkpoint_is_read_once_with_a_store_that_is_resumed(tmp_path, monkeypatch):
    """Those at what is stored, whose weights are compared, and the rest."""
    stopped(3, monkeypatch, store=tmp_path / "llc.zarr", group_size=1, sampler=None)
    checkpoints = Counting(RUN)
    follow(checkpoints, store=tmp_path / "llc.zarr", sampler=None, group_size=1)
    assert sorted(checkpoints.read) == list(RUN)
