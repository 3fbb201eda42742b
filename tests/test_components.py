"""Components: each has the coefficient that its weights alone have, whatever it is made of, and all of them run in one program."""

import contextlib
import sys

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from test_adaptive_hmc import linear_regression

import jaxllc
from jaxllc import Heads, Neurons, Paths, Slice
from jaxllc.components import Moving, resolve
from jaxllc.models.transformer import Transformer, next_token_loss
from jaxllc.theory import quadratic_llc

mpl.use("agg")
COLUMNS = np.array([3.0, 2.0, 1.0, 1.0, 0.5, 0.1])
NBETA, LOCALIZATION, N = 80.0, 10.0, 500
SETTINGS = jaxllc.Settings(jaxllc.SGLD(None), NBETA, LOCALIZATION, batch_size=50, num_chains=16, num_draws=6000, num_burn_in=1000)
KEY = jax.random.key(0)
OPTIONS = dict(key=KEY, progress=False)


def loss_fn(params, batch):
    x, y = batch
    w = jnp.concatenate([params["a"], params["b"].reshape(-1)])
    return 0.5 * (x @ w - y) ** 2


def quadratic():
    """Weights `a` `[2]` and `b` `[2, 2]` of a linear regression whose columns are orthogonal, and their curvatures."""
    weights, (x, y), _ = linear_regression(COLUMNS, n=N)
    x, _ = np.linalg.qr(np.asarray(x))
    x = np.asarray(x * np.sqrt(N) * COLUMNS, np.float32)
    y = np.asarray(x @ np.asarray(weights) + np.asarray(y - y), np.float32)
    w = np.asarray(weights)
    return {"a": jnp.asarray(w[:2]), "b": jnp.asarray(w[2:].reshape(2, 2))}, (x, y), COLUMNS**2


COMPONENTS = {
    "all": None,
    "a": "a",
    "first of a": Slice("a", 0),
    "row of b": Neurons({"b": 0}, 1),
    "column of b": Neurons({"b": -1}, 0),
    "a and a column": Paths("a") | Neurons({"b": 1}, 0),
    "b without a row": Paths("b") & ~Neurons({"b": 0}, 1),
    "mask": {"a": np.array([False, True]), "b": np.array([[True, False], [False, False]])},
}
WHICH = {
    "all": range(6), "a": (0, 1), "first of a": (0,), "row of b": (4, 5), "column of b": (2, 4), "a and a column": (0, 1, 2, 4), "b without a row": (2, 3),
    "mask": (1, 2),
}  # fmt: skip


@pytest.mark.parametrize(
    "settings", [SETTINGS, SETTINGS.replace(sampler=jaxllc.AdaptiveHMC(), batch_size=None, num_draws=600, num_burn_in=200)], ids=["sgld", "hmc"]
)
def test_each_component_has_the_coefficient_of_its_weights(settings):
    params, data, curvatures = quadratic()
    est = jaxllc.estimate(loss_fn, params, data, settings, components=COMPONENTS, **OPTIONS)
    assert est.components == tuple(COMPONENTS)
    for name, which in WHICH.items():
        one = est.component(name)
        exact = quadratic_llc(curvatures[list(which)], NBETA, LOCALIZATION)
        assert abs(one.llc - exact) < 4 * one.std_error, name
        assert one.std_error < 0.08 * exact + 0.01
        assert one.data.attrs["num_weights"] == len(which)


@pytest.mark.parametrize(
    "sampler",
    [jaxllc.SGLD(2e-3, jaxllc.RMSProp()), jaxllc.SGHMC(2e-3), jaxllc.SGLD(2e-3, gradient=jaxllc.ControlVariate()), jaxllc.MALA(5e-3), jaxllc.MCLMC(1e-3)],
    ids=["rmsprop", "sghmc", "control variate", "mala", "mclmc"],
)
def test_every_kind_of_sampler(sampler):
    params, data, curvatures = quadratic()
    settings = SETTINGS.replace(sampler=sampler, batch_size=None if sampler.full_batch else 50)
    est = jaxllc.estimate(loss_fn, params, data, settings, components={"one": Slice("a", 0), "two": Slice("b", np.s_[0])}, **OPTIONS)
    for name, which in {"one": (0,), "two": (2, 3)}.items():
        exact = quadratic_llc(curvatures[list(which)], NBETA, LOCALIZATION)
        assert abs(est.component(name).llc - exact) < 4 * est.component(name).std_error + (0.05 * exact if "RMSProp" in repr(sampler) else 0)


