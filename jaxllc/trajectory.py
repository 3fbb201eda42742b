r"""$\hat\lambda(t)$: the local learning coefficient over the checkpoints of a training run, or of several; and results opened from a store."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

import jax
import numpy as np
from jax.sharding import Mesh

from jaxllc import diagnostics, estimator, results
from jaxllc._tree import split_objects
from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.calibrate import calibrated, calibrates, few
from jaxllc.candidates import Request, given, reaching
from jaxllc.diagnostics import Finding
from jaxllc.estimate import RESERVED, Estimate, given_reference, progress_bar, save, stored_settings
from jaxllc.estimator import estimate_group
from jaxllc.plan import DEFAULT_SAMPLER, Plan, groups
from jaxllc.probes import Probe, ProbesLike, as_probes, at_checkpoints
from jaxllc.results import Name, Place
from jaxllc.runs import Weights, checkpoint_runs, shared_steps
from jaxllc.select import FreeLike
from jaxllc.settings import Overrides, Settings, as_count, override
from jaxllc.store import Store, checksum, open_tree, repair, stored_attributes
from jaxllc.stream import Data

if TYPE_CHECKING:
    import pandas
    import xarray

PROBED = 5
"""Checkpoints of each run, evenly spread, whose curvature sets a default step size."""

BUDGET_OF_A_TRAJECTORY, LEAST_BUDGET = 600.0, 10.0
"""Seconds of all checkpoints together, and of each at least, that a calibration aims at."""

WELL_ABOVE = 0.1
"""Share of the loss at step 0 by which the least loss must lie below it, for step 0 to be an initialisation."""

COLUMNS = ("llc", "std_error", "loss", "mean_loss", "rhat", "ess", "change", "change_error", "step_bias", "num_diverged")
"""What a table has of every checkpoint, beside the acceptance rate where there is one, probes and findings."""


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """The coefficients of a training run, or of several. Made by `trajectory`, or by `jaxllc.open`."""

    data: "xarray.DataTree"
    """All draws: `/posterior` llc (step, chain, draw), `/sample_stats`, `/constant_data`, `/probes`, `/along_chains`; every setting in its attributes.

    Several training runs have an axis `run` before `step` everywhere (see `jaxllc.results`).
    """

    @functools.cached_property
    def summary(self) -> "xarray.Dataset":
        """One value a checkpoint of each quantity (see `jaxllc.estimator.summary`), computed once."""
        return estimator.summary(self.data)

    @functools.cached_property
    def reference_loss(self) -> float | None:
        """The loss of an uninformed model: as it was given, or that at an initialisation among the checkpoints (see `trajectory`); None if there is none."""
        given = self.data.attrs.get("reference_loss")
        return _reference_loss(self.summary) if given is None else float(given)

    @property
    def settings(self) -> Settings:
        """How it was sampled, with defaults resolved.

        Raises:
            ValueError: the sampler held something that could not be written down.
        """
        return stored_settings(self.data.attrs)

    def table(self) -> "pandas.DataFrame":
        """One line a checkpoint, by `step` or, of several training runs, by `run` and `step`.

        Columns: llc, std_error, loss, mean_loss, rhat, ess, change from the step before and its error, step_bias, num_diverged, acceptance_rate of a sampler
        that accepts or refuses (see `jaxllc.estimator.summary`), the probes that are one number, findings.
        """
        columns = [*COLUMNS, *(["acceptance_rate"] if self.data.attrs.get("min_acceptance") is not None else [])]
        table = self.summary.to_dataframe(dim_order=list(results.place_axes(self.summary.dims))).loc[:, columns]
        for name, values in results.scalars(self.data).items():
            table[name] = values.ravel()
        table = table[results.is_done(self.data)]
        table["findings"] = [" ".join(finding.code for finding in some) for some in self.findings()]
        return table

    def findings(self) -> list[tuple[Finding, ...]]:
        """What makes a number suspect: a tuple for each line of `table()`, in its order, which is run after run and step after step."""
        return [some for some, done in zip(self._findings, results.is_done(self.data), strict=True) if done]

    def stages(self, *, certainty: float | None = None) -> "pandas.DataFrame":
        """Stages of development, one line each: boundaries, type A, B or undecided, with errors paired by chain (see `jaxllc.stages.find_stages`)."""
        from jaxllc import stages  # SciPy and pandas are loaded when there is something to find

        return stages.stages_of(self.summary, estimator.corrected_draws(self.data), certainty=stages.CERTAINTY if certainty is None else certainty)

    def over_runs(self) -> "xarray.Dataset":
        """Means over the training runs, by step, with their standard errors (see `jaxllc.diagnostics.over_runs`).

        Raises:
            ValueError: a single run.
        """
        if self.summary.sizes.get(results.RUN, 1) < 2:
            raise ValueError("this result is of one training run, so there is no mean over runs; pass {name: checkpoints} to trajectory.")
        return diagnostics.over_runs(self.summary, estimator.corrected_draws(self.data))

    def plot(self) -> "np.ndarray[Any, Any]":
        """The coefficient with its error band, and the loss, over the training step; gives the two matplotlib axes.

        Several training runs are thin lines, and the band is that of their mean.
        """
        from jaxllc.plots import plot_trajectory  # matplotlib is loaded when there is something to draw

        mean = self.over_runs() if self.summary.sizes.get(results.RUN, 1) > 1 else None
        return plot_trajectory(self.summary, np.array([bool(some) for some in self._findings]), mean)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a new Zarr store, from which `jaxllc.open(path)` reads it.

        Raises:
            ValueError: the path exists.
        """
        save(self.data, path, "trajectory")

    @functools.cached_property
    def _findings(self) -> list[tuple[Finding, ...]]:
        return diagnostics.findings(self.summary, {**results.attributes(self.data), "reference_loss": self.reference_loss})


