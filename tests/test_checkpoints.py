"""Orbax directories as users write them, and what goes wrong with them."""

import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training import checkpoints as flax_checkpoints
from orbax.checkpoint import v1

from jaxllc import OrbaxCheckpoints

PARAMS = {"layers_0": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4, jnp.bfloat16)}, "scale": jnp.asarray(2.0)}
STEPS = (0, 10, 300)


def weights(step):
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(step, leaf.dtype), PARAMS)


def state(step):
    """Weights in a larger state, with Adam's moments in the same shapes."""
    return {"params": weights(step), "opt_state": optax.adam(1e-3).init(weights(step)), "step": step}


LAYOUTS = {
    "weights alone": (lambda step: ocp.args.StandardSave(weights(step)), None),
    "params of a state": (lambda step: ocp.args.StandardSave(state(step)), "params"),
    "params of a named item": (
        lambda step: ocp.args.Composite(state=ocp.args.StandardSave(state(step)), extra=ocp.args.JsonSave({"a": 1})),
        "state/params",
    ),
    "a named item": (lambda step: ocp.args.Composite(params=ocp.args.StandardSave(weights(step)), opt=ocp.args.StandardSave({"m": weights(0)})), "params"),
}


@pytest.fixture(params=LAYOUTS, scope="module")
def layout(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    save, item = LAYOUTS[request.param]
    with ocp.CheckpointManager(directory) as manager:
        for step in STEPS:
            manager.save(step, args=save(step))
    return directory, item


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    with ocp.CheckpointManager(directory) as manager:
        for step in STEPS:
            manager.save(step, args=ocp.args.StandardSave(state(step)))
    return directory


def assert_weights(restored, step):
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, restored), jax.tree.map(np.asarray, weights(step)))


def save_items(directory, step, /, **items):
    with ocp.CheckpointManager(directory) as manager:
        manager.save(step, args=ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in items.items()}))


def save_plain(directory, tree, *names, saver=ocp.StandardCheckpointer):
    with saver() as checkpointer:
        for name in names:
            checkpointer.save(directory / name, tree)


def test_each_layout_is_read(layout):
    directory, item = layout
    checkpoints = OrbaxCheckpoints(directory, like=PARAMS, item=item)
    assert list(checkpoints) == list(STEPS)
    assert len(checkpoints) == 3
    assert 10 in checkpoints
    assert 11 not in checkpoints
    for step in STEPS:
        assert_weights(checkpoints[step], step)


def test_each_layout_is_found_without_a_hint(layout):
    """`like` picks the weights, not Adam's moments of the same shapes; without it, `params` does."""
    directory, _ = layout
    assert_weights(OrbaxCheckpoints(directory, like=PARAMS)[300], 300)
    assert_weights(OrbaxCheckpoints(directory)[10], 10)


def test_leaves_are_cast_to_like(run):
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), PARAMS)
    found = OrbaxCheckpoints(run, like=like)[10]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(found)} == {"bfloat16"}
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), PARAMS)
    assert OrbaxCheckpoints(run, like=like)[10]["layers_0"]["bias"].dtype == np.float32
    assert OrbaxCheckpoints(run)[10]["layers_0"]["bias"].dtype == jnp.bfloat16


def test_listing_reads_no_arrays(run, monkeypatch):
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", lambda *_, **__: pytest.fail("an array was read"))
    checkpoints = OrbaxCheckpoints(run, like=PARAMS)
    assert list(checkpoints) == list(STEPS)
    assert repr(checkpoints).endswith("steps 0, 10, 300)")


def test_only_the_weights_are_read(run, monkeypatch):
    restore, seen = ocp.PyTreeCheckpointHandler.restore, []
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", lambda self, *a, args, **k: (seen.append(args.item), restore(self, *a, args=args, **k))[1])
    OrbaxCheckpoints(run, like=PARAMS)[0]
    assert list(seen[0]) == ["params"]


def test_unfinished_saves_are_passed_over(run):
    unfinished = run / "400.orbax-checkpoint-tmp-7"
    unfinished.mkdir()
    try:
        assert list(OrbaxCheckpoints(run)) == list(STEPS)
    finally:
        unfinished.rmdir()


