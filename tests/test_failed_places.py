"""Checkpoints that cannot be used: the others go on, and the table has the reason."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import quadratic_loss
from trajectories import PROBLEM, RUN, RUNS, SHORT, Counting, draws, follow

import jaxllc
from jaxllc.results import Place

NOT_FINITE = PROBLEM.params | {"a": jnp.full(2, jnp.nan)}
INFINITE_LOSS = PROBLEM.params | {"a": jnp.full(2, 1e30)}
OTHER_TREE = {"a": PROBLEM.params["a"]}


class Removed(dict):
    """Checkpoints of which one is gone when it is read."""

    def __getitem__(self, step):
        if step == 30:
            raise KeyError(step)
        return super().__getitem__(step)


CASES = {
    "NaN": (RUN | {30: NOT_FINITE}, "these weights are not finite: a"),
    "loss not finite": (RUN | {30: INFINITE_LOSS}, "the loss at w\\* \\(step 30\\) is not finite; all weights are finite"),
    "whole numbers": (RUN | {30: PROBLEM.params | {"a": jnp.zeros(2, jnp.int32)}}, "other dtypes than those at step 0: a int32 instead of float32"),
    "half precision": (RUN | {30: jax.tree.map(lambda w: w.astype(jnp.bfloat16), RUN[30])}, "other dtypes .* a bfloat16 instead of float32"),
    "another tree": (RUN | {30: OTHER_TREE}, "another structure or other shapes than those at step 0"),
    "removed": (Removed(RUN), "KeyError: 30"),
}


@pytest.mark.parametrize("where", ["memory", "store"])
@pytest.mark.parametrize(("checkpoints", "told"), CASES.values(), ids=CASES)
def test_one_bad_checkpoint_does_not_end_the_run(checkpoints, told, where, tmp_path):
    """Its neighbours in the group have the numbers that they have without it."""
    options = {} if where == "memory" else {"store": tmp_path / "llc.zarr"}
    traj = follow(checkpoints, **options)
    table = traj.table()
    assert list(table.index) == list(RUN)
    assert list(table["findings"] == "failed") == [step == 30 for step in RUN]
    assert np.isnan(table.llc[30])
    with pytest.raises(ValueError, match=told):
        raise ValueError(traj.failures[Place(None, 30)])
    np.testing.assert_allclose(draws(traj), draws(follow({step: RUN[step] for step in RUN if step != 30})), rtol=1e-4, atol=1e-4)
    assert len(traj.findings()) == 4
    with pytest.raises(ValueError, match=told):
        follow(checkpoints, strict=True)


def test_a_mended_checkpoint_is_done_by_the_next_call(tmp_path):
    store = tmp_path / "llc.zarr"
    assert "failed" in set(follow(RUN | {0: NOT_FINITE}, store=store).table()["findings"])
    assert "failed" in set(jaxllc.open(store).table()["findings"])
    mended = follow(store=store)
    assert mended.failures == {}
    np.testing.assert_allclose(draws(mended), draws(follow()), rtol=1e-4, atol=1e-4)


def test_a_bad_checkpoint_of_one_run_of_several():
    runs = RUNS | {"far": RUNS["far"] | {20: NOT_FINITE}}
    traj = follow(runs)
    table = traj.table()
    assert len(table) == 15
    assert list(table.index[table["findings"] == "failed"]) == [("far", 20)]
    assert traj.over_runs()["llc"].notnull().all()


def test_a_run_without_any_good_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint can be used; step 0: these weights are not finite: a"):
        follow({0: NOT_FINITE, 10: NOT_FINITE}, store=tmp_path / "llc.zarr")
    assert list(tmp_path.iterdir()) == []


def test_the_first_bad_checkpoint_of_a_default_step_size_is_passed_over():
    checkpoints = Counting(RUN | {0: NOT_FINITE})
    traj = follow(checkpoints, sampler=None)
    assert list(traj.failures) == [Place(None, 0)]
    assert np.isfinite(traj.table().llc[10:]).all()


def test_wide_numbers_of_numpy_are_those_of_jax():
    """Where they are not enabled, `float64` is `float32`."""
    mixed = RUN | {30: jax.tree.map(lambda w: np.asarray(w, np.float64), RUN[30])}
    np.testing.assert_array_equal(draws(follow(mixed)), draws(follow()))


@pytest.mark.parametrize("step", [0, 20, 40])
def test_a_loss_that_is_not_finite_does_not_end_a_calibration(step):
    """At any of the checkpoints that are looked at."""
    traj = jaxllc.trajectory(quadratic_loss, RUN | {step: INFINITE_LOSS}, PROBLEM.data.arrays, key=jax.random.key(0), nbeta=50.0, progress=False)
    assert [place.step for place in traj.failures] == [step]
    assert np.isfinite(traj.table().llc.drop(step)).all()


def test_an_odd_first_checkpoint_is_told_loudly():
    """The others are compared with it, so that most fail."""
    with pytest.warns(UserWarning, match=r"4 of 5 checkpoints have no numbers .*step 10: the weights at step 10 have another structure"):
        jaxllc.trajectory(lambda params, rows: (rows[:, :2] @ params["a"]) ** 2, RUN | {0: OTHER_TREE}, PROBLEM.data, key=jax.random.key(0), **SHORT)


def test_failures_are_saved_and_mended(tmp_path):
    saved = follow(RUN | {30: NOT_FINITE})
    saved.save(tmp_path / "llc.zarr")
    opened = jaxllc.open(tmp_path / "llc.zarr")
    assert opened.failures == saved.failures
    mended = follow(store=tmp_path / "llc.zarr")
    assert mended.failures == {}
    np.testing.assert_allclose(draws(mended), draws(follow()), rtol=1e-4, atol=1e-4)
