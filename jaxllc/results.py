"""The schema of results: the one file that knows the names of groups, variables and axes.

    /posterior      llc (step, chain, draw)
    /sample_stats   loss (step, chain, draw): of the draw's batch at the draw, nats per example; less llc / nbeta it is that of the batch at w*
                    step_bias (step, chain): what the finite step adds to llc
    /constant_data  full_center_loss (step): L_n(w*); gaussian_llc (step, chain): the gradient-free control
    attributes      every setting, the key, versions

A result of one checkpoint has no axis `step`. The groups are those of the ArviZ schema.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxllc.engine import Trace

if TYPE_CHECKING:
    import xarray

STEP, CHAIN, DRAW = "step", "chain", "draw"


class Variable(NamedTuple):
    """One array of the schema."""

    group: str
    name: str
    dims: tuple[str, ...]
    of: Callable[[Trace, float], np.ndarray]


VARIABLES = (
    Variable("posterior", "llc", (STEP, CHAIN, DRAW), lambda trace, nbeta: nbeta * trace.excess_loss),
    Variable("sample_stats", "loss", (STEP, CHAIN, DRAW), lambda trace, nbeta: trace.center_loss + trace.excess_loss),
    Variable("sample_stats", "step_bias", (STEP, CHAIN), lambda trace, nbeta: trace.step_bias.mean(-1)),
    Variable("constant_data", "full_center_loss", (STEP,), lambda trace, nbeta: trace.full_center_loss),
    Variable("constant_data", "gaussian_llc", (STEP, CHAIN), lambda trace, nbeta: trace.gaussian_llc),
)


def arrays(trace: Trace, nbeta: float) -> dict[tuple[str, str], np.ndarray]:
    """The arrays of a trace of K checkpoints, by group and name."""
    return {(v.group, v.name): np.asarray(v.of(trace, nbeta), np.float32) for v in VARIABLES}


def coordinates(steps: list[int], num_chains: int, num_draws: int) -> dict[str, np.ndarray]:
    """The coordinate of each axis."""
    return {STEP: np.asarray(steps, np.int64), CHAIN: np.arange(num_chains), DRAW: np.arange(num_draws)}


def to_tree(found: Mapping[tuple[str, str], np.ndarray], coords: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> "xarray.DataTree":
    """A labelled result of several checkpoints, its coordinates in the root for all groups."""
    import xarray as xr

    groups: dict[str, dict[str, Any]] = {}
    for v in VARIABLES:
        groups.setdefault(v.group, {})[v.name] = (v.dims, found[v.group, v.name])
    return xr.DataTree.from_dict({"/": xr.Dataset(coords=dict(coords), attrs=dict(attributes)), **{name: xr.Dataset(group) for name, group in groups.items()}})


def values(tree: "xarray.DataTree", path: str) -> np.ndarray:
    """The numbers of one variable, by group and name, in float64."""
    return np.asarray(tree[path].values, np.float64)  # pyright: ignore[reportAttributeAccessIssue]


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