def test_steps_that_were_left_unfinished_without_a_manager_are_passed_over(tmp_path):
    save_plain(tmp_path, weights(1), "checkpoint_1")
    for name in ("checkpoint_2.orbax-checkpoint-tmp", "checkpoint_3.orbax-checkpoint-tmp-1700000000", "checkpoint_tmp"):
        shutil.copytree(tmp_path / "checkpoint_1", tmp_path / name)
    assert list(OrbaxCheckpoints(tmp_path)) == [1]


@pytest.mark.parametrize(("prefix", "length", "name"), [("ckpt", 6, "ckpt_000007"), (None, 5, "00007"), ("my_net", None, "my_net_7"), ("v1.2", None, "v1.2_7")])
def test_step_names_with_a_prefix_or_padding(tmp_path, prefix, length, name):
    options = ocp.CheckpointManagerOptions(step_prefix=prefix, step_format_fixed_length=length)
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        manager.save(7, args=ocp.args.StandardSave(weights(7)))
    assert (tmp_path / name).is_dir()
    checkpoints = OrbaxCheckpoints(tmp_path, like=PARAMS)
    assert list(checkpoints) == [7]
    assert_weights(checkpoints[7], 7)


def by_plain_checkpointer(saver):
    def write(directory, tree, step):
        save_plain(directory, tree, str(step), saver=saver)

    return write


def by_flax(prefix):
    def write(directory, tree, step):
        flax_checkpoints.save_checkpoint(str(directory), tree, step, prefix=prefix, keep=9)

    return write


def by_v1_checkpointer(directory, tree, step):
    with v1.training.Checkpointer(directory) as checkpointer:
        checkpointer.save(step, tree)


def by_v1_items(directory, tree, step):
    with v1.training.Checkpointer(directory) as checkpointer:
        checkpointer.save_checkpointables(step, {"network": tree, "opt_state": {"mu": weights(0)}, "info": {"seed": 3, "rate": 0.1}})


def by_manager_with_checkpointer(directory, tree, step):
    with ocp.CheckpointManager(directory, ocp.PyTreeCheckpointer()) as manager:
        manager.save(step, tree)


WRITERS = {
    "StandardCheckpointer": by_plain_checkpointer(ocp.StandardCheckpointer),
    "PyTreeCheckpointer": by_plain_checkpointer(ocp.PyTreeCheckpointer),
    "PyTreeCheckpointer, a folder an array": by_plain_checkpointer(lambda: ocp.PyTreeCheckpointer(use_ocdbt=False)),
    "flax": by_flax("checkpoint_"),
    "flax, a prefix without underscore": by_flax("net"),
    "v1 Checkpointer": by_v1_checkpointer,
    "v1 Checkpointer, items": by_v1_items,
    "v1 save": lambda directory, tree, step: v1.save(directory / str(step), tree),
    "CheckpointManager around a checkpointer": by_manager_with_checkpointer,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_each_writer_is_read(tmp_path, write):
    for step in (9, 10):
        write(tmp_path, weights(step), step)
    for checkpoints in (OrbaxCheckpoints(tmp_path, like=PARAMS), OrbaxCheckpoints(tmp_path)):
        assert list(checkpoints) == [9, 10]
        for step in (10, 9):
            assert_weights(checkpoints[step], step)


@pytest.mark.parametrize("write", [WRITERS["StandardCheckpointer"], WRITERS["flax"], WRITERS["v1 Checkpointer"]], ids=["plain", "flax", "v1"])
def test_the_params_of_a_state_are_read_from_each_writer(tmp_path, write):
    write(tmp_path, state(4), 4)
    for options in ({"like": PARAMS}, {}, {"item": "params"}):
        assert_weights(OrbaxCheckpoints(tmp_path, **options)[4], 4)
    with pytest.raises(ValueError, match=r"step 4 in .* has no item 'weights'; it holds (state: )?opt_state, params, step"):
        OrbaxCheckpoints(tmp_path, item="weights")[4]


def test_numbered_folders_without_a_checkpoint_are_passed_over(tmp_path):
    save_plain(tmp_path, weights(10), "10")
    for name in ("2024", "run_7", "30"):
        (tmp_path / name / "logs").mkdir(parents=True)
    (tmp_path / "30" / "logs" / "events").write_text("")
    (tmp_path / "40").write_text("a file")
    save_plain(tmp_path / "50", weights(1), "1", "2")  # the directory of another run
    checkpoints = OrbaxCheckpoints(tmp_path, like=PARAMS)
    assert list(checkpoints) == [10]
    assert_weights(checkpoints[10], 10)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("10", "0010"), "two checkpoints of step 10, 0010 and 10"),
        (("best_10", "checkpoint_10"), "two checkpoints of step 10, best_10 and checkpoint_10"),
        (("best_10", "checkpoint_20"), "checkpoints of several prefixes, best_10 and checkpoint_20"),
    ],
)
def test_folders_of_two_runs_are_not_mixed(tmp_path, names, message):
    save_plain(tmp_path, weights(0), *names)
    with pytest.raises(ValueError, match=f"holds {message}; move or link the folders of one run into a directory of their own"):
        OrbaxCheckpoints(tmp_path)


