"""Stages that recur over runs, on tables small enough to align by hand."""

import numpy as np
import pandas as pd
import pytest

from jaxllc.recurrence import recurring


def test_stages_that_recur():
    """Three runs A B A, of which one lacks the fall and one has a stage more: they are told apart, and lags are paired by run."""
    rows = [
        ("x", "A", 0, 100, 10.0), ("x", "B", 100, 200, -1.0), ("x", "A", 200, 800, 5.0),
        ("y", "A", 0, 110, 12.0), ("y", "B", 110, 440, -2.0), ("y", "A", 440, 800, 5.0), ("y", "B", 800, 900, -7.0),
        ("z", "A", 0, 800, 14.0),
    ]  # fmt: skip
    table = recurring(pd.DataFrame(rows, columns=["run", "type", "start", "end", "delta_llc"]))
    assert list(table["type"]) == ["A", "B", "A", "B"]
    assert list(table["count"]) == [2, 2, 3, 1]  # z's only stage lies nearer the later A
    np.testing.assert_allclose(table["share"], [2 / 3, 2 / 3, 1, 1 / 3])
    np.testing.assert_allclose(table["start"], [1, np.sqrt(100 * 110), np.cbrt(200 * 440), 800])
    np.testing.assert_allclose(table["end"], [np.sqrt(100 * 110), np.sqrt(200 * 440), 800, 900])
    np.testing.assert_allclose(table["delta_llc"], [11, -1.5, 8, -7])
    np.testing.assert_allclose(table["delta_llc_error"], [1, 0.5, np.std([5, 5, 14], ddof=1) / np.sqrt(3), np.nan])
    np.testing.assert_allclose(table["lag"], [np.nan, np.log([2, 4]).mean(), np.log([800 / 200, 800 / 440]).mean(), np.log(900 / 800)])
    np.testing.assert_allclose(table["lag_error"], [np.nan, np.log(2) / 2, np.log(440 / 200) / 2, np.nan])


def test_tables_without_runs_are_refused():
    with pytest.raises(ValueError, match="column 'run'"):
        recurring(pd.DataFrame({"type": ["A"]}))
    with pytest.raises(ValueError, match="got 0 rows"):
        recurring(pd.DataFrame({"run": [], "type": []}))
