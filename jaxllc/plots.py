"""Pictures of results; nothing is computed here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxllc._extras import require
from jaxllc.results import RUN

if TYPE_CHECKING:
    import pandas
    import xarray

require("matplotlib", "a plot")

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#7f7f7f"
ROOM_OF_A_NUMBER = 0.07
"""Share of the axis of time that a number at its edge needs."""
PALETTE = (BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of Okabe and Ito, which the colour-blind tell apart."""


def plot_trajectory(
    summary: "xarray.Dataset", suspect: np.ndarray, mean: "xarray.Dataset | None" = None, axes: "np.ndarray[Any, Any] | None" = None
) -> "np.ndarray[Any, Any]":
    r"""$\hat\lambda$ with its error band of two standard errors, above the loss at the checkpoint, over the training step on a log axis.

    Several training runs are thin lines, and the band is that of their mean. Checkpoints with findings are hollow.

    Args:
        summary: one value a checkpoint, of one training run or of several (see `jaxllc.estimator.summary`).
        suspect: which checkpoints have findings, run after run.
        mean: over the runs (see `jaxllc.diagnostics.over_runs`), of several.
        axes: two matplotlib axes, default of a new figure.
    """
    import matplotlib.pyplot as plt

    both = plt.subplots(2, 1, figsize=(7, 5.2), sharex=True, height_ratios=(3, 2), layout="constrained")[1] if axes is None else axes
    top, bottom = both
    several = mean is not None
    curves = mean if mean is not None else summary.squeeze([axis for axis in summary.dims if axis == RUN])
    step, llc = summary["step"].values, np.atleast_2d(summary["llc"].values)
    suspect = np.reshape(suspect, llc.shape)
    middle, error = curves["llc"].values, curves["std_error"].values
    top.fill_between(step, middle - 2 * error, middle + 2 * error, color=BLUE, alpha=0.35, lw=0)
    label = f"mean of {len(llc)} runs ± 2 standard errors" if several else "± 2 standard errors"
    top.errorbar(step, middle, 2 * error, color=BLUE, lw=1.5 if several else 1, elinewidth=1, capsize=2.5, label=label)
    for run in llc if several else ():
        top.plot(step, run, color=BLUE, lw=0.6, alpha=0.6)
    points = dict(color=BLUE, ms=2.5 if several else 4, mew=0.6 if several else 1, ls="none")
    steps = np.broadcast_to(step, llc.shape)
    top.plot(steps[~suspect], llc[~suspect], "o", label="no findings", **points)
    if suspect.any():
        top.plot(steps[suspect], llc[suspect], "o", mfc="white", label="with findings", **points)
    top.set_ylabel("local learning coefficient λ̂")
    top.legend(frameon=False, fontsize="small")
    bottom.plot(step, curves["mean_loss"].values, color="black", lw=1, ls="--", zorder=3, label="mean over the posterior")
    bottom.plot(step, curves["loss"].values, color=ORANGE, lw=1.5, label="at the checkpoint")
    for run in summary["loss"].values if several else ():
        bottom.plot(step, run, color=ORANGE, lw=0.6, alpha=0.6)
    bottom.set_ylabel("loss (nats)")
    bottom.legend(frameon=False, fontsize="small")
    bottom.set_xlabel("training step")
    _log_time(bottom, step)
    _bare(both)
    _frame_of_clean(top, steps, llc, np.broadcast_to(2 * error, llc.shape), suspect)
    return both


def _frame_of_clean(ax: Any, step: np.ndarray, llc: np.ndarray, width: np.ndarray, suspect: np.ndarray) -> None:
    """Where few checkpoints with findings lie far outside of those without, the axis is that of the latter; arrows at its edge tell where the others are."""
    clean = ~suspect & np.isfinite(llc) & np.isfinite(width)
    if clean.sum() < max(2, np.isfinite(llc).sum() / 2):
        return
    low, high = (llc - width)[clean].min(), (llc + width)[clean].max()
    room = high - low
    outside = suspect & ((llc < low - room) | (llc > high + room))
    if not outside.any():
        return
    inside = np.isfinite(llc) & ~outside
    low, high = llc[inside].min(), llc[inside].max()
    low, high = min(low, (llc - width)[clean].min()) - 0.15 * room, max(high, (llc + width)[clean].max()) + 0.15 * room
    ax.set_ylim(low, high)
    arrow, last = dict(arrowstyle="->", color=BLUE), -np.inf
    for at, value in sorted(zip(step[outside], llc[outside], strict=True)):
        edge, away = (low, 1) if value < low else (high, -1)
        where = _share_of_width(ax, at)
        label, last = (f"{value:.3g}", where) if where - last > ROOM_OF_A_NUMBER else ("", last)
        ax.annotate(label, (at, edge), (0, 18 * away), textcoords="offset points", ha="center", va="center", fontsize="x-small", arrowprops=arrow)


