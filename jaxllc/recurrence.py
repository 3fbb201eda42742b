"""Which stages recur over several training runs, by aligning the runs' sequences of types."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas


def recurring(table: "pandas.DataFrame") -> "pandas.DataFrame":
    r"""Which stages recur over training runs, in which order, and how far apart.

    The sequence of types of each run is aligned with that of the *template*, the run that agrees best with all others. An alignment matches as many stages of
    equal type as it can, in order; of such alignments it is the one with the smallest sum of distances between the stages' middles in log-time.

    Args:
        table: stages of several runs, as of `find_stages`, with a column `run`.

    Returns:
        One row for each stage of the template, in order. `type`; `count` and `share` of the runs that have the stage; `start` and `end`, geometric means in
        steps, 0 counted as 1; `lag`, the mean of $\ln$(end / end of the stage before) over runs that have both, and its standard error `lag_error`;
        `delta_llc` and `delta_llc_error`, mean and standard error over runs (an error is NaN for one run). Stages that the template lacks are left out.

    Raises:
        ValueError: no column `run`, or no rows.

    Examples:
        >>> import pandas as pd
        >>> one = pd.DataFrame({"start": [1, 100], "end": [100, 900], "type": ["A", "B"], "delta_llc": [30.0, -9.0]})
        >>> both = pd.concat([one.assign(run="seed 0"), one.assign(run="seed 1")])
        >>> jaxllc.stages.recurring(both)["count"].to_list()
        [2, 2]
    """
    import pandas as pd

    if "run" not in table or not len(table):
        raise ValueError(f"recurring needs stages of several runs with a column 'run', got {len(table)} rows with columns {list(table.columns)}.")
    runs = [group.reset_index(drop=True) for _, group in table.groupby("run", sort=False)]
    alignments = [[_align(template, run) for run in runs] for template in runs]
    best = max(range(len(runs)), key=lambda i: (sum(len(pairs) for _, pairs in alignments[i]), -sum(distance for distance, _ in alignments[i])))
    rows, previous = [], {}
    for i, kind in enumerate(runs[best]["type"]):
        matched = {k: runs[k].loc[dict(pairs)[i]] for k, (_, pairs) in enumerate(alignments[best]) if i in dict(pairs)}
        lag, lag_error = _mean_and_error([np.log(stage["end"] / previous[k]["end"]) for k, stage in matched.items() if k in previous])
        delta, delta_error = _mean_and_error([stage["delta_llc"] for stage in matched.values()])
        start, end = (float(np.exp(np.mean(np.log(np.maximum([stage[name] for stage in matched.values()], 1))))) for name in ("start", "end"))
        rows.append(
            {"type": kind, "count": len(matched), "share": len(matched) / len(runs), "start": start, "end": end, "lag": lag, "lag_error": lag_error}
            | {"delta_llc": delta, "delta_llc_error": delta_error}
        )
        previous = matched
    return pd.DataFrame(rows)


def _align(one: "pandas.DataFrame", other: "pandas.DataFrame") -> tuple[float, list[tuple[int, int]]]:
    """Distance in log-time and index pairs of the best alignment of two runs, by dynamic programming over their first i and j stages."""
    middles = [np.log((table["start"] + table["end"]).to_numpy() / 2) for table in (one, other)]
    best: dict[tuple[int, int], tuple[int, float, list[tuple[int, int]]]] = {}
    empty: tuple[int, float, list[tuple[int, int]]] = (0, 0.0, [])
    for i in range(len(one)):
        for j in range(len(other)):
            options = [best.get((i - 1, j), empty), best.get((i, j - 1), empty)]
            if one["type"].to_numpy()[i] == other["type"].to_numpy()[j]:
                count, closeness, pairs = best.get((i - 1, j - 1), empty)
                options.append((count + 1, closeness - abs(middles[0][i] - middles[1][j]), [*pairs, (i, j)]))
            best[i, j] = max(options, key=lambda option: option[:2])
    _, closeness, pairs = best[len(one) - 1, len(other) - 1]
    return -closeness, pairs


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and standard error; NaN where there are too few values."""
    mean = float(np.mean(values)) if values else np.nan
    return mean, float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
