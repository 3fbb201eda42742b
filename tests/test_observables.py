"""Observables at checkpoints are what their functions give there, in memory and on disk."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from test_runs import RUNS
from test_trajectory import RUN, follow

from jaxllc.store import Store


def norm(params):
    return jnp.sqrt(jnp.sum(params["a"] ** 2) + jnp.sum(params["b"] ** 2))


def outer(params):
    return params["a"][:, None] * params["b"][None]


def num_positive(params):
    return jnp.sum(params["b"] > 0)


WATCHED = {"norm": norm, "outer": outer, "num_positive": num_positive}


def assert_are_those_of(checkpoints, found):
    """A data set without an axis `run` holds what the functions give."""
    for name, function in WATCHED.items():
        np.testing.assert_allclose(found[name], [function(params) for params in checkpoints.values()], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("group_size", [2, 5])
def test_they_are_what_the_functions_give(group_size):
    """A group of two leaves one that is filled up. Seen to fail with the group in reverse."""
    traj = follow(observables=WATCHED, group_size=group_size)
    found = traj.data["observables"]
    assert found["outer"].dims == ("step", "outer_dim_0", "outer_dim_1")
    assert_are_those_of(RUN, found)
    assert all(array.dtype == np.float32 for array in found.data_vars.values())


def test_of_several_runs():
    traj = follow(RUNS, observables=WATCHED, group_size=4)
    assert traj.data["observables/outer"].dims == ("run", "step", "outer_dim_0", "outer_dim_1")
    for name, run in RUNS.items():
        assert_are_those_of(run, traj.data["observables"].to_dataset().sel(run=name))
    np.testing.assert_allclose(traj.table().loc[("far", 10), "norm"], norm(RUNS["far"][10]), rtol=1e-6)


def test_a_table_shows_those_that_are_one_number():
    table = follow(observables=WATCHED).table()
    assert list(table.columns[-3:]) == ["norm", "num_positive", "findings"]
    np.testing.assert_allclose(table["norm"], [norm(params) for params in RUN.values()], rtol=1e-6)


def test_they_change_nothing_else():
    with_them, without = follow(observables=WATCHED).data, follow().data
    assert "observables" not in without.children
    np.testing.assert_array_equal(with_them["posterior/llc"], without["posterior/llc"])


@pytest.mark.parametrize("checkpoints", [RUN, RUNS], ids=["one run", "three runs"])
def test_resumed_in_the_middle(checkpoints, tmp_path, monkeypatch):
    """What was done before is read, not computed: on resumption the function has become another."""
    write, written = Store.write, []

    def failing(self, row, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(row)
        write(self, row, *rest)

    monkeypatch.setattr(Store, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        follow(checkpoints, observables=WATCHED, store=tmp_path / "llc.zarr", group_size=2)
    monkeypatch.undo()
    whole = follow(checkpoints, observables=WATCHED | {"norm": lambda params: -norm(params)}, store=tmp_path / "llc.zarr", group_size=2)
    straight = follow(checkpoints, observables=WATCHED, group_size=2)
    sign = np.where(np.arange(straight.data["observables/norm"].size) < 2, 1, -1)
    np.testing.assert_allclose(whole.data["observables/norm"].values.ravel(), sign * straight.data["observables/norm"].values.ravel(), rtol=1e-6)
    np.testing.assert_allclose(whole.data["observables/outer"], straight.data["observables/outer"], rtol=1e-6)
    with xr.open_datatree(tmp_path / "llc.zarr", engine="zarr", consolidated=False) as tree:
        assert tree["observables/outer"].dims == straight.data["observables/outer"].dims
        np.testing.assert_array_equal(tree["observables/outer"].values, whole.data["observables/outer"].values)


def test_a_store_that_grows_keeps_them(tmp_path):
    follow({step: RUN[step] for step in (0, 30)}, observables=WATCHED, store=tmp_path / "llc.zarr")
    assert_are_those_of(RUN, follow(observables=WATCHED, store=tmp_path / "llc.zarr").data["observables"])


def test_other_observables_are_other_settings(tmp_path):
    follow(observables={"norm": norm}, store=tmp_path / "llc.zarr")
    for other, told in (
        (None, r"observables was {'norm': \[\]} and is None"),
        ({"outer": outer}, r"and is {'outer': \[2, 3\]}"),
        ({"norm": outer}, r"was {'norm': \[\]} and is {'norm': \[2, 3\]}"),
    ):
        with pytest.raises(ValueError, match=told):
            follow(observables=other, store=tmp_path / "llc.zarr")


def test_one_trace():
    """Three groups and a second call: the function is traced once."""
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def counted_norm(params):
        return norm(params)

    for key in (0, 1):
        follow(observables={"norm": counted_norm}, group_size=2, num_draws=4 + key)


@pytest.mark.parametrize(
    ("observables", "error", "told"),
    [
        ([norm], TypeError, "must be a mapping from names to functions"),
        ({"a/b": norm}, ValueError, "identifier such as 'prefix_matching', got 'a/b'"),
        ({1: norm}, ValueError, "got 1"),
        ({"llc": norm}, ValueError, "'llc' has the name of something else"),
        ({"chain": norm}, ValueError, "'chain' has the name of something else"),
        ({"outer_dim_0": norm}, ValueError, "'outer_dim_0' has the name of something else"),
        ({"norm": 3.0}, TypeError, r"'norm' must be a function fn\(params\), got float"),
        ({"both": lambda params: (norm(params), outer(params))}, TypeError, "'both' must give one array, got tuple"),
        ({"wave": lambda params: jax.lax.complex(params["a"], params["a"])}, TypeError, "'wave' must give real numbers, got complex64"),
        ({"none": lambda params: params["a"][:0]}, ValueError, r"'none' gives an array of shape \(0,\)"),
    ],
)
def test_bad_observables_are_named(observables, error, told, tmp_path):
    with pytest.raises(error, match=told):
        follow(observables=observables, store=tmp_path / "llc.zarr")
    assert list(tmp_path.iterdir()) == []


def test_an_observable_that_fails_is_named():
    with pytest.raises(KeyError) as caught:
        follow(observables={"norm": norm, "lost": lambda params: params["c"]})
    assert "in the observable 'lost', which was given the weights of the first checkpoint" in caught.value.__notes__
