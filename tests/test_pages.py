"""The code of the pages runs as it stands there, block after block."""

import re

import pytest
from test_readme import ROOT, python

PAGES = ("tutorial", "what_moves_it", "frameworks", "streams", "resuming", "exporting", "samplers", "coming_from_devinterp")
pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="a source distribution holds the README alone")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs(name, tmp_path):
    """In a folder of its own, to which the paths in `/tmp` of the page are moved."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{name}.md").read_text(), re.S)
    assert blocks
    done = python("\n".join(blocks).replace("/tmp/", f"{tmp_path}/"), tmp_path, PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr


def test_recipes_are_short():
    """Ten lines a framework, blank ones and those of a model itself aside."""
    page = (ROOT / "docs" / "frameworks.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        lines = [line for line in re.sub(r"\nclass .*?\n\n\n", "\n", "\n" + block, flags=re.S).splitlines() if line.strip()]
        assert len(lines) <= 10, block
