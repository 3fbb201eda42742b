"""Steps on disk: every layout that Orbax and flax write is listed and read."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.training import checkpoints as flax_checkpoints
from orbax.checkpoint import v1
from saved_runs import PARAMS, STEPS, assert_weights, by_v1_checkpointer, save_items, save_plain, state, weights

from jaxllc import OrbaxCheckpoints

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


def test_settings_of_a_module_are_those_of_like(tmp_path):
    """Saved or not. Seen to come back as arrays, which chains then moved as weights."""
    eqx = pytest.importorskip("equinox")
    saved = eqx.tree_at(lambda net: net[1].p, (eqx.nn.Linear(2, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.5)), 0.25)
    save_plain(tmp_path / "run", {"params": saved}, "1")
    save_plain(tmp_path / "weights", {"params": eqx.filter(saved, eqx.is_array)}, "1")
    like = eqx.nn.Linear(2, 1, key=jax.random.key(1)), eqx.nn.Dropout(0.5, inference=True)
    for folder in ("run", "weights"):
        linear, dropout = OrbaxCheckpoints(tmp_path / folder, like=like)[1]
        np.testing.assert_array_equal(linear.weight, saved[0].weight)
        assert (type(dropout.p), dropout.p, dropout.inference) == (float, 0.5, True)


def test_a_python_number_in_a_dictionary_is_a_weight(tmp_path):
    """Which is read."""
    save_plain(tmp_path / "run", {"w": 3.0}, "1")
    assert OrbaxCheckpoints(tmp_path / "run", like={"w": 1.0})[1]["w"] == 3.0


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


def test_shardings_that_do_not_divide_are_told_at_once(run):
    """And not as checkpoints that cannot be read."""
    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
    like = PARAMS | {"layers_0": {"kernel": jax.ShapeDtypeStruct((3, 4), jnp.float32, sharding=sharding), "bias": PARAMS["layers_0"]["bias"]}}
    with pytest.raises(ValueError, match=r"like: layers_0/kernel of shape \(3, 4\) cannot be split as .* over a mesh of \{'model': 4\}"):
        OrbaxCheckpoints(run, like=like)


def test_urls_of_local_directories(run):
    assert_weights(OrbaxCheckpoints(f"file://{run}")[10], 10)