@pytest.mark.parametrize("layout", ["item", "plain"])
def test_the_folder_of_one_step_is_named_as_such(tmp_path, layout):
    if layout == "item":
        save_items(tmp_path, 3, model=weights(3))
    else:
        save_plain(tmp_path, weights(3), "3")
    with pytest.raises(ValueError, match=r"3 is itself one checkpoint; pass the directory above it"):
        OrbaxCheckpoints(tmp_path / "3")


def test_files_of_flax_msgpack_are_named_as_such(tmp_path):
    (tmp_path / "checkpoint_10").write_bytes(b"")
    with pytest.raises(ValueError, match=r"it holds checkpoint_10\..* are flax's msgpack format: read them with flax\.training\.checkpoints"):
        OrbaxCheckpoints(tmp_path)


def test_a_missing_step_says_what_is_there(run):
    with pytest.raises(KeyError, match=r"no checkpoint at step 20 in .*; it holds 0, 10, 300"):
        OrbaxCheckpoints(run)[20]


def test_a_missing_or_empty_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint directory .*nowhere"):
        OrbaxCheckpoints(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="holds no finished checkpoint; it holds nothing"):
        OrbaxCheckpoints(tmp_path)


def test_a_missing_item_says_what_is_there(run):
    with pytest.raises(ValueError, match=r"step 0 in .* has no item 'weights'; it holds default: opt_state, params, step"):
        OrbaxCheckpoints(run, item="weights")[0]


def test_a_tree_that_does_not_match(run):
    with pytest.raises(ValueError, match=r"step 0 in .*not there: layers_1/kernel; not in like: layers_0/bias, layers_0/kernel, scale"):
        OrbaxCheckpoints(run, like={"layers_1": {"kernel": jnp.ones(3)}})[0]
    with pytest.raises(ValueError, match=r"scale \(\) instead of \(2,\)"):
        OrbaxCheckpoints(run, like=PARAMS | {"scale": jnp.ones(2)})[0]


