"""Components at several checkpoints and training runs: in memory, in stores, and where checkpoints fail."""

import jax
import numpy as np
import pytest
from test_components import OPTIONS, SETTINGS, loss_fn, quadratic

import jaxllc
from jaxllc import Slice


def checkpoints(runs=1):
    params, data, _ = quadratic()
    steps = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    made = {f"run {r}": {step: jax.tree.map(lambda w, s=step, r=r: w + 0.5 / s + 0.01 * r, params) for step in steps} for r in range(runs)}
    return (made["run 0"] if runs == 1 else made), data


TWO = {"row": Slice("b", 0), "all": None}
SHORT = SETTINGS.replace(num_draws=60, num_burn_in=20, num_chains=4)


def test_a_trajectory_of_components(tmp_path):
    """Kept in a store, resumed in groups of another size, opened, and taken apart."""
    some, data = checkpoints()
    traj = jaxllc.trajectory(loss_fn, some, data, SHORT, components=TWO, group_size=4, **OPTIONS)
    assert traj.data["posterior/llc"].dims == ("step", "component", "chain", "draw")
    table = traj.table()
    assert table.index.names == ["step", "component"]
    assert len(table) == 2 * len(some)
    alone = jaxllc.trajectory(loss_fn, some, data, SHORT, **OPTIONS).table()
    np.testing.assert_allclose(table.xs("all", level="component")["llc"], alone["llc"], rtol=1e-4)
    np.testing.assert_allclose(table.xs("all", level="component")["change"], alone["change"], rtol=1e-2, atol=1e-3)
    store = tmp_path / "llc.zarr"
    jaxllc.trajectory(loss_fn, dict(list(some.items())[:3]), data, SHORT, components=TWO, store=store, **OPTIONS)
    again = jaxllc.trajectory(loss_fn, some, data, SHORT, components=TWO, store=store, group_size=2, **OPTIONS)
    np.testing.assert_allclose(again.table()["llc"], table["llc"], rtol=1e-5)
    opened = jaxllc.open(store)
    assert opened.components == ("row", "all")
    np.testing.assert_array_equal(opened.table()["llc"], again.table()["llc"])
    assert list(opened.component("row").table().index) == list(some)
    assert len(opened.findings()) == len(table)
    opened.save(tmp_path / "copy.zarr")
    np.testing.assert_array_equal(jaxllc.open(tmp_path / "copy.zarr").table()["llc"], again.table()["llc"])
    with pytest.raises(ValueError, match="components"):
        jaxllc.trajectory(loss_fn, some, data, SHORT, components=dict(reversed(TWO.items())), store=store, **OPTIONS)


def test_runs_and_components():
    some, data = checkpoints(runs=2)
    traj = jaxllc.trajectory(loss_fn, some, data, SHORT, components=TWO, **OPTIONS)
    assert traj.table().index.names == ["run", "step", "component"]
    mean = traj.over_runs()
    assert dict(mean["llc"].sizes) == {"component": 2, "step": 9}
    np.testing.assert_allclose(mean["llc"].sel(component="row"), traj.component("row").over_runs()["llc"])
    assert set(traj.component("all").stages().columns) <= set(traj.stages().columns)
    assert set(traj.stages()["component"]) == {"row", "all"}
    top, _ = traj.plot()
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["row", "all"]


def test_a_checkpoint_that_fails_has_a_line_for_each_component():
    some, data = checkpoints()
    some[4] = jax.tree.map(lambda w: w * 1e30, some[4])  # finite weights, whose loss is not
    table = jaxllc.trajectory(loss_fn, some, data, SHORT, components=TWO, **OPTIONS).table()
    assert list(table.loc[4].index) == ["row", "all"]
    assert (table.loc[4]["findings"] == "failed").all()
    assert list(dict.fromkeys(table.index.get_level_values("step"))) == sorted(some)


def test_a_checkpoint_that_fails_in_one_run_alone():
    """The other run has numbers there, of both components."""
    some, data = checkpoints(runs=2)
    some["run 0"][4] = jax.tree.map(lambda w: w * np.nan, some["run 0"][4])
    traj = jaxllc.trajectory(loss_fn, some, data, SHORT, components=TWO, **OPTIONS)
    table = traj.table()
    failed = table[table["findings"] == "failed"]
    assert list(failed.index) == [("run 0", 4, "row"), ("run 0", 4, "all")]
    assert np.isfinite(table.drop(failed.index)["llc"]).all()
    assert len(traj.findings()) == len(table) - 2
