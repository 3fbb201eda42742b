"""The result of an experiment on the bump: quantities of each seed, answers over seeds, those of the control, and what other settings say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jaxllc
from jaxllc.stages import recurring
from research.development.analysis import over_chains
from research.development.bump import WINDOWS, Curves, control_answer, levels_passed, other_windows, over_all, rounded_curves, rows, stages_of, type_b_power
from research.development.common import count_findings
from research.development.fall import USUAL, Fall, Window, before
from research.development.tasks import Task, follow, window_steps


def judge(
    traj: jaxllc.Trajectory,
    control: jaxllc.Trajectory,
    halfway: float | None,
    window: Window = USUAL,
    windows: Sequence[Window] = WINDOWS,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result of the main runs and of the control, with the optional parts still empty; and the answers over seeds alone.

    Args:
        traj: of the two-layer runs.
        control: of the one-layer runs.
        halfway: the loss halfway down the bump, None where it is not known.
        window: in which the fall is sought.
        windows: others, to compare.
    """
    stages = stages_of(traj)
    seeds = rows(traj, stages, halfway, window)
    answer = over_all(seeds)
    result: dict[str, Any] = {
        "num_seeds": len(seeds),
        "num_chains": int(traj.data.sizes["chain"]),
        **answer,
        "type_b_power": type_b_power(traj, seeds),
        "other_windows": other_windows(traj, seeds, windows),
        "findings": count_findings(traj),
        "recurring_stages": recurring(stages).to_dict("records"),
        "rows": seeds,
        "control": control_answer(control, seeds, window) | {"levels_passed": levels_passed(traj, control, seeds)},
        "sensitivity": [],
        "themselves": None,
        "text": None,
        "curves": rounded_curves(Curves.of(traj)),
        "control_curves": rounded_curves(Curves.of(control)),
        "text_curves": None,
    }
    return result, answer


def sensitivity(
    task: Task,
    runs: Mapping[str, Mapping[int, Any]],
    fall: Fall,
    seeds: Sequence[dict[str, Any]],
    folder: Path,
    varied: Sequence[tuple[dict[str, float], jaxllc.Settings]],
    window: Window = USUAL,
) -> list[dict[str, Any]]:
    """The fall of λ̂ of some seeds under other settings, between the two bins where the mean curve falls most.

    Each seed is followed by itself, at the checkpoints of its window and the two next to it.

    Args:
        task: what was trained.
        runs: its runs.
        fall: of λ̂, whose bins are taken.
        seeds: the rows of the seeds, each with a window.
        folder: for the draws.
        varied: what is changed, and the settings with that change.
        window: before the onset of prefix matching.
    """
    answers = []
    for setting, settings in varied:
        name = "-".join(f"{name}-{value:g}" for name, value in setting.items()) or "fewer"
        by_seed: dict[str, list[Any]] = {"drop": [], "drop_error": [], "change": [], "change_error": []}
        codes: list[dict[str, int]] = []
        for seed in seeds:
            checkpoints = {step: runs[seed["run"]][step] for step in window_steps(sorted(runs[seed["run"]]), *seed["window"])}
            traj = follow(task, {seed["run"]: checkpoints}, folder / f"llc-{name}.zarr", settings)
            curves = Curves.of(traj)
            llc = before(curves.step, curves.llc[0].T, seed["window"][1], window)
            for what, by_chain in (("drop", llc[:, fall.first] - llc[:, fall.last]), ("change", llc[:, -1] - llc[:, 0])):
                mean, error = over_chains(by_chain)
                by_seed[what].append(mean)
                by_seed[f"{what}_error"].append(error)
            codes.append(count_findings(traj))
        answers.append({"setting": setting, "runs": [seed["run"] for seed in seeds], **by_seed, "findings": codes})
    return answers
