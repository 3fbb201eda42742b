"""The schema of results: the one file that knows the names of groups, variables and axes, and their units.

    /posterior      llc (step, chain, draw): nbeta times the excess loss of the draw's batch, less the draw's step_bias; where it is extrapolated, that of
                        two draws. Of one chain alone
    /sample_stats   loss (step, chain, draw): of the draw's batch at the draw, nats per example
                    step_bias (step, chain): what the finite step and its gradients' noise add to nbeta times the loss, mean over draws
                    half_step_llc, twice_nbeta_llc (step, chain, draw): of the chains at half the step or at twice nbeta, where llc is
                        extrapolated from these and the others
                    acceptance_rate (step, chain): of a sampler that accepts or refuses, mean over draws
                    llc_correction_spread (step, chain): what a chain adds to llc_correction, less the mean over chains; its spread is the error of that
                    share_moved (step, chain): share of the free weights that are not at w*, looked at where losses repeat, else 1
    /constant_data  full_center_loss (step): L_n(w*), nats per example
                    full_center_loss_error (step): its standard error, where data are streamed and it is over the batches of the draws
                    gaussian_llc (step, chain): nbeta times the excess loss of the Gaussian prior alone
                    rounding_llc (step): nbeta times the excess loss by rounding weights to the model's dtype
                    bias_error (step): what correcting the step bias may leave of it, in units of llc
                    llc_correction, step_bias_correction (step): what is added to the means of llc and of step_bias, of all chains together
    /slow           squared_distance (step, chain, iteration): from w*, over the free weights, at iterations from the first of burn-in on
                    probe_loss (step, chain, iteration): there, nats per example, the excess over w* of the loss of one batch that is always the same.
                        Where llc is extrapolated, both of the second set of chains
    /probes         the probes at each checkpoint: name (step, name_dim_0, ...)
    /along_chains   the probes along its chains: name (step, chain, evaluation, name_dim_0, ...), or name_mean and so on (see jaxllc.reductions)
    attributes      every setting, the key, versions

A result of several training runs has an axis `run` before `step`; one of a single checkpoint has neither. One of components has an axis `component` after
`step` in every array but those of `/probes`. Below the surface there is one axis of
`Place`s, run after run, of which this file makes the two. The first three groups are those of the ArviZ schema.
"""

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxllc.reductions import REDUCTIONS

if TYPE_CHECKING:
    import xarray

RUN, STEP, COMPONENT, CHAIN, DRAW = "run", "step", "component", "chain", "draw"
EVALUATION, ITERATION = "evaluation", "iteration"
COMPONENTS = "components"
"""The attribute that lists name and selection of each component."""
PROBES, ALONG_CHAINS, SLOW = "probes", "along_chains", "slow"
LLC, STEP_BIAS = ("posterior", "llc"), ("sample_stats", "step_bias")
HALF_STEP_LLC, TWICE_NBETA_LLC = ("sample_stats", "half_step_llc"), ("sample_stats", "twice_nbeta_llc")
ACCEPTANCE_RATE = ("sample_stats", "acceptance_rate")
SQUARED_DISTANCE, PROBE_LOSS = (SLOW, "squared_distance"), (SLOW, "probe_loss")
LLC_CORRECTION, STEP_BIAS_CORRECTION = ("constant_data", "llc_correction"), ("constant_data", "step_bias_correction")
BIAS_ERROR = ("constant_data", "bias_error")
CENTER_LOSS_ERROR = ("constant_data", "full_center_loss_error")
CORRECTION_SPREAD = ("sample_stats", "llc_correction_spread")

Name = tuple[str, str]
"""Of an array: its group, and its name there."""

SCHEMA = 6
"""Raised when results would no longer agree with those of a store: other arrays, other random numbers, another estimator."""

