"""Configurations of batch runs: what they mean, and what they refuse."""

import dataclasses
import json
import re
import shlex
import sys
import tomllib

import jax
import numpy as np
import optax
import pytest
from batch_runs import EXAMPLE

import jaxllc
from jaxllc import cli
from jaxllc.config import RunConfig
from jaxllc.models.train import Recipe, train

RUN = {"loss": "a:loss", "data": "a:data", "checkpoints": "a:checkpoints", "store": "llc.zarr"}

MODULE = """
import jax.numpy as jnp
import numpy as np
import jaxllc

loss = lambda params, batch: (batch - params["w"].sum()) ** 2
def data(): return np.arange(5.0, dtype=np.float32)
def checkpoints(): return {3: {"w": jnp.ones(2)}}
def parts(): return {"first": jaxllc.Slice("w", 0), "all": None}
def probes(): return {"size": jaxllc.Probe(lambda params: params["w"].sum())}
def like(): return {"w": jnp.zeros(2), "b": jnp.zeros(3)}
def is_w(path): return path == "w"
def broken(): return checkpoints()["no such step"]
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module of its own name, which imports do not remember."""
    name = f"module_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop(name, None)


def config_of(folder, **fields):
    """Of the module in a folder; names are written without it."""
    table = {"loss": ":loss", "data": ":data", "checkpoints": ":checkpoints", "store": "llc.zarr"} | fields
    whole = {name: f"module_{folder.name}{value}" if isinstance(value, str) and value.startswith(":") else value for name, value in table.items()}
    return RunConfig.from_dict(whole, folder)


def test_a_config_gives_the_arguments_of_a_trajectory(folder):
    config = config_of(folder, key=7, probes=":probes", free="w*", reference_loss=2, group_size=4, settings={"nbeta": 10.0, "num_draws": 20})
    arguments = config.arguments()
    module = sys.modules[f"module_{folder.name}"]
    assert arguments["loss_fn"] is module.loss
    np.testing.assert_array_equal(arguments["data"], module.data())
    assert list(arguments["checkpoints"]) == [3]
    assert arguments["key"] == jax.random.key(7)
    assert list(arguments["probes"]) == ["size"]
    assert (arguments["free"], arguments["reference_loss"], arguments["group_size"]) == ("w*", 2, 4)
    assert arguments["settings"] == jaxllc.Settings(nbeta=10.0, num_draws=20)
    assert arguments["store"] == str(folder / "llc.zarr")
    assert RunConfig.from_dict(arguments["config"], folder) == config
    assert json.loads(json.dumps(arguments["config"])) == arguments["config"]


def test_components_of_a_config(folder):
    """A function gives them, and the run has them."""
    config = config_of(folder, components=":parts", settings={"nbeta": 10.0, "num_draws": 20, "num_burn_in": 5, "sampler": {"name": "SGLD", "step_size": 1e-3}})
    arguments = config.arguments()
    assert list(arguments["components"]) == ["first", "all"]
    assert jaxllc.trajectory(**arguments, progress=False).components == ("first", "all")


@pytest.mark.parametrize(("free", "expected"), [(["w", "b*"], ["w", "b*"]), ({"function": "jaxllc.config:_is_name"}, sys.modules["jaxllc.config"]._is_name)])
def test_weights_may_be_chosen_by_patterns_or_a_predicate(free, expected, folder):
    assert config_of(folder, free=free).arguments()["free"] == expected


def test_settings_that_leave_sampling_open_are_keywords(folder):
    """As in Python, where `nbeta=` alone still calibrates, and a `Settings` does not."""
    for settings in ({}, {"nbeta": 10.0, "num_chains": 4}):
        config = config_of(folder, settings=settings)
        assert config.calibrates
        assert {name: value for name, value in config.arguments().items() if name in ("settings", "nbeta", "num_chains")} == settings
    assert config_of(folder).calibrates
    assert not config_of(folder, settings={"num_draws": 10}).calibrates


def test_checkpoints_are_read_from_directories(folder):
    """Beside the file, by the template, and by the names of runs where there are several."""
    weights = {"w": jax.numpy.arange(2.0), "b": jax.numpy.ones(3)}
    recipe = Recipe(lambda params, batch: (params["w"].sum() + params["b"].sum() - batch) ** 2, lambda key, data: data, np.ones(4, np.float32), optax.sgd(0.0))
    train(recipe, weights, key=jax.random.key(0), steps=[1, 2], directory=folder / "run")
    one = config_of(folder, checkpoints="run", params=":like").arguments()["checkpoints"]
    assert list(one) == [1, 2]
    np.testing.assert_array_equal(one[2]["w"], [0, 1])
    both = config_of(folder, checkpoints={"a": "run", "b": ":checkpoints"} | {"b": f"module_{folder.name}:checkpoints"}, params=":like")
    assert [list(run) for run in both.arguments()["checkpoints"].values()] == [[1, 2], [3]]


def test_paths_are_those_of_the_file_or_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig.from_dict(RUN, tmp_path / "there")
    assert config.at(config.store) == str(tmp_path / "there" / "llc.zarr")
    here = config.with_store("llc.zarr")
    assert here.at(here.store) == str(tmp_path / "llc.zarr")
    remote = config.with_store("gs://bucket/llc.zarr")
    assert remote.at(remote.store) == "gs://bucket/llc.zarr"


