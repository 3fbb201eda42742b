r"""Maps around the choice of a calibration: $\hat\lambda$ over $\gamma$ and $n\beta$, and of SGLD over the step size."""

from typing import Any

import numpy as np

from jaxllc._typing import Params
from jaxllc.candidate_hmc import PILOT_BURN_IN, PILOT_DRAWS, with_steps
from jaxllc.candidates import described
from jaxllc.pilots import run_pilot
from jaxllc.request import Choice
from jaxllc.samplers.sgld import SGLD

MAP_FACTORS, MAP_ITERATIONS = (0.25, 1.0, 4.0), 300
"""Around a choice, for its maps; of SGLD so many iterations."""


def map_points(choice: Choice, params: Params) -> list[dict[str, Any]]:
    r"""$\hat\lambda$ around the choice, in one program: at `MAP_FACTORS` times its $\gamma$ and its $n\beta$, and of SGLD its $\epsilon$."""
    plan = choice.plan
    step_size = float(plan.sampler.step_size) if isinstance(plan.sampler, SGLD) else None  # pyright: ignore[reportArgumentType]
    steps = (1.0,) if step_size is None else MAP_FACTORS
    grid = [(step, gamma, beta) for step in steps for gamma in MAP_FACTORS for beta in MAP_FACTORS if step_size is None or 1 in (gamma, beta)]
    factors, localizations, nbetas = (np.asarray(column) for column in zip(*grid, strict=True))
    localizations, nbetas = localizations * plan.settings.localization, nbetas * plan.nbeta
    if step_size is None:
        plan = plan.with_settings(plan.settings.replace(num_burn_in=PILOT_BURN_IN, num_draws=PILOT_DRAWS))
        plan = with_steps(plan, float(plan.sampler.max_integration_steps))  # pyright: ignore[reportAttributeAccessIssue]
    else:
        plan = plan.with_settings(plan.settings.replace(num_burn_in=MAP_ITERATIONS // 3, num_draws=2 * MAP_ITERATIONS // 3, thinning=1))
    pilot = run_pilot(plan, [params] * len(grid), factors=None if step_size is None else factors, localizations=localizations, nbetas=nbetas)
    lines = [described(plan) | {"checkpoint": "map", "nbeta": float(nbetas[k]), "localization": float(localizations[k])} for k in range(len(grid))]
    if step_size is not None:
        lines = [line | {"step_size": step_size * factor} for line, factor in zip(lines, factors, strict=True)]
    return pilot.points(lines)
