"""Pictures of results; nothing is computed here."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxllc import diagnostics

if TYPE_CHECKING:
    import pandas
    import xarray

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#7f7f7f"


def plot_trajectory(tree: "xarray.DataTree", axes: "np.ndarray[Any, Any] | None" = None) -> "np.ndarray[Any, Any]":
    r"""$\hat\lambda$ with its error band of two standard errors, above the loss at the checkpoint, over the training step on a log axis.

    Checkpoints with findings are hollow.

    Args:
        tree: a result of several checkpoints.
        axes: two matplotlib axes, default of a new figure.
    """
    import matplotlib.pyplot as plt

    table = diagnostics.summary(tree)
    suspect = np.array([bool(found) for found in diagnostics.findings(tree)])
    both = plt.subplots(2, 1, figsize=(7, 5.2), sharex=True, height_ratios=(3, 2), layout="constrained")[1] if axes is None else axes
    top, bottom = both
    step, llc, error = table["step"].values, table["llc"].values, table["std_error"].values
    top.fill_between(step, llc - 2 * error, llc + 2 * error, color=BLUE, alpha=0.35, lw=0)
    top.errorbar(step, llc, 2 * error, color=BLUE, lw=1, elinewidth=1, capsize=2.5, label="± 2 standard errors")
    top.plot(step[~suspect], llc[~suspect], "o", color=BLUE, ms=4, label="no findings")
    if suspect.any():
        top.plot(step[suspect], llc[suspect], "o", mfc="white", color=BLUE, ms=4, label="with findings")
    top.set_ylabel("local learning coefficient λ̂")
    top.legend(frameon=False, fontsize="small")
    bottom.plot(step, table["mean_loss"].values, color=GREY, lw=1.2, ls="--", label="mean over the posterior")
    bottom.plot(step, table["loss"].values, color=ORANGE, lw=1.5, label="at the checkpoint")
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
