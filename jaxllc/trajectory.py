r"""$\hat\lambda(t)$: the local learning coefficient over the checkpoints of a training run."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxllc import diagnostics, results
from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.checkpoints import format_steps
from jaxllc.data import InMemory
from jaxllc.diagnostics import Finding
from jaxllc.engine import check_counts
from jaxllc.estimators import Settings, progress_bar, run_group, settle
from jaxllc.free import FreeLike
from jaxllc.samplers.base import Sampler
from jaxllc.samplers.sgld import SGLD
from jaxllc.stages import CERTAINTY, stages
from jaxllc.store import Store, checksum, stored_attributes

if TYPE_CHECKING:
    import pandas
    import xarray

PROBED = 5
"""Checkpoints, evenly spread, whose curvature sets a default step size."""

RESIDENT_WEIGHTS = 2**20
"""Weights of all chains and checkpoints together that run in one program by default: more spills the caches of a CPU."""


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """The coefficients of a training run. Made by `trajectory`."""

    data: "xarray.DataTree"
    """All draws: `/posterior` llc (step, chain, draw), `/sample_stats`, `/constant_data`; every setting in its attributes."""

    def table(self) -> "pandas.DataFrame":
        """One row a checkpoint: llc, std_error, loss, mean_loss, rhat, ess, change and its error, findings (see `jaxllc.diagnostics.summary`)."""
        table = diagnostics.summary(self.data).to_dataframe()
        table["findings"] = [" ".join(finding.code for finding in found) for found in self.findings()]
        return table.loc[:, ["llc", "std_error", "loss", "mean_loss", "rhat", "ess", "change", "change_error", "step_bias", "num_diverged", "findings"]]

    def findings(self) -> list[tuple[Finding, ...]]:
        """For each checkpoint what makes its number suspect."""
        return diagnostics.findings(self.data)

    def stages(self, *, certainty: float = CERTAINTY) -> "pandas.DataFrame":
        """Stages of development, one row each: boundaries, type A, B or undecided, with errors paired by chain (see `jaxllc.stages.find_stages`)."""
        return stages(self.data, certainty=certainty)

    def plot(self) -> "np.ndarray[Any, Any]":
        """The coefficient with its error band, and the loss, over the training step; gives the two matplotlib axes."""
        from jaxllc.plots import plot_trajectory  # matplotlib is loaded when there is something to draw

        return plot_trajectory(self.data)


def trajectory(
    loss_fn: LossFn,
    checkpoints: Mapping[int, Params],
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
    mesh: Mesh | None = None,
    progress: bool = True,
    reference_loss: float | None = None,
    store: str | os.PathLike[str] | None = None,
    group_size: int | None = None,
) -> Trajectory:
    r"""$\hat\lambda$ of each checkpoint of a training run.

    All checkpoints run in one compiled program with the same random numbers, so that differences between neighbours are known
    far better than the values. For the arguments that are not below see `jaxllc.estimate`.

    Args:
        checkpoints: any mapping from the training step to the weights; steps are read when their turn comes.
        reference_loss: default the loss at step 0, if there is one and it is the highest: that of the weights at initialisation.
        store: a directory for a Zarr store, written one checkpoint at a time; call again with the same settings to resume, also
            when the run has more checkpoints than before. The result holds the steps of `checkpoints`, the store all that were ever written.
        group_size: checkpoints that run side by side; the numbers do not depend on it. Default by the number of weights.

    Raises:
        ValueError: no checkpoints, keys that are not steps, or whatever `estimate` raises; a store that was made with other
            settings, data or weights.
    """
    steps = _steps(checkpoints)
    if group_size is not None:
        check_counts(group_size=group_size)
    default = sampler is None
    there = stored_attributes(store) if store is not None else None
    if sampler is None and there and "default_sampler" in there:
        sampler = SGLD(there["default_sampler"])
    probed = {} if sampler is not None else {step: checkpoints[step] for step in {steps[round(i)] for i in np.linspace(0, len(steps) - 1, PROBED)}}
    settings = settle(
        loss_fn, probed, data, key=key, sampler=sampler, nbeta=nbeta, localization=localization, free=free, batch_size=batch_size,
        num_chains=num_chains, num_draws=num_draws, num_burn_in=num_burn_in, thinning=thinning, mesh=mesh,
    )  # fmt: skip
    attributes = settings.attributes() | {"data_checksum": checksum(settings.data.arrays)}
    if reference_loss is not None:
        attributes["reference_loss"] = float(reference_loss)
    if default and isinstance(settings.sampler, SGLD):
        attributes["default_sampler"] = float(np.asarray(settings.sampler.step_size))

    kept = Store(store, steps, attributes) if store is not None else None
    done = kept.done() if kept else {}
    _check_weights(checkpoints, done, store)
    pending = [step for step in steps if step not in done]
    rows: dict[int, dict[tuple[str, str], np.ndarray]] = {}
    if pending:
        size = _group_size(group_size, checkpoints[pending[0]], num_chains, len(pending))
        groups = [pending[i : i + size] for i in range(0, len(pending), size)]
        with progress_bar(settings.num_steps * len(pending), progress) as on_steps:
            for group in groups:
                for step, values, weights in _run(settings, checkpoints, group, size, on_steps):
                    rows[step] = values
                    if kept:
                        kept.write(step, values, weights)
    if kept:
        rows |= {step: kept.read(step) for step in steps if step not in rows}
    values = {name: np.stack([rows[step][name] for step in steps]) for name in rows[steps[0]]}
    tree = results.to_tree(values, results.coordinates(steps, num_chains, num_draws), attributes)
    reference = _reference_loss(tree) if reference_loss is None else float(reference_loss)
    if reference is not None:
        tree.attrs["reference_loss"] = reference
    return Trajectory(tree)


def _steps(checkpoints: Mapping[int, Params]) -> list[int]:
    if not isinstance(checkpoints, Mapping):
        way = "wrap a directory in jaxllc.OrbaxCheckpoints" if isinstance(checkpoints, str | os.PathLike) else "use a dictionary from the step to the weights"
        raise TypeError(f"checkpoints must be a mapping from the training step to the weights, got {type(checkpoints).__name__}; {way}.")
    if not checkpoints:
        raise ValueError(f"there are no checkpoints: {checkpoints!r} is empty.")
    wrong = [step for step in checkpoints if not isinstance(step, int | np.integer)]
    if wrong:
        raise ValueError(f"checkpoints must be keyed by training step, an int; got {wrong[0]!r}.")
    return sorted(int(step) for step in checkpoints)


def _run(settings: Settings, checkpoints: Mapping[int, Params], group: list[int], size: int, on_steps: Any) -> Any:
    """Step, arrays and checksum of each checkpoint of a group, which is filled up to the size that was compiled for."""
    weights = {step: checkpoints[step] for step in group}
    _check_alike(weights)
    padded: dict[Any, Params] = weights | {f"{group[-1]} again, {i}": weights[group[-1]] for i in range(size - len(group))}
    values = run_group(settings, padded, lambda done: on_steps(done * len(group)))
    return [(step, {name: array[i] for name, array in values.items()}, checksum(weights[step])) for i, step in enumerate(group)]


def _check_alike(weights: Mapping[int, Params]) -> None:
    """Raise unless all checkpoints have the structure and shapes of the first."""
    (first, like), *others = weights.items()
    for step, params in others:
        if jax.tree.structure(params) != jax.tree.structure(like) or jax.tree.map(np.shape, params) != jax.tree.map(np.shape, like):
            raise ValueError(f"the weights at step {step} have another structure or other shapes than those at step {first}; a run has one model.")


def _check_weights(checkpoints: Mapping[int, Params], done: Mapping[int, int], store: Any) -> None:
    """Raise where the first or the last step that is stored was computed from other weights: the store is of another run."""
    stored = [step for step in sorted(done) if step in checkpoints]
    if done and not stored:
        raise ValueError(
            f"the store {store} holds none of the steps of these checkpoints but {format_steps(list(done))}, so it is of another run; use another store=."
        )
    for step in {*stored[:1], *stored[-1:]}:
        if checksum(checkpoints[step]) != done[step]:
            raise ValueError(
                f"the store {store} holds step {step} of other weights than the checkpoints do ({format_steps(list(done))} are stored); use another store=."
            )


def _group_size(asked: int | None, params: Params, num_chains: int, num_pending: int) -> int:
    """Checkpoints in one program: as asked, or as many as stay within `RESIDENT_WEIGHTS`; the groups are made even."""
    num_weights = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    most = asked or max(1, RESIDENT_WEIGHTS // (num_weights * num_chains))
    return math.ceil(num_pending / math.ceil(num_pending / most))


def _reference_loss(tree: "xarray.DataTree") -> float | None:
    """The loss at step 0, if it is there and no later loss is above it."""
    loss, step = results.values(tree, "constant_data/full_center_loss"), tree.coords[results.STEP].values
    first = loss[step == 0]
    return float(first[0]) if len(first) and first[0] >= loss.max() else None