def test_changes_are_toml():
    changes = ["settings.nbeta=300", 'settings.sampler={name = "SGLD", step_size = 1e-5}', 'store = "a=b.zarr"', "settings.extra.deep=[1, 2]", "key=3", "key=4"]
    changed = RunConfig.from_toml(EXAMPLE, changes)
    plain = RunConfig.from_toml(EXAMPLE)
    assert changed.settings == {**plain.settings, "nbeta": 300, "sampler": {"name": "SGLD", "step_size": 1e-5}, "extra": {"deep": [1, 2]}}
    assert (changed.store, changed.key) == ("a=b.zarr", 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "lr=3",
            "run.toml as changed: a run has no 'lr'; it has loss, data, checkpoints, store, key, params, item, probes, free, components, reference_loss, ",
        ),
        ("store=llc.zarr", "the change 'store=llc.zarr' cannot be read .*text in quotes"),
        ("key", "the change 'key' cannot be read"),
        ("key.a=3", "names a field of 'key', which is 0 and no table"),
        ("checkpoints={a=3}", "checkpoints of 'a' must be a directory of Orbax, the name .*, got 3"),
        ("key=-1", "key must be a seed from 0 to 2\\*\\*32 - 1, got -1"),
        ("key=100000000000000000000000", "key must be a seed from 0 to"),
        ("reference_loss=nan", "reference_loss must be finite, got nan"),
        ("key=true", "key must be a seed, a whole number, got True"),
        ("data=3", "data must be the name 'module:function' of a function that gives the data, got 3"),
        ('loss="regression"', "loss = 'regression' is no 'module:function'"),
        ('params="a:b"', "params says how to read a directory of checkpoints, and checkpoints = 'regression:checkpoints' is none"),
        ("group_size=2.5", "group_size must be a whole number, got 2.5"),
        ("settings=3", "settings must be a table"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        RunConfig.from_toml(EXAMPLE, [change])


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no configuration .*run.toml"):
        RunConfig.from_toml(tmp_path / "run.toml")
    (tmp_path / "run.toml").write_text("loss = \n")
    with pytest.raises(ValueError, match=re.escape("run.toml is no TOML document: Invalid value (at line 1")):
        RunConfig.from_toml(tmp_path / "run.toml")
    (tmp_path / "run.toml").write_text('loss = "a:b"\n')
    with pytest.raises(ValueError, match="run.toml: a run needs data, the name 'module:function' of a function that gives the data; it has loss"):
        RunConfig.from_toml(tmp_path / "run.toml")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "no_such_module:data"}, "data: 'no_such_module:data' names no module that can be imported"),
        ({"loss": ":los"}, "loss: the module 'module_.*' has no 'los'"),
        ({"loss": ":number"}, "loss = 'module_.*:number' is a int, no function"),
        ({"data": ":broken"}, "data = 'module_.*:broken': the function, called without arguments, failed .KeyError: 'no such step'"),
        ({"checkpoints": "nowhere"}, "there is no checkpoint directory .*nowhere"),
        ({"settings": {"num_drawz": 3}}, "settings have no field 'num_drawz'; they have sampler"),
    ],
)
def test_what_cannot_be_found_is_named(fields, message, folder):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        config_of(folder, **fields).arguments()


def test_a_module_that_fails_is_named(folder):
    (folder / f"fails_{folder.name}.py").write_text("1 / 0\n")
    with pytest.raises(ValueError, match="its module cannot be imported .ZeroDivisionError: division by zero"):
        config_of(folder, loss=f"fails_{folder.name}:loss").arguments()


DOCUMENT = EXAMPLE.parents[2] / "docs" / "batch.md"


@pytest.mark.skipif(not DOCUMENT.exists(), reason="a source distribution holds no documents")
def test_the_document_shows_lines_and_a_configuration_that_are_understood():
    text = DOCUMENT.read_text()
    (shown,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    config = RunConfig.from_dict(tomllib.loads(shown), DOCUMENT.parent)
    assert set(config.to_dict()) == {field.name for field in dataclasses.fields(RunConfig)} - {"folder", "components"}
    assert '# components = "model:heads"' in shown  # in the place of `free`
    jaxllc.Settings.from_dict(config.settings)
    blocks = "".join(re.findall(r"```(?:sh|yaml)\n(.*?)```", text, re.S))
    lines = re.findall(
        r"jaxllc (?:run|status|table|plot) [^#;&>')\n]+", blocks.replace("$SLURM_ARRAY_TASK_ID", "1").replace("$((JOB_COMPLETION_INDEX + 1))", "2")
    )
    parsed = [cli._parser().parse_args(shlex.split(line)[1:]) for line in lines]
    assert {options.part for options in parsed if options.verb is cli._run} == {None, (0, 2), (1, 2), (0, 8), (1, 8)}
    assert len(parsed) > 12


def test_a_function_that_leaves_is_an_error(folder):
    """No run ends with the code 0 because a function of the user's called `sys.exit`."""
    (folder / "leaves.py").write_text("import sys\ndef data():\n    sys.exit(0)\n")
    with pytest.raises(ValueError, match=r"data = 'leaves:data': the function, called without arguments, failed \(SystemExit: 0\)"):
        config_of(folder, data="leaves:data").arguments()
