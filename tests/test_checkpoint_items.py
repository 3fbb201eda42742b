"""Which part of a saved state is the weights, and what is said where that is not clear."""

import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from saved_runs import PARAMS, STEPS, assert_weights, save_items, save_plain, state, weights

from jaxllc import OrbaxCheckpoints


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    with ocp.CheckpointManager(directory) as manager:
        for step in STEPS:
            manager.save(step, args=ocp.args.StandardSave(state(step)))
    return directory


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
