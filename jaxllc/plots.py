"""Pictures of results; nothing is computed here."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxllc import diagnostics
from jaxllc.results import RUN

if TYPE_CHECKING:
    import pandas
    import xarray

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#7f7f7f"


def plot_trajectory(tree: "xarray.DataTree", axes: "np.ndarray[Any, Any] | None" = None) -> "np.ndarray[Any, Any]":
    r"""$\hat\lambda$ with its error band of two standard errors, above the loss at the checkpoint, over the training step on a log axis.

    Several training runs are thin lines, and the band is that of their mean (see `jaxllc.diagnostics.over_runs`). Checkpoints with findings are hollow.

    Args:
        tree: a result of several checkpoints, of one training run or of several.
        axes: two matplotlib axes, default of a new figure.
    """
    import matplotlib.pyplot as plt

    table = diagnostics.summary(tree)
    both = plt.subplots(2, 1, figsize=(7, 5.2), sharex=True, height_ratios=(3, 2), layout="constrained")[1] if axes is None else axes
    top, bottom = both
    several = table.sizes.get(RUN, 1) > 1
    step, llc = table["step"].values, np.atleast_2d(table["llc"].values)
    suspect = np.reshape([bool(found) for found in diagnostics.findings(tree)], llc.shape)
    curves = diagnostics.over_runs(tree) if several else table.squeeze([axis for axis in table.dims if axis == RUN])
    mean, error = curves["llc"].values, curves["std_error"].values
    top.fill_between(step, mean - 2 * error, mean + 2 * error, color=BLUE, alpha=0.35, lw=0)
    label = f"mean of {len(llc)} runs ± 2 standard errors" if several else "± 2 standard errors"
    top.errorbar(step, mean, 2 * error, color=BLUE, lw=1.5 if several else 1, elinewidth=1, capsize=2.5, label=label)
    for run in llc if several else ():
        top.plot(step, run, color=BLUE, lw=0.6, alpha=0.6)
    points = dict(color=BLUE, ms=2.5 if several else 4, mew=0.6 if several else 1, ls="none")
    steps = np.broadcast_to(step, llc.shape)
    top.plot(steps[~suspect], llc[~suspect], "o", label="no findings", **points)
    if suspect.any():
        top.plot(steps[suspect], llc[suspect], "o", mfc="white", label="with findings", **points)
    top.set_ylabel("local learning coefficient λ̂")
    top.legend(frameon=False, fontsize="small")
    bottom.plot(step, curves["mean_loss"].values, color=GREY, lw=1.2, ls="--", label="mean over the posterior")
    bottom.plot(step, curves["loss"].values, color=ORANGE, lw=1.5, label="at the checkpoint")
    for run in table["loss"].values if several else ():
        bottom.plot(step, run, color=ORANGE, lw=0.6, alpha=0.6)
    bottom.set_ylabel("loss (nats)")
    bottom.legend(frameon=False, fontsize="small")
    bottom.set_xlabel("training step")
    if step.min() > 0:
        bottom.set_xscale("log")
    elif step.max() > 0:
        bottom.set_xscale("symlog", linthresh=step[step > 0].min(), linscale=0.3)
    for ax in both:
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0.02)
    return both


def plot_stages(stages: "pandas.DataFrame", axes: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Shade the stages of one run, blue for type A, orange for B, grey where undecided, and the intervals of their boundaries, darker.

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
    return axes
