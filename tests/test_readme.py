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


@pytest.mark.slow
def test_the_readme_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    trained = python(TRAIN, tmp_path)
    assert trained.returncode == 0, trained.stderr
    done = python("\n".join(blocks), tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "llc.png").exists()
    value, error = re.search(r"λ̂ = ([\d.]+) ± ([\d.]+)", done.stdout).groups()
    # The loss at the true weights lies a chi-squared variable of 2λ degrees over 2n above its least: λ̂ = 50 - nβ/n (50 ± √50).
    share = 1 / math.log(10_000)
    assert abs(float(value) - 50 * (1 - share)) < 4 * math.hypot(float(error), share * 50**0.5), "the deep linear net of the second example has λ = 50"
    assert float(error) < 1
    assert len([line for line in done.stdout.splitlines() if re.match(r"(20|40|80)\s+-?\d", line)]) == 3


def test_documents_name_files_that_exist():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"
