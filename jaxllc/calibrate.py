r"""Settings for a loss, its data and one checkpoint or several: measured, not guessed.

Two samplers are weighed. *Hamiltonian Monte Carlo on all data in the metric of the Hessian* (`jaxllc.AdaptiveHMC`) is exact at any step, and crosses the
posterior in some ten to hundred gradients. *SGLD on minibatches* has a bias, and takes many iterations, but cheap ones. Where it mixes at the localization
asked for in less time, with a bias that does not matter, it is taken; else Hamiltonian Monte Carlo, where the budget allows a few hundred
gradients of all data; else SGLD too. Along directions that the loss does not curve SGLD forgets where it began in $2 / \epsilon\gamma$ iterations, so
$\gamma$ is then raised until that is a fifth of the burn-in that the budget pays for.

Lengths follow from a pilot run of the same program: from its seconds an iteration, and from the autocorrelation of what is slow.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from jax.sharding import Mesh

from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.candidate_hmc import hamiltonian, hamiltonian_plan, is_affordable
from jaxllc.candidate_sgld import langevin, much_quicker
from jaxllc.candidates import PILOT_SHARE
from jaxllc.data import InMemory
from jaxllc.engine import NotFiniteError
from jaxllc.estimator import why_not_finite
from jaxllc.maps import map_points
from jaxllc.pilots import gradient_seconds, suitable_batch_size
from jaxllc.plan import Plan
from jaxllc.request import BUDGET, Aims, Given, Request
from jaxllc.results import Place
from jaxllc.runs import checkpoint_runs, shared_steps
from jaxllc.samplers.sgld import SGLD
from jaxllc.select import FreeLike
from jaxllc.settings import Settings
from jaxllc.stream import Data, Stream

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Settings, and why they were chosen. Made by `calibrate`.

    Examples:
        >>> cal = jaxllc.calibrate(loss_fn, params, data, key=jax.random.key(0))
        >>> cal.serves, cal.settings.localization
        (True, 1.0)
    """

    settings: Settings
    """How to sample."""
    reasons: tuple[str, ...]
    """Plain sentences."""
    cost: float
    """Seconds that an estimate of one checkpoint is expected to take."""
    seconds: float
    """That the calibration took, but for the compilation of a program that the run uses again."""
    serves: bool
    """Whether the settings are expected to mix within the budget; if not, `reasons` tells what it would take."""
    points: tuple[Mapping[str, Any], ...]
    """What was run: the settings of each point, and what came out."""

    def table(self) -> "pandas.DataFrame":
        """One line for each point that was run.

        Examples:
            >>> cal = jaxllc.calibrate(loss_fn, params, data, key=jax.random.key(0))
            >>> cal.table().columns[:3].to_list()
            ['checkpoint', 'sampler', 'batch_size']
        """
        import pandas as pd

        return pd.DataFrame(list(self.points))

    def plot(self) -> "np.ndarray[Any, Any]":
        r"""Maps of $\hat\lambda$ around the choice, which is marked: over γ and nβ, or of SGLD over ε and either; gives the matplotlib axes.

        Raises:
            ValueError: the calibration was made without `maps=True`.

        Examples:
            >>> cal = jaxllc.calibrate(loss_fn, params, data, key=jax.random.key(0), maps=True)
            >>> cal.plot()[0].figure.savefig("maps.png")
        """
        from jaxllc.plots import plot_calibration

        points = self.table().query("checkpoint == 'map'")
        if points.empty:
            raise ValueError("the maps were not run; pass maps=True to jaxllc.calibrate.")
        assert self.settings.nbeta is not None
        step_size = self.settings.sampler.step_size if isinstance(self.settings.sampler, SGLD) else None
        return plot_calibration(points, {"nbeta": self.settings.nbeta, "localization": self.settings.localization, "step_size": step_size})

    def to_dict(self) -> dict[str, Any]:
        """What a result keeps of it: the reasons, and what it took.

        Examples:
            >>> cal = jaxllc.calibrate(loss_fn, params, data, key=jax.random.key(0))
            >>> sorted(cal.to_dict())
            ['cost', 'reasons', 'seconds', 'serves']
        """
        return {"reasons": list(self.reasons), "seconds": self.seconds, "cost": self.cost, "serves": self.serves}

    def __str__(self) -> str:
        return "\n".join([repr(self.settings), *(f"  {reason}" for reason in self.reasons)])