def plot_components(summary: "xarray.Dataset", axes: "np.ndarray[Any, Any] | None" = None) -> "np.ndarray[Any, Any]":
    r"""$\hat\lambda$ of each component with bands of two standard errors, above the loss at the checkpoint, over the training step on a log axis.

    Args:
        summary: `llc`, `std_error` and `loss` over `step` and `component` (see `jaxllc.estimator.summary`).
        axes: two matplotlib axes, default of a new figure.
    """
    import matplotlib.pyplot as plt

    both = plt.subplots(2, 1, figsize=(7, 5.6), sharex=True, height_ratios=(3, 1), layout="constrained")[1] if axes is None else axes
    top, bottom = both
    summary = summary.squeeze([axis for axis in summary.dims if axis == RUN])
    step, names = summary["step"].values, [str(name) for name in summary["component"].values]
    for i, name in enumerate(names):
        one = summary.isel(component=i)
        style = dict(color=PALETTE[i % len(PALETTE)], ls=("-", "--", ":", "-.")[i // len(PALETTE) % 4])
        llc, error = one["llc"].values, one["std_error"].values
        top.fill_between(step, llc - 2 * error, llc + 2 * error, color=style["color"], alpha=0.2, lw=0)
        top.plot(step, llc, label=name, lw=1.4, marker=".", ms=4, **style)
    top.set_ylabel("local learning coefficient λ̂")
    top.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), title="± 2 standard errors", title_fontsize="small")
    bottom.plot(step, summary["loss"].isel(component=0).values, color=GREY, lw=1.5)
    bottom.set_ylabel("loss (nats)")
    bottom.set_xlabel("training step")
    _log_time(bottom, step)
    _bare(both)
    return both