class _Keywords(Overrides, total=False):
    observables: ProbesLike | None
    """The former name of `probes`."""


def trajectory(
    loss_fn: LossFn,
    checkpoints: Mapping[int, Params] | Mapping[str, Mapping[int, Params]],
    data: Batch | Data,
    settings: Settings | None = None,
    *,
    key: Key,
    free: FreeLike = None,
    probes: ProbesLike | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
    reference_loss: float | None = None,
    store: str | os.PathLike[str] | None = None,
    group_size: int | None = None,
    **overrides: Unpack[_Keywords],
) -> Trajectory:
    r"""$\hat\lambda$ of each checkpoint of a training run, or of several training runs of one model.

    All checkpoints of all runs run in one compiled program with the same random numbers, so that differences between neighbours are known
    far better than the values. Without settings `jaxllc.calibrate` finds one for all of them first; a store that is resumed keeps its own. For the arguments
    that are not below see `jaxllc.estimate`.

    Args:
        checkpoints: any mapping from the training step to the weights; each is read once, when its turn comes. Or a mapping from the
            names of training runs to such mappings, which share their steps.
        reference_loss: default the loss at step 0, where that is an initialisation: the highest of its run, and well above the least. Of several
            runs the lowest of these.
        store: a directory for a Zarr store, written one checkpoint at a time; call again with the same settings and names of probes to
            resume, also when there are more checkpoints or named runs than before. The result holds those of `checkpoints`, the store all that
            were ever written. That `loss_fn` or a probe is still the same function cannot be seen.
        group_size: checkpoints that run in one program; the numbers do not depend on it. Default by the number of weights.

    Raises:
        TypeError: `checkpoints` or one of its runs is no mapping, or whatever `estimate` raises.
        ValueError: no checkpoints, keys that are not steps, runs of different steps, a store of other settings, data or weights, or whatever `estimate` raises.
    """
    probes = overrides.pop("observables", None) if probes is None else probes
    runs = checkpoint_runs(checkpoints)
    places = [Place(run, step) for run in runs for step in shared_steps(runs)]
    if group_size is not None:
        as_count("group_size", group_size)
    weights = Weights(runs)
    described = as_probes(probes, (*COLUMNS, "acceptance_rate", *RESERVED))
    request = Request(loss_fn, data, key, free, mesh, max(BUDGET_OF_A_TRAJECTORY / len(places), LEAST_BUDGET), **given(overrides))
    plan = _plan(request, weights, places, settings, overrides, _stored(store), described).with_probes(described, weights.peek(places[0]))
    attributes = plan.attributes() | {"data_checksum": checksum(plan.data.resident.arrays), "verb": "trajectory"} | given_reference(reference_loss)
    results_store = Store(store, places, attributes) if store is not None else None
    done = results_store.done() if results_store else {}
    weights.check(places, done, store)
    pending = [place for place in places if place not in done]
    weights.hold_only(pending)
    arrays: dict[Place, dict[Name, np.ndarray]] = {}
    for place, values, mark in _run(plan, weights, pending, group_size, progress):
        arrays[place] = values
        if results_store:
            results_store.write(place, values, mark)
    if results_store:
        arrays |= {place: results_store.read(place) for place in places if place not in arrays}
    whole = {name: np.stack([arrays[place][name] for place in places]) for name in results.names(attributes)}
    return Trajectory(results.to_tree(whole, places, attributes))


