"""What a run does, checked once before a chain moves: the arguments of `estimate` and `trajectory` with their defaults resolved."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxllc import results, select
from jaxllc._tree import WithObjects, split_objects
from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.components import Moving, Selected, resolve
from jaxllc.data import InMemory
from jaxllc.layout import STEP, Layout, layout_of
from jaxllc.losscheck import LossKind, MeanOverBatch, check_loss, loss_of_zeros
from jaxllc.placement import check_mesh, default_mesh
from jaxllc.posterior import LocalPosterior, default_nbeta
from jaxllc.probes import Probe, shapes
from jaxllc.sampler import Sampler
from jaxllc.samplers.sgld import SGLD
from jaxllc.select import FreeLike
from jaxllc.selections import Free
from jaxllc.settings import Settings
from jaxllc.source import fingerprint
from jaxllc.stepsize import curvature, default_step_size
from jaxllc.store import checksum
from jaxllc.stream import Data, Stream
from jaxllc.timetable import timetable

DEFAULT_SAMPLER = SGLD(step_size=None)
"""What samples where none is given."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that chains depend on but the weights."""

    loss_fn: LossFn
    """Of arrays alone, and as a mean where examples depend on each other."""
    data: Data
    key: Key
    settings: Settings
    """With no field left open, but `extrapolate`."""
    free: Free
    probes: Mapping[str, Probe]
    mesh: Mesh | None
    loss_kind: LossKind
    facts: Mapping[str, Any]
    """What findings need to know: `num_weights`, `statistics`, `probes` by name with their shapes."""
    layout: Layout | None = None
    """How the weights are split over devices."""
    masks: Params | None = None
    """Which elements of the free leaves move in each component, `[M, ...]` (see `jaxllc.components`); None for all."""
    components: tuple[str, ...] = ()
    """Names of the components; none where `free` alone says what moves."""
    components_together: int | None = None
    """How many components run in one program; None for all."""

    @property
    def num_components(self) -> int:
        """How many sets of weights each checkpoint is sampled in."""
        return max(len(self.components), 1)

    @property
    def sampler(self) -> Sampler:
        """What moves a chain."""
        assert self.settings.sampler is not None
        return self.settings.sampler

    @property
    def nbeta(self) -> float:
        r"""$n\beta$."""
        assert self.settings.nbeta is not None
        return self.settings.nbeta

    @property
    def slow_every(self) -> int:
        """Iterations from one evaluation of what is slow to the next (see `jaxllc.timetable`)."""
        settings, sampler = self.settings, self.sampler
        longest = self.data.longest_block(settings.num_chains, sampler.block)
        return timetable(self.probes, settings.num_burn_in, settings.num_iterations, longest=longest, full_batch=sampler.full_batch).every

    @property
    def relaxation_time(self) -> float | None:
        """`Sampler.relaxation_time`, of an extrapolation that of the second set of chains."""
        sampler = self.sampler
        if self.settings.extrapolate:
            sampler = jax.tree.map(lambda leaf: leaf[0], sampler.with_step_factors(jnp.full(1, 0.5)))
        time = sampler.relaxation_time(self.settings.localization, self.settings.num_iterations)
        return None if time is None else float(time)

    @property
    def devices(self) -> Mesh:
        """What the chains of one checkpoint run on."""
        return self.mesh or default_mesh(self.settings.num_chains, layout=self.layout)

    @property
    def num_devices(self) -> int:
        """How many these are."""
        return self.devices.size

    def with_settings(self, settings: Settings) -> "Plan":
        """The same plan with other settings, in which no field is open and batches are as large as before."""
        assert settings.sampler is not None
        return dataclasses.replace(self, settings=settings).with_facts(min_acceptance=settings.sampler.min_acceptance)

    def parts(self) -> "list[Plan]":
        """The plan itself, or plans of `components_together` components each, which run one after the other; the last ones may come again to fill it."""
        size, count = self.components_together or self.num_components, self.num_components
        if size >= count:
            return [self]
        numbers = [[min(start + i, count - 1) for i in range(size)] for start in range(0, count, size)]
        weights = self.facts["component_weights"]
        return [
            dataclasses.replace(
                self.with_facts(component_weights=[weights[i] for i in some]), components_together=None,
                masks=jax.tree.map(lambda mask, some=some: mask[some], self.masks), components=tuple(self.components[i] for i in some),
            )
            for some in numbers
        ]  # fmt: skip

    def with_probes(self, probes: Mapping[str, Probe], params: Params) -> "Plan":
        """The same plan with probes.

        Args:
            probes: of whole weights, by name.
            params: weights of the model.
        """
        if not probes:
            return self
        center, objects = split_objects(params)
        if objects.structure is not None:
            probes = {name: dataclasses.replace(probe, fn=WithObjects(probe.fn, objects)) for name, probe in probes.items()}
        plan = dataclasses.replace(self, probes=probes)
        return plan.with_facts(**{results.PROBES: describe_probes(probes, center, self.settings)})

    def with_facts(self, **facts: Any) -> "Plan":
        """The same plan, which keeps more facts."""
        return dataclasses.replace(self, facts={**self.facts, **facts})

    def posterior(self, center: Params) -> LocalPosterior:
        """The posterior around a centre, or around several in a stack."""
        return LocalPosterior(self.loss_fn, center, self.nbeta, self.settings.localization, self.free, weights_dtype=self.loss_kind.weights_dtype)

    def attributes(self) -> dict[str, Any]:
        """Every setting, what findings need to know, and the versions, as plain values that a store can keep."""
        try:
            settings = self.settings.to_dict()
        except ValueError:  # a schedule or a class without a name: what it gives is kept, and cannot be read back
            settings = self.settings.replace(sampler=None).to_dict() | {"sampler": self.sampler.describe(self.settings.num_iterations)}
        inner = _innermost(self.loss_fn)
        return settings | {
            "batch_size": self.data.batch_size,
            "loss_fn": f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', type(inner).__name__)}",
            "loss_dtype": self.loss_kind.dtype,
            "by_example": self.loss_kind.by_example,
            "depends_on_batch": self.loss_kind.depends_on_batch,
            "key": np.asarray(jax.random.key_data(self.key)).tolist(),
            "numerics": {
                "x64": bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
                "matmul_precision": jax.config.jax_default_matmul_precision or "default",  # pyright: ignore[reportAttributeAccessIssue]
                "threefry_partitionable": bool(jax.config.jax_threefry_partitionable),  # pyright: ignore[reportAttributeAccessIssue]
                "random": str(jax.random.key_impl(self.key)),
            },
            "source": {"loss_fn": fingerprint(inner)} | {f"probe {name}": fingerprint(_innermost(probe.fn)) for name, probe in self.probes.items()},
            "num_examples": self.data.num_examples,
            **({"streams": True} if isinstance(self.data, Stream) else {}),
            "slow_every": self.slow_every,
            "relaxation_time": self.relaxation_time,
            "schema": results.SCHEMA,
            "versions": {name: importlib.metadata.version(name) for name in ("jaxllc", "jax", "numpy")},
            **self.facts,
        }


