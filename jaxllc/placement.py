"""Where the work runs: a mesh of devices with the axes `step` (checkpoints) and `chain`, the width of each `vmap` on one of them, and the way back."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxllc.layout import CHAIN, STEP, Layout, num_shards

CACHE_BYTES = 2**22
"""What the calls of one `vmap` on one CPU core may write."""
MEMORY_SHARE = 0.5
"""Of an accelerator's memory, what they may write there."""
RESIDENT_WEIGHTS = 2**20
"""Weights of all chains and checkpoints together that run in one program by default: more spills the caches of a CPU."""
RESIDENT_ON_ACCELERATOR = 2**28
"""The same on an accelerator: a gibibyte, enough to fill it, and little enough to lose when a run is stopped."""


def default_mesh(num_chains: int, num_checkpoints: int = 1, layout: Layout | None = None) -> Mesh:
    """As many devices of this process as divide the work evenly, as a mesh with axes `step` and `chain`; chains are spread first.

    Weights that are split keep their devices: the axes that they are split over follow, and what is spread is the rest of their mesh.
    """
    names, shape, devices = (), (), np.asarray(jax.local_devices())
    if layout is not None:
        names, mesh = layout.axes, layout.mesh
        order = sorted(range(mesh.devices.ndim), key=lambda axis: mesh.axis_names[axis] in names)
        shape = tuple(mesh.shape[name] for name in names)
        devices = mesh.devices.transpose(order).reshape(-1, *shape)
    available = len(devices)
    shapes = [(s, c) for c in range(1, available + 1) for s in range(1, available // c + 1) if num_chains % c == 0 and num_checkpoints % s == 0]
    step_devices, chain_devices = max(shapes, key=lambda shape: (shape[0] * shape[1], shape[1]))
    used = devices[: chain_devices * step_devices].reshape(step_devices, chain_devices, *shape)
    return Mesh(used, (STEP, CHAIN, *names), axis_types=(AxisType.Auto,) * (2 + len(names)))


def check_mesh(mesh: Mesh, num_chains: int, num_checkpoints: int, layout: Layout | None = None) -> None:
    """Raise a ValueError for a mesh of other axes, of devices that do not divide the work, or of explicit axes."""
    axes = () if layout is None else layout.axes
    unknown = set(mesh.axis_names) - {CHAIN, STEP, *axes}
    if unknown:
        known = f", beside {', '.join(map(repr, axes))} of the weights," if axes else ""
        raise ValueError(f"mesh has the axes {mesh.axis_names}; only 'chain' and 'step' (checkpoints){known} are known, {sorted(map(str, unknown))} are not.")
    if missing := set(axes) - set(mesh.axis_names):
        raise ValueError(f"the weights are split over {sorted(missing)}, and mesh has the axes {mesh.axis_names}; give it these too, or pass mesh=None.")
    if axes and not {CHAIN, STEP} & set(mesh.axis_names):
        raise ValueError(f"mesh has the axes {mesh.axis_names} of the weights alone; give it an axis 'chain' too, of one device at least, or pass mesh=None.")
    for axis, size in ((CHAIN, num_chains), (STEP, num_checkpoints)):
        devices = mesh.shape.get(axis, 1)
        if size % devices:
            raise ValueError(f"mesh axis {axis!r} has {devices} devices, which do not divide {size}; use a multiple, or mesh=None.")
    if AxisType.Explicit in mesh.axis_types:
        raise ValueError("mesh axes must be AxisType.Auto (jax.make_mesh makes Explicit ones by default); pass axis_types=(AxisType.Auto, ...).")


def axes_of(mesh: Mesh) -> tuple[str | None, str | None]:
    """The names of its axes of checkpoints and of chains, None for one that it has not."""
    return tuple(axis if axis in mesh.axis_names else None for axis in (STEP, CHAIN))  # type: ignore[return-value]


def on_devices(function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`jax.shard_map` over the axes of checkpoints and chains; along those of the weights the compiler divides the work of each."""
    axes = {axis for axis in axes_of(mesh) if axis is not None}
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=axes, check_vma=False)


def fetch(array: Any) -> np.ndarray:
    """A device array on the host, also where other processes hold parts of it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils  # only a run of several processes needs it

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def largest_width(function: Callable[..., Any], *arguments: Any) -> int:
    """The widest `vmap` of a function that suits one device: what it writes fits the caches of a CPU core, or half of an accelerator's memory.

    On a CPU a vmapped step that spills the caches is slower than one chain after the other. An accelerator that does not report its memory takes any width.

    Args:
        function: what would be vmapped.
        arguments: of one call, arrays or their shapes.
    """
    room = num_shards() * (CACHE_BYTES if jax.default_backend() == "cpu" else _accelerator_bytes())
    return max(1, room // max(1, bytes_written(jax.make_jaxpr(function)(*arguments).jaxpr)))


def _accelerator_bytes() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(MEMORY_SHARE * stats["bytes_limit"]) if "bytes_limit" in stats else sys.maxsize


def free_on_device() -> int:
    """Bytes of a device of this process that are free; `sys.maxsize` where it does not report them."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return max(stats["bytes_limit"] - stats.get("bytes_in_use", 0), 0) if "bytes_limit" in stats else sys.maxsize


def free_on_host() -> int:
    """Bytes of the host's memory that are free, of a container those that it may still take; `sys.maxsize` where the system does not tell."""
    free = [sys.maxsize]
    with contextlib.suppress(OSError, KeyError):
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(fields["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, KeyError, ValueError):  # "max" is no number
        group = Path("/sys/fs/cgroup")
        cached = int(dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"])
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()) + cached)
    return max(min(free), 0)


def resident_checkpoints(num_weights: int, num_chains: int) -> int:
    """How many checkpoints of a model to run in one program by default."""
    most = RESIDENT_WEIGHTS if jax.default_backend() == "cpu" else RESIDENT_ON_ACCELERATOR
    return max(1, most // (num_weights * num_chains))


def bytes_written(jaxpr: Any) -> int:
    """Bytes of all intermediate results of a program, before any fusion."""
    total: int = 0
    for equation in jaxpr.eqns:
        inner = [bytes_written(sub) for sub in _subprograms(equation.params)]
        total += sum(inner) if inner else sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars if hasattr(v.aval, "size"))
    return total


def _subprograms(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs among the parameters of an equation, such as the body of a loop or the branches of a condition."""
    for value in parameters.values():
        for item in value if isinstance(value, tuple) else (value,):
            program = getattr(item, "jaxpr", item)
            if hasattr(program, "eqns"):
                yield program


def vmap_width(size: int, largest: int) -> int:
    """The width of even groups, of at most `largest`, into which `size` calls are cut; the last group may be smaller."""
    return math.ceil(size / math.ceil(size / max(1, largest)))


def batched(function: Callable[..., Any], width: int, *arguments: Any) -> Any:
    """`vmap` over the leading axis, or a loop of `vmap`s of the given width."""
    size = jax.tree.leaves(arguments)[0].shape[0]
    if size == 1:  # a batch axis of one keeps a matrix product from the fast path of a CPU
        return jax.tree.map(lambda leaf: leaf[None], function(*jax.tree.map(lambda leaf: leaf[0], arguments)))
    if width >= size:
        return jax.vmap(function)(*arguments)
    return jax.lax.map(lambda each: function(*each), arguments, batch_size=width if width > 1 else None)