def calibrate(
    loss_fn: LossFn,
    params_or_checkpoints: Params | Mapping[int, Params] | Mapping[str, Mapping[int, Params]],
    data: Batch | Data,
    *,
    key: Key,
    free: FreeLike = None,
    mesh: Mesh | None = None,
    budget: float = BUDGET,
    maps: bool = False,
    **aims: Unpack[Aims],
) -> Calibration:
    r"""Settings that give $\hat\lambda$ of a checkpoint within a budget of seconds, and the reasons for them.

    Of several checkpoints one setting must serve all: the first, the last and one between them are looked at. Lengths that the budget cuts short depend on
    the speed of the machine; pass `settings` on for the same numbers anywhere.

    Args:
        loss_fn: see `jaxllc.estimate`.
        params_or_checkpoints: the weights of a checkpoint, or whatever `jaxllc.trajectory` takes: a mapping from the training step to the weights.
        data: see `jaxllc.estimate`.
        key: a typed key.
        free: which weights move.
        mesh: devices with an axis `chain`; default all that divide the work.
        budget: seconds for the estimate of one checkpoint, compilation aside.
        maps: also run the grid around the choice that `plot` shows, in one program: γ and nβ, and of SGLD the step size; it takes about as long again.
        aims: settings that are not to be found: `nbeta`, $n\beta$, by default $n / \ln n$; `localization`, $\gamma$, by default 1 or as much more as it
            takes to mix within the budget; `num_chains`, by default 8. And `target_error`, the standard error that lengths aim at, as a share of the
            coefficient (0.02).

    Raises:
        TypeError: whatever `jaxllc.estimate` raises.
        ValueError: a budget that is not above 0, or whatever `jaxllc.estimate` raises.

    Examples:
        >>> settings = jaxllc.calibrate(loss_fn, params, data, key=jax.random.key(0)).settings
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(1)).llc)
        2
    """
    request = Request(loss_fn, data, key, free, mesh, budget, **aims)
    for name, value in (("budget", budget), ("target_error", request.target_error)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}.")
    checkpoints = some_checkpoints(params_or_checkpoints)
    return calibrated(request, checkpoints, maps=maps)[0]


def calibrates(data: Any, settings: Settings | None, overrides: Mapping[str, Any]) -> bool:
    """Whether a call leaves it to `calibrate` how to sample: it names no setting but those that a calibration takes as given, and data without a batch size."""
    has_batch_size = isinstance(data, InMemory) and data.batch_size < data.num_examples
    return settings is None and not has_batch_size and set(overrides) <= set(Given.__annotations__)


def calibrating(budget: float) -> str:
    """What is said before a calibration."""
    return f"jaxllc: finding settings by short runs of about {PILOT_SHARE * budget:.0f} s and their compilation, for {budget:.0f} s a checkpoint at most"


def some_checkpoints(params_or_checkpoints: Any) -> dict[Any, Params]:
    """The weights to look at, by the names that messages give them."""
    if not is_checkpoints(params_or_checkpoints):
        return {"params": params_or_checkpoints}
    runs = checkpoint_runs(params_or_checkpoints)
    return {place: runs[place.run][place.step] for place in few([Place(run, step) for run in runs for step in shared_steps(runs)])}


def few(places: Sequence[Place]) -> list[Place]:
    """Three of the places: of the first run the last step, which is the sharpest one as a rule, the first, and one between them."""
    steps = sorted({place.step for place in places})
    return [Place(places[0].run, step) for step in dict.fromkeys((steps[-1], steps[0], steps[len(steps) // 2]))]


def is_checkpoints(value: Any) -> bool:
    """Whether a mapping is one from steps, or from runs to steps, rather than the weights of a model."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(key, int | np.integer) for key in value) or all(
        isinstance(run, Mapping) and run and all(isinstance(key, int | np.integer) for key in run) for run in value.values()
    )


def calibrated(request: Request, checkpoints: Mapping[Any, Params], *, maps: bool = False) -> tuple[Calibration, Plan]:
    """The calibration, and the plan of its settings."""
    request = request.with_arrays()
    plan = hamiltonian_plan(request, checkpoints)
    began = time.perf_counter()
    name, first = next(iter(checkpoints.items()))
    try:
        gradient = gradient_seconds(plan, first)
    except NotFiniteError as error:
        raise NotFiniteError(0, f"{name}: {error}") from error
    size, num_examples = suitable_batch_size(plan, first), plan.data.num_examples
    choice, affordable = None, not isinstance(plan.data, Stream) and is_affordable(request, gradient)
    try:
        instead_of = much_quicker(request, plan, checkpoints, gradient, size) if affordable else None
        if instead_of is not None:
            plan = None  # or its data would lie beside those of the next one
            choice = langevin(request, checkpoints, gradient, size, num_examples, instead_of)
        if choice is None and affordable:
            choice = hamiltonian(request, plan or hamiltonian_plan(request, checkpoints), checkpoints, gradient)
        if choice is None:
            plan = None
            choice = langevin(request, checkpoints, gradient, size, num_examples)
            assert choice is not None
    except NotFiniteError as error:
        index = error.index % len(checkpoints)
        raise NotFiniteError(index, why_not_finite(checkpoints, index)) from error
    seconds = time.perf_counter() - began - (choice.compilation if len(checkpoints) == 1 else 0.0)
    points = choice.points + (map_points(choice, next(iter(checkpoints.values()))) if maps else [])
    return Calibration(choice.plan.settings, tuple(choice.reasons), choice.cost, seconds, choice.serves, tuple(points)), choice.plan
