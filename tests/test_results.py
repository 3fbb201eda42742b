"""Results: saved and opened with everything in them, also while a run goes on, judged once, and named by one schema."""

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from arviz_stats.base import array_stats
from problems import quadratic_loss
from trajectories import PROBLEM, RUN, RUNS, SHORT, follow, stopped

import jaxllc
from jaxllc import Probe, results
from jaxllc.results import Place


def norm(params):
    return jax.numpy.sum(params["b"] ** 2)


def estimated(**options):
    return jaxllc.estimate(quadratic_loss, RUN[20], PROBLEM.data, **({"key": jax.random.key(0)} | SHORT | options))


KINDS = {
    "plain": dict(reference_loss=3.5),
    "default step": dict(sampler=None),
    "both steps": dict(extrapolate=True, probes={"norm": Probe(norm, every=10), "pair": Probe(norm, every=10, reduce="mean")}),
    "both temperatures of sghmc": dict(extrapolate="nbeta", sampler=jaxllc.SGHMC(2e-3)),
    "mala": dict(sampler=jaxllc.MALA(2e-2), batch_size=None, data=PROBLEM.rows),
    "a sampler that cannot be written": dict(sampler=jaxllc.SGLD(lambda count: 2e-3)),
}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


def assert_same_tree(opened, made):
    """Values, axes and coordinates of all groups, and all attributes but what says which verb wrote them."""
    for group in made.children:
        xr.testing.assert_equal(opened[group].to_dataset().load(), made[group].to_dataset())
    assert set(opened.children) == set(made.children)
    other = {"verb", "data_checksum"}
    attributes = [{name: value for name, value in tree.attrs.items() if name not in other} for tree in (opened, made)]
    assert attributes[0] == {name: _plain(value) for name, value in attributes[1].items()}


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def settings_of(result):
    """Settings, or the error that tells that the sampler could not be written."""
    try:
        return result.settings
    except ValueError as error:
        return str(error)


@every_kind
def test_an_estimate_is_saved_and_opened(options, tmp_path):
    options = dict(options)
    data = options.pop("data", PROBLEM.data)
    est = jaxllc.estimate(quadratic_loss, RUN[20], data, **({"key": jax.random.key(0)} | SHORT | options))
    est.save(tmp_path / "est.zarr")
    opened = jaxllc.open(str(tmp_path / "est.zarr"))
    assert isinstance(opened, jaxllc.Estimate)
    assert str(opened) == str(est)
    assert opened.findings == est.findings
    assert settings_of(opened) == settings_of(est)
    assert opened.data.attrs.get("reference_loss") == est.data.attrs.get("reference_loss") == options.get("reference_loss")
    xr.testing.assert_equal(opened.summary, est.summary)
    assert_same_tree(opened.data, est.data)


def assert_same_trajectory(opened, traj):
    assert isinstance(opened, jaxllc.Trajectory)
    pd.testing.assert_frame_equal(opened.table(), traj.table())
    assert opened.findings() == traj.findings()
    assert settings_of(opened) == settings_of(traj)
    assert opened.reference_loss == traj.reference_loss
    xr.testing.assert_equal(opened.summary, traj.summary)
    assert_same_tree(opened.data, traj.data)


@every_kind
def test_the_store_of_a_trajectory_is_opened(options, tmp_path):
    traj = follow(store=tmp_path / "llc.zarr", **options)
    assert_same_trajectory(jaxllc.open(tmp_path / "llc.zarr"), traj)


@pytest.mark.parametrize("checkpoints", [RUN, RUNS, {"only": RUN}], ids=["one run", "three runs", "one run by name"])
def test_a_trajectory_is_saved_and_opened(checkpoints, tmp_path):
    """Without a store while it ran; its initialisation gives the reference again."""
    falling = {name: {40 - step: params for step, params in run.items()} for name, run in checkpoints.items()} if checkpoints is not RUN else RUN
    traj = follow(falling)
    traj.save(tmp_path / "llc.zarr")
    assert_same_trajectory(jaxllc.open(tmp_path / "llc.zarr"), traj)
    assert list(jaxllc.open(tmp_path / "llc.zarr").table().index.names) == list(traj.table().index.names)


