"""Safetensors files by step: every layout is listed without reading arrays, read exactly, and what is damaged is named."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxllc
from jaxllc import SafetensorsCheckpoints, safetensors_checkpoints

STEPS = (0, 10, 300)
X = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)


def tensors(step=0):
    return {"h.0.w": np.arange(6, dtype=np.float32).reshape(2, 3) + step, "h.0.b": np.ones(3, ml_dtypes.bfloat16), "scale": np.asarray(step, np.float16)}


def assert_tree(tree, step):
    assert jax.tree.structure(tree) == jax.tree.structure({"h": {"0": {"w": 0, "b": 0}}, "scale": 0})
    for leaf, expected in ((tree["h"]["0"]["w"], "h.0.w"), (tree["h"]["0"]["b"], "h.0.b"), (tree["scale"], "scale")):
        assert leaf.dtype == tensors()[expected].dtype
        np.testing.assert_array_equal(leaf, tensors(step)[expected])


def save(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(values, file)
    return file


def save_sharded(folder, values):
    """One file a tensor, and the index, as Hugging Face writes them."""
    places = {name: f"model-{i + 1:05}-of-{len(values):05}.safetensors" for i, name in enumerate(values)}
    for name, file in places.items():
        save(folder / file, {name: values[name]})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def save_in_cache(directory, step):
    """As `huggingface_hub` keeps a revision."""
    save(directory / "snapshots" / f"hash{step}" / "model.safetensors", tensors(step))
    (directory / "refs").mkdir(exist_ok=True)
    (directory / "refs" / f"step{step}").write_text(f"hash{step}\n")
    (directory / "refs" / "main").write_text("hash300")


LAYOUTS = {
    "step1000/": lambda directory, step: save(directory / f"step{step}" / "model.safetensors", tensors(step)),
    "step-1000/": lambda directory, step: save(directory / f"step-{step}" / "model.safetensors", tensors(step)),
    "checkpoint-1000/, sharded": lambda directory, step: save_sharded(directory / f"checkpoint-{step}", tensors(step)),
    "1000/, a file of another name": lambda directory, step: save(directory / str(step) / "weights.safetensors", tensors(step)),
    "000100/": lambda directory, step: save(directory / f"{step:06}" / "model.safetensors", tensors(step)),
    "step1000.safetensors": lambda directory, step: save(directory / f"step{step}.safetensors", tensors(step)),
    "model-1000.safetensors": lambda directory, step: save(directory / f"model-{step}.safetensors", tensors(step)),
    "beside a model": lambda directory, step: [save(directory / name / "model.safetensors", tensors(step)) for name in (f"checkpoint-{step}", "", "final")],
    "revisions in a cache": save_in_cache,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_listed_and_read(layout, tmp_path):
    for step in STEPS:
        LAYOUTS[layout](tmp_path, step)
    checkpoints = SafetensorsCheckpoints(tmp_path)
    assert list(checkpoints) == list(STEPS)
    assert repr(checkpoints) == f"SafetensorsCheckpoints({str(tmp_path)!r}: steps 0, 10, 300)"
    for step in STEPS:
        assert_tree(checkpoints[step], step)


def test_one_model_is_step_zero(tmp_path):
    folder, file = tmp_path / "gpt2", save(tmp_path / "any100.safetensors", tensors(3))
    save_sharded(folder, tensors(3))
    for place in (folder, file):
        assert list(SafetensorsCheckpoints(place)) == [0]
        assert_tree(SafetensorsCheckpoints(place)[0], 3)
    (folder / "model.safetensors.index.json").unlink()
    assert_tree(SafetensorsCheckpoints(folder)[0], 3)  # all shards are there, without their index


@pytest.fixture
def run(tmp_path):
    for step in STEPS:
        save(tmp_path / f"step{step}" / "model.safetensors", tensors(step))
    return tmp_path


def test_flat_and_converted(run):
    assert set(SafetensorsCheckpoints(run, flat=True)[10]) == set(tensors())
    doubled = SafetensorsCheckpoints(run, convert=lambda flat: {"weight": 2 * flat["h.0.w"]})
    np.testing.assert_array_equal(doubled[10]["weight"], 2 * tensors(10)["h.0.w"])


def test_like_casts_and_reads_what_it_names(run, monkeypatch):
    read, get = [], safetensors_checkpoints._get
    monkeypatch.setattr(safetensors_checkpoints, "_get", lambda handle, name, file: (read.append(name), get(handle, name, file))[1])
    like = {"h": {"0": {"b": jax.ShapeDtypeStruct((3,), jnp.float32)}}, "scale": jnp.zeros(())}
    checkpoints = SafetensorsCheckpoints(run, like=like)
    assert read == []
    restored = checkpoints[10]
    assert sorted(read) == ["h.0.b", "scale"]
    assert {leaf.dtype for leaf in jax.tree.leaves(restored)} == {np.dtype(np.float32)}
    assert restored["scale"] == 10
    assert list(SafetensorsCheckpoints(run, like={"h.0.w": jnp.zeros((2, 3))}, flat=True)[10]) == ["h.0.w"]


def test_like_may_split_leaves_over_devices(run):
    sharding = jax.sharding.NamedSharding(jax.make_mesh((2,), ("model",)), jax.sharding.PartitionSpec("model"))
    like = {"h": {"0": {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32, sharding=sharding)}}}
    leaf = SafetensorsCheckpoints(run, like=like)[300]["h"]["0"]["w"]
    assert leaf.sharding == sharding
    np.testing.assert_array_equal(leaf, tensors(300)["h.0.w"])


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"h": {"0": {"w": jnp.zeros((3, 2))}}}, r"shapes at step 10, .*model\.safetensors do not match like: h/0/w \(2, 3\) instead of \(3, 2\)"),
        ({"h": {"0": {"v": jnp.zeros(3)}}}, r"step 10, .* does not match like \(not there: h/0/v\); pass like= a part of what is there, or a convert="),
    ],
)
def test_weights_unlike_those_asked_for_are_refused(run, like, message):
    with pytest.raises(ValueError, match=message):
        SafetensorsCheckpoints(run, like=like)[10]


def test_unfinished_folders_are_passed_over_and_named(run):
    """One without a file, one whose index names a file that is missing, one with some of its shards; an interrupted download leaves such."""
    (run / "step400").mkdir()
    for step, lost in ((500, "model-00002-of-00003.safetensors"), (600, "model.safetensors.index.json")):
        save_sharded(run / f"step{step}", tensors(step))
        (run / f"step{step}" / lost).unlink()
    (run / "step600" / "model-00003-of-00003.safetensors").unlink()
    checkpoints = SafetensorsCheckpoints(run)
    assert list(checkpoints) == list(STEPS)
    assert "unfinished 400, 500, 600" in repr(checkpoints)
    for step, why in ((400, "step400 holds no safetensors file"), (500, "names model-00002-of-00003.safetensors, which is missing"), (600, "2 of 3 shards")):
        with pytest.raises(KeyError, match=f"no checkpoint at step {step} in .*; it holds 0, 10, 300. Unfinished: .*{why}"):
            checkpoints[step]
    with pytest.raises(KeyError, match="no checkpoint at step 11"):
        checkpoints[11]


DAMAGES = {"cut off": lambda data: data[:-1], "header": lambda data: data[:8] + b"x" + data[9:], "empty": lambda data: b"", "longer": lambda data: data + b"0"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_named(run, damage):
    """They are listed, since arrays are not read for that, and the other steps are read."""
    file = run / "step10" / "model.safetensors"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    checkpoints = SafetensorsCheckpoints(run)
    assert list(checkpoints) == list(STEPS)
    with pytest.raises(ValueError, match=r"step10/model\.safetensors cannot be read: .*; download or save it again, or leave this step out"):
        checkpoints[10]
    assert_tree(checkpoints[300], 300)


def test_a_tensor_that_the_index_expects_and_the_file_lacks(tmp_path):
    save_sharded(tmp_path / "step1", tensors())
    save(tmp_path / "step1" / "model-00001-of-00003.safetensors", {"other": np.ones(1)})
    with pytest.raises(ValueError, match=r"model-00001-of-00003\.safetensors lacks the tensor 'h\.0\.w' that the index expects there, one of 1"):
        SafetensorsCheckpoints(tmp_path)[1]


def test_a_tensor_in_two_files(tmp_path):
    for i in (1, 2):
        save(tmp_path / f"model-{i}-of-2.safetensors", {"w": np.ones(1)})
    with pytest.raises(ValueError, match=r"tensor 'w' of .*model-2-of-2\.safetensors is in another file"):
        SafetensorsCheckpoints(tmp_path)[0]


def test_dtypes_that_numpy_has_not(tmp_path):
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0000")
    with pytest.raises(ValueError, match=r"tensor 'w' of .*model\.safetensors cannot be read .*; save it as float32"):
        SafetensorsCheckpoints(tmp_path)[0]


def test_names_that_cannot_be_nested(tmp_path):
    save(tmp_path / "model.safetensors", {"a": np.ones(1), "a.b": np.ones(1)})
    with pytest.raises(ValueError, match=r"tensor 'a(\.b)?' at step 0, .* cannot be nested: .*pass flat=True"):
        SafetensorsCheckpoints(tmp_path)[0]
    assert set(SafetensorsCheckpoints(tmp_path, flat=True)[0]) == {"a", "a.b"}


@pytest.mark.parametrize("error", [KeyError("h.1.w"), ValueError("no such tensor h.1.w"), IndexError("h.1.w")])
def test_what_convert_raises_names_the_step(run, error):
    def convert(_):
        raise error

    with pytest.raises(ValueError, match=r"convert= fails for step 10, .*step10/model\.safetensors: .*h\.1\.w"):
        SafetensorsCheckpoints(run, convert=convert)[10]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("step10/model", "step010/model"), "two checkpoints of step 10, step010 and step10"),
        (("step10/model", "step10"), "two checkpoints of step 10"),
        (("a-10", "b-20"), "checkpoints of several prefixes, a-10 and b-20"),
        (("step10/a", "step10/b"), r"no finished safetensors checkpoint: .*step10 holds a\.safetensors, b\.safetensors without an index"),
        ((), r"no finished safetensors checkpoint: .* holds no safetensors file\. Expected folders or files named by step"),
    ],
)
def test_directories_that_are_no_run(tmp_path, names, message):
    for name in names:
        save(tmp_path / f"{name}.safetensors", tensors())
    with pytest.raises(ValueError, match=message):
        SafetensorsCheckpoints(tmp_path)


def test_places_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no directory or file"):
        SafetensorsCheckpoints(tmp_path / "none")
    with pytest.raises(ValueError, match="read from a local directory; got hf://a/b. Download it first"):
        SafetensorsCheckpoints("hf://a/b")


def test_a_trajectory_follows_them(tmp_path, key):
    """The same numbers as of the dictionary of the same weights; a damaged step is a failure of its own."""
    runs = {step: {"w": np.full(3, 1 + step / 1000, np.float32)} for step in STEPS}
    for step, weights in runs.items():
        save(tmp_path / f"step{step}.safetensors", weights)

    def loss_fn(params, batch):
        return jnp.square(batch @ params["w"] - batch.sum(-1)) / 2

    short = dict(num_draws=20, num_burn_in=10, num_chains=2, nbeta=30.0, progress=False)
    expected = jaxllc.trajectory(loss_fn, runs, X, key=key, **short).table().llc
    np.testing.assert_array_equal(jaxllc.trajectory(loss_fn, SafetensorsCheckpoints(tmp_path), X, key=key, **short).table().llc, expected)
    (tmp_path / "step10.safetensors").write_bytes(b"")
    followed = jaxllc.trajectory(loss_fn, SafetensorsCheckpoints(tmp_path), X, key=key, **short)
    assert "step10.safetensors cannot be read" in str(followed.failures)