def test_a_damaged_checkpoint_is_named(run, tmp_path):
    """In a process of its own: a read that fails leaves tasks of Orbax behind, whose complaints would reach other tests."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for path in (copy / "10").rglob("manifest.ocdbt"):
        path.unlink()
    code = (
        "import jaxllc\n"
        f"checkpoints = jaxllc.OrbaxCheckpoints({str(copy)!r}, item='params')\n"
        "assert checkpoints[0]['scale'] == 2\n"
        "try: checkpoints[10]\n"
        "except ValueError as error: print(error)\n"
        "assert checkpoints[300]['scale'] == 302\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"step 10, .*run/10, cannot be read \(ValueError: .*leave this step out or save it again", done.stdout, re.S)


ITEMS = {
    "an optimizer beside it": {"model": weights(3), "opt": {"m": weights(0)}},
    "an optimizer of its shape": {"net": weights(3), "opt_state": weights(0)},
    "numbers beside it": {"transformer": weights(3), "counters": {"epoch": jnp.asarray(2), "order": jnp.arange(4)}},
    "params in it": {"train_state": state(3), "counters": {"epoch": jnp.asarray(2)}},
    "params beside its average": {"params": weights(3), "average": weights(0)},
}


@pytest.mark.parametrize("items", ITEMS.values(), ids=ITEMS)
def test_the_only_item_of_weights_is_read_whatever_its_name(tmp_path, items):
    save_items(tmp_path, 3, **items)
    assert_weights(OrbaxCheckpoints(tmp_path, like=PARAMS)[3], 3)
    assert_weights(OrbaxCheckpoints(tmp_path)[3], 3)


def test_one_item_beside_what_is_no_tree(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.Composite(model=ocp.args.StandardSave(weights(3)), extra=ocp.args.JsonSave({"a": 1})))
    assert_weights(OrbaxCheckpoints(tmp_path, like=PARAMS)[3], 3)
    assert_weights(OrbaxCheckpoints(tmp_path)[3], 3)
    assert_weights(OrbaxCheckpoints(tmp_path, item="model")[3], 3)


def test_weights_beside_an_optimizer_in_one_tree(tmp_path):
    save_plain(tmp_path, {"model": weights(3), "opt_state": {"m": weights(0)}, "epoch": 2, "note": "warm"}, "3", saver=ocp.PyTreeCheckpointer)
    assert_weights(OrbaxCheckpoints(tmp_path, like=PARAMS)[3], 3)
    assert_weights(OrbaxCheckpoints(tmp_path)[3], 3)


@pytest.mark.parametrize("like", [PARAMS, None], ids=["like", "no like"])
def test_two_items_that_could_be_the_weights_are_named(tmp_path, like):
    save_items(tmp_path, 3, ema=weights(0), model=weights(3), opt_state={"m": weights(0)})
    with pytest.raises(ValueError, match=r"step 3 in .* has several parts that could be the weights: ema, model; pass item= one of these"):
        OrbaxCheckpoints(tmp_path, like=like)[3]
    assert_weights(OrbaxCheckpoints(tmp_path, like=like, item="model")[3], 3)


def test_two_parts_of_one_tree_that_could_be_the_weights_are_named(tmp_path):
    save_plain(tmp_path, {"ema": weights(0), "model": weights(3)}, "3")
    with pytest.raises(ValueError, match=r"step 3 in .* has several parts that could be the weights: ema, model; pass item="):
        OrbaxCheckpoints(tmp_path, like=PARAMS)[3]
    assert_weights(OrbaxCheckpoints(tmp_path, item="model")[3], 3)


def test_shapes_tell_apart_parts_of_the_same_names(tmp_path):
    save_items(tmp_path, 3, encoder={"w": jnp.ones((2, 3))}, decoder={"w": jnp.full((3, 2), 5.0)})
    np.testing.assert_array_equal(OrbaxCheckpoints(tmp_path, like={"w": jnp.zeros((3, 2))})[3]["w"], np.full((3, 2), 5.0))


def test_a_step_without_weights_says_what_is_there(tmp_path):
    save_items(tmp_path, 3, opt_state={"m": weights(0)}, counters={"epoch": jnp.asarray(1)})
    with pytest.raises(ValueError, match=r"step 3 in .* has no item 'params'; it holds counters: epoch; opt_state: m\. Pass item="):
        OrbaxCheckpoints(tmp_path)[3]


def test_an_nnx_state_is_read_by_plain_names(tmp_path):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.StandardSave(nnx.state(model)))
    restored = OrbaxCheckpoints(tmp_path, like={"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)})[1]
    np.testing.assert_array_equal(restored["kernel"], model.kernel[...])


class Net(nnx.Module):
    """A model whose state holds weights, statistics, a counter and a typed random key."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.linear, self.norm, self.drop = nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(self.linear(x)))


def trained_net():
    """Two calls in train mode move the statistics and the counter away from their first values."""
    net = Net(5)
    for scale in (1.0, 3.0):
        net(scale * jnp.arange(6.0).reshape(2, 3))
    return net


def bits(leaf):
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_same_state(restored, saved):
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for leaf, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert leaf.dtype == expected.dtype
        np.testing.assert_array_equal(bits(leaf), bits(expected))


@pytest.fixture(scope="module")
def nnx_run(tmp_path_factory):
    """A full nnx state as the manager, a plain checkpointer and Orbax v1 write it."""
    saved = nnx.state(trained_net())
    places = {name: tmp_path_factory.mktemp(name) for name in ("manager", "plain", "v1")}
    with ocp.CheckpointManager(places["manager"]) as manager:
        manager.save(0, args=ocp.args.StandardSave(saved))
    save_plain(places["plain"], saved, "0")
    by_v1_checkpointer(places["v1"], saved, 0)
    return places, saved