def _innermost(function: Any) -> Any:
    """The user's own function."""
    while isinstance(function, WithObjects | MeanOverBatch):
        function = function.loss_fn
    return function


def make_plan(
    loss_fn: LossFn,
    checkpoints: Mapping[Any, Params],
    data: Batch | Data,
    settings: Settings,
    *,
    key: Key,
    free: FreeLike | Moving,
    probes: Mapping[str, Probe],
    mesh: Mesh | None,
) -> Plan:
    """Check everything that can be before an iteration is made, and resolve defaults.

    Args:
        loss_fn: see `jaxllc.estimate`.
        checkpoints: some of the weights, by the names that messages give them; the first is looked at closely, and a default step size must suit all.
        data: see `jaxllc.estimate`.
        settings: whose fields may be None.
        key: a typed key.
        free: which weights move, or components of them.
        probes: beside the coefficient.
        mesh: devices; None takes all that divide the work.
    """
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function loss_fn(params, batch), got {type(loss_fn).__name__}; it is the first argument.")
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0):
        raise TypeError(f"key must be one typed key, as jax.random.key(0) makes it, got {key!r}.")
    params = next(iter(checkpoints.values()))
    selected = resolve(free if isinstance(free, Moving) else Moving(free), params)
    selection = selected.free
    center, objects = split_objects(params)
    if objects.structure is not None:
        loss_fn = WithObjects(loss_fn, objects)
    layout = _checked_layout(center, selected)
    devices = mesh or default_mesh(settings.num_chains, layout=layout)
    check_mesh(devices, settings.num_chains, devices.shape.get(STEP, 1), layout)
    data = data.on(devices) if isinstance(data, InMemory | Stream) else InMemory.of(data, settings.batch_size, devices)
    sampler = DEFAULT_SAMPLER if settings.sampler is None else settings.sampler
    nbeta = default_nbeta(data.num_examples) if settings.nbeta is None else settings.nbeta
    sampler = sampler.with_burn_in(settings.num_burn_in)
    settings = settings.replace(sampler=sampler, nbeta=nbeta, batch_size=data.batch_size)
    if settings.extrapolate:
        sampler.with_step_factors(jnp.ones(1))

    def around(center: Params) -> LocalPosterior:
        center = center if layout is None else layout.place(center, devices)
        return LocalPosterior(loss_fn, center, nbeta, settings.localization, selection, layout=layout)

    at = around(center), data.resident, devices
    kind, facts = check_loss(*at), {**_statistics(selection, params), "loss_of_zeros": loss_of_zeros(*at)}
    if kind.by_example and kind.depends_on_batch:
        loss_fn = MeanOverBatch(loss_fn)
    if sampler.needs_step_size:
        curvatures = {name: curvature(around(split_objects(params)[0]), data.resident, devices) for name, params in checkpoints.items()}
        facts["default_step_size"] = default_step_size(sampler, curvatures)
        sampler = sampler.with_default_step_size(facts["default_step_size"], settings.num_burn_in)
        settings = settings.replace(sampler=sampler)
    facts |= _weights(selected, center) | {"min_acceptance": sampler.min_acceptance}
    plan = Plan(loss_fn, data, key, settings, selection, {}, mesh, kind, facts, layout, selected.masks, selected.names)
    return plan.with_probes(probes, params)