DIMS: Mapping[Name, tuple[str, ...]] = {
    LLC: (CHAIN, DRAW),
    ("sample_stats", "loss"): (CHAIN, DRAW),
    STEP_BIAS: (CHAIN,),
    ("sample_stats", "share_moved"): (CHAIN,),
    ("constant_data", "full_center_loss"): (),
    ("constant_data", "gaussian_llc"): (CHAIN,),
    ("constant_data", "rounding_llc"): (),
    LLC_CORRECTION: (),
    CORRECTION_SPREAD: (CHAIN,),
    BIAS_ERROR: (),
    STEP_BIAS_CORRECTION: (),
    SQUARED_DISTANCE: (CHAIN, ITERATION),
    PROBE_LOSS: (CHAIN, ITERATION),
}
"""The axes of each array that every result has, at one checkpoint."""

OPTIONAL: Mapping[Name, tuple[str, ...]] = {HALF_STEP_LLC: (CHAIN, DRAW), TWICE_NBETA_LLC: (CHAIN, DRAW), ACCEPTANCE_RATE: (CHAIN,), CENTER_LOSS_ERROR: ()}
"""Those that some results have."""

SECOND_LLC: Mapping[str, Name] = {"step_size": HALF_STEP_LLC, "nbeta": TWICE_NBETA_LLC}
"""By what is extrapolated, the coefficient by the second set of chains."""


class Place(NamedTuple):
    """Where a line of the result stands: in which training run, None where there is but one without a name, and at which training step."""

    run: str | None
    step: int

    def __str__(self) -> str:
        return f"step {self.step}" if self.run is None else f"step {self.step} of run {self.run!r}"


def second_llc(attributes: Mapping[Any, Any]) -> Name | None:
    """The array of the second set of chains of a result with these settings; None where nothing was extrapolated."""
    over = attributes.get("extrapolate")
    return SECOND_LLC[over] if over else None


def names(attributes: Mapping[str, Any]) -> list[Name]:
    """Group and name of each array of a result with these attributes."""
    present = {ACCEPTANCE_RATE: attributes.get("min_acceptance") is not None, CENTER_LOSS_ERROR: bool(attributes.get("streams"))}
    optional = [name for name in OPTIONAL if present.get(name, name == second_llc(attributes))]
    return [*DIMS, *optional, *((group, name) for name, probe in attributes.get(PROBES, {}).items() for group, name in _probe_names(name, probe))]


def _probe_names(name: str, probe: Mapping[str, Any]) -> Iterator[Name]:
    if probe["at_checkpoint"]:
        yield PROBES, name
    if probe.get("reduce"):
        yield from ((ALONG_CHAINS, f"{name}_{ending}") for ending in REDUCTIONS[probe["reduce"]].dims)
    elif probe.get("evaluations"):
        yield ALONG_CHAINS, name


