r"""What is asked of the seeds of the induction experiment: steps of crossings and turns, changes in the window before prefix matching sets in, stages.

The window ends where the score of prefix matching passes 10 % of its rise for good and begins at half of that step; coefficient, gradient-free cloud and loss
are all asked there (`fall`). A seed that forms no induction head has no such window and is counted.
"""

from typing import Any, NamedTuple

import numpy as np

import jaxllc
from jaxllc.results import values
from research.development import analysis
from research.development.analysis import Interval, crossing, over_chains, over_seeds, over_seeds_and_chains
from research.development.fall import RATIO, before, binned, detectable, largest_fall

FIRST_STEP = 50
"""Stages are sought from here on. The weights before are near no minimum: chains find lower losses, and coefficients far below zero, whose scale would hide
all that comes later."""
FORMED = 0.2
"""A seed has formed its induction head when the score of prefix matching ends above this; chance gives 0.03 to 0.06."""
WINDOWS = ((1.5, 4), (2.0, 7), (3.0, 11))
"""Ratio and bins of the windows in which the largest fall is sought; the second is `fall`'s own, by which the verdict is given."""
PUBLISHED_PLACE = (0.66, 0.87)
"""Where the published fall begins and ends, 6.5k and 8.5k, as shares of the step at which prefix matching sets in there."""
PLANTED = (2.0, 4.0)
"""Depths of the falls that are planted to learn how many of them `find_stages` finds."""


class Curves(NamedTuple):
    """What is known of each run, by step: losses and scores `[run, step]`, coefficients `[run, step, chain]` and of the gradient-free cloud."""

    step: np.ndarray
    loss: np.ndarray
    llc: np.ndarray
    cloud: np.ndarray
    scores: dict[str, np.ndarray]

    @classmethod
    def of(cls, traj: jaxllc.Trajectory) -> "Curves":
        """The curves of a trajectory of several runs."""
        tree = traj.data
        last = values(tree, "observables/prefix_matching").shape[-2] - 1
        scores = {
            "previous_token": values(tree, "observables/previous_token")[..., 0, :].max(-1),
            "prefix_matching": values(tree, "observables/prefix_matching")[..., last, :].max(-1),
            "in_context": values(tree, "observables/in_context"),
        }
        return cls(
            np.asarray(tree.coords["step"].values),
            values(tree, "constant_data/full_center_loss"),
            values(tree, "posterior/llc").mean(-1),
            values(tree, "constant_data/gaussian_llc"),
            scores,
        )


def stages_of(traj: jaxllc.Trajectory) -> Any:
    """The stages of all runs from `FIRST_STEP` on."""
    return jaxllc.Trajectory(traj.data.sel(step=slice(FIRST_STEP, None))).stages()


def rows(traj: jaxllc.Trajectory, stages_by_run: Any, bump_level: float | None) -> list[dict[str, Any]]:
    """What is asked of each seed: steps of crossings, its stages, and coefficient, cloud and loss in the bins of its window.

    A seed that formed no induction head has no window and no lags. Its coefficient is still asked for over the rise of previous-token attention, from 10 to
    90 %: its means in the window before that and in thirds of it, and the first third less the last (in seeds that formed one, the bump lies there).

    Args:
        traj: of several runs.
        stages_by_run: their `stages_of`.
        bump_level: the loss halfway down the bump, None where it is not known.
    """
    curves = Curves.of(traj)
    found = []
    for i, (run, stages) in enumerate(stages_by_run.groupby("run", sort=False)):
        step, scores = curves.step, {name: score[i] for name, score in curves.scores.items()}
        chains, cloud, loss = curves.llc[i].T, curves.cloud[i].T, curves.loss[i]
        passed = {share: {name: crossing(step, score, share) for name, score in scores.items()} for share in (0.1, 1 / 3, 0.5)}
        formed = float(scores["prefix_matching"][-analysis.END :].mean()) > FORMED
        event = passed[0.1]["prefix_matching"] if formed else np.nan
        half = passed[0.5]["prefix_matching"]
        llc = before(step, chains, event)
        turns = turning_points(step, chains.mean(0), float(llc.mean())) if formed else {"llc_half": np.nan, "llc_peak": np.nan}
        below = loss < bump_level if bump_level is not None else np.zeros(len(step), bool)
        steps = turns | {"loss_halfway": float(step[np.flatnonzero(~below)[-1] + 1]) if below[-1] and not below.all() else np.nan}
        ends = [crossing(step, scores["previous_token"], share) for share in (0.1, 0.9)]
        growing = binned(step, chains, *ends, bins=3) if ends[0] < ends[1] else np.full((len(chains), 3), np.nan)
        drop, drop_error = over_chains(growing[:, 0] - growing[:, 2])
        found.append(
            {
                "run": str(run),
                "formed": formed,
                "onset": passed[0.1],
                "third": passed[1 / 3],
                "half": passed[0.5],
                **steps,
                "log_lag_third": _log_lag(passed[1 / 3]) if formed else np.nan,
                "log_lag_half": _log_lag(passed[0.5]) if formed else np.nan,
                "lag_half": half - passed[0.5]["previous_token"] if formed else np.nan,
                "log_lags_to_half": {name: float(np.log(at / half)) if formed else np.nan for name, at in steps.items()},
                "window": [event / RATIO, event],
                "llc": llc,
                "gaussian_llc": before(step, cloud, event),
                "loss": before(step, loss, event),
                "loss_excess": loss_excess(step, loss, event),
                "llc_rise": float(np.interp(turns["llc_peak"], step, _smooth(chains.mean(0))) - llc.mean()) if formed else np.nan,
                "previous_token_rise": ends,
                "llc_while_previous_token_rises": [before(step, chains, ends[0], bins=1).mean(), *growing.mean(0)],
                "drop_while_previous_token_rises": drop,
                "drop_while_previous_token_rises_error": drop_error,
                "llc_at_end": float(chains[:, -analysis.END :].mean()),
                "final_loss": float(loss[-analysis.END :].mean()),
                "score_at_end": {name: float(score[-analysis.END :].mean()) for name, score in scores.items()},
                **analysis.stages_of_bump(stages, event / RATIO, half),
                "stages": stages.drop(columns="run").to_dict("records"),
            }
        )
    return found


