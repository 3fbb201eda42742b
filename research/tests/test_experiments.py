"""The experiments as a whole: one runs, correlations are over chosen checkpoints, generated pages are up to date."""

import json
import subprocess
import sys

import numpy as np
import pytest

from research.development import induction_report, regression
from research.development.common import RESULTS, ROOT, page
from research.development.regression import correlations


def test_a_correlation_is_over_chosen_checkpoints():
    """Where the coefficient mirrors the loss it is -1, elsewhere what it is; too few checkpoints have none."""
    loss = np.asarray([[5.0, 4, 3, 2, 1, 2, 3, 4]])
    llc = np.asarray([[-5.0, -4, -3, -2, 1, 2, 3, 4]])
    first = np.arange(8)[None] < 4
    assert correlations(llc, loss, first) == pytest.approx([-1])
    assert correlations(llc, loss, ~first) == pytest.approx([1])
    assert np.isnan(correlations(llc, loss, np.arange(8)[None] < 3)).all()


@pytest.mark.slow
def test_the_cheapest_experiment_runs():
    """`regression --quick` ends, prints its table and writes its result and figure."""
    command = [sys.executable, "-m", "research.development", "regression", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "| setting | γ |" in done.stdout
    result = json.loads((RESULTS / "regression-quick.json").read_text())
    assert set(result["settings"]) == {"published", "stronger"}
    assert (RESULTS / "regression-quick.png").stat().st_size > 10_000


@pytest.mark.parametrize(("name", "table"), [("induction", induction_report.table), ("regression", regression.table)])
def test_the_generated_pages_are_those_of_the_stored_results(name, table):
    stored = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == page(name, table(stored))
