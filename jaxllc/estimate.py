r"""$\hat\lambda$ of one checkpoint: the verb `estimate`, and its result."""

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
from jax.sharding import Mesh

from jaxllc import diagnostics, estimator, results
from jaxllc._tree import split_objects
from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.calibrate import calibrated, calibrates, calibrating
from jaxllc.candidates import longer, reaching
from jaxllc.components import ComponentLike, Moving
from jaxllc.diagnostics import Finding
from jaxllc.estimator import estimate_group
from jaxllc.grouping import with_fitting_components
from jaxllc.locations import Location
from jaxllc.plan import Plan, check_batch_size, make_plan
from jaxllc.probes import ProbesLike, as_probes, at_checkpoints
from jaxllc.progress import announce, progress_bar
from jaxllc.request import Request, given
from jaxllc.results import Place
from jaxllc.select import FreeLike
from jaxllc.settings import Overrides, Settings, override
from jaxllc.store import UNKNOWN, Store
from jaxllc.stream import Data
from jaxllc.tables import as_html, table_of
from jaxllc.views import component_names, of_component, only_step, with_steps

if TYPE_CHECKING:
    import pandas
    import xarray


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What an `Estimate` and a `Trajectory` share: all draws, and what is read off them."""

    data: "xarray.DataTree"
    """All draws, such as `/posterior/llc` by chain and draw, and every setting in its attributes; docs/results.md lists the groups, arrays and axes."""

    @functools.cached_property
    def summary(self) -> "xarray.Dataset":
        """One value of each quantity for each checkpoint and component (see `jaxllc.estimator.summary`), computed once."""
        return estimator.summary(self.data)

    @property
    def components(self) -> tuple[str, ...]:
        """Names of its components; none unless it was made with `components=`."""
        return component_names(self.data)

    def component(self, name: str) -> Self:
        """The same of one component, with everything that it has; a KeyError where there is no such one.

        Examples:
            >>> parts = {"linear": "linear", "all": None}
            >>> est = jaxllc.estimate(loss_fn, params, data, components=parts, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
            >>> round(est.component("linear").llc), round(est.component("all").llc)
            (1, 2)
        """
        return type(self)(of_component(self.data, name))

    @property
    def settings(self) -> Settings:
        """How it was sampled, with defaults resolved; a ValueError where the sampler held something that could not be written down."""
        return stored_settings(self.data.attrs)


@dataclasses.dataclass(frozen=True, repr=False)
class Estimate(Sampled):
    r"""$\hat\lambda$ of one checkpoint, with what one needs to trust it. Made by `estimate`, or by `jaxllc.open`.

    Examples:
        >>> est = jaxllc.estimate(loss_fn, params, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
        >>> round(est.llc), est.std_error < 0.1, est.findings
        (2, True, ())
    """

    @functools.cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What makes the number suspect; empty when nothing does."""
        found = diagnostics.findings(self.summary, results.attributes(self.data))
        return tuple(dict.fromkeys(finding for some in found for finding in some))

    def llc_of(self, probe: str) -> "xarray.Dataset":
        r"""The coefficient of another loss or of other data along the same chains (see `jaxllc.estimator.llc_of_probe`)."""
        return estimator.llc_of_probe(self.data, probe).squeeze(results.STEP, drop=True)

    def table(self) -> "pandas.DataFrame":
        """One line for each component, by name, or a single line; the columns are those of `Trajectory.table`, but for changes.

        Examples:
            >>> est = jaxllc.estimate(loss_fn, params, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
            >>> est.table()["llc"].round().to_list()
            [2.0]
        """
        findings = diagnostics.findings(self.summary, results.attributes(self.data))
        table = table_of(self.summary, with_steps(self.data), findings).drop(columns=["change", "change_error"])
        return table.droplevel(results.STEP) if self.components else table.reset_index(drop=True)

    @property
    def llc(self) -> float:
        r"""$\hat\lambda$: the mean of `posterior/llc` over all chains that did not diverge, plus `constant_data/llc_correction` (see docs/estimator.md)."""
        return self._value("llc")

    @property
    def std_error(self) -> float:
        """The larger of two Monte-Carlo errors, by autocorrelation (ArviZ) and by the spread of the chains' means, and `summary["bias_error"]` beside it."""
        return self._value("std_error")

    @property
    def step_bias(self) -> float:
        r"""What finite steps and minibatch noise add to $n\beta\,(E[L_n] - L_n(w^*))$, taken off `llc`; with `extrapolate` the larger one of the two sets."""
        return self._value("step_bias")

    @property
    def wbic(self) -> float:
        r"""$n\, E[L_n(w)]$ in nats, the Bayesian information criterion of Watanabe (2013); NaN unless $n\beta = n / \ln n$ for the $n$ examples of the data."""
        return self._value("wbic")

    @property
    def rhat(self) -> float:
        """Rank-normalised split R-hat, the worst of the draws', of means over blocks of draws and of the loss of a fixed batch; NaN for one chain."""
        return self._value("rhat")

    @property
    def ess(self) -> float:
        """Effective number of draws for the mean."""
        return self._value("ess")

    @property
    def acceptance_rate(self) -> float:
        """The share of proposals that were accepted; NaN for a sampler that accepts every step."""
        return self._value("acceptance_rate")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a new Zarr store, from which `jaxllc.open(path)` reads it; a ValueError where the path exists.

        Examples:
            >>> est = jaxllc.estimate(loss_fn, params, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
            >>> est.save("estimate.zarr")
        """
        save(self.data, path, "estimate")

    def plot(self) -> "np.ndarray[Any, Any]":
        """Draws and running means of each chain, and the chains' means with errors, in two matplotlib axes; of components their coefficients, in one.

        Examples:
            >>> est = jaxllc.estimate(loss_fn, params, data, sampler=jaxllc.SGLD(1e-3), key=jax.random.key(0))
            >>> est.plot()[0].figure.savefig("chains.png")
        """
        from jaxllc.plots import plot_bars, plot_estimate  # matplotlib is loaded when there is something to draw

        if self.components:
            return plot_bars(self.summary)
        return plot_estimate(estimator.corrected_draws(self.data), self.llc, self.std_error, int(self.data.attrs["thinning"]))

    def __str__(self) -> str:
        if self.components:
            return "\n".join(f"{name}: {self.component(name)}" for name in self.components)
        chains, draws = self.data.sizes[results.CHAIN], self.data.sizes[results.DRAW]
        if self._value("num_diverged") == chains:
            return "\n".join([f"no λ̂: all {chains} chains diverged", *(f"  {finding.code}: {finding.message}" for finding in self.findings)])
        accepted = "" if np.isnan(self.acceptance_rate) else f", {self.acceptance_rate:.0%} accepted"
        head = f"λ̂ = {with_error(self.llc, self.std_error)}  ({chains} chains × {draws} draws, R-hat {self.rhat:.2f}, ESS {self.ess:.1e}{accepted})"
        wbic_error = self.data.attrs["num_examples"] * np.hypot(self._value("loss_error"), self._value("llc_at_nbeta_error") / self.data.attrs["nbeta"])
        lines = [] if np.isnan(self.wbic) else [f"  WBIC = {with_error(self.wbic, wbic_error)} nats"]
        if self.data.attrs.get("extrapolate") == "nbeta":
            alone = self._value("llc_at_nbeta")
            lines.append(f"  extrapolated from two temperatures: at nβ alone {alone:.2f}, at twice it {2 * alone - self.llc:.2f}")
        return "\n".join([head, *lines, *(f"  {finding.code}: {finding.message}" for finding in self.findings)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html("λ̂ of components" if self.components else str(self).split("\n  ")[0], self.table())

    def _value(self, name: str) -> float:
        if self.components:
            raise ValueError(f"this estimate has components; take one of them, as est.component({self.components[0]!r}), or est.table().")
        return float(self.summary[name].values[0])


def estimate(
    loss_fn: LossFn,
    params: Params,
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
    **overrides: Unpack[Overrides],
) -> Estimate:
    r"""$\hat\lambda$ of one checkpoint.

    Args:
        loss_fn: `loss_fn(params, batch) -> float[batch]`, the loss of each example in nats. A scalar mean is accepted; pairing the losses
            then costs one more forward pass an iteration. Pass the same function again rather than a new lambda, and nothing recompiles.
        params: $w^*$, a pytree of arrays; leaves that are no weights (integers, keys, functions, batch statistics) stay as they are.
        data: a pytree of arrays with one leading axis, the examples; or an `InMemory`, or a `Stream` of what does not fit the devices.
        settings: how to sample. Left out, and with no keyword but `nbeta`, `localization` or `num_chains`, `jaxllc.calibrate` finds them first.
        key: a typed key, `jax.random.key(seed)`.
        free: which weights move: a pattern of paths, a list of them, a mask, a predicate `fn(path) -> bool`, or a `Free`; default all.
        components: sets of weights by name, of which each has a coefficient of its own while all others stay at $w^*$ (Wang et al., arXiv:2410.02984):
            `{"head 1": Heads("layers_0/*", 1), "all": None}`. A set is what `free` takes, `Heads`, `Neurons`, `Slice`, a tree of bool arrays, or what `|`, `&`
            and `~` make of these. All run in one program with the same random numbers, and are an axis `component` of the result.
        probes: functions of the weights, `{name: Probe(fn)}`, at the checkpoint or along the chains.
        mesh: devices with an axis `chain`; default all that divide the work.
        progress: tell how far it is: a bar in a terminal or notebook, lines of the logger `jaxllc` elsewhere.
        reference_loss: the loss of a model that knows nothing (a constant predictor, the weights at initialisation), nats per example.
            A mean loss at or above it is a finding. Default that of weights that are all zero, where the loss at w* is well below it.
        overrides: single fields of `settings`, such as `num_draws=500`.

    Raises:
        TypeError: an argument of another kind than these.
        ValueError: data of different lengths, a loss of the wrong shape, summed or not finite at $w^*$, a setting out of range, a `free` that selects nothing.

    Examples:
        >>> est = jaxllc.estimate(loss_fn, params, data, key=jax.random.key(0))
        >>> round(est.llc), est.std_error < 0.2
        (2, True)
    """
    described = as_probes(probes, RESERVED)
    check_batch_size(data, overrides)
    reference = given_reference(reference_loss)
    if not calibrates(data, settings, overrides):
        plan = make_plan(loss_fn, {"params": params}, data, override(settings, overrides), key=key, free=Moving(free, components), probes=described, mesh=mesh)
        return _estimated(plan, params, progress, reference)
    request = Request(loss_fn, data, key, free, mesh, components=components, **given(overrides))
    announce(calibrating(request.budget), progress)
    calibration, plan = calibrated(request, {"params": params})
    plan, cost = reaching(plan, described), calibration.cost
    while True:
        whole = plan.with_probes(described, params).with_facts(calibration={**calibration.to_dict(), "cost": cost})
        est = _estimated(whole, params, progress, reference)
        if LENGTHENING * cost > request.budget or not LONGER & {finding.code for finding in est.findings}:
            return est
        plan, cost = longer(plan, LENGTHENING), LENGTHENING * cost


LONGER = {"not-mixed", "few-effective-draws"}
"""Findings of a calibrated estimate upon which it is made again with chains `LENGTHENING` times as long, where the budget allows it."""
LENGTHENING = 4


def _estimated(plan: Plan, params: Params, progress: bool, reference: dict[str, float]) -> Estimate:
    """The estimate of a plan."""
    plan = with_fitting_components(plan, params)
    with progress_bar(plan.settings.num_iterations, progress) as on_steps:
        arrays = estimate_group(plan, {"params": params}, on_steps)
    arrays |= {(results.PROBES, name): values for name, values in at_checkpoints(plan.probes, [split_objects(params)[0]]).items()}
    return Estimate(only_step(results.to_tree(arrays, [Place(None, 0)], plan.attributes() | reference)))


RESERVED = ("findings", results.RUN, results.STEP, results.COMPONENT, results.CHAIN, results.DRAW, results.EVALUATION, results.ITERATION)
"""Names that no probe may have."""


def given_reference(reference_loss: float | None) -> dict[str, float]:
    """What a result keeps of it."""
    return {} if reference_loss is None else {"reference_loss": float(reference_loss)}


def stored_settings(attributes: Mapping[Any, Any]) -> Settings:
    """The settings of a result."""
    fields = {field.name: attributes[field.name] for field in dataclasses.fields(Settings) if attributes.get(field.name) is not None}
    if isinstance(sampler := fields.get("sampler"), str):
        raise ValueError(f"the sampler of this result could not be written down when it was made: {sampler}; make it again in Python.")
    return Settings.from_dict(fields)


def save(tree: "xarray.DataTree", path: str | os.PathLike[str], verb: str) -> None:
    """Write a result to a new store; `verb` is what made it, "estimate" or "trajectory". A ValueError where the path exists."""
    if Location(path).exists():
        raise ValueError(f"{path} exists; save to a new path.")
    places, arrays, attributes = results.places_of(tree), results.from_tree(with_steps(tree)), results.attributes(tree)
    failures = {Place(run, int(step)): why for run, step, why in attributes.pop("failures", ())}
    runs, steps = (dict.fromkeys(getattr(place, axis) for place in (*places, *failures)) for axis in ("run", "step"))
    with Store(path) as store, store.laying_out(places):
        store.lay_out([Place(run, step) for run in runs for step in sorted(steps)], {**attributes, "verb": verb})
        for i in np.flatnonzero(results.is_done(tree)):
            store.write(places[i], {name: values[i] for name, values in arrays.items()}, UNKNOWN)
        for place, why in failures.items():
            store.fail(place, why)


def with_error(value: float, error: float) -> str:
    """A value to the digits that its error leaves: 70.31 ± 0.42."""
    digits = max(0, 1 - math.floor(math.log10(error))) if np.isfinite(error) and error > 0 else 2
    return f"{value:.{digits}f} ± {error:.{digits}f}"