def open_store(path: str | os.PathLike[str]) -> Trajectory | Estimate:
    """The result in a store, with everything in it: draws, settings, reference loss, findings. Exported as `jaxllc.open`.

    Arrays are read when they are needed. A store that is still being filled gives the places that are written so far.

    Args:
        path: what was given as `store=` to `trajectory`, or to `save()`.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is no store of this library, or holds no place yet.
    """
    tree = open_tree(path)
    if tree.attrs.get("verb") == "estimate":
        return Estimate(results.only_step(tree))
    return Trajectory(tree)


def _spread(places: list[Place]) -> list[Place]:
    """Those at `PROBED` steps, evenly spread, of every run."""
    steps = sorted({place.step for place in places})
    chosen = {steps[round(i)] for i in np.linspace(0, len(steps) - 1, PROBED)}
    return [place for place in places if place.step in chosen]


def _plan(
    request: Request,
    weights: Weights,
    places: list[Place],
    settings: Settings | None,
    overrides: Overrides,
    stored: Mapping[str, Any] | None,
    probes: Mapping[str, Probe],
) -> Plan:
    """The plan of the settings, without probes: calibrated where they are open, unless a store was begun with what was found then."""
    are_open = calibrates(request.data, settings, overrides)
    if are_open and stored is None:
        calibration, plan = calibrated(request, weights.some(few(places)))
        return reaching(plan.with_facts(calibration=calibration.to_dict()), probes)
    if are_open and stored is not None:
        request, settings = request.with_arrays(), stored_settings(stored)
        overrides = Overrides(**{name: value for name, value in overrides.items() if value is not None})  # pyright: ignore[reportArgumentType]
    settings = _with_stored_step_size(override(settings, overrides), stored)
    needs_step_size = (settings.sampler or DEFAULT_SAMPLER).needs_step_size
    plan = request.plan(weights.some(_spread(places) if needs_step_size else places[:1]), settings)
    return plan.with_facts(calibration=stored["calibration"]) if stored is not None and "calibration" in stored else plan


def _stored(store: Any) -> Mapping[str, Any] | None:
    """The attributes of a store that was begun; None without one."""
    if store is None:
        return None
    repair(store)
    return stored_attributes(store)


def _with_stored_step_size(settings: Settings, stored: Mapping[str, Any] | None) -> Settings:
    """The settings with the default step size that a store was begun with, which more checkpoints must not change."""
    sampler = settings.sampler or DEFAULT_SAMPLER
    if not (sampler.needs_step_size and stored and "default_step_size" in stored):
        return settings
    return settings.replace(sampler=sampler.with_default_step_size(stored["default_step_size"], settings.num_burn_in))


def _run(plan: Plan, weights: Weights, pending: list[Place], group_size: int | None, progress: bool) -> Iterator[tuple[Place, dict[Name, np.ndarray], int]]:
    """Place, arrays and checksum of the weights of each pending place, group after group."""
    if not pending:
        return
    num_weights = sum(np.size(leaf) for leaf in jax.tree.leaves(split_objects(weights.peek(pending[0]))[0]))
    with progress_bar(plan.settings.num_iterations * len(pending), progress) as on_steps:
        size = 0
        for group in groups(pending, num_weights, plan.settings.num_chains, group_size):
            size = size or len(group)
            checkpoints = {place: weights.take(place) for place in group}
            yield from _run_group(plan, checkpoints, size, lambda done, group=group: on_steps(done * len(group)))


def _run_group(
    plan: Plan, checkpoints: Mapping[Place, Params], size: int, on_steps: Callable[[int], Any]
) -> Iterator[tuple[Place, dict[Name, np.ndarray], int]]:
    """Place, arrays and checksum of each checkpoint of a group, which is filled up to the size that was compiled for."""
    *_, last = checkpoints
    padded: dict[Any, Params] = {**checkpoints, **{f"{last} again, {i}": checkpoints[last] for i in range(size - len(checkpoints))}}
    values = estimate_group(plan, padded, on_steps)
    arrays = [split_objects(params)[0] for params in padded.values()]
    values |= {(results.PROBES, name): array for name, array in at_checkpoints(plan.probes, arrays).items()}
    for i, (place, params) in enumerate(checkpoints.items()):
        yield place, {name: array[i] for name, array in values.items()}, checksum(split_objects(params)[0])


def _reference_loss(summary: "xarray.Dataset") -> float | None:
    """The least loss at step 0 of the runs that begin with an initialisation: no higher loss later, and one that is well below; None if there is none."""
    loss, step = np.atleast_2d(summary["loss"].values), summary["step"].values
    first = loss[:, step == 0]
    if not first.size:
        return None
    highest, least = loss.max(-1, keepdims=True), loss.min(-1, keepdims=True)
    begins = first[(first >= highest) & (highest - least > WELL_ABOVE * np.abs(highest))]
    return float(begins.min()) if begins.size else None
