r"""Settings for a loss, its data and one checkpoint or several: measured, not guessed.

Two samplers are weighed. *Hamiltonian Monte Carlo on all data in the metric of the Hessian* (`jaxllc.AdaptiveHMC`) is exact at any step, and crosses the posterior in
some ten to hundred gradients; it is taken where the budget allows a few hundred gradients of all data. Otherwise *SGLD on minibatches*, at a step whose bias is
measured to be small. Along directions that the loss does not hold SGLD forgets where it began in $2 / \epsilon\gamma$ iterations, so $\gamma$ is raised
until that is a third of the burn-in that the budget pays for.

Lengths follow from a pilot run of the same program: from its seconds an iteration, and from the autocorrelation of its slowest quantity.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxllc.settings import Settings

if TYPE_CHECKING:
    import pandas

BUDGET = 120.0
"""Seconds of an estimate, by default."""
PILOT_SHARE = 0.2
"""Of the budget, that the pilot run may take."""
NUM_CHAINS = 8
EFFECTIVE_DRAWS = 800.0
"""Of the slowest quantity that lengths aim at: R-hat is then known to about a per cent."""
DISPERSION = 0.5
"""Of every second chain, in standard deviations of the metric: well inside the posterior, far from w*."""
PILOT_BURN_IN, PILOT_DRAWS = 16, 32
LEAST_BURN_IN, LEAST_DRAWS, MOST_DRAWS = 32, 32, 4000
BURN_IN_TIMES = 8
"""Burn-in, in autocorrelation times of the slowest quantity."""
LEAST_STEPS = 6
"""Integration steps of a trajectory below which Hamiltonian dynamics is no better than a random walk."""
PROBED_EXAMPLES = 2048
"""Examples whose gradient is timed."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Settings, and why they were chosen. Made by `calibrate`."""

    settings: Settings
    """How to sample."""
    reasons: tuple[str, ...]
    """Plain sentences."""
    cost: float
    """Seconds that an estimate of one checkpoint is expected to take."""
    seconds: float
    """That the calibration took."""
    serves: bool
    """Whether the settings are expected to mix within the budget; if not, `reasons` tells what it would take."""
    points: tuple[Mapping[str, Any], ...]
    """What was run: the settings of each point, and what came out."""

    def table(self) -> "pandas.DataFrame":
        """One line for each point that was run."""
        import pandas as pd

        return pd.DataFrame(list(self.points))

    def __str__(self) -> str:
        return "\n".join([repr(self.settings), *(f"  {reason}" for reason in self.reasons)])
