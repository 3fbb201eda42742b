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


def test_a_component_beside_weights_that_take_large_steps():
    """Coordinates that no weight follows do not wander: RMSProp, whose steps are largest where there is no gradient, stays finite."""
    params, data, _ = quadratic()
    settings = SETTINGS.replace(sampler=jaxllc.SGLD(1e-2, jaxllc.RMSProp(eps=0.1)), localization=100.0, num_draws=500, num_burn_in=100)
    est = jaxllc.estimate(loss_fn, params, data, settings, components={"one": Slice("a", 0)}, **OPTIONS)
    assert not est.summary["num_diverged"].values.any()


def test_one_thermostat_for_parts_of_leaves_is_refused():
    params, data, _ = quadratic()
    settings = SETTINGS.replace(sampler=jaxllc.SGNHT(1e-3), num_draws=20)
    with pytest.raises(ValueError, match="SGNHT has one thermostat"):
        jaxllc.estimate(loss_fn, params, data, settings, components={"one": Slice("a", 0)}, **OPTIONS)
    jaxllc.estimate(loss_fn, params, data, settings, components={"a": "a"}, **OPTIONS)


def test_a_component_that_stands_still_is_told_though_others_move():
    params = {"big": jnp.full(3, 2.0**20), "small": jnp.zeros(50)}
    data = np.random.default_rng(0).normal(size=(200, 1)).astype(np.float32)

    def flat(params, batch):
        return (batch[:, 0] - 1e-3 * params["small"].sum()) ** 2 + 0 * params["big"].sum()

    settings = jaxllc.Settings(jaxllc.SGLD(1e-4), 10.0, 1.0, 50, num_chains=4, num_draws=40, num_burn_in=10)
    est = jaxllc.estimate(flat, params, data, settings, components={"big": "big", "small": "small"}, **OPTIONS)
    assert [finding.code for finding in est.component("big").findings] == ["stuck"]
    assert "stuck" not in [finding.code for finding in est.component("small").findings]


def test_the_component_of_all_weights_is_the_estimate():
    """The same random numbers: to rounding."""
    params, data, _ = quadratic()
    settings = SETTINGS.replace(num_draws=200, num_burn_in=50)
    alone = jaxllc.estimate(loss_fn, params, data, settings, **OPTIONS)
    est = jaxllc.estimate(loss_fn, params, data, settings, components={"a": "a", "all": None}, **OPTIONS)
    np.testing.assert_allclose(est.component("all").llc, alone.llc, rtol=1e-4)
    np.testing.assert_allclose(est.component("all").std_error, alone.std_error, rtol=1e-3)


@pytest.mark.parametrize("free", [{"a": np.ones(2, bool), "b": np.ones((2, 2), bool)}, Slice("a", np.array([0, 1])), Heads("b", np.arange(2), axis=0)], ids=str)
def test_parts_that_are_whole_leaves_run_twice(free):
    """Static fields hold no arrays, which cannot be compared."""
    params, data, _ = quadratic()
    short = SETTINGS.replace(sampler=jaxllc.SGLD(1e-3), num_draws=10, num_burn_in=2)
    first, second = (jaxllc.estimate(loss_fn, params, data, short, free=free, **OPTIONS) for _ in range(2))
    assert first.llc == second.llc


def test_a_slice_of_many_numbers_is_told_from_another(tmp_path):
    """Their text would be cut short."""
    some, other = np.arange(2000), np.r_[np.arange(1500), 1501, np.arange(1501, 2000)]
    assert repr(Slice("a", some)) != repr(Slice("a", other))
    assert repr(Slice("a", some)) == repr(Slice("a", some.copy()))
    assert repr(Slice("a", np.s_[1:3, 0])) == "Slice('a', (slice(1, 3, None), 0))"


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
    (axis,) = est.plot()
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]


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


def test_two_temperatures():
    """Of the noise-free quadratic both temperatures know the same loss at w*, so extrapolation changes little but the finite nbeta."""
    params, data, curvatures = quadratic()
    est = jaxllc.estimate(loss_fn, params, data, SETTINGS, components={"a": "a", "all": None}, extrapolate="nbeta", **OPTIONS)
    for name, which in {"a": [0, 1], "all": list(range(6))}.items():
        one = est.component(name)
        exact = 2 * quadratic_llc(curvatures[which], NBETA, LOCALIZATION) - quadratic_llc(curvatures[which], 2 * NBETA, LOCALIZATION)
        assert abs(one.llc - exact) < 4 * one.std_error