def test_the_component_of_all_weights_is_the_estimate():
    """The same random numbers: to rounding."""
    params, data, _ = quadratic()
    settings = SETTINGS.replace(num_draws=200, num_burn_in=50)
    alone = jaxllc.estimate(loss_fn, params, data, settings, **OPTIONS)
    est = jaxllc.estimate(loss_fn, params, data, settings, components={"a": "a", "all": None}, **OPTIONS)
    np.testing.assert_allclose(est.component("all").llc, alone.llc, rtol=1e-4)
    np.testing.assert_allclose(est.component("all").std_error, alone.std_error, rtol=1e-3)


def test_parts_may_be_free_too():
    params, data, curvatures = quadratic()
    est = jaxllc.estimate(loss_fn, params, data, SETTINGS, free=Slice("b", np.s_[:, 0]), **OPTIONS)
    assert not est.components
    assert abs(est.llc - quadratic_llc(curvatures[[2, 4]], NBETA, LOCALIZATION)) < 4 * est.std_error
    assert est.data.attrs["num_weights"] == 2


def test_the_squared_distance_is_that_of_the_component():
    """Equipartition: without any loss, gamma times its mean counts the weights."""
    params, data, _ = quadratic()
    settings = SETTINGS.replace(nbeta=1e-6, num_draws=4000, num_burn_in=2000, localization=50.0, sampler=jaxllc.SGLD(4e-3))
    est = jaxllc.estimate(loss_fn, params, data, settings, components={"one": Slice("a", 0), "three": ~Slice("b", 0) & ~Slice("a", 1)}, **OPTIONS)
    distance = est.data["slow/squared_distance"].values[..., est.data["iteration"].values >= 2000].mean(-1)
    for i, count in enumerate((1, 3)):
        error = distance[i].std(ddof=1) / np.sqrt(len(distance[i]))
        assert abs(50 * distance[i].mean() / (1 / (1 - 4e-3 * 50 / 4)) - count) < 4 * 50 * error


def test_a_head_without_output_has_none():
    """Weights into a head that the rest of the net does not hear are free, to the rounding of losses; those of a head that it hears are not."""
    model = Transformer(vocab_size=11, context=8, width=16, num_layers=1, num_heads=4)
    params = model.init_params(jax.random.key(1))
    params = jax.tree.map(jnp.asarray, params)
    params["layers_0"]["output"] = params["layers_0"]["output"].at[2].set(0)
    tokens = jax.random.randint(jax.random.key(2), (64, 8), 0, 11).astype(jnp.int32)
    inputs = {f"head {head}": Heads("layers_0/[qkv]*", head) for head in range(4)}
    settings = jaxllc.Settings(jaxllc.SGLD(1e-3), 64.0, 10.0, 16, num_chains=4, num_draws=100, num_burn_in=50)
    est = jaxllc.estimate(next_token_loss(model), params, tokens, settings, components=inputs, **OPTIONS)
    assert abs(est.component("head 2").llc) < 1e-5
    assert all(abs(est.component(f"head {head}").llc) > 1e-2 for head in (0, 1, 3))


def test_parts_that_do_not_meet_add_up():
    """Two regressions of one loss: the coefficient of both is the sum of theirs."""
    params, data, _ = quadratic()
    est = jaxllc.estimate(loss_fn, params, data, SETTINGS, components={"a": "a", "b": "b", "both": None}, **OPTIONS)
    a, b, both = (est.component(name) for name in ("a", "b", "both"))
    assert abs(a.llc + b.llc - both.llc) < 4 * np.hypot(np.hypot(a.std_error, b.std_error), both.std_error)