@pytest.mark.parametrize("checkpoints", [RUN, RUNS], ids=["one run", "three runs"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_store_is_opened_while_it_is_filled(checkpoints, count, tmp_path, monkeypatch):
    """After the first places: what is done is shown, and nothing else; when all is done the same path shows all of it.

    Seen to fail with all lines shown, done or not.
    """
    if checkpoints is RUN and count > 5:
        pytest.skip("more places than there are")
    stopped(count, monkeypatch, checkpoints, store=tmp_path / "llc.zarr", group_size=1)
    opened = jaxllc.open(tmp_path / "llc.zarr")
    whole = follow(checkpoints, group_size=1)
    assert len(opened.table()) == len(opened.findings()) == count
    pd.testing.assert_index_equal(opened.table().index, whole.table().index[:count])
    np.testing.assert_allclose(opened.table()["llc"], whole.table()["llc"][:count], rtol=1e-5)
    follow(checkpoints, store=tmp_path / "llc.zarr", group_size=1)
    assert_same_trajectory(jaxllc.open(tmp_path / "llc.zarr"), follow(checkpoints, store=tmp_path / "llc.zarr"))


def test_arrays_of_a_large_store_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxllc.store_arrays.READ_BYTES", 0)
    follow(store=tmp_path / "llc.zarr")
    opened = jaxllc.open(tmp_path / "llc.zarr")
    assert not opened.data["posterior/llc"].variable._in_memory
    assert opened.data["posterior/llc"].shape == (5, 4, 60)


def test_what_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no store at .*llc.zarr; pass the path that was given as store="):
        jaxllc.open(tmp_path / "llc.zarr")
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match="is no Zarr store"):
        jaxllc.open(tmp_path / "notes")
    est = estimated()
    est.save(tmp_path / "est.zarr")
    with pytest.raises(ValueError, match=r"est\.zarr exists; save to a new path"):
        est.save(tmp_path / "est.zarr")
    import zarr

    zarr.open_group(tmp_path / "est.zarr", mode="r+").attrs["schema"] = 1
    with pytest.raises(ValueError, match=f"was written with schema 1, and this version of jaxllc reads {results.SCHEMA}"):
        jaxllc.open(tmp_path / "est.zarr")


@pytest.fixture
def judgements(monkeypatch):
    """How often ArviZ was asked for R-hat."""
    asked, rhat = [], array_stats.rhat
    monkeypatch.setattr(array_stats, "rhat", lambda *args, **options: asked.append(1) or rhat(*args, **options))
    return asked


def test_a_summary_is_computed_once(judgements):
    """However often a result is looked at. Seen to fail with `summary` as a plain property."""
    est = estimated()
    assert judgements == []
    for _ in range(3):
        str(est), est.llc, est.std_error, est.rhat, est.ess, est.wbic, est.step_bias, est.findings
    of_one = len(judgements)
    assert of_one == 4  # draws, their blocks, and two slow quantities
    traj = follow()
    for _ in range(3):
        traj.table(), traj.findings(), traj.reference_loss, traj.summary
    assert len(judgements) <= 2 * of_one + 1  # the same, and changes between checkpoints


def test_names_and_axes_are_those_of_one_schema():
    """Each array of a result has a name and axes in the schema, and no other one is there."""
    for options in ({}, KINDS["both steps"], KINDS["both temperatures of sghmc"], {"sampler": jaxllc.MALA(2e-2), "data": PROBLEM.rows, "batch_size": None}):
        traj = follow(**options)
        arrays = results.from_tree(traj.data)
        assert set(arrays) == set(results.names(traj.data.attrs))
        for (group, name), values in arrays.items():
            assert traj.data[f"{group}/{name}"].dims == ("step", *results.dims((group, name), values.ndim - 1, traj.data.attrs))


@pytest.mark.parametrize("runs", [(None,), ("a", "b")], ids=["one run", "two runs"])
def test_to_tree_and_from_tree_are_inverse(runs):
    """Runs and steps of other numbers than chains and draws, so that no two axes can be mistaken."""
    places = [Place(run, step) for run in runs for step in (0, 7, 9)]
    attributes = {"num_chains": 4, "num_draws": 5, "num_burn_in": 2, "thinning": 1, "slow_every": 3, "nbeta": 1.0}
    rng = np.random.default_rng(0)
    sizes = {"chain": 4, "draw": 5, "iteration": 3}
    arrays = {name: rng.normal(size=(len(places), *(sizes[axis] for axis in axes))) for name, axes in results.DIMS.items()}
    tree = results.to_tree(arrays, places, attributes)
    assert results.places_of(tree) == places
    back = results.from_tree(tree)
    assert set(back) == set(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(back[name], values)