def _log_lag(passed: dict[str, float]) -> float:
    return float(np.log(passed["prefix_matching"] / passed["previous_token"]))


def _smooth(curve: np.ndarray) -> np.ndarray:
    """The mean of five neighbours; at the ends of those that are there."""
    ones = np.ones(analysis.END)
    return np.convolve(curve, ones, "same") / np.convolve(np.ones(len(curve)), ones, "same")


def turning_points(step: np.ndarray, llc: np.ndarray, level: float) -> dict[str, float]:
    """Where a coefficient, `[step]`, passes for good half of its way from a level up to its peak, and where the peak of its mean over five neighbours is."""
    peak = int(_smooth(llc).argmax())
    upto = slice(None, peak + analysis.END // 2 + 1)
    return {"llc_half": crossing(step[upto], llc[upto], 0.5, start=level), "llc_peak": float(step[peak])}


def loss_excess(step: np.ndarray, loss: np.ndarray, event: float) -> float:
    """What the loss falls in the window beyond its trend, which is its fall over as much log-time before, as a share of its fall from the event to the end."""
    earlier, start, end = np.interp(np.log([event / RATIO**2, event / RATIO, event]), analysis.log_step(step), loss)
    return float(((start - end) - (earlier - start)) / (end - loss[-analysis.END :].mean()))


def over_all(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The answers over seeds. Seeds that have not formed an induction head have no lag and no window, and are counted."""
    formed = [row for row in found if row["formed"]]

    def mean(name: str) -> Interval:
        return over_seeds(np.asarray([row[name] for row in formed], float))

    def share(rows: list[bool]) -> float:
        return float(np.mean(rows)) if rows else np.nan

    def stack(name: str) -> np.ndarray:
        return np.stack([np.atleast_2d(row[name]) for row in found])

    def net(name: str) -> Interval:
        return over_seeds_and_chains(stack(name)[..., -1] - stack(name)[..., 0])

    llc, cloud = largest_fall(stack("llc")), largest_fall(stack("gaussian_llc"))
    level, rise = float(np.nanmean(stack("llc"))) if formed else np.nan, mean("llc_rise")
    limit = detectable(stack("llc"))
    lag_third, lag_half, excess = mean("log_lag_third"), mean("log_lag_half"), mean("loss_excess")
    claims = analysis.claims(lag_third, lag_half, llc.depth, llc.at_most, limit, level, excess)
    return {
        "num_formed": len(formed),
        "verdict": analysis.verdict(claims),
        "claims": claims,
        "share_previous_token_first": share([row["log_lag_half"] > 0 for row in formed]),
        "share_previous_token_third_first": share([row["log_lag_third"] > 0 for row in formed]),
        "log_lag_third": lag_third,
        "log_lag_half": lag_half,
        "lag_half": mean("lag_half"),
        "log_lags_to_half": {name: over_seeds(np.array([row["log_lags_to_half"][name] for row in formed])) for name in found[0]["log_lags_to_half"]},
        "llc_drop_mean": llc.depth.mean,
        "llc_drop_std_error": llc.depth.std_error,
        "llc_drop": llc,
        "llc_drop_detectable": limit,
        "llc_level": level,
        "llc_scatter": scatter(stack("llc")),
        "llc_rise": rise,
        "published_drop": {"by_level": analysis.PAPER_SHARE * level, "by_rise": analysis.PAPER_SHARE_OF_RISE * rise.mean},
        "llc_change": net("llc"),
        "gaussian_llc_drop": cloud,
        "gaussian_llc_change": net("gaussian_llc"),
        "loss_excess": excess,
        "drop_while_previous_token_rises": mean("drop_while_previous_token_rises"),
        "type_b_share": share([row["type_b"] for row in formed]),
        "hidden_share": share([row["hidden"] for row in formed]),
    }


def scatter(values: np.ndarray) -> float:
    """How far bins lie from the line through their neighbours, of `[seed, chain, bin]`: the standard deviation of white noise that would do it."""
    curves = values.mean(1)
    departures = curves[:, 1:-1] - (curves[:, :-2] + curves[:, 2:]) / 2
    departures = departures[np.isfinite(departures)]
    return float(np.sqrt(np.mean(departures**2) / 1.5)) if len(departures) else np.nan


def other_windows(traj: jaxllc.Trajectory, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest fall of the coefficient in windows that begin earlier or later."""
    curves = Curves.of(traj)
    answers = []
    for ratio, bins in WINDOWS:
        llc = np.stack([before(curves.step, run.T, row["window"][1], ratio=ratio, bins=bins) for run, row in zip(curves.llc, found, strict=True)])
        answers.append({"ratio": ratio, "bins": bins, **largest_fall(llc)._asdict(), "detectable": detectable(llc)})
    return answers


def type_b_power(traj: jaxllc.Trajectory, found: list[dict[str, Any]]) -> dict[float, float]:
    """The share of the seeds that formed an induction head in which `find_stages` finds a type B once a fall is planted, by its depth."""
    formed = [row for row in found if row["formed"]]
    power = {}
    for depth in PLANTED if formed else ():
        by_run = stages_of(plant(traj, formed, depth)).groupby("run", sort=False)
        seen = [
            analysis.stages_of_bump(stages, row["window"][0], row["half"]["prefix_matching"])["type_b"] for row, (_, stages) in zip(formed, by_run, strict=True)
        ]
        power[depth] = float(np.mean(seen))
    return power


def plant(traj: jaxllc.Trajectory, formed: list[dict[str, Any]], depth: float) -> jaxllc.Trajectory:
    """The runs that formed an induction head, each with a fall for good, in every chain, at `PUBLISHED_PLACE` of the step of its event."""
    tree = traj.data.sel(run=[row["run"] for row in formed]).copy(deep=True)
    event = np.array([[row["window"][1]] for row in formed])
    start, end = np.log(PUBLISHED_PLACE)
    fallen = np.clip((analysis.log_step(Curves.of(traj).step) - np.log(event) - start) / (end - start), 0, 1)
    llc = tree["posterior"].to_dataset()["llc"]
    tree["posterior"] = tree["posterior"].to_dataset().assign(llc=llc - depth * llc.isel(chain=0, draw=0, drop=True).copy(data=fallen))
    return jaxllc.Trajectory(tree)


def control_answer(traj: jaxllc.Trajectory, found: list[dict[str, Any]]) -> dict[str, Any]:
    """What one layer does in the windows of the two-layer seeds, averaged over these, and how far its scores go."""
    formed = [row for row in found if row["formed"]]
    curves, table = Curves.of(traj), stages_of(traj)
    reached = {name: float((score.mean(0) + (3 * score.std(0, ddof=1) if len(score) > 1 else 0)).max()) for name, score in curves.scores.items()}
    scores = curves.scores["previous_token"]
    answer: dict[str, Any] = {
        "num_seeds": len(curves.loss),
        "final_loss": curves.loss[:, -analysis.END :].mean(-1),
        "prefix_matching_at_end": curves.scores["prefix_matching"][:, -analysis.END :].mean(-1),
        "previous_token_at_end": scores[:, -analysis.END :].mean(-1),
        "mean_plus_3_sd_at_most": reached,
        "num_type_b": [int((stages["type"] == "B").sum()) for _, stages in table.groupby("run", sort=False)],
        "stages": table.to_dict("records"),
    }
    if formed:
        windows = [row["window"][1] for row in formed]
        answer["llc_drop"] = largest_fall(np.stack([np.mean([before(curves.step, run.T, event) for event in windows], 0) for run in curves.llc]))
    return answer


def levels_passed(traj: jaxllc.Trajectory, control: jaxllc.Trajectory, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The score of previous-token attention at a share of each seed's rise, and when the seeds of the control pass the least of these levels, if they do."""
    scores, others = Curves.of(traj).scores["previous_token"], Curves.of(control)
    answers = []
    for share in (0.1, 1 / 3, 0.5):
        levels = [float(s[0] + share * (s[-analysis.END :].mean() - s[0])) for s, row in zip(scores, found, strict=True) if row["formed"]]
        if levels:
            passed = [others.step[score >= min(levels)] for score in others.scores["previous_token"]]
            answers.append({"share": share, "levels": [min(levels), max(levels)], "control_passes_at": [float(at[0]) if len(at) else None for at in passed]})
    return answers


def kept_curves(curves: Curves) -> dict[str, Any]:
    """The curves to four digits: of the coefficient the mean over chains and the gradient-free cloud's."""
    found = {"loss": curves.loss, "llc": curves.llc.mean(-1), "gaussian_llc": curves.cloud.mean(-1), **curves.scores}
    return {"step": curves.step, **{name: [[float(f"{x:.4g}") for x in row] for row in value] for name, value in found.items()}}
