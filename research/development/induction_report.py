"""Figure and tables of the induction experiment."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import jaxllc
from research.development import analysis
from research.development.analysis import over_seeds
from research.development.bump import Curves
from research.development.fall import USUAL, Window, binned


def figure(
    traj: jaxllc.Trajectory,
    control: jaxllc.Trajectory,
    text_traj: jaxllc.Trajectory | None,
    seeds: list[dict[str, Any]],
    answer: dict[str, Any],
    *,
    title: str = "two layers, triggers",
    window: Window = USUAL,
) -> Any:
    """Loss, λ̂ with the windows shaded, and scores, from top to bottom, as in the published figure.

    Columns: two layers, the same aligned at the onset of prefix matching, one layer, real text.
    """
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    from jaxllc.plots import BLUE, GREY, ORANGE

    green, pink = "#009e73", "#cc79a7"
    columns = [(traj, title), (control, "one layer (control)"), *([] if text_traj is None else [(text_traj, "two layers, real text")])]
    shape = {"figsize": (4 * len(columns) + 4, 8), "sharex": "col", "height_ratios": (2, 3, 2), "layout": "constrained"}
    both, axes = plt.subplots(3, len(columns) + 1, **shape)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    for j, (each, title) in zip((0, *range(2, len(columns) + 1)), columns, strict=True):
        curves, x = Curves.of(each), np.exp(analysis.log_step(each.data.coords["step"].values))
        top, middle, bottom = axes[:, j]
        top.set_title(f"{title}: {len(curves.loss)} seed{'s' * (len(curves.loss) > 1)}", fontsize="medium", loc="left")
        top.plot(x, curves.loss.T, color=ORANGE, lw=0.7)
        middle.plot(x, curves.llc.mean(-1).T, color=BLUE, lw=0.6, alpha=0.6)
        if len(curves.loss) > 1:
            mean = each.over_runs()
            middle.errorbar(x, mean["llc"].values, 2 * mean["std_error"].values, color=BLUE, lw=1.8, elinewidth=0.8, label="mean ± 2 standard errors")
        middle.plot(x, curves.cloud.mean((0, -1)), color=GREY, lw=1, ls="--", label="without gradients: N(w*, 1/γ)")
        top_llc = float(curves.llc.mean(-1).max())
        middle.set_ylim(-0.3 * top_llc, 1.25 * top_llc)  # lower values belong to the first steps, which are near no minimum
        bottom.plot(x, curves.scores["previous_token"].T, color=green, lw=0.7)
        bottom.plot(x, curves.scores["prefix_matching"].T, color=pink, lw=0.7)
        bottom.set_ylim(0, 1)
        bottom.set_xscale("log")
        bottom.set_xlabel("training step (0 at the left edge)")
    formed = [i for i, seed in enumerate(seeds) if seed["formed"]]
    for i in formed:
        for ax in axes[:2, 0]:
            ax.axvspan(*seeds[i]["window"], color=green, alpha=0.06, lw=0, zorder=0)
    _aligned(axes[:, 1], Curves.of(traj), {i: seeds[i]["window"][1] for i in formed}, (ORANGE, BLUE, GREY, green, pink), window)
    for ax, label in zip(axes[:, 0], ("loss (nats per token)", "local learning coefficient λ̂", "attention score"), strict=True):
        ax.set_ylabel(label)
    axes[2, 0].plot([], [], color=green, label="previous token")
    axes[2, 0].plot([], [], color=pink, label="prefix matching")
    axes[1, 0].legend(frameon=False, fontsize="small", loc="lower right")
    axes[2, 0].legend(frameon=False, fontsize="small", loc="upper left")
    both.suptitle(f"{str(answer['verdict']).split(' (')[0]}: before prefix matching sets in λ̂ {_in_words(answer)}", fontsize="large")
    return both


def _in_words(answer: dict[str, Any]) -> str:
    """What λ̂ does from bin to bin of the window."""
    depth, error, level = answer["llc_drop_mean"], answer["llc_drop_std_error"], answer["llc_level"]
    if depth + 2 * error < 0:
        return f"rises between all bins, by {-depth:.1f} ± {error:.1f} at least, of {level:.0f}"
    return f"falls by {depth:.2f} ± {error:.2f} at most, of {level:.1f}"


def _aligned(axes: Any, curves: Curves, events: dict[int, float], colors: tuple[str, ...], window: Window) -> None:
    """Means over seeds, with two standard errors, against the step as a share of that at which prefix matching sets in; the window is shaded."""
    ratios, width = (2 * window.ratio, 2.0), float(np.log(window.ratio) / window.bins)
    bins = round(float(np.log(ratios[0] * ratios[1])) / width)
    x = np.exp(-np.log(ratios[0]) + width * (np.arange(bins) + 0.5))
    scores = curves.scores
    panels = [(curves.loss,), (curves.llc.mean(-1), curves.cloud.mean(-1)), (scores["previous_token"], scores["prefix_matching"])]
    colors_left = iter(colors)
    for ax, panel in zip(axes, panels, strict=True):
        for curve in panel:
            color = next(colors_left)
            aligned = [binned(curves.step, curve[i], event / ratios[0], event * ratios[1], bins) for i, event in events.items()]
            if len(aligned) > 1:
                means = [over_seeds(column) for column in np.transpose(aligned)]
                ax.errorbar(x, [m.mean for m in means], [2 * m.std_error for m in means], color=color, lw=1.4, elinewidth=0.8)
        ax.axvspan(1 / window.ratio, 1, color="#009e73", alpha=0.12, lw=0, zorder=0)
    axes[0].set_title("aligned where prefix matching sets in", fontsize="medium", loc="left")
    axes[2].set_xscale("log")
    ticks = {0.125: "⅛", 0.25: "¼", 0.5: "½", 1.0: "1", 2.0: "2"}
    axes[2].set_xticks([tick for tick in ticks if tick >= 1 / ratios[0]], [name for tick, name in ticks.items() if tick >= 1 / ratios[0]])
    axes[2].minorticks_off()
    axes[2].set_xlabel("step ÷ that of the onset of prefix matching")


OTHERS = {"themselves": "the weights themselves", "text": "real text"}
QUESTIONS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("seeds that formed an induction head", lambda r: str(r["num_formed"])),
    ("previous-token attention first to a third, share of seeds", lambda r: percent(r["share_previous_token_third_first"])),
    ("previous-token attention first to half, share of seeds", lambda r: percent(r["share_previous_token_first"])),
    ("lag of third rises, log of the ratio", lambda r: interval(r["log_lag_third"])),
    ("lag of half rises, log of the ratio", lambda r: interval(r["log_lag_half"])),
    ("lag of half rises, steps", lambda r: interval(r["lag_half"], 0)),
    ("λ̂'s half rise after that of prefix matching, log of the ratio", lambda r: interval(r["log_lags_to_half"]["llc_half"])),
    ("λ̂'s peak after the half rise of prefix matching, log of the ratio", lambda r: interval(r["log_lags_to_half"]["llc_peak"])),
    ("loss halfway down after the half rise of prefix matching, log of the ratio", lambda r: interval(r["log_lags_to_half"]["loss_halfway"])),
    ("λ̂ in the window", lambda r: number(r["llc_level"])),
    ("scatter of λ̂ in the window about the line through neighbouring bins", lambda r: number(r["llc_scatter"])),
    ("rise of λ̂ from there to its peak", lambda r: interval(r["llc_rise"])),
    ("largest fall of λ̂ in the window, cross-fitted", lambda r: interval(r["llc_drop"]["depth"])),
    ("largest fall of the mean λ̂", lambda r: number(r["llc_drop"]["largest"])),
    ("share of level curves with the same noise that fall as far", lambda r: percent(r["llc_drop"]["chance"])),
    ("deepest fall of λ̂ that is not excluded", lambda r: number(r["llc_drop"]["at_most"])),
    (
        "published fall, by the share of λ̂ and of the rise",
        lambda r: f"{number(r['published_drop']['by_level'])}, {number(r['published_drop']['by_rise'])}",
    ),
    ("change of λ̂ from the first to the last bin of the window", lambda r: interval(r["llc_change"])),
    ("largest fall of the gradient-free cloud in the window, cross-fitted", lambda r: interval(r["gaussian_llc_drop"]["depth"])),
    ("change of the gradient-free cloud over the window", lambda r: interval(r["gaussian_llc_change"])),
    ("fall of the loss in the window beyond its trend, share of its fall afterwards", lambda r: interval(r["loss_excess"])),
    ("certain type B before the bump's type A, share of seeds", lambda r: percent(r["type_b_share"])),
)
"""Lines of the main table, and how each is read from a result."""


def interval(effect: dict[str, Any], digits: int = 2) -> str:
    """A mean with its standard error and 95 % limits."""
    if effect["mean"] is None or effect["low"] is None:
        return "unknown"
    return f"{effect['mean']:.{digits}f} ± {effect['std_error']:.{digits}f} ({effect['low']:.{digits}f} to {effect['high']:.{digits}f})"


def number(value: float | None) -> str:
    """Two digits after the point."""
    return "unknown" if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    """Whole percents."""
    return "unknown" if value is None else f"{value:.0%}"


def table(result: dict[str, Any], title: str = "two layers, triggers", others: Mapping[str, str] = OTHERS) -> str:
    """All answers as Markdown: of the result itself, and of those in it that have the names of `others`, each beside its title."""
    lines = ["| claim | answer | effect | smallest effect that would be certain |", "|---|---|---|---|"]
    lines += [f"| {name} | {claim['answer']} | {interval(claim['effect'])} | {number(claim['limit'])} |" for name, claim in result["claims"].items()]
    lines += ["", f"Verdict: {result['verdict']}", "", f"| quantity | {title} | {' | '.join(others.values())} |", "|---" * (2 + len(others)) + "|"]
    columns = [result, *(result[name] for name in others)]
    lines += [f"| {label} | {' | '.join(show(one) if one else 'not run' for one in columns)} |" for label, show in QUESTIONS]
    parts = _stages(result), _windows(result), _seeds(result), _sensitivity(result), _control(result)
    lines += [line for part in parts for line in part]
    lines += ["", "| part | seconds |", "|---|---|", *(f"| {name} | {spent:.0f} |" for name, spent in result["seconds_by_part"].items())]
    return "\n".join(lines)


def _stages(result: dict[str, Any]) -> list[str]:
    two = [{"run": seed["run"], **stage} for seed in result["rows"] for stage in seed["stages"]]
    certain = [
        f"{layers} {stage['run']}, {stage['start']:.0f} to {stage['end']:.0f}, {stage['delta_llc']:.2f} ± {stage['delta_llc_error']:.2f}"
        for layers, stages in (("two layers", two), ("one layer", result["control"]["stages"]))
        for stage in stages
        if stage["type"] == "B"
    ]
    planted = ", ".join(f"{share:.0%} at a depth of {float(depth):g}" for depth, share in result["type_b_power"].items())
    return [
        "",
        f"All certain stages of type B, at any time: {'; '.join(certain) or 'none'}.",
        "",
        f"Share of the seeds in which a certain type B is found once a fall is planted: {planted or 'unknown'}.",
    ]


def _windows(result: dict[str, Any]) -> list[str]:
    lines = ["", "| window begins at the onset ÷ | bins | largest fall of λ̂ | not excluded | detectable |", "|---|---|---|---|---|"]
    windows = result["other_windows"]
    return lines + [f"| {w['ratio']:g} | {w['bins']} | {interval(w['depth'])} | {number(w['at_most'])} | {number(w['detectable'])} |" for w in windows]


def _seeds(result: dict[str, Any]) -> list[str]:
    columns = ("seed", "onset of prefix matching", "λ̂ in the window, by bins", "fall, cross-fitted")
    columns += ("previous-token attention at the end", "its rise, 10 to 90 %", "λ̂ before that and in its thirds", "fall, first to last third")
    lines = ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    left_out = iter(result["llc_drop"]["by_seed"])
    for seed in result["rows"]:
        formed = seed["formed"]
        levels = ", ".join(f"{level:.1f}" for level in np.mean(seed["llc"], 0)) if formed else ""
        rise = " to ".join("?" if at is None else f"{at:.0f}" for at in seed["previous_token_rise"])
        fall = f"{number(seed['drop_while_previous_token_rises'])} ± {number(seed['drop_while_previous_token_rises_error'])}"
        event = f"{seed['window'][1]:.0f} | {levels} | {number(next(left_out))}" if formed else "none | |"
        thirds = ", ".join("?" if level is None else f"{level:.1f}" for level in seed["llc_while_previous_token_rises"])
        lines.append(f"| {seed['run']} | {event} | {seed['score_at_end']['previous_token']:.2f} | {rise} | {thirds} | {fall} |")
    return lines


def _sensitivity(result: dict[str, Any]) -> list[str]:
    if not result["sensitivity"]:
        return []
    lines = ["", "| setting | fall of λ̂ between the same bins, by seed | change over the window, by seed | findings, by seed |", "|---|---|---|---|"]
    for one in result["sensitivity"]:
        setting = ", ".join(f"{name} {value:g}" for name, value in one["setting"].items()) or "as above"
        pairs = (zip(one[name], one[f"{name}_error"], strict=True) for name in ("drop", "change"))
        falls, changes = (", ".join(f"{number(value)} ± {number(error)}" for value, error in pair) for pair in pairs)
        findings = "; ".join(", ".join(f"{code} {count}" for code, count in codes.items()) or "none" for codes in one["findings"])
        lines.append(f"| {setting} | {falls} | {changes} | {findings} |")
    return lines


def _control(result: dict[str, Any]) -> list[str]:
    control = result["control"]
    if "llc_drop" not in control:
        return []
    reached = control["mean_plus_3_sd_at_most"]["previous_token"]
    lines = ["", f"One layer in the same windows, {control['num_seeds']} seeds: largest fall {interval(control['llc_drop']['depth'])}."]
    lines += [f"Its previous-token attention reaches at most {reached:.3f} (mean over seeds and three standard deviations)."]
    lines += ["", "| share of the rise of previous-token attention | its level, over seeds | one-layer seeds pass the lowest of these at |", "|---|---|---|"]
    for level in control["levels_passed"]:
        passed = ", ".join("never" if at is None else f"{at:.0f}" for at in level["control_passes_at"])
        lines.append(f"| {level['share']:.0%} | {level['levels'][0]:.3f} to {level['levels'][1]:.3f} | {passed} |")
    return lines
