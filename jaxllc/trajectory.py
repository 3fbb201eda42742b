r"""$\hat\lambda(t)$: the local learning coefficient over the checkpoints of a training run, or of several; and results opened from a store."""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

import jax
import numpy as np
from jax.sharding import Mesh

from jaxllc import diagnostics, estimator, results
from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.components import ComponentLike
from jaxllc.diagnostics import Finding
from jaxllc.estimate import RESERVED, Estimate, Sampled, given_reference, save
from jaxllc.job import Job, checked_part
from jaxllc.plan import check_batch_size
from jaxllc.probes import ProbesLike, as_probes
from jaxllc.reading import open_tree
from jaxllc.request import Request, given
from jaxllc.results import Place
from jaxllc.runs import Weights, checkpoint_runs, shared_steps
from jaxllc.select import FreeLike
from jaxllc.settings import Overrides, Settings, as_count
from jaxllc.store import Store
from jaxllc.stream import Data
from jaxllc.tables import COLUMNS, as_html, joined, lines_done, table_of, with_failures
from jaxllc.views import only_step

if TYPE_CHECKING:
    import pandas
    import xarray

BUDGET_OF_A_TRAJECTORY, LEAST_BUDGET = 600.0, 10.0
"""Seconds of all checkpoints together, and of each at least, that a calibration aims at."""


