"""The result of an experiment on the bump: quantities of each seed, answers over seeds, and those of the control."""

from collections.abc import Sequence
from typing import Any

import jaxllc
from jaxllc.stages import recurring
from research.development.bump import WINDOWS, Curves, control_answer, levels_passed, other_windows, over_all, rounded_curves, rows, stages_of, type_b_power
from research.development.common import count_findings
from research.development.fall import USUAL, Window


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
