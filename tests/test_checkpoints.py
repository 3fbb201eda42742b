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


def assert_weights(found, step):
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, weights(step)))


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


def test_step_names_with_a_prefix(tmp_path):
    options = ocp.CheckpointManagerOptions(step_prefix="ckpt", step_format_fixed_length=6)
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        manager.save(7, args=ocp.args.StandardSave(weights(7)))
    assert_weights(OrbaxCheckpoints(tmp_path, like=PARAMS)[7], 7)


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


def test_named_items_are_found_by_like(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.Composite(model=ocp.args.StandardSave(weights(3)), opt=ocp.args.StandardSave({"m": weights(0)})))
    assert_weights(OrbaxCheckpoints(tmp_path, like=PARAMS)[3], 3)


def test_an_nnx_state_is_read_by_plain_names(tmp_path):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.StandardSave(nnx.state(model)))
    found = OrbaxCheckpoints(tmp_path, like={"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)})[1]
    np.testing.assert_array_equal(found["kernel"], model.kernel[...])