def _checked_layout(center: Params, selected: Selected) -> Layout | None:
    """How the weights are split over devices, if they are."""
    layout = layout_of(center)
    if layout is not None and (selected.masks is not None or len(selected.names) > 1):
        raise ValueError("the weights are split over devices, where components must be whole leaves, one at a time; pass free= with patterns of leaves.")
    return layout


def _weights(selected: Selected, center: Params) -> dict[str, Any]:
    """How many weights move, and which: of components their union, and each."""
    if not selected.names:
        return {"num_weights": selected.num_weights[0], "free": selected.descriptions[0]}
    union = sum(np.size(leaf) for leaf in jax.tree.leaves(select.take_free(selected.free, center)))
    components = [list(pair) for pair in zip(selected.names, selected.descriptions, strict=True)]
    return {"num_weights": union, "free": repr(selected.free), results.COMPONENTS: components, "component_weights": list(selected.num_weights)}


def _statistics(selection: Free, params: Params) -> dict[str, Any]:
    """The names of batch statistics, if any, among the weights that move and among those that do not."""
    found = {"statistics": select.free_statistics(selection, params), "fixed_statistics": select.fixed_statistics(selection, params)}
    return {fact: list(names) for fact, names in found.items() if names}


def check_batch_size(data: Any, overrides: Mapping[str, Any]) -> None:
    """Raise a ValueError for a `batch_size` of one call beside data that have another one."""
    asked = overrides.get("batch_size")
    if isinstance(data, InMemory | Stream) and asked is not None and asked != data.batch_size:
        raise ValueError(f"batch_size is {asked}, and data, a jaxllc.{type(data).__name__}, give batches of {data.batch_size}; leave batch_size out.")


def describe_probes(probes: Mapping[str, Probe], params: Params, settings: Settings) -> dict[str, dict[str, Any]]:
    """The probes as plain values: shape, where they are evaluated, and what is kept.

    Args:
        probes: by name.
        params: some weights.
        settings: how long chains are.
    """
    times = timetable(probes, settings.num_burn_in, settings.num_iterations).times
    descriptions: dict[str, dict[str, Any]] = {}
    for name, shape in shapes(probes, params).items():
        descriptions[name] = {"shape": shape, "at_checkpoint": probes[name].at_checkpoint}
        if name in times:
            descriptions[name] |= {"every": probes[name].every, "evaluations": times[name].tolist()}
        if probes[name].reduce:
            descriptions[name] |= {"reduce": probes[name].reduce}
        if probes[name].data is not None:
            descriptions[name] |= {"data_checksum": checksum(probes[name].data)}
    return descriptions
