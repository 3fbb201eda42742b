r"""Quantities of each seed of the induction experiment, and their means: crossings, changes in the window before prefix matching sets in, stages.

The window ends where the score of prefix matching has passed 10 % of its rise and begins at half of that step; λ̂, the gradient-free cloud and the loss
are all asked there (`fall`). A seed that forms no induction head has no such window; such seeds are counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import jaxllc
from jaxllc.estimator import corrected_draws
from jaxllc.results import values
from research.development import analysis
from research.development.analysis import Interval, crossing, over_chains, over_seeds, over_seeds_and_chains
from research.development.fall import USUAL, Window, before, binned, detectable, largest_fall

FIRST_STEP = 50
"""The first step at which stages are sought. Earlier weights are near no minimum: λ̂ is far below zero there, on a scale that would hide what comes later."""
FORMED = 0.2
"""A seed has formed its induction head when the score of prefix matching ends above this; chance gives 0.03 to 0.06."""
WINDOWS = (Window(1.5, 4), USUAL, Window(3.0, 11))
"""In which the largest fall is sought; the second, the default of `fall`, decides the verdict."""
PUBLISHED_PLACE = (0.66, 0.87)
"""Where the published fall begins and ends, 6.5k and 8.5k, as shares of the step at which prefix matching sets in there."""
PLANTED = (2.0, 4.0)
"""Depths of the falls that are planted, to see what share of them `find_stages` finds."""


class Curves(NamedTuple):
    """Curves of each run: losses and scores `[run, step]`, λ̂ of the chains and of the gradient-free cloud `[run, step, chain]`."""

    step: np.ndarray
    loss: np.ndarray
    llc: np.ndarray
    cloud: np.ndarray
    scores: dict[str, np.ndarray]

    @classmethod
    def of(cls, traj: jaxllc.Trajectory) -> "Curves":
        """The curves of a trajectory of several runs."""
        tree = traj.data
        last = values(tree, "probes/prefix_matching").shape[-2] - 1
        scores = {
            "previous_token": values(tree, "probes/previous_token")[..., 0, :].max(-1),
            "prefix_matching": values(tree, "probes/prefix_matching")[..., last, :].max(-1),
            "in_context": values(tree, "probes/in_context"),
        }
        return cls(
            np.asarray(tree.coords["step"].values),
            values(tree, "constant_data/full_center_loss"),
            corrected_draws(tree).mean(-1),
            values(tree, "constant_data/gaussian_llc"),
            scores,
        )


def stages_of(traj: jaxllc.Trajectory) -> Any:
    """The stages of all runs from `FIRST_STEP` on."""
    return jaxllc.Trajectory(traj.data.sel(step=slice(FIRST_STEP, None))).stages()


def rows(
    traj: jaxllc.Trajectory, stages_by_run: Any, bump_level: float | None, window: Window = USUAL, events: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """For each seed its crossings, its stages, and λ̂, cloud and loss in the bins of its window.

    A seed that formed no induction head has no window and no lags. λ̂ over the rise of previous-token attention, from 10 to 90 %, is given for every seed: its
    mean in the window before and in each third, and the first third minus the last (in seeds that formed an induction head, the bump lies there).

    Args:
        traj: of several runs.
        stages_by_run: their `stages_of`.
        bump_level: the loss halfway down the bump, None where it is not known.
        window: before the onset of prefix matching.
        events: the onset of each run, NaN where no induction head formed, where it is known from more checkpoints than these.
    """
    curves = Curves.of(traj)
    seeds = []
    for i, (run, stages) in enumerate(stages_by_run.groupby("run", sort=False)):
        step, scores = curves.step, {name: score[i] for name, score in curves.scores.items()}
        chains, cloud, loss = curves.llc[i].T, curves.cloud[i].T, curves.loss[i]
        passed = {share: {name: crossing(step, score, share) for name, score in scores.items()} for share in (0.1, 1 / 3, 0.5)}
        formed = float(scores["prefix_matching"][-analysis.END :].mean()) > FORMED
        event = passed[0.1]["prefix_matching"] if formed else np.nan
        if events is not None:
            event, formed = events[str(run)], bool(np.isfinite(events[str(run)]))
        half = passed[0.5]["prefix_matching"]
        llc = before(step, chains, event, window)
        turns = turning_points(step, chains.mean(0), float(llc.mean())) if formed else {"llc_half": np.nan, "llc_peak": np.nan}
        below = loss < bump_level if bump_level is not None else np.zeros(len(step), bool)
        steps = turns | {"loss_halfway": float(step[np.flatnonzero(~below)[-1] + 1]) if below[-1] and not below.all() else np.nan}
        ends = [crossing(step, scores["previous_token"], share) for share in (0.1, 0.9)]
        growing = binned(step, chains, *ends, bins=3) if ends[0] < ends[1] else np.full((len(chains), 3), np.nan)
        drop, drop_error = over_chains(growing[:, 0] - growing[:, 2])
        seeds.append(
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
                "window": [event / window.ratio, event],
                "llc": llc,
                "gaussian_llc": before(step, cloud, event, window),
                "loss": before(step, loss, event, window),
                "loss_excess": loss_excess(step, loss, event, window.ratio),
                "llc_rise": float(np.interp(turns["llc_peak"], step, _smooth(chains.mean(0))) - llc.mean()) if formed else np.nan,
                "previous_token_rise": ends,
                "llc_while_previous_token_rises": [before(step, chains, ends[0], window._replace(bins=1)).mean(), *growing.mean(0)],
                "drop_while_previous_token_rises": drop,
                "drop_while_previous_token_rises_error": drop_error,
                "llc_at_end": float(chains[:, -analysis.END :].mean()),
                "final_loss": float(loss[-analysis.END :].mean()),
                "score_at_end": {name: float(score[-analysis.END :].mean()) for name, score in scores.items()},
                **analysis.stages_of_bump(stages, event / window.ratio, half),
                "stages": stages.drop(columns="run").to_dict("records"),
            }
        )
    return seeds


def _log_lag(passed: dict[str, float]) -> float:
    return float(np.log(passed["prefix_matching"] / passed["previous_token"]))


def _smooth(curve: np.ndarray) -> np.ndarray:
    """The mean of five neighbours; fewer at the ends."""
    ones = np.ones(analysis.END)
    return np.convolve(curve, ones, "same") / np.convolve(np.ones(len(curve)), ones, "same")


def turning_points(step: np.ndarray, llc: np.ndarray, level: float) -> dict[str, float]:
    """Where λ̂, `[step]`, has passed half of its way from a level to its peak, and where the peak of its mean over five neighbours is."""
    peak = int(_smooth(llc).argmax())
    upto = slice(None, peak + analysis.END // 2 + 1)
    return {"llc_half": crossing(step[upto], llc[upto], 0.5, start=level), "llc_peak": float(step[peak])}


def loss_excess(step: np.ndarray, loss: np.ndarray, event: float, ratio: float = USUAL.ratio) -> float:
    """The fall of the loss in the window minus its fall over as much log-time before, as a share of its fall from the event to the end."""
    earlier, start, end = np.interp(np.log([event / ratio**2, event / ratio, event]), analysis.log_step(step), loss)
    return float(((start - end) - (earlier - start)) / (end - loss[-analysis.END :].mean()))


def over_all(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """The answers over seeds. Those that formed no induction head have no lag and no window."""
    formed = [seed for seed in seeds if seed["formed"]]

    def mean(name: str) -> Interval:
        return over_seeds(np.asarray([seed[name] for seed in formed], float))

    def share(rows: list[bool]) -> float:
        return float(np.mean(rows)) if rows else np.nan

    def stack(name: str) -> np.ndarray:
        return np.stack([np.atleast_2d(seed[name]) for seed in seeds])

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
        "share_previous_token_first": share([seed["log_lag_half"] > 0 for seed in formed]),
        "share_previous_token_third_first": share([seed["log_lag_third"] > 0 for seed in formed]),
        "log_lag_third": lag_third,
        "log_lag_half": lag_half,
        "lag_half": mean("lag_half"),
        "log_lags_to_half": {name: over_seeds(np.array([seed["log_lags_to_half"][name] for seed in formed])) for name in seeds[0]["log_lags_to_half"]},
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
        "type_b_share": share([seed["type_b"] for seed in formed]),
        "hidden_share": share([seed["hidden"] for seed in formed]),
    }


def scatter(values: np.ndarray) -> float:
    """The standard deviation of white noise that would explain how far bins lie from the line through their neighbours, of `[seed, chain, bin]`."""
    curves = values.mean(1)
    departures = curves[:, 1:-1] - (curves[:, :-2] + curves[:, 2:]) / 2
    departures = departures[np.isfinite(departures)]
    return float(np.sqrt(np.mean(departures**2) / 1.5)) if len(departures) else np.nan


def other_windows(traj: jaxllc.Trajectory, seeds: list[dict[str, Any]], windows: Sequence[Window] = WINDOWS) -> list[dict[str, Any]]:
    """The largest fall of λ̂ in windows that begin earlier or later."""
    curves = Curves.of(traj)
    answers = []
    for window in windows:
        llc = np.stack([before(curves.step, run.T, seed["window"][1], window) for run, seed in zip(curves.llc, seeds, strict=True)])
        answers.append({**window._asdict(), **largest_fall(llc)._asdict(), "detectable": detectable(llc)})
    return answers


def later_window(traj: jaxllc.Trajectory, seeds: list[dict[str, Any]], window: Window) -> dict[str, Any]:
    """The largest fall of λ̂ in windows that end where prefix matching has made a third of its rise, which no model without an induction head reaches."""
    curves = Curves.of(traj)
    ends = [seed["third"]["prefix_matching"] if seed["formed"] else np.nan for seed in seeds]
    llc = np.stack([before(curves.step, run.T, end, window) for run, end in zip(curves.llc, ends, strict=True)])
    return {"ends": ends, **largest_fall(llc)._asdict()}


def type_b_power(traj: jaxllc.Trajectory, seeds: list[dict[str, Any]]) -> dict[float, float]:
    """The share of the seeds with an induction head in which `find_stages` finds a type B once a fall is planted, by its depth."""
    formed = [seed for seed in seeds if seed["formed"]]
    power = {}
    for depth in PLANTED if formed else ():
        by_run = stages_of(plant(traj, formed, depth)).groupby("run", sort=False)
        found = [
            analysis.stages_of_bump(stages, seed["window"][0], seed["half"]["prefix_matching"])["type_b"]
            for seed, (_, stages) in zip(formed, by_run, strict=True)
        ]
        power[depth] = float(np.mean(found))
    return power


def plant(traj: jaxllc.Trajectory, formed: list[dict[str, Any]], depth: float) -> jaxllc.Trajectory:
    """The runs with an induction head, each with a lasting fall in every chain, at `PUBLISHED_PLACE` of the step of its event."""
    tree = traj.data.sel(run=[seed["run"] for seed in formed]).copy(deep=True)
    event = np.array([[seed["window"][1]] for seed in formed])
    start, end = np.log(PUBLISHED_PLACE)
    fallen = np.clip((analysis.log_step(Curves.of(traj).step) - np.log(event) - start) / (end - start), 0, 1)
    llc = tree["posterior"].to_dataset()["llc"]
    tree["posterior"] = tree["posterior"].to_dataset().assign(llc=llc - depth * llc.isel(chain=0, draw=0, drop=True).copy(data=fallen))
    return jaxllc.Trajectory(tree)


def control_answer(traj: jaxllc.Trajectory, seeds: list[dict[str, Any]], window: Window = USUAL) -> dict[str, Any]:
    """λ̂ of the one-layer runs in the windows of the two-layer seeds, averaged over these, and the levels that their scores reach."""
    formed = [seed for seed in seeds if seed["formed"]]
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
        windows = [seed["window"][1] for seed in formed]
        answer["llc_drop"] = largest_fall(np.stack([np.mean([before(curves.step, run.T, event, window) for event in windows], 0) for run in curves.llc]))
    return answer


def levels_passed(traj: jaxllc.Trajectory, control: jaxllc.Trajectory, seeds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Previous-token scores at shares of each seed's rise, and the step at which each seed of the control passes the lowest of these levels, or None."""
    scores, others = Curves.of(traj).scores["previous_token"], Curves.of(control)
    answers = []
    for share in (0.1, 1 / 3, 0.5):
        levels = [float(s[0] + share * (s[-analysis.END :].mean() - s[0])) for s, seed in zip(scores, seeds, strict=True) if seed["formed"]]
        if levels:
            passed = [others.step[score >= min(levels)] for score in others.scores["previous_token"]]
            answers.append({"share": share, "levels": [min(levels), max(levels)], "control_passes_at": [float(at[0]) if len(at) else None for at in passed]})
    return answers


def rounded_curves(curves: Curves) -> dict[str, Any]:
    """The curves to four digits, λ̂ averaged over chains."""
    arrays = {"loss": curves.loss, "llc": curves.llc.mean(-1), "gaussian_llc": curves.cloud.mean(-1), **curves.scores}
    return {"step": curves.step, **{name: [[float(f"{x:.4g}") for x in row] for row in value] for name, value in arrays.items()}}