def plot_estimate(draws: np.ndarray, llc: float, std_error: float, thinning: int = 1) -> "np.ndarray[Any, Any]":
    r"""Above, the running mean of each chain's draws over its draws; below, the mean of each chain, its error by the spread of its own blocks, and the whole.

    A chain that has not forgotten its start bends; chains that explore other places lie apart by more than their errors.

    Args:
        draws: of $\hat\lambda$, `[chain, draw]`; NaN in chains that diverged.
        llc: the coefficient.
        std_error: its standard error.
        thinning: iterations from one draw to the next.
    """
    import matplotlib.pyplot as plt

    _, both = plt.subplots(1, 2, figsize=(9, 4), width_ratios=(3, 2), layout="constrained")
    left, right = both
    count = np.arange(1, draws.shape[-1] + 1)
    running = draws.cumsum(-1) / count
    smooth = max(draws.shape[-1] // 20, 1)
    blocks = draws[:, : draws.shape[-1] // smooth * smooth].reshape(len(draws), -1, smooth).mean(-1)
    for i in range(len(draws)):
        color, style = PALETTE[i % len(PALETTE)], ("-", "--", ":", "-.")[i // len(PALETTE) % 4]
        left.plot(thinning * smooth * (np.arange(blocks.shape[-1]) + 0.5), blocks[i], color=color, lw=0.7, alpha=0.5)
        left.plot(thinning * count, running[i], color=color, lw=1.8, ls=style)
    finite = np.isfinite(draws).all(-1)
    late = running[finite][:, len(count) // 20 :]
    if late.size:  # the first few draws of a running mean would set the scale
        low, high = np.percentile(np.concatenate([late.ravel(), blocks[finite].ravel()]), (1, 99))
        left.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low) + 1e-9)
    left.set_xlabel("iterations after burn-in")
    left.set_ylabel("λ̂")
    left.set_title("running mean of each chain (thick) and means of blocks of draws (thin)", loc="left", fontsize="small")
    means, errors = draws.mean(-1), blocks.std(-1, ddof=1) / np.sqrt(blocks.shape[-1]) if blocks.shape[-1] > 1 else np.zeros(len(draws))
    right.errorbar(means, np.arange(len(draws)), xerr=2 * errors, fmt="o", color=BLUE, ms=4, capsize=2, lw=1, label="chains ± 2 errors")
    right.axvspan(llc - 2 * std_error, llc + 2 * std_error, color=ORANGE, alpha=0.25, lw=0, label="λ̂ ± 2 standard errors")
    right.axvline(llc, color=ORANGE, lw=1)
    right.set_xlabel("mean of λ̂")
    right.set_ylabel("chain")
    right.set_yticks(np.arange(len(draws)) if len(draws) <= 16 else np.linspace(0, len(draws) - 1, 5).round())
    right.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    _bare(both)
    return both


def plot_bars(summary: "xarray.Dataset") -> "np.ndarray[Any, Any]":
    r"""$\hat\lambda$ of each component with bars of two standard errors, in one matplotlib axis.

    Args:
        summary: `llc` and `std_error` over `component` (see `jaxllc.estimator.summary`), of one checkpoint.
    """
    import matplotlib.pyplot as plt

    summary = summary.squeeze("step") if "step" in summary.dims else summary
    names = [str(name) for name in summary["component"].values]
    _, axes = plt.subplots(1, 1, figsize=(6, 1 + 0.3 * len(names)), squeeze=False, layout="constrained")
    axis = axes[0, 0]
    axis.errorbar(summary["llc"].values, np.arange(len(names)), xerr=2 * summary["std_error"].values, fmt="o", color=BLUE, ms=4, capsize=2, lw=1)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("local learning coefficient λ̂ ± 2 standard errors")
    _bare(axes[0])
    return axes[0]


LABELS = {"nbeta": "inverse temperature nβ", "localization": "localization γ", "step_size": "step size ε"}


def plot_calibration(points: "pandas.DataFrame", chosen: Mapping[str, Any]) -> "np.ndarray[Any, Any]":
    r"""Maps of $\hat\lambda$ over two settings each, with its values and errors; the choice has a frame.

    Args:
        points: one line a point, with `nbeta`, `localization`, perhaps `step_size`, `llc` and `std_error`.
        chosen: the same settings of the choice.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    pairs = [("localization", "step_size"), ("nbeta", "step_size")] if "step_size" in points else [("localization", "nbeta")]
    figure, axes = plt.subplots(1, len(pairs), figsize=(1 + 4 * len(pairs), 3.6), squeeze=False, layout="constrained")
    for axis, (across, up) in zip(axes[0], pairs, strict=True):
        others = [name for name in LABELS if name in points and name not in (across, up)]
        here = points[np.all([np.isclose(points[name], chosen[name]) for name in others], axis=0)] if others else points
        llc, error = (here.pivot_table(value, up, across) for value in ("llc", "std_error"))
        low, high = np.nanmin(llc), np.nanmax(llc)
        light = dict(vmin=low - 0.1, vmax=high + 1.5 * (high - low) + 0.1)  # so that numbers can be read
        axis.imshow(llc, origin="lower", cmap="Blues", aspect="auto", **light)
        for i, j in np.ndindex(llc.shape):
            axis.text(j, i, f"{llc.iat[i, j]:.3g}\n± {error.iat[i, j]:.1g}", ha="center", va="center", fontsize="small")
        at = [int(np.argmin(np.abs(np.asarray(index) - chosen[name]))) for name, index in ((across, llc.columns), (up, llc.index))]
        axis.add_patch(Rectangle((at[0] - 0.48, at[1] - 0.48), 0.96, 0.96, fill=False, ec=ORANGE, lw=2))
        axis.set_xticks(range(llc.shape[1]), [f"{x:.3g}" for x in llc.columns])
        axis.set_yticks(range(llc.shape[0]), [f"{x:.3g}" for x in llc.index])
        axis.set_xlabel(LABELS[across])
        axis.set_ylabel(LABELS[up])
    figure.suptitle("λ̂ around the choice (framed)", fontsize="medium")
    return axes[0]


def _log_time(ax: Any, step: np.ndarray) -> None:
    """A log axis of training steps, linear below the first positive one where there is a step 0; labels that leave room for each other."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if step.max() <= 0:
        return
    first, last = step[step > 0].min(), step.max()
    if step.min() > 0:
        ax.set_xscale("log")
        if np.floor(np.log10(last)) - np.ceil(np.log10(first)) < 2:  # fewer than three powers of ten
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", " ")))
    else:
        ax.set_xscale("symlog", linthresh=first, linscale=0.3)
        powers = 10.0 ** np.arange(np.ceil(np.log10(2 * first)), np.floor(np.log10(last)) + 1)
        ax.set_xticks([0, *powers])
    ax.xaxis.set_minor_formatter(NullFormatter())


def _share_of_width(ax: Any, step: float) -> float:
    """Where a step stands on the axis of time, as it is now: 0 at its left end, 1 at its right."""
    return float((ax.transData + ax.transAxes.inverted()).transform((step, ax.get_ylim()[0]))[0])


def _bare(axes: "np.ndarray[Any, Any]") -> None:
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0.02)


def plot_stages(stages: "pandas.DataFrame", axes: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Shade the stages of one run, blue for type A, orange for B, grey where undecided, and the intervals of their boundaries, darker; types stand above.

    Args:
        stages: as of `jaxllc.stages.find_stages`.
        axes: matplotlib axes over the training step, such as `plot_trajectory` gives.
    """
    colors = {"A": BLUE, "B": ORANGE, "undecided": GREY}
    for ax in np.ravel(axes):
        for _, stage in stages.iterrows():
            ax.axvspan(stage["start"], stage["end"], color=colors[str(stage["type"])], alpha=0.12, lw=0, zorder=0)
        for _, stage in stages.iloc[:-1].iterrows():
            ax.axvspan(stage["end_low"], stage["end_high"], color=GREY, alpha=0.35, lw=0, zorder=0)
            ax.axvline(stage["end"], color=GREY, lw=0.8, zorder=0)
    first = np.ravel(axes)[0]
    for start, end, kind in zip(stages["start"].to_numpy(float), stages["end"].to_numpy(float), stages["type"].astype(str), strict=True):
        middle, name = (_share_of_width(first, start) + _share_of_width(first, end)) / 2, kind if kind in ("A", "B") else "?"
        first.text(middle, 1.02, name, transform=first.transAxes, ha="center", va="bottom", fontsize="small", color=colors[kind])
    return axes
