"""Without the packages of the extras the rest works, and what needs one says which extra has it."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jaxllc._extras import EXTRAS

BEGIN = f"""
import pathlib, sys
for package in {sorted(EXTRAS)!r}:
    sys.modules[package] = None  # as if it were not installed
import jax, jax.numpy as jnp, jaxllc
import jaxllc.html_report

loss_fn = lambda w, batch: (batch @ w) ** 2 / 2
data = jax.random.normal(jax.random.key(0), (32, 2))
settings = jaxllc.Settings(sampler=jaxllc.SGLD(1e-3), nbeta=10.0, batch_size=8, num_chains=2, num_draws=20, num_burn_in=5)
est = jaxllc.estimate(loss_fn, jnp.zeros(2), data, settings, key=jax.random.key(1))
"""

NEEDS = {
    "est.plot()": "a plot needs the package matplotlib: pip install 'jaxllc[plots]'.",
    "from jaxllc.demo import run_demo; run_demo(pathlib.Path('demo'))": "the demo needs the package matplotlib: pip install 'jaxllc[plots]'.",
    "est.save('a.zarr'); jaxllc.html_report.write('a.zarr', 'a.html')": "the report needs the package plotly: pip install 'jaxllc[report]'.",
    "jaxllc.SafetensorsCheckpoints('.')": "SafetensorsCheckpoints needs the package safetensors: pip install 'jaxllc[hf]'.",
    "from jaxllc.models.python_text import train_tokenizer; train_tokenizer(['a'], 4)": "python_text needs the package tokenizers: pip install 'jaxllc[hf]'.",
    "jaxllc.open('s3://bucket/llc.zarr')": "s3:// needs the package s3fs: pip install 'jaxllc[distributed]'.",
    "jaxllc.OrbaxCheckpoints('gs://bucket/run')": "gs:// needs the package gcsfs: pip install 'jaxllc[distributed]'.",
}


def test_what_needs_an_extra_names_it(tmp_path):
    """In one process. Seen to fail without the check in `plots`."""
    tries = "".join(f"try:\n    {code}\nexcept ModuleNotFoundError as error:\n    print('>', error)\n" for code in NEEDS)
    done = subprocess.run([sys.executable, "-c", BEGIN + tries], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line[2:] for line in done.stdout.splitlines() if line.startswith("> ")] == list(NEEDS.values())


def test_jaxllc_plot_names_its_extra(tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; from jaxllc.cli import main; sys.exit(main(['plot', 'llc.zarr']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "jaxllc plot needs the package matplotlib: pip install 'jaxllc[plots]'." in done.stderr


def requirements():
    """The names that the core asks for, under "", and those of each extra, as the installed package tells them: of extras of extras all."""
    found = {}
    for line in importlib.metadata.requires("jaxllc") or ():
        name, extra = re.match(r"[\w.-]+", line)[0], re.search(r"extra == ['\"](\w+)['\"]", line)
        found.setdefault(extra[1] if extra else "", []).append(name.lower())
    return found


def test_extras_are_those_that_messages_name():
    found = requirements()
    for package, extra in EXTRAS.items():
        assert package in found[extra]
        assert package not in found[""]


def test_each_package_is_written_down_once():
    """But for JAX, which comes again with its own extra for TPUs, and for jaxllc, of which extras of extras ask."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    lines = [line for lines in (project["dependencies"], *project["optional-dependencies"].values()) for line in lines]
    names = [re.match(r"[\w.-]+", line)[0] for line in lines]
    assert [name for name in set(names) if names.count(name) > 1 and name not in ("jax", "jaxllc")] == []


def test_all_is_what_users_may_want():
    """Neither the site's, the tests' and the benchmarks' packages, nor libtpu, which would make JAX look for a TPU."""
    found = requirements()
    assert sorted(found["all"]) == sorted(name for extra in ("plots", "report", "stream", "hf", "distributed") for name in found[extra])


@pytest.mark.parametrize("extra", ["plots", "report", "distributed", "docs", "all"])
def test_extras_that_the_documents_promise(extra):
    assert extra in (importlib.metadata.metadata("jaxllc").get_all("Provides-Extra") or ())
