"""The schema of results: the one file that knows the names of groups, variables and axes.

    /posterior      llc (step, chain, draw): nbeta times what the loss of the draw's batch exceeds that at w* by, less the draw's step_bias; where it
                        is extrapolated, that of two draws
    /sample_stats   loss (step, chain, draw): of the draw's batch at the draw, nats per example
                    step_bias (step, chain): what the finite step and its gradients' noise add to nbeta times the loss, mean over draws
                    half_step_llc, twice_nbeta_llc (step, chain, draw): of the chains at half the step or at twice nbeta, where llc is
                        extrapolated from these and the others
    /constant_data  full_center_loss (step): L_n(w*); gaussian_llc (step, chain): the gradient-free control
    /observables    what the caller asked for at each checkpoint: name (step, name_dim_0, ...)
    /along_chains   the same along its chains, where asked for: name (step, chain, evaluation, name_dim_0, ...)
    attributes      every setting, the key, versions

A result of several training runs has an axis `run` before `step`; one of a single checkpoint has neither. Below the surface there is one axis of
`Row`s, run after run, of which this file makes the two. The first three groups are those of the ArviZ schema.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxllc.engine import Trace

if TYPE_CHECKING:
    import xarray

RUN, STEP, CHAIN, DRAW = "run", "step", "chain", "draw"
EVALUATION = "evaluation"
OBSERVABLES, ALONG_CHAINS = "observables", "along_chains"
LLC, STEP_BIAS = ("posterior", "llc"), ("sample_stats", "step_bias")


SCHEMA = 2
"""Raised when results would no longer agree with those of a store: other arrays, other random numbers, another estimator."""


class Row(NamedTuple):
    """Where a checkpoint stands: in which training run, None where there is but one without a name, and at which step."""

    run: str | None
    step: int

    def __str__(self) -> str:
        return f"step {self.step}" if self.run is None else f"step {self.step} of run {self.run!r}"


class Variable(NamedTuple):
    """One array of the schema."""

    group: str
    name: str
    dims: tuple[str, ...]
    of: Callable[[Trace, np.ndarray], np.ndarray]


VARIABLES = (
    Variable(*LLC, (STEP, CHAIN, DRAW), lambda trace, nbeta: nbeta * trace.excess_loss - trace.step_bias),
    Variable("sample_stats", "loss", (STEP, CHAIN, DRAW), lambda trace, nbeta: trace.center_loss + trace.excess_loss),
    Variable(*STEP_BIAS, (STEP, CHAIN), lambda trace, nbeta: trace.step_bias.mean(-1)),
    Variable("constant_data", "full_center_loss", (STEP,), lambda trace, nbeta: trace.full_center_loss),
    Variable("constant_data", "gaussian_llc", (STEP, CHAIN), lambda trace, nbeta: trace.gaussian_llc),
)

OTHER_RUNG = {
    extrapolated: Variable("sample_stats", name, VARIABLES[0].dims, VARIABLES[0].of)
    for extrapolated, name in (("step_size", "half_step_llc"), ("nbeta", "twice_nbeta_llc"))
}
"""By what is extrapolated, the coefficient by the chains that were added for it."""


def other_rung(attributes: Mapping[Any, Any]) -> Variable | None:
    """That of a result with these settings, in which True stands for the step size; None where nothing was extrapolated."""
    over = attributes.get("extrapolate", False)
    return OTHER_RUNG["step_size" if over is True else over] if over else None


def arrays(trace: Trace, nbeta: float | np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """The arrays of a trace of K checkpoints, by group and name; `nbeta` is one number, or `[K]`."""
    nbeta = np.reshape(nbeta, (-1, 1, 1))
    along = {(ALONG_CHAINS, name): np.asarray(values, np.float32) for name, values in trace.watched.items()}
    return {(v.group, v.name): np.asarray(v.of(trace, nbeta), np.float32) for v in VARIABLES} | along


def names(attributes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Group and name of each array of a result with these settings."""
    added = other_rung(attributes)
    variables = VARIABLES if added is None else (*VARIABLES, added)
    groups = (OBSERVABLES, ALONG_CHAINS) if ALONG_CHAINS in attributes else (OBSERVABLES,)
    return [*((v.group, v.name) for v in variables), *((group, name) for group in groups for name in attributes.get("observables", {}))]


