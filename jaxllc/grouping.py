"""How many checkpoints run in one program: as many as free memory holds, and of these the number that a short timed run finds fastest."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxllc._typing import Params
from jaxllc.layout import STEP
from jaxllc.pilots import run_pilot
from jaxllc.placement import MEMORY_SHARE, free_on_device, free_on_host, resident_checkpoints
from jaxllc.plan import Plan

LEAST_GROUPS = 32
"""Groups of a run that is long enough for a timed run; one that is stopped has lost no more than that share of it."""
GAIN = 0.05
"""Share of a checkpoint's time that groups of another size must save to be taken."""
TIMED_ITERATIONS, TIMED_BURN_IN = 48, 16
COPIES_OF_CENTER, COPIES_OF_CHAIN = 2, 4
"""Of the weights on the devices: w* and its gradient; of a chain its position, its gradient, its noise and what its sampler keeps."""
GROUPS_ON_HOST = 3
"""That the host holds at once: the next one, that in work, and the last one."""
VALUES_OF_DRAW = 6
"""Numbers that are recorded at each draw, at most."""


def suitable_group_size(plan: Plan, params: Params, count: int) -> int:
    """Checkpoints that run in one program.

    Args:
        plan: what is done at each.
        params: weights of the model.
        count: of the checkpoints that this process does.
    """
    together = 1 if plan.mesh is None else plan.mesh.shape.get(STEP, 1)
    most = max(min(count, fitting_checkpoints(plan, params)) // together, 1) * together
    size = min(max(resident_checkpoints(plan.facts["num_weights"], plan.settings.num_chains * plan.num_components) // together, 1) * together, most)
    if count < LEAST_GROUPS * max(size, 2 * together):
        return size
    most = min(most, count // LEAST_GROUPS)
    fastest = _seconds(plan, params, size)
    for larger in (True, False):
        start = size
        while together <= (other := size * 2 if larger else size // 2) <= most and other % together == 0:
            if (seconds := _seconds(plan, params, other)) > (1 - GAIN) * fastest:
                break
            size, fastest = other, seconds
        if size != start:
            break
    return size


def fitting_checkpoints(plan: Plan, params: Params) -> int:
    """How many checkpoints free memory has room for, each in all its components; at least one."""
    return max(1, _fitting(plan, params) // plan.num_components)


def with_fitting_components(plan: Plan, params: Params) -> Plan:
    """The plan with as many components in one program as free memory has room for, in parts of even size."""
    count, most = plan.num_components, max(1, _fitting(plan, params))
    return dataclasses.replace(plan, components_together=math.ceil(count / math.ceil(count / most)))


def _fitting(plan: Plan, params: Params) -> int:
    """How many sets of chains, each of one component at one checkpoint, free memory has room for."""
    leaves, chains, devices = jax.tree.leaves(params), plan.settings.num_chains, plan.num_devices
    whole = sum(leaf.nbytes for leaf in leaves if hasattr(leaf, "nbytes"))
    free = plan.facts["num_weights"] * jnp.zeros(()).dtype.itemsize
    shared = plan.devices.shape.get("chain", 1)  # devices that each hold the centre
    on_device = (COPIES_OF_CENTER * whole * shared + COPIES_OF_CHAIN * chains * free) / devices
    results = chains * (plan.settings.num_draws * VALUES_OF_DRAW * 4 + sum(map(_kept_bytes, plan.facts.get("probes", {}).values())))
    on_host = GROUPS_ON_HOST * (whole + results)
    if jax.default_backend() == "cpu":
        return int(MEMORY_SHARE * free_on_host() / (on_host + on_device * devices))
    return int(min(MEMORY_SHARE * free_on_device() / on_device, MEMORY_SHARE * free_on_host() / on_host))


def _kept_bytes(probe: Mapping[str, Any]) -> int:
    """What is kept of a probe along one chain, of its description."""
    size = math.prod(probe["shape"])
    if probe.get("reduce") == "covariance":
        return 12 * size**2  # in float64 as it is reduced, and in float32 in the result
    return 4 * size * (2 if probe.get("reduce") else len(probe.get("evaluations", ())))


def even_size(count: int, most: int, together: int) -> int:
    """Places of groups of even size, of at most so many, into which so many are cut; a multiple of `together`."""
    even = math.ceil(count / math.ceil(count / most))
    return math.ceil(even / together) * together


def _seconds(plan: Plan, params: Params, size: int) -> float:
    """Of an iteration of one checkpoint, in groups of this size."""
    short = plan.settings.replace(num_burn_in=TIMED_BURN_IN, num_draws=TIMED_ITERATIONS - TIMED_BURN_IN, thinning=1, extrapolate=None)
    return run_pilot(plan.with_settings(short), [params] * (size * plan.num_components)).seconds / size