@pytest.mark.parametrize("writer", ["manager", "plain", "v1"])
@pytest.mark.parametrize("template", ["concrete", "abstract"])
def test_a_full_nnx_state_is_restored_with_its_random_keys(nnx_run, writer, template):
    """The template comes of another seed: key, counter and statistics are those of the file."""
    places, saved = nnx_run
    like = nnx.state(Net(0)) if template == "concrete" else nnx.state(nnx.eval_shape(lambda: Net(0)))
    restored = OrbaxCheckpoints(places[writer], like=like)[0]
    assert_same_state(restored, saved)
    assert int(restored["drop"]["rngs"]["count"][...]) == 2
    net = Net(0)
    nnx.update(net, restored)
    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(net(x), trained_net()(x))


def test_a_full_nnx_state_agrees_with_what_orbax_restores(nnx_run):
    places, _ = nnx_run
    abstract = nnx.state(nnx.eval_shape(lambda: Net(0)))
    with ocp.CheckpointManager(places["manager"]) as manager:
        expected = manager.restore(0, args=ocp.args.StandardRestore(abstract))
    assert_same_state(OrbaxCheckpoints(places["manager"], like=abstract)[0], expected)


def test_without_like_a_random_key_is_its_data(nnx_run):
    places, saved = nnx_run
    restored = OrbaxCheckpoints(places["manager"])[0]
    np.testing.assert_array_equal(restored["drop"]["rngs"]["key"]["value"], bits(saved["drop"]["rngs"]["key"][...]))


@pytest.mark.parametrize("item", [None, "default"])
def test_the_weights_of_a_full_nnx_state_are_read_alone(nnx_run, monkeypatch, item):
    places, saved = nnx_run
    restore, requests = ocp.PyTreeCheckpointHandler.restore, []
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", lambda self, *a, args, **k: (requests.append(args.item), restore(self, *a, args=args, **k))[1])
    restored = OrbaxCheckpoints(places["manager"], like=nnx.state(Net(0), nnx.Param), item=item)[0]
    assert_same_state(restored, nnx.filter_state(saved, nnx.Param))
    assert jax.tree.leaves(requests[0]["drop"]) == [ocp.PLACEHOLDER] * 2
    assert requests[0]["norm"]["mean"]["value"] is ocp.PLACEHOLDER


def test_the_weights_of_two_nnx_models_are_named(tmp_path):
    save_items(tmp_path, 0, actor=nnx.state(Net(0)), critic=nnx.state(Net(1)))
    like = nnx.state(Net(2), nnx.Param)
    with pytest.raises(ValueError, match=r"several parts that could be the weights: actor, critic; pass item="):
        OrbaxCheckpoints(tmp_path, like=like)[0]
    assert_same_state(OrbaxCheckpoints(tmp_path, like=like, item="critic")[0], nnx.state(Net(1), nnx.Param))


def test_an_nnx_state_beside_plain_numbers(tmp_path):
    """The level `value` of nnx variables is no part of their name, whatever else the tree holds."""
    save_plain(tmp_path, {"model": nnx.state(Net(1)), "epoch": jnp.asarray(4)}, "0")
    restored = OrbaxCheckpoints(tmp_path, like={"model": nnx.state(Net(0)), "epoch": jnp.asarray(0)})[0]
    assert_same_state(restored["model"], nnx.state(Net(1)))
    assert restored["epoch"] == 4


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_random_keys_outside_nnx(tmp_path, implementation):
    keys = jax.random.split(jax.random.key(3, impl=implementation), 2)
    save_plain(tmp_path, {"w": jnp.ones(3), "keys": keys}, "0")
    restored = OrbaxCheckpoints(tmp_path, like={"w": jnp.zeros(3), "keys": keys})[0]["keys"]
    assert restored.dtype == keys.dtype
    np.testing.assert_array_equal(jax.random.key_data(restored), jax.random.key_data(keys))


def test_a_key_in_like_that_was_saved_as_numbers(tmp_path):
    save_plain(tmp_path, {"w": jnp.ones(3), "key": jax.random.PRNGKey(0)}, "0")
    with pytest.raises(ValueError, match=r"shapes at step 0 in .* do not match like: key \(2,\) instead of \(\) of random keys"):
        OrbaxCheckpoints(tmp_path, like={"w": jnp.ones(3), "key": jax.random.key(0)})[0]