def row_dims(group: str, name: str, num_dims: int) -> tuple[str, ...]:
    """The axes of an array at one checkpoint."""
    if group in (OBSERVABLES, ALONG_CHAINS):
        first = () if group == OBSERVABLES else (CHAIN, EVALUATION)
        return (*first, *(f"{name}_dim_{i}" for i in range(num_dims - len(first))))
    return next(v.dims[1:] for v in (*VARIABLES, *OTHER_RUNG.values()) if (v.group, v.name) == (group, name))


def coordinates(
    steps: list[int], num_chains: int, num_draws: int, runs: Sequence[str | None] = (None,), evaluations: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """The coordinate of each axis, `run` only where runs have names; checkpoints are those of the product of `runs` and `steps`, in its order.

    Evaluations along the chains, if there are any, are told by the steps made before them.
    """
    named = {} if None in runs else {RUN: np.asarray(runs)}
    along = {EVALUATION: np.asarray(evaluations, np.int64)} if len(evaluations) else {}
    return named | {STEP: np.asarray(steps, np.int64), CHAIN: np.arange(num_chains), DRAW: np.arange(num_draws)} | along


def row_axes(coords: Container[str]) -> tuple[str, ...]:
    """The axes over which checkpoints are spread: `run`, where there is one, and `step`."""
    return (RUN, STEP) if RUN in coords else (STEP,)


def to_tree(found: Mapping[tuple[str, str], np.ndarray], coords: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> "xarray.DataTree":
    """A labelled result of checkpoints, whose axis of rows leads in each array of `found`; its coordinates are in the root for all groups."""
    import xarray as xr

    axes = row_axes(coords)
    groups: dict[str, dict[str, Any]] = {}
    for (group, name), array in found.items():
        whole = array.reshape(*(len(coords[axis]) for axis in axes), *array.shape[1:])
        groups.setdefault(group, {})[name] = ((*axes, *row_dims(group, name, array.ndim - 1)), whole)
    return xr.DataTree.from_dict({"/": xr.Dataset(coords=dict(coords), attrs=dict(attributes)), **{name: xr.Dataset(group) for name, group in groups.items()}})


def values(tree: "xarray.DataTree", path: str) -> np.ndarray:
    """The numbers of one variable, by group and name, in float64."""
    return np.asarray(tree[path].values, np.float64)  # pyright: ignore[reportAttributeAccessIssue]


def scalars(tree: "xarray.DataTree") -> dict[str, np.ndarray]:
    """The observables that are one number a checkpoint, by name."""
    if OBSERVABLES not in tree.children:
        return {}
    axes = row_axes(tree.coords)  # pyright: ignore[reportArgumentType]
    return {str(name): array.values for name, array in tree[OBSERVABLES].to_dataset(inherit=False).items() if array.dims == axes}  # pyright: ignore


def only_step(tree: "xarray.DataTree") -> "xarray.DataTree":
    """A result of one checkpoint without its axis `step`."""
    import xarray as xr

    nodes = {"/": tree.to_dataset(), **{name: child.to_dataset(inherit=False) for name, child in tree.children.items()}}
    return xr.DataTree.from_dict({name: node.squeeze(STEP, drop=True) for name, node in nodes.items()})


def with_steps(tree: "xarray.DataTree") -> "xarray.DataTree":
    """The result with an axis `step`, also where it is of one checkpoint."""
    if STEP in tree["posterior/llc"].dims:
        return tree
    import xarray as xr

    groups = {name: child.to_dataset(inherit=False).expand_dims(STEP) for name, child in tree.children.items()}
    return xr.DataTree.from_dict({"/": tree.to_dataset(), **groups})
