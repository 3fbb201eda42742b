"""The code of docs/language_models.md runs as it stands there, on a small random GPT-NeoX."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_readme import python

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "language_models.md"
STORED = ROOT / "tests" / "data" / "language_models" / "gpt_neox"
STEPS = (0, 1000)

MODELS = """
import jax, jax.numpy as jnp, flax.linen as nn, equinox as eqx
from flax import nnx
x = jax.random.normal(jax.random.key(1), (100, 3))
y = jnp.sin(x).sum(-1)

class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dropout(0.5, deterministic=not train)(x).sum(-1)

class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.norm, self.drop = nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
    def __call__(self, x):
        return self.drop(self.norm(self.linear(x))).sum(-1)

linen_model = Linen()
variables = linen_model.init(jax.random.key(0), x, train=False)
nnx_model = Nnx(nnx.Rngs(0))
eqx_model = eqx.nn.Sequential([eqx.nn.Linear(3, "scalar", key=jax.random.key(0)), eqx.nn.Dropout(0.5)])
"""
"""What a reader of the last section has: a model of each library that is of no use without its evaluation mode."""

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="a source distribution holds the README alone")


def write_revisions(directory):
    """The stored model at each step, with other weights, and a folder of an interrupted download."""
    for step in STEPS:
        (directory / f"step{step}").mkdir(parents=True)
        shutil.copy(STORED / "config.json", directory / f"step{step}")
        weights = {name: values * np.float32(0.5 + step / 2000) for name, values in load_file(STORED / "model.safetensors").items()}
        save_file(weights, directory / f"step{step}" / "model.safetensors")
    (directory / "step2000").mkdir()


@pytest.mark.slow
def test_the_page_runs(tmp_path):
    pytest.importorskip("equinox")
    write_revisions(tmp_path / "pythia-14m")
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 24, (64, 13)))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 7
    done = python("\n".join([*blocks[:4], MODELS, *blocks[4:]]), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "steps 0, 1000; unfinished 2000" in done.stdout
    header = next(line for line in done.stdout.splitlines() if line.startswith("component"))
    assert set(header.split()) == {"component", "all", "0:0", "0:1", "1:0", "1:1"}
    assert len(re.findall(r"^1000( +-?\d+\.\d+){5}$", done.stdout, re.M)) == 1
    assert len(re.findall(r"^λ̂ = ", done.stdout, re.M)) == 3
    assert (tmp_path / "pythia.png").stat().st_size > 10_000


def test_the_page_is_short():
    lines = PAGE.read_text().splitlines()
    assert len(lines) <= 120
    code = {line for block in re.findall(r"```.*?```", PAGE.read_text(), re.S) for line in block.splitlines()}
    assert [line for line in lines if len(line) > 100 and line not in code] == []
