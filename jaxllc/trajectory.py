r"""$\hat\lambda(t)$: the local learning coefficient over the checkpoints of a training run, or of several."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxllc import diagnostics, results
from jaxllc._tree import stack
from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.batching import resident_checkpoints
from jaxllc.checkpoints import format_steps
from jaxllc.data import InMemory
from jaxllc.diagnostics import Finding
from jaxllc.engine import check_counts
from jaxllc.estimators import progress_bar, run_group
from jaxllc.free import FreeLike
from jaxllc.observables import Observables, check_observables, observe, shapes, watch_of
from jaxllc.results import Row
from jaxllc.samplers.base import Sampler
from jaxllc.settings import Extrapolate, Settings, needs_step_size, settle, with_step_size
from jaxllc.stages import CERTAINTY, stages
from jaxllc.store import Store, checksum, stored_attributes
from jaxllc.watch import Watch

if TYPE_CHECKING:
    import pandas
    import xarray

PROBED = 5
"""Checkpoints of each run, evenly spread, whose curvature sets a default step size."""

COLUMNS = ("llc", "std_error", "loss", "mean_loss", "rhat", "ess", "change", "change_error", "step_bias", "num_diverged")
"""What a table tells of every checkpoint, beside observables and findings."""


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """The coefficients of a training run, or of several. Made by `trajectory`."""

    data: "xarray.DataTree"
    """All draws: `/posterior` llc (step, chain, draw), `/sample_stats`, `/constant_data`, `/observables`, `/along_chains`; every setting in its attributes.

    Several training runs have an axis `run` before `step` everywhere.
    """

    def table(self) -> "pandas.DataFrame":
        """One row a checkpoint, by `step` or, of several training runs, by `run` and `step`.

        Columns: llc, std_error, loss, mean_loss, rhat, ess, change from the step before and its error, step_bias, num_diverged (see
        `jaxllc.diagnostics.summary`), the observables that are one number, findings.
        """
        summary = diagnostics.summary(self.data)
        table = summary.to_dataframe(dim_order=list(results.row_axes(summary.dims))).loc[:, list(COLUMNS)]
        for name, values in results.scalars(self.data).items():
            table[name] = values.ravel()
        table["findings"] = [" ".join(finding.code for finding in found) for found in self.findings()]
        return table

    def findings(self) -> list[tuple[Finding, ...]]:
        """What makes a number suspect: a tuple for each row of `table()`, in its order, which is run after run and step after step."""
        return diagnostics.findings(self.data)

    def stages(self, *, certainty: float = CERTAINTY) -> "pandas.DataFrame":
        """Stages of development, one row each: boundaries, type A, B or undecided, with errors paired by chain (see `jaxllc.stages.find_stages`)."""
        return stages(self.data, certainty=certainty)

    def plot(self) -> "np.ndarray[Any, Any]":
        """The coefficient with its error band, and the loss, over the training step; gives the two matplotlib axes.

        Several training runs are thin lines, and the band is that of their mean.
        """
        from jaxllc.plots import plot_trajectory  # matplotlib is loaded when there is something to draw

        return plot_trajectory(self.data)


def trajectory(
    loss_fn: LossFn,
    checkpoints: Mapping[int, Params] | Mapping[str, Mapping[int, Params]],
    data: Batch | InMemory,
    *,
    key: Key,
    sampler: Sampler | None = None,
    nbeta: float | None = None,
    localization: float = 1.0,
    free: FreeLike = None,
    batch_size: int | None = 256,
    num_chains: int = 8,
    num_draws: int = 1000,
    num_burn_in: int = 500,
    thinning: int = 1,
    extrapolate: Extrapolate = False,
    mesh: Mesh | None = None,
    progress: bool = True,
    reference_loss: float | None = None,
    observables: Observables | None = None,
    store: str | os.PathLike[str] | None = None,
    group_size: int | None = None,
) -> Trajectory:
    r"""$\hat\lambda$ of each checkpoint of a training run, or of several training runs of one model.

    All checkpoints of all runs run in one compiled program with the same random numbers, so that differences between neighbours are known
    far better than the values. For the arguments that are not below see `jaxllc.estimate`.

    Args:
        checkpoints: any mapping from the training step to the weights; steps are read when their turn comes. Or a mapping from the
            names of training runs to such mappings, which share their steps.
        reference_loss: default the loss at step 0, if there is one and it is the highest: that of the weights at initialisation. Of several
            runs the least of these.
        observables: functions `fn(params) -> array` by name, each evaluated at every checkpoint and kept in float32 under `/observables`, beside the
            step with the axes `<name>_dim_0`, and so on. They run jitted, side by side for a group of checkpoints. `AlongChains(functions, every=50)`
            evaluates them along the chains as well, under `/along_chains` with the axes `chain` and `evaluation`.
        store: a directory for a Zarr store, written one checkpoint at a time; call again with the same settings and names of observables to
            resume, also when there are more checkpoints or named runs than before. The result holds those of `checkpoints`, the store all that
            were ever written. That a function is still the same cannot be seen, neither `loss_fn` nor an observable.
        group_size: checkpoints that run side by side; the numbers do not depend on it. Default by the number of weights.

    Raises:
        TypeError: `checkpoints` or one of its runs is no mapping, an observable no function or one that gives anything but one real array.
        ValueError: no checkpoints, keys that are not steps, runs of different steps, an observable whose name is taken, or whatever `estimate`
            raises; a store that was made with other settings, data or weights.
    """
    runs = _runs(checkpoints)
    steps = _shared_steps(runs)
    rows = [Row(run, step) for run in runs for step in steps]
    watched = check_observables(observables, (*COLUMNS, "findings", results.RUN, results.STEP, results.CHAIN, results.DRAW, results.EVALUATION))
    if group_size is not None:
        check_counts(group_size=group_size)
    chosen = needs_step_size(sampler)
    there = stored_attributes(store) if store is not None else None
    if chosen and there and "default_step_size" in there:
        sampler = with_step_size(sampler, there["default_step_size"], num_burn_in)
    spread = {steps[round(i)] for i in np.linspace(0, len(steps) - 1, PROBED)}
    settings = settle(
        loss_fn, _Checkpoints(runs, [row for row in rows if row.step in spread] if needs_step_size(sampler) else []), data,
        key=key, sampler=sampler, nbeta=nbeta, localization=localization, free=free, batch_size=batch_size,
        num_chains=num_chains, num_draws=num_draws, num_burn_in=num_burn_in, thinning=thinning, extrapolate=extrapolate, mesh=mesh,
    )  # fmt: skip
    weights = _Checkpoints(runs, rows)
    attributes = settings.attributes() | {"data_checksum": checksum(settings.data.arrays)}
    watch = watch_of(observables, settings.num_burn_in, settings.num_steps)
    if watched:
        attributes["observables"] = shapes(watched, weights[rows[0]])
    if watch is not None:
        attributes[results.ALONG_CHAINS] = watch.times(settings.num_burn_in, settings.num_steps).tolist()
    if reference_loss is not None:
        attributes["reference_loss"] = float(reference_loss)
    if chosen:
        step_size: Any = settings.sampler.step_size  # pyright: ignore[reportAttributeAccessIssue]
        attributes["default_step_size"] = float(np.asarray(getattr(step_size, "factor", step_size)))

    kept = Store(store, rows, attributes) if store is not None else None
    done = kept.done() if kept else {}
    _check_weights(weights, done, store)
    pending = [row for row in rows if row not in done]
    found: dict[Row, dict[tuple[str, str], np.ndarray]] = {}
    if pending:
        size = _group_size(group_size, weights[pending[0]], num_chains, len(pending))
        groups = [pending[i : i + size] for i in range(0, len(pending), size)]
        with progress_bar(settings.num_steps * len(pending), progress) as on_steps:
            for group in groups:
                for row, arrays, mark in _run(settings, watched, watch, {row: weights[row] for row in group}, size, on_steps):
                    found[row] = arrays
                    if kept:
                        kept.write(row, arrays, mark)
    if kept:
        found |= {row: kept.read(row) for row in rows if row not in found}
    values = {name: np.stack([found[row][name] for row in rows]) for name in results.names(attributes)}
    tree = results.to_tree(values, results.coordinates(steps, num_chains, num_draws, list(runs), attributes.get(results.ALONG_CHAINS, ())), attributes)
    reference = _reference_loss(tree) if reference_loss is None else float(reference_loss)
    if reference is not None:
        tree.attrs["reference_loss"] = reference
    return Trajectory(tree)


def _runs(checkpoints: Any) -> dict[str | None, Mapping[int, Params]]:
    """Training runs by name; one alone has the name None."""
    if not isinstance(checkpoints, Mapping):
        way = "wrap a directory in jaxllc.OrbaxCheckpoints" if isinstance(checkpoints, str | os.PathLike) else "use a dictionary from the step to the weights"
        raise TypeError(f"checkpoints must be a mapping from the training step to the weights, got {type(checkpoints).__name__}; {way}.")
    if not checkpoints:
        raise ValueError(f"there are no checkpoints: {checkpoints!r} is empty.")
    if not all(isinstance(name, str) for name in checkpoints):
        return {None: checkpoints}
    for name, run in checkpoints.items():
        if not isinstance(run, Mapping):
            raise TypeError(f"the training run {name!r} must be a mapping from the training step to the weights, got {type(run).__name__}.")
        if not run:
            raise ValueError(f"there are no checkpoints in the training run {name!r}: {run!r} is empty.")
    return dict(checkpoints)


def _shared_steps(runs: Mapping[str | None, Mapping[int, Params]]) -> list[int]:
    """The steps of the checkpoints, which all runs must have."""
    for name, run in runs.items():
        wrong = [step for step in run if not isinstance(step, int | np.integer)]
        if wrong:
            raise ValueError(f"checkpoints{'' if name is None else f' of run {name!r}'} must be keyed by training step, an int; got {wrong[0]!r}.")
    union = {int(step) for run in runs.values() for step in run}
    for name, run in runs.items():
        if missing := sorted(union - {int(step) for step in run}):
            holder = next(other for other in runs if missing[0] in runs[other])
            raise ValueError(
                f"training runs must share their steps, and run {name!r} has no checkpoint at {format_steps(missing)} where run {holder!r} has one; "
                "leave these steps out of all runs, or follow each run by itself."
            )
    return sorted(union)


class _Checkpoints(Mapping[Row, Params]):
    """Some checkpoints of several runs, each read when it is asked for."""

    def __init__(self, runs: Mapping[str | None, Mapping[int, Params]], rows: Sequence[Row]) -> None:
        self._runs, self._rows = runs, dict.fromkeys(rows)

    def __getitem__(self, row: Row) -> Params:
        return self._runs[row.run][row.step]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, row: object) -> bool:
        return row in self._rows


def _run(settings: Settings, observables: Observables, watch: Watch | None, weights: Mapping[Row, Params], size: int, on_steps: Any) -> Any:
    """Row, arrays and checksum of each checkpoint of a group, which is filled up to the size that was compiled for."""
    _check_alike(weights)
    *_, last = weights
    padded: dict[Any, Params] = {**weights, **{f"{last} again, {i}": weights[last] for i in range(size - len(weights))}}
    values = run_group(settings, padded, lambda done: on_steps(done * len(weights)), watch)
    if observables:
        values |= {(results.OBSERVABLES, name): array for name, array in observe(observables, stack(list(padded.values()))).items()}
    return [(row, {name: array[i] for name, array in values.items()}, checksum(params)) for i, (row, params) in enumerate(weights.items())]


def _check_alike(weights: Mapping[Row, Params]) -> None:
    """Raise unless all checkpoints have the structure and shapes of the first."""
    (first, like), *others = weights.items()
    for row, params in others:
        if jax.tree.structure(params) != jax.tree.structure(like) or jax.tree.map(np.shape, params) != jax.tree.map(np.shape, like):
            raise ValueError(f"the weights at {row} have another structure or other shapes than those at {first}; a run has one model.")


def _check_weights(weights: Mapping[Row, Params], done: Mapping[Row, int], store: Any) -> None:
    """Raise where the first or the last step of a run that is stored was computed from other weights: the store is of another run."""
    for run in {row.run: None for row in done}:
        steps = [row.step for row in done if row.run == run]
        asked = [row for row in weights if row.run == run]
        stored = sorted(row for row in asked if row in done)
        if asked and not stored:
            raise ValueError(
                f"the store {store} holds none of the steps of these checkpoints but {format_steps(steps)}{'' if run is None else f' of run {run!r}'}, "
                "so it is of another run; use another store=."
            )
        for row in dict.fromkeys((*stored[:1], *stored[-1:])):
            if checksum(weights[row]) != done[row]:
                raise ValueError(
                    f"the store {store} holds {row} of other weights than the checkpoints do ({format_steps(steps)} are stored); use another store=."
                )


def _group_size(asked: int | None, params: Params, num_chains: int, num_pending: int) -> int:
    """Checkpoints in one program: as asked, or as many as suit the machine; the groups are made even."""
    num_weights = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    most = asked or resident_checkpoints(num_weights, num_chains)
    return math.ceil(num_pending / math.ceil(num_pending / most))


def _reference_loss(tree: "xarray.DataTree") -> float | None:
    """The least loss at step 0 of the runs that have no higher one later, None if there is none."""
    loss, step = results.values(tree, "constant_data/full_center_loss"), tree.coords[results.STEP].values
    loss = loss.reshape(-1, len(step))
    first = loss[:, step == 0]
    untrained = first[first >= loss.max(-1, keepdims=True)]
    return float(untrained.min()) if untrained.size else None
