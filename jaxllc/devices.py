"""Where the work runs: a mesh of devices with the axes `step` (checkpoints) and `chain`, and the way back to the host."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh


def default_mesh(num_chains: int, num_checkpoints: int = 1) -> Mesh:
    """As many devices as divide the work evenly, as a mesh with axes `step` and `chain`; chains are spread first."""
    available = jax.device_count()
    shapes = [(s, c) for c in range(1, available + 1) for s in range(1, available // c + 1) if num_chains % c == 0 and num_checkpoints % s == 0]
    step_devices, chain_devices = max(shapes, key=lambda shape: (shape[0] * shape[1], shape[1]))
    devices = np.asarray(jax.devices()[: chain_devices * step_devices]).reshape(step_devices, chain_devices)
    return Mesh(devices, ("step", "chain"), axis_types=(AxisType.Auto, AxisType.Auto))


def check_mesh(mesh: Mesh, num_chains: int, num_checkpoints: int) -> None:
    """Raise a ValueError for a mesh of other axes, of devices that do not divide the work, or of explicit axes."""
    unknown = set(mesh.axis_names) - {"chain", "step"}
    if unknown:
        raise ValueError(f"mesh has the axes {mesh.axis_names}; only 'chain' and 'step' (checkpoints) are known, {sorted(map(str, unknown))} are not.")
    for axis, size in (("chain", num_chains), ("step", num_checkpoints)):
        devices = mesh.shape.get(axis, 1)
        if size % devices:
            raise ValueError(f"mesh axis {axis!r} has {devices} devices, which do not divide {size}; use a multiple, or mesh=None.")
    if AxisType.Explicit in mesh.axis_types:
        raise ValueError("mesh axes must be AxisType.Auto (jax.make_mesh makes Explicit ones by default); pass axis_types=(AxisType.Auto, ...).")


def axes_of(mesh: Mesh) -> tuple[str | None, str | None]:
    """The names of its axes of checkpoints and of chains, None for one that it has not."""
    return tuple(axis if axis in mesh.axis_names else None for axis in ("step", "chain"))  # type: ignore[return-value]


def fetch(array: Any) -> np.ndarray:
    """A device array on the host, also where other processes hold parts of it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils  # only a run of several processes needs it

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
