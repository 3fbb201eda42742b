"""The notebooks run in their quick mode, and their functions do what they say."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
HOOKS = Path(__file__).parents[1] / "docs" / "_hooks.py"


def functions(name):
    """The functions of a notebook and the constants in capitals, without running the rest of it."""

    def is_definition(node):
        constant = isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) and target.id.isupper() for target in node.targets)
        return constant or isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)

    path = next(path for path in NOTEBOOKS if path.stem == name)
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if is_definition(node)]
    names = {}
    exec(compile(tree, str(path), "exec"), names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    """As a script, in its quick mode; it leaves its figure where it is told to."""
    environment = os.environ | {"JAXLLC_QUICK": "1", "MPLBACKEND": "agg", "FIGURE": str(tmp_path / "figure.png")}
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_ends_in_its_figure_beside_the_published_one(path):
    """As cells: a title first, last the code that saves the figure, and before it what was published and what to see."""
    cells = pytest.importorskip("jupytext").read(path).cells
    assert cells[0].source.startswith("# ")
    assert cells[-1].source.splitlines()[-1].startswith(f'figure.savefig(os.environ.get("FIGURE", "{path.stem}.png")')
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "**What to see" in text
    assert "publish" in text


@pytest.mark.skipif(not HOOKS.exists(), reason="a source distribution holds no site")
def test_the_site_shows_what_a_notebook_printed_and_drew(tmp_path, monkeypatch):
    """As long as the script is the one that ran; else the script alone."""
    jupytext, nbformat = pytest.importorskip("jupytext"), pytest.importorskip("nbformat")
    for package in ("mkdocs", "latex2mathml"):
        pytest.importorskip(package)
    spec = importlib.util.spec_from_file_location("_hooks", HOOKS)
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    monkeypatch.setattr(hooks, "RENDERED", tmp_path)
    script = tmp_path / "squares.py"
    script.write_text("# %% [markdown]\n# # Squares\n\n# %%\nprint(3**2)\n")
    notebook = nbformat.from_dict(jupytext.read(script))
    printed = nbformat.v4.new_output("stream", name="stdout", text="9\n")
    warned = nbformat.v4.new_output("stream", name="stderr", text="careful\n")
    drawn = nbformat.v4.new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"})
    notebook.cells[1].outputs = [printed, warned, drawn]
    nbformat.write(notebook, tmp_path / "squares.ipynb")
    parts, pictures = hooks._parts_of(script)
    assert parts[0] == "# Squares"
    assert parts[2:] == ["```python\nprint(3**2)\n```", '```text title="prints"\n9\n```', "![What this cell draws](squares-0.png)"]
    assert pictures == {"squares-0.png": bytes(3)}
    script.write_text(script.read_text().replace("3**2", "4**2"))
    parts, pictures = hooks._parts_of(script)
    assert (parts[2:], pictures) == (["```python\nprint(4**2)\n```"], {})


def test_drops_of_the_loss_are_paired_with_the_coefficient():
    """Two drops, the first over two intervals while λ̂ rises by 2, the second while it falls by 1; a slow fall is no drop."""
    steps_of_loss = functions("superposition")["steps_of_loss"]
    loss = np.asarray([10, 10, 8, 5, 4.9, 4.8, 2, 2.0])
    llc = np.asarray([3, 3, 4, 5, 5, 5, 4, 4.0])[:, None] + np.asarray([-0.1, 0.0, 0.1, 0.0])
    llc[2:, 0] += 0.05
    first, second = steps_of_loss(np.arange(8) * 100, loss, llc)
    assert (first["start"], first["end"], first["delta_loss"]) == (100, 300, -5)
    assert first["delta_llc"] == pytest.approx(2.0125)
    assert first["delta_llc_error"] == pytest.approx(np.std([2.05, 2, 2, 2], ddof=1) / 2)
    assert (second["start"], second["end"], second["delta_llc"]) == (500, 600, -1)


def test_a_plateau_is_the_checkpoint_nearest_to_its_saddle():
    plateau = functions("saddle_to_saddle")["plateau"]
    shares = np.asarray([[0.1, 0.0], [0.6, 0.0], [0.98, 0.05], [1.0, 0.4], [1.0, 0.7]])
    assert [plateau([0, 10, 20, 30, 40], shares, rank) for rank in (0, 1, 2)] == [0, 20, 40]
    assert plateau([0, 10, 20, 30], shares[:4], 2) is None


def test_shares_learnt_are_those_of_the_tasks_singular_values():
    """A network whose product has half of the first mode and all of the second, in any basis."""
    names = functions("saddle_to_saddle")
    size, (first, second, *_) = names["WIDTHS"][0], names["MODES"]
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0]
    weights = [rotation, np.diag([first / 2, second, *np.zeros(size - 2)]), rotation]
    values = sorted([first / 2, second], reverse=True)
    np.testing.assert_allclose(names["shares_learnt"](weights), [values[0] / first, values[1] / second, 0, 0], atol=1e-12)


def test_the_first_step_at_which_something_is_reached():
    first_step = functions("grokking")["first_step"]
    assert first_step([0, 10, 20, 30], [False, True, False, True]) == 10
    assert first_step([0, 10], [False, False]) is None


def test_the_window_of_the_bump():
    """A score that passes a tenth of its rise at step 40, λ̂ that changes by 3 over the window in every chain, and a dip by 2."""
    names = functions("induction")
    step = np.array([0, 10, 20, 40, 80])
    assert names["crossing"](step, np.array([0.0, 0.05, 0.02, 0.3, 1.0]), 0.1) == 40
    by_chain = np.array([0.0, 5, 6, 8, 9])[:, None] + np.array([0.0, 10.0, -4.0])
    change, error = names["change_over"](step, by_chain, 10, 40)
    assert (change, error) == (pytest.approx(3), pytest.approx(0))
    assert names["largest_dip"](np.array([1.0, 4, 2, 3, 5, 4.5])) == 2


def test_means_of_pairs_from_different_windows():
    """Against a loop over all pairs; pairs within a window, of any value, do not count. Seen to fail with these counted."""
    mean_by_kind = functions("heads")["mean_by_kind"]
    rng = np.random.default_rng(0)
    kinds, windows, matrix = rng.integers(0, 3, 20), np.repeat(np.arange(4), 5), rng.standard_normal((20, 20))
    matrix[windows[:, None] == windows] = 1e6
    expected = [[np.mean([matrix[i, j] for i in range(20) for j in range(20) if (kinds[i], kinds[j]) == (a, b) and windows[i] != windows[j]])
                 for b in range(3)] for a in range(3)]  # fmt: skip
    np.testing.assert_allclose(mean_by_kind(matrix, kinds, windows), expected)


def test_the_jackknife_gives_the_error_of_a_mean():
    """Which is exact for a mean, of numbers or of arrays. Seen to fail with the variance of the values left out one after the other."""
    values = np.random.default_rng(1).standard_normal((6, 2))
    value, error = functions("heads")["jackknife"](lambda some: np.mean(some, 0), list(values))
    np.testing.assert_allclose(value, values.mean(0))
    np.testing.assert_allclose(error, values.std(0, ddof=1) / np.sqrt(6))


def test_the_mean_of_products_of_different_matrices():
    matrices = list(np.random.default_rng(2).standard_normal((4, 3, 3)))
    expected = np.mean([a * b for i, a in enumerate(matrices) for j, b in enumerate(matrices) if i != j], 0)
    np.testing.assert_allclose(functions("heads")["mean_of_products"](matrices), expected)


def test_the_contrast_is_within_windows():
    """1 and 3 above 10 in the first window, 5 above 20 in the second; the third has no repeated pair."""
    values, windows = np.array([11.0, 13, 10, 25, 20, 20, 7]), np.array([0, 0, 0, 1, 1, 1, 2])
    repeated = np.array([True, True, False, True, False, False, False])
    np.testing.assert_allclose(functions("heads")["contrast"](values, repeated, windows), [2, 5])


def test_names_lie_apart_in_their_order():
    np.testing.assert_allclose(functions("heads")["apart"]([3.0, 1, 1, 1.5], 1), [4, 1, 2, 3])


def test_heads_are_labelled_and_lie_in_clusters():
    """Two bundles of curves that differ in level and one curve that rises apart; the labels of the clusters are in no order."""
    names = functions("heads")
    curves = np.repeat([1.0, 2.0, 5.0], [3, 3, 1])[:, None] + 0.01 * np.arange(7)[:, None] + np.linspace(0, 0.3, 9)
    found = names["clusters"](curves, 3)
    assert [len(set(found[part])) for part in (slice(3), slice(3, 6), slice(6, 7), slice(None))] == [1, 1, 1, 3]
    label = names["label"]
    assert label(1, 0.1, 0.5) == "induction"
    assert label(0, 0.5, 0.1) == "previous token, layer 0"
    assert label(1, 0.1, 0.1) == "other, layer 1"
