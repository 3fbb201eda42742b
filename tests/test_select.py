"""Selections of weights and the map between free and full weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from jaxllc import Free, LocalPosterior, Paths
from jaxllc._tree import named_leaves
from jaxllc.models.transformer import Transformer
from jaxllc.select import Leaves, as_free, fixed_statistics, free_statistics, put_free, take_free


def statistics(free, params):
    """All that a user should know of."""
    return free_statistics(free, params) + fixed_statistics(free, params)


PARAMS = {"layers_0": {"w": jnp.ones(2), "b": jnp.zeros(2, jnp.bfloat16)}, "layers_1": {"w": jnp.ones(3)}, "count": jnp.asarray(4)}
WEIGHTS = {"layers_0/w", "layers_0/b", "layers_1/w"}


def chosen(free, params=PARAMS):
    """Names of the leaves that move when a user passes `free`."""
    return set(named_leaves(take_free(as_free(free, params), params)))


class NormNet(nnx.Module):
    """A layer, batch normalisation and dropout: weights, running statistics, a counter and a key."""

    def __init__(self, rngs):
        self.layer, self.norm, self.drop = nnx.Linear(2, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)


def test_selections_compose():
    assert chosen(Free()) == WEIGHTS
    assert chosen(Paths("layers_0/*")) == {"layers_0/w", "layers_0/b"}
    assert chosen(Paths("layers_0/*") & ~Paths("*/b")) == {"layers_0/w"}
    assert chosen(Paths("*/b") | Paths("layers_1/*")) == {"layers_0/b", "layers_1/w"}
    assert Paths("a", "b") == Paths("a", "b")
    assert hash(~Paths("a")) == hash(~Paths("a"))


@pytest.mark.parametrize(
    ("free", "names"),
    [
        (None, WEIGHTS),
        ("*/b", {"layers_0/b"}),
        (["layers_1/*", "*/b"], {"layers_1/w", "layers_0/b"}),
        (("layers_1/*", Paths("layers_0/*") & ~Paths("*/b")), {"layers_1/w", "layers_0/w"}),
        ({"layers_0": {"w": True, "b": False}, "layers_1": {"w": False}, "count": False}, {"layers_0/w"}),
        ({"layers_0": True, "layers_1": np.bool_(False), "count": jnp.asarray(True)}, {"layers_0/w", "layers_0/b"}),
        (True, WEIGHTS),
        (lambda path: path.endswith("w"), {"layers_0/w", "layers_1/w"}),
        (lambda path: np.bool_("1" in path), {"layers_1/w"}),
    ],
    ids=["none", "pattern", "patterns", "mixed", "mask", "prefix", "true", "predicate", "numpy-predicate"],
)
def test_whatever_a_user_passes_selects_exact_leaves(free, names):
    assert chosen(free) == names


def test_a_mask_moves_what_optax_would_mask():
    mask = {"layers_0": True, "layers_1": {"w": False}, "count": False}
    updates, _ = optax.masked(optax.set_to_zero(), mask).update(PARAMS, optax.masked(optax.set_to_zero(), mask).init(PARAMS))
    zeroed = {name for name, leaf in named_leaves(updates).items() if not np.asarray(leaf, np.float32).any()}
    assert chosen(mask) == zeroed == {"layers_0/w", "layers_0/b"}


def test_masks_follow_lists_and_single_arrays():
    params = [jnp.ones(1), (jnp.ones(2), jnp.ones(3))]
    assert chosen([False, (True, False)], params) == {"1/0"}
    assert chosen([False, True], params) == {"1/0", "1/1"}
    assert chosen(True, jnp.ones(2)) == chosen("*", jnp.ones(2)) == {""}
    assert statistics(Free(), jnp.ones(2)) == ()


def test_a_list_of_patterns_equals_paths_of_them():
    assert as_free(["layers_0/*", "*/w"], PARAMS) == Paths("layers_0/*", "*/w")


def test_equal_masks_and_functions_give_equal_values_with_a_short_repr():
    first, second = (as_free(lambda path: path.endswith("w"), PARAMS) for _ in range(2))
    mask = {"layers_0": {"w": True, "b": False}, "layers_1": True, "count": False}
    assert first == second == as_free(mask, PARAMS) == Leaves("layers_1/w", "layers_0/w")
    assert hash(first) == hash(second)
    assert repr(first) == "Leaves('layers_0/w', 'layers_1/w')"
    many = {f"layers_{i}": jnp.ones(1) for i in range(500)}
    long, other = as_free(lambda path: path != "layers_7", many), as_free(lambda path: path != "layers_8", many)
    assert "499 leaves" in repr(long)
    assert len(repr(long)) < 120
    assert repr(long) != repr(other)
    assert chosen(~long, many) == {"layers_7"}


def test_a_mask_that_is_true_everywhere_is_the_selection_of_all():
    assert as_free(jax.tree.map(lambda _: True, PARAMS), PARAMS) == as_free(None, PARAMS) == Free()


def test_exact_names_are_no_patterns():
    params = {"w[0]": jnp.ones(1), "w0": jnp.ones(1), "*": jnp.ones(1)}
    assert chosen({"w[0]": True, "w0": False, "*": False}, params) == {"w[0]"}
    assert chosen(lambda path: path == "*", params) == {"*"}


@pytest.mark.parametrize(
    ("free", "match"),
    [
        (3, r"free=3 has the type int; free takes a pattern"),
        (nnx.Param, r"free=<class .*Param.*free takes"),
        (jnp.ones(2, bool), r"free=Array.*a list of patterns"),
        ([Paths("*"), True], r"free=.* holds True of type bool"),
        ({"head", "w"}, r"free=.* has the type set"),
        ({"layers_0": {"w": jnp.array([True, False]), "b": True}, "layers_1": True, "count": True}, r"free is a mask that holds Array.* at 'layers_0/w'"),
        ({"layers_0": 1, "layers_1": 0, "count": 0}, r"free is a mask that holds 0 at 'count'"),
        ({"layers_0": "w", "layers_1": False, "count": False}, r"free is a mask that holds 'w' at 'layers_0'"),
        ({"layers_0": True}, r"free is a mask of another structure than params: it says nothing of count, layers_1/w"),
        ({"layers_0": True, "layer_1": True, "count": True}, r"nothing of layers_1/w; params have no leaf layer_1"),
        ({}, r"it says nothing of count, layers_0/b"),
        (lambda path: 1, r"free=<function.* returned 1 for the leaf 'layers_0/b'"),
        (lambda path, leaf: True, r"free=<function.* failed for the leaf 'layers_0/b': TypeError"),
        (lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params), r"free=<function.* failed for the leaf"),
    ],
    ids=["number", "class", "array", "mixed", "set", "arrays", "numbers", "strings", "short", "renamed", "empty", "no-bool", "two-arguments", "optax"],
)
def test_anything_else_is_refused_by_name(free, match):
    with pytest.raises(TypeError, match=match) as caught:
        as_free(free, PARAMS)
    assert "a mask: a tree of bools" in str(caught.value)


@pytest.mark.parametrize(
    ("free", "match"),
    [
        ("head", r"'head' in free matches no leaf; the leaves are: count, layers_0/b, layers_0/w, layers_1/w\."),
        (["layers_0/*", "mlp*"], r"'mlp\*' in free matches no leaf"),
        (["layers_0/*", ""], r"'' in free matches no leaf"),
        ([], r"free=\[\] leaves nothing free"),
        (False, r"free=False leaves nothing free: it is True for none of the weights layers_0/b, layers_0/w, layers_1/w"),
        ({"layers_0": False, "layers_1": False, "count": True}, "leaves nothing free"),
        (lambda path: False, "leaves nothing free"),
        ("count", r"selects no weight that can move.*stays fixed: count"),
        (Paths("nothing"), r"selects no weight that can move; the weights are: layers_0/b, layers_0/w"),
        (Paths("a") & Paths("b"), "selects no weight that can move"),
    ],
    ids=["pattern", "in-a-list", "empty-pattern", "empty-list", "false", "false-mask", "false-predicate", "integer", "paths", "composed"],
)
def test_a_selection_without_weights_is_refused(free, match):
    with pytest.raises(ValueError, match=match):
        as_free(free, PARAMS)


def test_a_long_list_of_leaves_is_cut_short():
    with pytest.raises(ValueError, match=r"layers_100, .* and 480 more") as caught:
        as_free("head", {f"layers_{i}": jnp.ones(1) for i in range(100, 600)})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("state_of", [nnx.state, lambda net: nnx.split(net)[1], lambda net: net], ids=["state", "split", "module"])
def test_weights_alone_move_in_an_nnx_state(state_of):
    state = state_of(NormNet(nnx.Rngs(0)))
    weights = {"layer/kernel", "layer/bias", "norm/scale", "norm/bias"}
    assert chosen(None, state) == weights
    assert chosen("norm/*", state) == {"norm/scale", "norm/bias"}
    assert chosen(~Paths("layer/*"), state) == {"norm/scale", "norm/bias"}
    assert chosen(jax.tree.map(lambda _: True, state), state) == weights
    mask = jax.tree.map(lambda leaf: leaf.ndim == 2, state)
    assert chosen(mask, state) == {"layer/kernel"}
    assert chosen({"layer": True, "norm": False, "drop": False}, state) == {"layer/kernel", "layer/bias"}
    assert statistics(Free(), state) == ()


def test_classes_derived_from_batch_stat_stay_fixed():
    class Shift(nnx.BatchStat):
        pass

    class Weight(nnx.Param):
        pass

    state = nnx.State({"shift": Shift(jnp.ones(2)), "weight": Weight(jnp.ones(2)), "cache": nnx.Cache(jnp.ones(2))})
    assert chosen(None, state) == {"weight"}


def test_batch_stats_of_linen_stay_fixed():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.BatchNorm(use_running_average=True)(linen.Dense(3)(x))

    variables = Net().init(jax.random.key(0), jnp.ones((1, 2)))
    weights = {"params/Dense_0/kernel", "params/Dense_0/bias", "params/BatchNorm_0/scale", "params/BatchNorm_0/bias"}
    assert chosen(None, variables) == weights
    assert chosen({"params": True, "batch_stats": True}, variables) == weights
    assert statistics(Free(), variables) == ()


def test_what_is_no_number_stays_fixed():
    params = {"w": jnp.ones(2), "key": jax.random.key(0), "flag": True, "scalar": 0.5, "act": jax.nn.relu, "dtype": jnp.float32, "name": "float32"}
    assert chosen(None, params) == {"w", "scalar"}
    params["none"] = None
    assert chosen("*", params) == {"w", "scalar"}


@pytest.mark.parametrize(
    ("norm", "names"),
    [
        ({"running_mean": 0, "running_var": 0, "weight": 0}, {"running_mean", "running_var"}),
        ({"moving_mean": 0, "moving_variance": 0, "gamma": 0}, {"moving_mean", "moving_variance"}),
        ({"scale": 0, "bias": 0, "mean": 0, "var": 0}, {"mean", "var"}),
        ({"mean_ema": {"average": 0, "hidden": 0}}, {"mean_ema/average", "mean_ema/hidden"}),
        ({"runningMean": 0}, {"runningMean"}),
        ({"BatchNorm_0": {"mean": 0, "var": 0}}, {"BatchNorm_0/mean", "BatchNorm_0/var"}),
        ({"bn1.mean": 0, "bn1.var": 0}, {"bn1.mean", "bn1.var"}),
        ({"mean": 0}, set()),
        ({"mean": 0, "bias": 0}, set()),
        ({"mean": 0, "var": 0}, set()),
        ({"normal": {"mean": 0, "var": 0}}, set()),
        ({"mean": {"kernel": 0, "bias": 0}, "var": {"kernel": 0, "bias": 0}}, set()),
        ({"average": 0, "hidden": 0}, set()),
        ({"LayerNorm_0": {"scale": 0, "bias": 0}}, set()),
    ],
)
def test_free_statistics_that_nothing_marks_are_told(norm, names):
    params = {"block": jax.tree.map(lambda _: jnp.ones(3), norm), "head": jnp.ones(2)}
    assert set(statistics(Free(), params)) == {f"block/{name}" for name in names}
    assert statistics(Paths("head"), params) == ()


def test_statistics_of_a_pure_nnx_dict_are_told():
    params = nnx.to_pure_dict(nnx.state(NormNet(nnx.Rngs(0)), (nnx.Param, nnx.BatchStat)))
    assert set(statistics(Free(), params)) == {"norm/mean", "norm/var"}
    assert statistics(~Paths("norm/mean", "norm/var"), params) == ()


def test_statistics_that_a_selection_names_stay_fixed_and_are_told():
    state = nnx.state(NormNet(nnx.Rngs(0)))
    only_mean = as_free(["layer/*", "norm/mean"], state)
    assert chosen(only_mean, state) == {"layer/kernel", "layer/bias"}
    assert statistics(only_mean, state) == fixed_statistics(only_mean, state) == ("norm/mean",)
    by_name = as_free(lambda path: path in ("norm/scale", "norm/var"), state)
    assert chosen(by_name, state) == {"norm/scale"}
    assert statistics(by_name, state) == ("norm/var",)
    for free in (None, "norm/*", "*", lambda path: True, {"layer": False, "norm": True, "drop": False}, ~Paths("layer/*")):
        assert statistics(as_free(free, state), state) == ()
    with pytest.raises(ValueError, match="norm/mean"):
        as_free("norm/mean", state)


def test_complex_weights_are_refused_unless_they_stay_fixed():
    params = {"w": jnp.ones(2, jnp.complex64), "b": jnp.ones(3)}
    for free in (None, "w", ["w", "b"], {"w": True, "b": False}, lambda path: path == "w"):
        with pytest.raises(ValueError, match=r"leaf 'w' of params is complex.*two real leaves.*free="):
            as_free(free, params)
    with pytest.raises(ValueError, match="complex"):
        take_free(Free(), params)
    for free in ("b", ~Paths("w"), {"w": False, "b": True}):
        assert chosen(free, params) == {"b"}
    full = put_free({"w": None, "b": jnp.zeros(3)}, params)
    np.testing.assert_array_equal(full["w"], params["w"])
    np.testing.assert_array_equal(full["b"], np.zeros(3))


def test_positions_are_float32_and_params_keep_their_dtype():
    posterior = LocalPosterior(lambda p, b: b, PARAMS, 1.0, free=Paths("layers_0/b"))
    position = posterior.position()
    assert position["layers_0"]["b"].dtype == jnp.float32
    full = put_free({"layers_0": {"w": None, "b": jnp.full(2, 7.0)}, "layers_1": {"w": None}, "count": None}, PARAMS)
    assert full["layers_0"]["b"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(full["layers_0"]["b"], [7, 7])
    np.testing.assert_array_equal(full["layers_1"]["w"], PARAMS["layers_1"]["w"])
    assert full["count"] == 4


def test_an_nnx_state_comes_back_whole_under_jit():
    state = nnx.state(NormNet(nnx.Rngs(0)))

    @jax.jit
    def moved(state):
        return put_free(jax.tree.map(lambda leaf: leaf + 1, take_free(as_free("layer/*", state), state)), state)

    before, after = named_leaves(state), named_leaves(moved(state))
    assert jax.tree.structure(moved(state)) == jax.tree.structure(state)
    changed = {name for name in before if not np.array_equal(*(jax.random.key_data(x) if name == "drop/rngs/key" else x for x in (before[name], after[name])))}
    assert changed == {"layer/kernel", "layer/bias"}


def test_the_values_of_attention_are_found_by_their_name(key):
    params = Transformer(11, 8, width=8, num_heads=2).init_params(key)
    found = take_free(Paths("layers_0/*"), params)
    assert found["layers_0"]["value"] is not None
    assert len(jax.tree.leaves(found)) == 4


def test_an_empty_selection_lists_what_there_is():
    with pytest.raises(ValueError, match="layers_0/w"):
        take_free(Paths("nothing"), PARAMS)
