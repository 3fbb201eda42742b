"""Tables of results: one line a checkpoint, and of components one for each."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from jaxllc import results
from jaxllc.diagnostics import Finding
from jaxllc.results import Place

if TYPE_CHECKING:
    import pandas
    import xarray

COLUMNS = ("llc", "std_error", "loss", "mean_loss", "rhat", "ess", "slow_ess", "change", "change_error", "step_bias", "num_diverged")
"""What a table has of every checkpoint, beside the acceptance rate where there is one, probes and findings."""


def table_of(summary: "xarray.Dataset", tree: "xarray.DataTree", findings: Sequence[tuple[Finding, ...]]) -> "pandas.DataFrame":
    """The lines of a result that hold numbers, by `run`, `step` and `component` where it has these.

    Args:
        summary: of the result (see `jaxllc.estimator.summary`).
        tree: the result, with an axis `step`.
        findings: of each line.
    """
    columns = [*COLUMNS, *(["acceptance_rate"] if tree.attrs.get("min_acceptance") is not None else [])]
    table = summary.to_dataframe(dim_order=list(results.line_axes(summary.dims))).loc[:, columns]
    for name, values in results.scalars(tree).items():
        table[name] = np.repeat(values.ravel(), tree.sizes.get(results.COMPONENT, 1))
    table["findings"] = [" ".join(finding.code for finding in some) for some in findings]
    return table[lines_done(tree)]


def lines_done(tree: "xarray.DataTree") -> np.ndarray:
    """Which lines hold a result."""
    return np.repeat(results.is_done(tree), tree.sizes.get(results.COMPONENT, 1))


def with_failures(table: "pandas.DataFrame", failures: Mapping[Place, str]) -> "pandas.DataFrame":
    """The table with a line for each checkpoint that has no numbers, of each component."""
    import pandas as pd

    names = list(table.index.names)
    parts = list(dict.fromkeys(table.index.get_level_values(results.COMPONENT))) if results.COMPONENT in names else [None]
    lines = [{results.RUN: place.run, results.STEP: place.step, results.COMPONENT: part} for place in failures for part in parts]
    index = pd.MultiIndex.from_frame(pd.DataFrame(lines, columns=names))
    failed = pd.DataFrame({"findings": "failed"}, index=index if len(names) > 1 else index.get_level_values(0))
    whole = pd.concat([table, failed])
    if len(names) == 1:
        return whole.sort_index()
    orders = {name: list(dict.fromkeys(whole.index.get_level_values(name))) for name in names if name != results.STEP}

    def place_in_order(line: tuple) -> list[int]:
        return [value if name == results.STEP else orders[name].index(value) for name, value in zip(names, line, strict=True)]

    return whole.loc[sorted(whole.index, key=place_in_order)]


def joined(tables: Mapping[str, "pandas.DataFrame"]) -> "pandas.DataFrame":
    """Tables of components under each other, with a first column `component`."""
    import pandas as pd

    return pd.concat(tables, names=[results.COMPONENT]).reset_index(results.COMPONENT).reset_index(drop=True)


SHOWN = {
    "llc": "{:.3f}",
    "std_error": "{:.3f}",
    "loss": "{:.4f}",
    "mean_loss": "{:.4f}",
    "rhat": "{:.2f}",
    "ess": "{:.0f}",
    "slow_ess": "{:.0f}",
    "change": "{:.3f}",
}
"""Columns that a notebook shows, and how; beside the findings."""
LINES = 60


def as_html(head: str, table: "pandas.DataFrame") -> str:
    """A result in a notebook: a line of text, and its table, of which the middle is left out where it is long."""
    columns = [name for name in SHOWN if name in table]
    formats: dict[str | int, Callable[..., str]] = {name: SHOWN[name].format for name in columns}
    shown = table[[*columns, "findings"]].to_html(max_rows=LINES, formatters=formats, na_rep="", border=0, justify="right")
    return f"<p>{escape(head)}</p>{shown}"
