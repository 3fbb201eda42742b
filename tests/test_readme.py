"""What the documents show runs as it stands there."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TRAIN = """
import jax, jax.numpy as jnp, optax
from jaxllc.demo import draw_windows
from jaxllc.models import text, train, transformer
model = transformer.Transformer(text.VOCAB_SIZE, 64)
recipe = train.Recipe(transformer.next_token_loss(model), draw_windows, jnp.asarray(text.standard_library().train), optax.adam(3e-3))
train.train(recipe, model.init_params(jax.random.key(0)), key=jax.random.key(1), steps=[20, 40, 80], directory="demo/checkpoints")
"""
"""The checkpoints that `make demo` leaves, but fewer."""


def python(code, where, **environment):
    return subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "agg"} | environment)


README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def numbers(text):
    return [float(number) for number in re.findall(r"\d+\.?\d*(?:e[+-]\d+)?", text)]


@pytest.mark.slow
def test_the_first_example_prints_what_stands_below_it(tmp_path):
    """To a thousandth, which other processors may round otherwise; and the coefficient is 3/2, less what a prior of 1 takes of it, to 4 standard errors."""
    done = python(BLOCKS[0], tmp_path)
    assert done.returncode == 0, done.stderr
    printed = re.search(r"```text\n(.*?)```", README, re.S)[1]
    assert re.sub(r"[\d.]+", "#", done.stdout) == re.sub(r"[\d.]+", "#", printed)
    assert numbers(done.stdout) == pytest.approx(numbers(printed), rel=1e-3)
    value, error = re.search(r"λ̂ = ([\d.]+) ± ([\d.]+)", done.stdout).groups()
    assert abs(float(value) - 1.5 * (1 - math.log(2000) / 2000)) < 4 * float(error)


@pytest.mark.slow
def test_the_readme_runs(tmp_path):
    assert len(BLOCKS) == 2
    trained = python(TRAIN, tmp_path)
    assert trained.returncode == 0, trained.stderr
    done = python("\n".join(BLOCKS), tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "llc.png").stat().st_size > 10_000
    assert len([line for line in done.stdout.splitlines() if re.match(r"(20|40|80)\s+-?\d", line)]) == 3


def test_the_readme_is_short():
    assert README.count("\n") <= 120


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="a source distribution holds the README alone")
def test_the_page_on_components_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "components.md").read_text(), re.S)
    assert len(blocks) == 4
    done = python("\n".join(blocks), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="a source distribution holds the README alone")
def test_documents_name_files_that_exist():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "research").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"