def test_other_masks_run_in_the_same_program():
    params, data, _ = quadratic()
    traces = []

    def counted(params, batch):
        traces.append(None)
        return loss_fn(params, batch)

    short = SETTINGS.replace(sampler=jaxllc.SGLD(1e-3), num_draws=20, num_burn_in=5)
    jaxllc.estimate(counted, params, data, short, components={"a": Slice("a", 0), "b": Slice("b", 0)}, **OPTIONS)
    count = len(traces)
    assert count
    jaxllc.estimate(counted, params, data, short, components={"other": Slice("a", 1), "names": Slice("b", np.s_[:, 1])}, **OPTIONS)
    assert len(traces) == count


def test_whole_leaves_need_no_masks_and_no_gradient_of_the_others():
    params, _, _ = quadratic()
    one = resolve(Moving(components={"a": "a"}), params)
    assert one.masks is None
    assert "b" not in one.free
    two = resolve(Moving(components={"a": "a", "b": "b"}), params)
    assert two.masks is not None
    assert {name: mask.shape for name, mask in two.masks.items()} == {"a": (2, 1), "b": (2, 1, 1)}


def test_free_and_components_are_one_question():
    params, data, _ = quadratic()
    with pytest.raises(TypeError, match="free and components"):
        jaxllc.estimate(loss_fn, params, data, free="a", components={"b": "b"}, **OPTIONS)


def test_an_estimate_of_components_says_so():
    params, data, _ = quadratic()
    est = jaxllc.estimate(loss_fn, params, data, SETTINGS.replace(num_draws=50, num_burn_in=10), components={"a": "a", "b": "b"}, **OPTIONS)
    with pytest.raises(ValueError, match=r"est.component\('a'\)"):
        _ = est.llc
    with pytest.raises(KeyError, match="no component 'c'"):
        est.component("c")
    assert list(est.table().index) == ["a", "b"]
    assert est.table().loc["a", "llc"] == est.component("a").llc
    assert "a: λ̂ =" in str(est)
    assert est.settings.num_draws == 50


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


def test_components_that_do_not_fit_run_one_after_the_other(monkeypatch):
    """In parts of even size, with the same numbers."""
    params, data, _ = quadratic()
    settings = SETTINGS.replace(num_draws=100, num_burn_in=20)
    whole = jaxllc.estimate(loss_fn, params, data, settings, components=COMPONENTS, **OPTIONS)
    monkeypatch.setattr("jaxllc.grouping._fitting", lambda *_: 3)
    done = []
    monkeypatch.setattr(sys.modules["jaxllc.estimate"], "progress_bar", lambda total, _: contextlib.nullcontext(done.append))
    parts = jaxllc.estimate(loss_fn, params, data, settings, components=COMPONENTS, **OPTIONS)
    np.testing.assert_allclose(parts.summary["llc"].values, whole.summary["llc"].values, rtol=1e-5)
    assert parts.table()["findings"].tolist() == whole.table()["findings"].tolist()
    assert sum(done) == pytest.approx(settings.num_iterations)


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


def test_two_temperatures():
    """Of the noise-free quadratic both temperatures know the same loss at w*, so extrapolation changes little but the finite nbeta."""
    params, data, curvatures = quadratic()
    est = jaxllc.estimate(loss_fn, params, data, SETTINGS, components={"a": "a", "all": None}, extrapolate="nbeta", **OPTIONS)
    for name, which in {"a": [0, 1], "all": list(range(6))}.items():
        one = est.component(name)
        exact = 2 * quadratic_llc(curvatures[which], NBETA, LOCALIZATION) - quadratic_llc(curvatures[which], 2 * NBETA, LOCALIZATION)
        assert abs(one.llc - exact) < 4 * one.std_error
