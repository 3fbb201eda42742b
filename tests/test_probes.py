"""Probes at checkpoints are what their functions give there, in memory and on disk."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from problems import CENTER, quadratic_loss
from trajectories import PROBLEM, RUN, RUNS, SHORT, follow, stopped

import jaxllc
from jaxllc import Probe


def norm(params):
    return jnp.sqrt(jnp.sum(params["a"] ** 2) + jnp.sum(params["b"] ** 2))


def outer(params):
    return params["a"][:, None] * params["b"][None]


def num_positive(params):
    return jnp.sum(params["b"] > 0)


SOME = {"norm": norm, "outer": outer, "num_positive": num_positive}


def assert_are_those_of(checkpoints, found):
    """A data set without an axis `run` holds what the functions give."""
    for name, function in SOME.items():
        np.testing.assert_allclose(found[name], [function(params) for params in checkpoints.values()], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("group_size", [2, 5])
def test_they_are_what_the_functions_give(group_size):
    """A group of two leaves one that is filled up. Seen to fail with the group in reverse."""
    traj = follow(probes=SOME, group_size=group_size)
    found = traj.data["probes"]
    assert found["outer"].dims == ("step", "outer_dim_0", "outer_dim_1")
    assert_are_those_of(RUN, found)
    assert all(array.dtype == np.float32 for array in found.data_vars.values())


def test_of_several_runs():
    traj = follow(RUNS, probes=SOME, group_size=4)
    assert traj.data["probes/outer"].dims == ("run", "step", "outer_dim_0", "outer_dim_1")
    for name, run in RUNS.items():
        assert_are_those_of(run, traj.data["probes"].to_dataset().sel(run=name))
    np.testing.assert_allclose(traj.table().loc[("far", 10), "norm"], norm(RUNS["far"][10]), rtol=1e-6)


def test_a_table_shows_those_that_are_one_number():
    table = follow(probes=SOME).table()
    assert list(table.columns[-3:]) == ["norm", "num_positive", "findings"]
    np.testing.assert_allclose(table["norm"], [norm(params) for params in RUN.values()], rtol=1e-6)


def test_they_change_nothing_else():
    with_them, without = follow(probes=SOME).data, follow().data
    assert "probes" not in without.children
    np.testing.assert_array_equal(with_them["posterior/llc"], without["posterior/llc"])


@pytest.mark.parametrize("checkpoints", [RUN, RUNS], ids=["one run", "three runs"])
def test_resumed_in_the_middle(checkpoints, tmp_path, monkeypatch):
    """What was done before is read, not computed: on resumption the function has become another."""
    stopped(2, monkeypatch, checkpoints, probes=SOME, store=tmp_path / "llc.zarr", group_size=2)
    with pytest.warns(UserWarning, match="probe norm is another function"):
        whole = follow(checkpoints, probes=SOME | {"norm": lambda params: -norm(params)}, store=tmp_path / "llc.zarr", group_size=2)
    straight = follow(checkpoints, probes=SOME, group_size=2)
    sign = np.where(np.arange(straight.data["probes/norm"].size) < 2, 1, -1)
    np.testing.assert_allclose(whole.data["probes/norm"].values.ravel(), sign * straight.data["probes/norm"].values.ravel(), rtol=1e-6)
    np.testing.assert_allclose(whole.data["probes/outer"], straight.data["probes/outer"], rtol=1e-6)
    with xr.open_datatree(tmp_path / "llc.zarr", engine="zarr", consolidated=False) as tree:
        assert tree["probes/outer"].dims == straight.data["probes/outer"].dims
        np.testing.assert_array_equal(tree["probes/outer"].values, whole.data["probes/outer"].values)


def test_a_store_that_grows_keeps_them(tmp_path):
    follow({step: RUN[step] for step in (0, 30)}, probes=SOME, store=tmp_path / "llc.zarr")
    assert_are_those_of(RUN, follow(probes=SOME, store=tmp_path / "llc.zarr").data["probes"])


def test_other_probes_are_other_settings(tmp_path):
    follow(probes={"norm": norm}, store=tmp_path / "llc.zarr")
    for other, told in (
        (None, r"probes was {'norm': {.*'shape': \[\].*}} and is None"),
        ({"outer": outer}, r"and is {'outer': {.*'shape': \[2, 3\]"),
        ({"norm": outer}, r"was {'norm': {.*'shape': \[\].*and is {'norm': {.*'shape': \[2, 3\]"),
        ({"norm": Probe(norm, every=7)}, r"probes was .*and is {'norm': {.*'every': 7"),
    ):
        with pytest.raises(ValueError, match=told):
            follow(probes=other, store=tmp_path / "llc.zarr")


def test_their_former_name_is_taken_too():
    np.testing.assert_array_equal(follow(observables={"norm": norm}).data["probes/norm"], follow(probes={"norm": Probe(norm)}).data["probes/norm"])


def matches(params, data):
    """How far the weights `b` are from each row of the data."""
    return jnp.sum((data - params["b"][None]) ** 2, -1)


def test_they_take_data_and_work_in_an_estimate(key):
    points = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    est = jaxllc.estimate(quadratic_loss, PROBLEM.params, PROBLEM.data, key=key, probes={"matches": Probe(matches, points), "norm": norm}, **SHORT)
    assert est.data["probes/matches"].dims == ("matches_dim_0",)
    np.testing.assert_allclose(est.data["probes/matches"], ((points - CENTER[2:]) ** 2).sum(-1), rtol=1e-5)
    assert float(est.data["probes/norm"]) == pytest.approx(float(norm(PROBLEM.params)))
    traj = follow(probes={"matches": Probe(matches, points)}, group_size=2)
    np.testing.assert_allclose(traj.data["probes/matches"], [matches(params, jnp.asarray(points)) for params in RUN.values()], rtol=1e-5)


def test_one_trace():
    """Three groups and a second call: the function is traced once."""
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def counted_norm(params):
        return norm(params)

    for key in (0, 1):
        follow(probes={"norm": counted_norm}, group_size=2, num_draws=4 + key)


@pytest.mark.parametrize(
    ("probes", "error", "told"),
    [
        ([norm], TypeError, r"probes must be a mapping from names to jaxllc\.Probe, got list"),
        ({"a/b": norm}, ValueError, "identifier such as 'prefix_matching', got 'a/b'"),
        ({1: norm}, ValueError, "got 1"),
        ({"llc": norm}, ValueError, "'llc' has the name of something else"),
        ({"evaluation": norm}, ValueError, "'evaluation' has the name of something else"),
        ({"norm_mean": norm}, ValueError, "'norm_mean' has the name of something else"),
        ({"chain": norm}, ValueError, "'chain' has the name of something else"),
        ({"outer_dim_0": norm}, ValueError, "'outer_dim_0' has the name of something else"),
        ({"norm": 3.0}, TypeError, r"'norm' must be a jaxllc\.Probe or a function fn\(params\), got float"),
        ({"both": lambda params: (norm(params), outer(params))}, TypeError, "'both' must give one array, got tuple"),
        ({"wave": lambda params: jax.lax.complex(params["a"], params["a"])}, TypeError, "'wave' must give real numbers, got complex64"),
        ({"none": lambda params: params["a"][:0]}, ValueError, r"'none' gives an array of shape \(0,\)"),
    ],
)
def test_bad_probes_are_named(probes, error, told, tmp_path):
    with pytest.raises(error, match=told):
        follow(probes=probes, store=tmp_path / "llc.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_probe_that_fails_is_named():
    with pytest.raises(KeyError) as caught:
        follow(probes={"norm": norm, "lost": lambda params: params["c"]})
    assert "in the probe 'lost', which was given the weights of the first checkpoint" in caught.value.__notes__


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: Probe(3.0), TypeError, r"a probe must be a function fn\(params\), got float"),
        (lambda: Probe(norm, every=0), ValueError, r"Probe\(every\) must be at least 1, got 0"),
        (lambda: Probe(norm, every=2, reduce="median"), ValueError, r"Probe\(reduce\) must be None or one of 'mean', 'covariance', .* got 'median'"),
        (lambda: Probe(norm, reduce="mean"), ValueError, r"Probe\(reduce='mean'\) reduces evaluations along the chains, so it needs every="),
    ],
)
def test_probes_that_say_nothing_are_refused(make, error, told):
    with pytest.raises(error, match=told):
        make()


def test_other_data_of_a_probe_are_another_probe(tmp_path):
    probe = Probe(lambda params, x: x @ params["a"], jnp.ones(2))
    follow({0: RUN[0]}, probes={"p": probe}, store=tmp_path / "llc.zarr")
    with pytest.raises(ValueError, match="made with other settings: probes was"):
        follow(probes={"p": Probe(probe.fn, 2 * jnp.ones(2))}, store=tmp_path / "llc.zarr")
    assert len(follow(probes={"p": probe}, store=tmp_path / "llc.zarr").table()) == len(RUN)