@dataclasses.dataclass(frozen=True, repr=False)
class Trajectory(Sampled):
    """The coefficients of a training run, or of several. Made by `trajectory`, or by `jaxllc.open`.

    Examples:
        >>> traj = jaxllc.trajectory(loss_fn, checkpoints, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
        >>> [round(llc) for llc in traj.summary["llc"].values[-3:].tolist()]
        [2, 2, 2]
    """

    @functools.cached_property
    def reference_loss(self) -> float | None:
        """The loss of a model that knows nothing, as it was given or found (see `trajectory`); None if there is none."""
        return diagnostics.reference_loss(self.summary, results.attributes(self.data))

    @property
    def failures(self) -> dict[Place, str]:
        """Why checkpoints have no numbers: they could not be read, have another tree than the first, or a loss that is not finite."""
        return {Place(run, int(step)): why for run, step, why in self.data.attrs.get("failures", ())}

    def table(self) -> "pandas.DataFrame":
        """One line a checkpoint, by `step`, or several: by `run`, `step` and `component` of a result that has these; one of `failures` has no numbers.

        Columns: llc, std_error, loss, mean_loss, rhat, ess, slow_ess, of the slowest quantity, change from the step before and its error, step_bias,
        num_diverged, acceptance_rate of a sampler that accepts or refuses (see `jaxllc.estimator.summary`), the probes that are one number, findings, which
        are "failed" of `failures`.

        Examples:
            >>> traj = jaxllc.trajectory(loss_fn, checkpoints, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
            >>> traj.table()["findings"].tail(4).to_dict()
            {20: 'below-center', 50: '', 100: '', 200: ''}
        """
        table = table_of(self.summary, self.data, self._findings)
        return table if not self.failures else with_failures(table, self.failures)

    def findings(self) -> list[tuple[Finding, ...]]:
        """What makes a number suspect: a tuple for each line of `table()` with numbers, in its order, which is run after run and step after step.

        Examples:
            >>> traj = jaxllc.trajectory(loss_fn, checkpoints, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
            >>> [[finding.code for finding in some] for some in traj.findings()[-4:]]
            [['below-center'], [], [], []]
        """
        return [some for some, done in zip(self._findings, lines_done(self.data), strict=True) if done]

    def llc_of(self, probe: str) -> "xarray.Dataset":
        r"""The coefficient of another loss or of other data along the same chains (see `jaxllc.estimator.llc_of_probe`).

        Examples:
            >>> half = jaxllc.Probe(loss_fn, jax.tree.map(lambda rows: rows[:500], data), every=10)
            >>> last = {step: checkpoints[step] for step in (100, 200)}
            >>> traj = jaxllc.trajectory(loss_fn, last, data, sampler=jaxllc.SGLD(1e-3), probes={"half": half}, key=jax.random.key(0))
            >>> traj.llc_of("half")["llc"].round().values.tolist()
            [2.0, 2.0]
        """
        return estimator.llc_of_probe(self.data, probe)

    def stages(self, *, certainty: float | None = None) -> "pandas.DataFrame":
        """Stages of development, one line each: boundaries, type A, B or undecided, with errors paired by chain (see `jaxllc.stages.find_stages`).

        Examples:
            >>> traj = jaxllc.trajectory(loss_fn, checkpoints, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
            >>> traj.stages()["type"][0]  # the loss falls and λ̂ rises
            'A'
        """
        from jaxllc import stages  # SciPy and pandas are loaded when there is something to find

        if self.components:
            return joined({name: self.component(name).stages(certainty=certainty) for name in self.components})
        return stages.stages_of(self.summary, estimator.corrected_draws(self.data), certainty=stages.CERTAINTY if certainty is None else certainty)

    def over_runs(self) -> "xarray.Dataset":
        """Means over the training runs, by step, with their standard errors (see `jaxllc.diagnostics.over_runs`).

        Raises:
            ValueError: a single run.

        Examples:
            >>> slow, fast = ({step: checkpoints[step * speed] for step in (5, 10, 50, 100)} for speed in (1, 2))
            >>> traj = jaxllc.trajectory(loss_fn, {"slow": slow, "fast": fast}, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
            >>> traj.over_runs()["llc"].sel(step=[50, 100]).round().values.tolist()
            [2.0, 2.0]
        """
        if self.summary.sizes.get(results.RUN, 1) < 2:
            raise ValueError("this result is of one training run, so there is no mean over runs; pass {name: checkpoints} to trajectory.")
        if self.components:
            import xarray as xr

            return xr.concat([self.component(name).over_runs() for name in self.components], self.summary[results.COMPONENT])
        return diagnostics.over_runs(self.summary, estimator.corrected_draws(self.data))

    def plot(self, stages: "pandas.DataFrame | None" = None) -> "np.ndarray[Any, Any]":
        """The coefficient with its error band, and the loss, over the training step; gives the two matplotlib axes.

        Several training runs are thin lines, and the band is that of their mean. Components are lines of their own, of several runs their means.

        Args:
            stages: of one run, as `stages()` gives; shaded by type.

        Examples:
            >>> traj = jaxllc.trajectory(loss_fn, checkpoints, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
            >>> traj.plot()[0].figure.savefig("llc.png")
        """
        from jaxllc.plots import plot_components, plot_stages, plot_trajectory  # matplotlib is loaded when there is something to draw

        mean = self.over_runs() if self.summary.sizes.get(results.RUN, 1) > 1 else None
        if self.components:
            axes = plot_components(self.summary if mean is None else mean)
        else:
            axes = plot_trajectory(self.summary, np.array([bool(some) for some in self._findings]), mean)
        if stages is not None and any(name in stages and stages[name].nunique() > 1 for name in (results.RUN, results.COMPONENT)):
            raise ValueError("stages are of several runs or components; pass those of one, such as stages[stages['run'] == name].")
        return axes if stages is None else plot_stages(stages, axes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a new Zarr store, from which `jaxllc.open(path)` reads it.

        Raises:
            ValueError: the path exists.

        Examples:
            >>> traj = jaxllc.trajectory(loss_fn, checkpoints, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
            >>> traj.save("llc.zarr")
        """
        save(self.data, path, "trajectory")

    def __str__(self) -> str:
        step, runs, parts = self.summary["step"].values, self.summary.sizes.get(results.RUN, 1), len(self.components)
        of_what = [
            f"{len(step)} checkpoints, steps {step[0]} to {step[-1]}",
            *([f"{runs} runs"] if runs > 1 else []),
            *([f"{parts} components"] if parts else []),
        ]
        llc, counts = self.summary["llc"].values, Counter(finding.code for some in self.findings() for finding in some)
        found = ", ".join(f"{code} {count}" for code, count in counts.most_common()) or "none"
        failed = f", {len(self.failures)} failed" if self.failures else ""
        known = f"λ̂ from {np.nanmin(llc):.4g} to {np.nanmax(llc):.4g}" if np.isfinite(llc).any() else "no λ̂"
        return f"{'; '.join(of_what)}{failed}: {known}; findings: {found}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(str(self), self.table())

    @functools.cached_property
    def _findings(self) -> list[tuple[Finding, ...]]:
        return diagnostics.findings(self.summary, results.attributes(self.data))


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
    components: Mapping[str, ComponentLike] | None = None,
    probes: ProbesLike | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
    reference_loss: float | None = None,
    store: str | os.PathLike[str] | None = None,
    part: tuple[int, int] | None = None,
    strict: bool = False,
    group_size: int | None = None,
    config: Mapping[str, Any] | None = None,
    **overrides: Unpack[_Keywords],
) -> Trajectory:
    r"""$\hat\lambda$ of each checkpoint of a training run, or of several training runs of one model.

    All run in one compiled program with the same random numbers, so that differences between neighbours are known far better than the values. Without
    settings `jaxllc.calibrate` finds one for all first; a store that is resumed keeps its own. For the arguments that are not below see `jaxllc.estimate`.

    Args:
        checkpoints: a mapping from the training step to the weights, each read once; or from the names of runs, which share their steps, to such mappings.
        reference_loss: default the least of the loss at step 0, where that is an initialisation (the highest of its run, and well above the least), and
            that of weights that are all zero, where a checkpoint is well below it.
        store: a directory, or a URL that `fsspec` knows, for a Zarr store, written one checkpoint at a time. The same call resumes it, also with other
            checkpoints or runs; the result holds those of `checkpoints`, the store all that were ever written. It warns of another text of `loss_fn`.
        part: index of this process and number of those that share the store, which the first lays out; default by `jax.distributed`: process 0 does, and waits.
        strict: end with the error of a checkpoint that cannot be used. By default the others go on, and `table()` has the reason.
        group_size: checkpoints that run in one program; the numbers do not depend on it. Default as suits memory and, by a timed run, a long run's speed.
        config: plain values that tell where the arguments came from, kept in the attribute `config` of the result and not compared when it is resumed.

    Raises:
        TypeError: `checkpoints` or one of its runs is no mapping, or whatever `estimate` raises.
        ValueError: no checkpoints, keys that are not steps, runs of different steps, a store of other settings, data or weights, or whatever `estimate` raises.

    Examples:
        >>> traj = jaxllc.trajectory(loss_fn, checkpoints, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0), store="llc.zarr")
        >>> traj.table().to_csv("llc.csv")
    """
    probes = overrides.pop("observables", None) if probes is None else probes
    runs = checkpoint_runs(checkpoints)
    places = [Place(run, step) for run in runs for step in shared_steps(runs)]
    group_size = None if group_size is None else as_count("group_size", group_size)
    check_batch_size(data, overrides)
    described = as_probes(probes, (*COLUMNS, "acceptance_rate", *RESERVED))
    budget = max(BUDGET_OF_A_TRAJECTORY / len(places), LEAST_BUDGET)
    request = Request(loss_fn, data, key, free, mesh, budget, components=components, **given(overrides))
    noted = given_reference(reference_loss) | ({} if config is None else {"config": dict(config)})
    job = Job(request, Weights(runs), places, settings, overrides, described, noted, group_size, strict, progress)
    together = part is None and jax.process_count() > 1
    part = checked_part(part, store)
    if store is None:
        return Trajectory(job.in_memory())
    with Store(store, part, first_lays_out=together) as results_store:
        return Trajectory(job.in_store(results_store, stay=together and part[0] == 0))


def open_store(path: str | os.PathLike[str]) -> Trajectory | Estimate:
    """The result in a store, with everything in it: draws, settings, reference loss, findings. Exported as `jaxllc.open`.

    Arrays are read at once, those of a store of more than a gibibyte when they are needed. A store that is still being filled gives the places that are
    written so far.

    Args:
        path: what was given as `store=` to `trajectory`, or to `save()`.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is no store of this library, or holds no place yet.

    Examples:
        >>> est = jaxllc.estimate(loss_fn, params, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
        >>> est.save("estimate.zarr")
        >>> jaxllc.open("estimate.zarr").llc == est.llc
        True
    """
    tree = open_tree(path)
    if tree.attrs.get("verb") == "estimate":
        return Estimate(only_step(tree))
    return Trajectory(tree)