def dims(array: Name, num_dims: int, attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """The axes of an array at one checkpoint.

    Args:
        array: its group and name.
        num_dims: how many there are.
        attributes: of the result.
    """
    group, name = array
    if COMPONENTS in attributes and group != PROBES:
        return COMPONENT, *dims(array, num_dims - 1, {key: value for key, value in attributes.items() if key != COMPONENTS})
    if group not in (PROBES, ALONG_CHAINS):
        return DIMS.get(array) or OPTIONAL.get(array, ())
    for probe, description in attributes[PROBES].items():
        if name == probe:
            first = () if group == PROBES else (CHAIN, evaluation_axis(probe, attributes))
            return (*first, *_own_axes(probe, num_dims - len(first)))
        for ending, axes in REDUCTIONS[description["reduce"]].dims.items() if description.get("reduce") else ():
            if name == f"{probe}_{ending}":
                values = _own_axes(probe, num_dims - len(axes) + 1)
                own = {"values": values, "element": (f"{probe}_element",), "element_other": (f"{probe}_element_other",)}
                return tuple(axis for part in axes for axis in own.get(part, (part,)))
    raise KeyError(f"no array {name!r} in /{group}.")


def shapes(attributes: Mapping[str, Any]) -> dict[Name, tuple[int, ...]]:
    """The shape of each array at one checkpoint, of a result with these attributes."""
    burn_in, draws, thinning = (int(attributes[name]) for name in ("num_burn_in", "num_draws", "thinning"))
    chains, iterations = int(attributes["num_chains"]), burn_in + (draws - 1) * thinning + 1
    sizes = {CHAIN: chains, DRAW: draws, ITERATION: -(-iterations // int(attributes["slow_every"]))}
    found = {name: tuple(sizes[axis] for axis in {**DIMS, **OPTIONAL}[name]) for name in names(attributes) if name[0] not in (PROBES, ALONG_CHAINS)}
    for probe, description in attributes.get(PROBES, {}).items():
        own = tuple(description["shape"])
        size = (math.prod(own),)
        parts = {CHAIN: (chains,), "chain_other": (chains,), "values": own, "element": size, "element_other": size}
        for group, name in _probe_names(probe, description):
            if group == PROBES:
                found[group, name] = own
            elif description.get("reduce"):
                axes = REDUCTIONS[description["reduce"]].dims[name.removeprefix(f"{probe}_")]
                found[group, name] = tuple(size for axis in axes for size in parts[axis])
            else:
                found[group, name] = (chains, len(description["evaluations"]), *own)
    several = (len(attributes[COMPONENTS]),) if COMPONENTS in attributes else ()
    return {name: shape if name[0] == PROBES else (*several, *shape) for name, shape in found.items()}


def _own_axes(probe: str, count: int) -> tuple[str, ...]:
    return tuple(f"{probe}_dim_{i}" for i in range(count))


def evaluation_axis(probe: str, attributes: Mapping[str, Any]) -> str:
    """The axis of a probe's evaluations: `evaluation` where all probes that are kept whole share their times, else one of its own."""
    whole = {name: description["evaluations"] for name, description in attributes[PROBES].items() if _is_whole(description)}
    return EVALUATION if all(times == whole[probe] for times in whole.values()) else f"{probe}_{EVALUATION}"


def _is_whole(description: Mapping[str, Any]) -> bool:
    return bool(description.get("evaluations")) and not description.get("reduce")


def coordinates(places: Sequence[Place], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The coordinate of each axis, `run` only where runs have names; checkpoints are those of the product of runs and steps, in the order of `places`.

    Evaluations along the chains are counted in the iterations made before them, and `slow_every` says at which the slow quantities are evaluated.
    """
    runs, steps = (list(dict.fromkeys(names)) for names in ([place.run for place in places], [place.step for place in places]))
    named = {} if None in runs else {RUN: np.asarray(runs)}
    parts = {COMPONENT: np.asarray([name for name, _ in attributes[COMPONENTS]])} if COMPONENTS in attributes else {}
    along = {
        evaluation_axis(name, attributes): np.asarray(description["evaluations"], np.int64)
        for name, description in attributes.get(PROBES, {}).items()
        if _is_whole(description)
    }
    chains, draws = np.arange(attributes["num_chains"]), np.arange(attributes["num_draws"])
    iterations = np.arange(0, attributes["num_burn_in"] + (attributes["num_draws"] - 1) * attributes["thinning"] + 1, attributes["slow_every"])
    return named | {STEP: np.asarray(steps, np.int64), **parts, CHAIN: chains, DRAW: draws, ITERATION: iterations} | along


def place_axes(coords: Container[Any]) -> tuple[str, ...]:
    """The axes over which checkpoints are spread: `run`, where there is one, and `step`."""
    return (RUN, STEP) if RUN in coords else (STEP,)


def line_axes(dims: Container[Any]) -> tuple[str, ...]:
    """The axes of the lines of a table: those of checkpoints, and `component` where there is one."""
    return (*place_axes(dims), COMPONENT) if COMPONENT in dims else place_axes(dims)


def to_tree(arrays: Mapping[Name, np.ndarray], places: Sequence[Place], attributes: Mapping[str, Any]) -> "xarray.DataTree":
    """A labelled result of checkpoints, whose axis of places leads in each array; its coordinates are in the root for all groups."""
    import xarray as xr

    coords = coordinates(places, attributes)
    axes = place_axes(coords)
    groups: dict[str, dict[str, Any]] = {}
    for (group, name), array in arrays.items():
        whole = array.reshape(*(len(coords[axis]) for axis in axes), *array.shape[1:])
        groups.setdefault(group, {})[name] = ((*axes, *dims((group, name), array.ndim - 1, attributes)), whole)
    return xr.DataTree.from_dict({"/": xr.Dataset(coords=coords, attrs=dict(attributes)), **{name: xr.Dataset(group) for name, group in groups.items()}})


def from_tree(tree: "xarray.DataTree") -> dict[Name, np.ndarray]:
    """The arrays of a result that has an axis `step`; that of places leads."""
    axes = len(place_axes(tree.coords))
    arrays = {}
    for group, node in tree.children.items():
        for name, array in node.to_dataset(inherit=False).items():
            arrays[group, str(name)] = np.reshape(array.values, (-1, *array.shape[axes:]))
    return arrays


def places_of(tree: "xarray.DataTree") -> list[Place]:
    """The places of a result, run after run; that of a single checkpoint is at step 0."""
    if STEP not in tree.coords:
        return [Place(None, 0)]
    runs = [str(run) for run in tree.coords[RUN].values] if RUN in tree.coords else [None]
    return [Place(run, int(step)) for run in runs for step in tree.coords[STEP].values]


def attributes(tree: "xarray.DataTree") -> dict[str, Any]:
    """The settings of a result, and all else that was noted of it."""
    return {str(name): value for name, value in tree.attrs.items()}


def listed(failures: Mapping[Place, str]) -> list[list[Any]]:
    """Why places have no numbers, as plain values: run, step, reason."""
    return [[place.run, place.step, why] for place, why in failures.items()]


def gathered(found: Mapping[Place, Mapping[Name, np.ndarray]], places: Sequence[Place], attributes: Mapping[str, Any]) -> "xarray.DataTree":
    """The result at those steps of the places of which one was found; places of theirs that were not are NaN, and told by `done`."""
    steps = {place.step for place in found}
    whole = [place for place in places if place.step in steps]
    nothing = {name: np.full_like(values, np.nan) for name, values in next(iter(found.values())).items()}
    stacked = {name: np.stack([found.get(place, nothing)[name] for place in whole]) for name in names(attributes)}
    tree = to_tree(stacked, whole, attributes)
    return with_done(tree, [place in found for place in whole]) if len(found) < len(whole) else tree


def with_done(tree: "xarray.DataTree", done: Sequence[bool]) -> "xarray.DataTree":
    """The result with which of its places hold one, run after run."""
    axes = place_axes(tree.coords)
    import xarray as xr

    return tree.assign(done=xr.DataArray(np.reshape(np.asarray(done, np.int8), [tree.sizes[axis] for axis in axes]), dims=axes))


def is_done(tree: "xarray.DataTree") -> np.ndarray:
    """Which places hold a result, run after run: all of them, but for a store that was opened while it was being filled."""
    if "done" in tree:
        return np.asarray(tree["done"].values).ravel().astype(bool)
    return np.ones(len(places_of(tree)), bool)


def values(tree: "xarray.DataTree", path: str) -> np.ndarray:
    """The numbers of one variable, by group and name, in float64."""
    return np.asarray(tree[path].values, np.float64)  # pyright: ignore[reportAttributeAccessIssue]


def value_of(tree: "xarray.DataTree", name: Name) -> np.ndarray:
    """The numbers of one array, in float64."""
    return values(tree, "/".join(name))


def scalars(tree: "xarray.DataTree") -> dict[str, np.ndarray]:
    """The probes that are one number a checkpoint, by name."""
    if PROBES not in tree.children:
        return {}
    probes = tree.children[PROBES].to_dataset(inherit=False)
    return {name: probes[name].values for name in attributes(tree)[PROBES] if name in probes and probes[name].dims == place_axes(tree.coords)}
