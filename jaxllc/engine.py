r"""The one loop: a scan over steps, vmapped over chains and over a group of checkpoints, sharded over devices.

Every random number has a place: the step $t$ of chain $c$ uses `fold_in(fold_in(key, c), t)`, whatever the checkpoint, group or mesh.
So neighbouring checkpoints share their noise and their batches (common random numbers, drawn once for the whole group), and neither more
chains, nor another group size or mesh, nor a resumed run changes a chain (to rounding).
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxllc._tree import at_least_float32, broadcast_leading
from jaxllc._typing import Key
from jaxllc.data import InMemory
from jaxllc.posterior import LocalPosterior
from jaxllc.samplers.base import Sampler
from jaxllc.samplers.noise import gaussian

BLOCK = 256
"""Steps between two returns to the host: what a progress bar, an interrupt or a store can see."""

CACHE_BYTES = 2**22
"""What the steps that run side by side on one CPU core may write."""

CONTROL_DRAWS = 16
"""Gradient-free Gaussian draws a chain, for the control of `Trace.gaussian_llc`."""


class Trace(NamedTuple):
    """What a run leaves, as numpy arrays: K checkpoints, C chains, T draws; without K where one posterior was given."""

    excess_loss: np.ndarray
    r"""`[K, C, T]`: mean over the draw's batch of the loss at the draw minus the loss of the same example at $w^*$, nats per example."""
    center_loss: np.ndarray
    r"""`[K, C, T]`: mean loss of the same batch at $w^*$; their sum is the loss at the draw."""
    step_bias: np.ndarray
    r"""`[K, C, T]`: what the finite step adds to $\hat\lambda$, of which the mean counts (see `Info.step_bias`)."""
    full_center_loss: np.ndarray
    r"""`[K]`: $L_n(w^*)$, over all examples."""
    gaussian_llc: np.ndarray
    r"""`[K, C]`: what $N(w^*, 1/\gamma)$, which knows no loss, gives in the place of the chain; inf or NaN where $\gamma = 0$."""


class NotFiniteError(ValueError):
    """The loss at a centre is not finite; `index` tells at which one of the stack."""

    def __init__(self, index: int) -> None:
        super().__init__(f"the loss at w* is not finite for checkpoint {index} of the stack.")
        self.index = index


def default_mesh(num_chains: int, num_checkpoints: int = 1) -> Mesh:
    """All devices that divide the work evenly, as a mesh with axes `step` and `chain`."""
    chain_devices = math.gcd(jax.device_count(), num_chains)
    step_devices = math.gcd(jax.device_count() // chain_devices, num_checkpoints)
    devices = np.asarray(jax.devices()[: chain_devices * step_devices]).reshape(step_devices, chain_devices)
    return Mesh(devices, ("step", "chain"), axis_types=(AxisType.Auto, AxisType.Auto))


def sample(
    key: Key,
    sampler: Sampler,
    posterior: LocalPosterior,
    data: InMemory,
    *,
    num_chains: int,
    num_draws: int,
    num_burn_in: int = 0,
    thinning: int = 1,
    stacked: bool = False,
    mesh: Mesh | None = None,
    on_steps: Callable[[int], Any] | None = None,
) -> Trace:
    """Run chains around one checkpoint, or around a group of them in one program.

    A draw is the position *before* a step; its loss is that of the step's batch, which the position has not seen. Nothing recompiles
    for other values of the hyperparameters of `sampler` and `posterior`.

    Args:
        key: a typed key, `jax.random.key(seed)`.
        sampler: what moves a chain; its numbers are scalars, or `[K]` where `stacked`.
        posterior: what is sampled.
        data: what batches are taken from.
        num_chains: C, independent chains for each checkpoint.
        num_draws: T, draws kept from each chain.
        num_burn_in: steps before the first draw.
        thinning: steps from one draw to the next.
        stacked: the leaves of `posterior.center` have a leading axis K, one row a checkpoint.
        mesh: devices, with axes named `chain` and `step` (checkpoints) or one of them; default all devices that divide the work.
        on_steps: called with the number of steps of each block that has ended.

    Raises:
        NotFiniteError: the loss at a centre is not finite.
        ValueError: a count below its least value, a mesh that does not divide the work, or a loss of the wrong shape.
    """
    check_counts(num_chains=num_chains, num_draws=num_draws, num_burn_in=num_burn_in, thinning=thinning)
    if not stacked:
        posterior = dataclasses.replace(posterior, center=broadcast_leading(posterior.center, 1))
    num_checkpoints = jax.tree.leaves(posterior.center)[0].shape[0]
    mesh = mesh or default_mesh(num_chains, num_checkpoints)
    _check_mesh(mesh, num_chains, num_checkpoints)

    per_checkpoint = partial(jnp.broadcast_to, shape=(num_checkpoints,))
    posterior = dataclasses.replace(
        posterior, nbeta=per_checkpoint(at_least_float32(posterior.nbeta)), localization=per_checkpoint(at_least_float32(posterior.localization))
    )
    sampler = jax.tree.map(lambda x: per_checkpoint(at_least_float32(x)), sampler)

    total = num_burn_in + (num_draws - 1) * thinning + 1
    block = math.ceil(total / math.ceil(total / BLOCK))
    state, reference, control = _start(key, sampler, posterior, data, mesh=mesh, num_chains=num_chains)
    full_center_loss = _fetch(reference.mean)
    if not np.isfinite(full_center_loss).all():
        raise NotFiniteError(int(np.flatnonzero(~np.isfinite(full_center_loss))[0]))
    losses: list[np.ndarray] = []
    pending = None
    for first in range(0, total, block):
        state, running = _block(key, sampler, posterior, data, state, reference.by_example, first, mesh=mesh, num_chains=num_chains, num_steps=block)
        if pending is not None:
            losses.append(_fetch(pending))
            _tell(on_steps, block)
        pending = running
    losses.append(_fetch(pending))
    _tell(on_steps, total - block * (len(losses) - 1))

    kept = np.concatenate(losses, axis=-1)[..., num_burn_in:total:thinning]
    trace = Trace(kept[0], kept[1], kept[2], full_center_loss, _fetch(control))
    return trace if stacked else Trace(*(x[0] for x in trace))


def check_counts(**counts: int) -> None:
    """Raise a ValueError that names the first count below its least value."""
    for name, value in counts.items():
        least = 0 if name == "num_burn_in" else 1
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


def sharpness(posterior: LocalPosterior, data: InMemory, mesh: Mesh) -> float:
    """The largest curvature of the potential at the centre (see `LocalPosterior.sharpness`), in the same context as the chains: no new trace."""
    return float(_sharpness(posterior, data, mesh=mesh))


@partial(jax.jit, static_argnames="mesh")
def _sharpness(posterior: LocalPosterior, data: InMemory, *, mesh: Mesh) -> jax.Array:
    at = jnp.zeros((), jnp.int32)
    measure = jax.shard_map(lambda p, d: p.sharpness(jax.random.key(0), d.batch(at)), mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    return measure(posterior, data)


def _tell(on_steps: Callable[[int], Any] | None, steps: int) -> None:
    if on_steps is not None:
        on_steps(steps)


def _check_mesh(mesh: Mesh, num_chains: int, num_checkpoints: int) -> None:
    unknown = set(mesh.axis_names) - {"chain", "step"}
    if unknown:
        raise ValueError(f"mesh has the axes {mesh.axis_names}; only 'chain' and 'step' (checkpoints) are known, {sorted(map(str, unknown))} are not.")
    for axis, size in (("chain", num_chains), ("step", num_checkpoints)):
        devices = mesh.shape.get(axis, 1)
        if size % devices:
            raise ValueError(f"mesh axis {axis!r} has {devices} devices, which do not divide {size}; use a multiple, or mesh=None.")
    if AxisType.Explicit in mesh.axis_types:
        raise ValueError("mesh axes must be AxisType.Auto (jax.make_mesh makes Explicit ones by default); pass axis_types=(AxisType.Auto, ...).")


def _fetch(array: Any) -> np.ndarray:
    """A device array on the host, also where other processes hold parts of it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils  # only a run of several processes needs it

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


class _Reference(NamedTuple):
    by_example: jax.Array | None  # [K, ...]: losses at the centre, laid out like the data; None where loss_fn gives means only
    mean: jax.Array  # [K]


def _axes(mesh: Mesh) -> tuple[str | None, str | None]:
    return tuple(axis if axis in mesh.axis_names else None for axis in ("step", "chain"))  # type: ignore[return-value]


@partial(jax.jit, static_argnames=("mesh", "num_chains"))
def _start(key: Key, sampler: Sampler, posterior: LocalPosterior, data: InMemory, *, mesh: Mesh, num_chains: int) -> tuple[Any, _Reference, jax.Array]:
    """States at the centres, the losses there, and the Gaussian control."""
    step_axis, chain_axis = _axes(mesh)

    def start(key: Key, sampler: Sampler, posterior: LocalPosterior, data: InMemory, chains: jax.Array) -> tuple[Any, _Reference, jax.Array]:
        reference = jax.vmap(lambda p: _center_losses(p, data, mesh, chain_axis))(posterior)
        state = jax.vmap(lambda s, p: s.init(p.position()))(sampler, posterior)
        states = broadcast_leading(state, chains.size)
        control = jax.vmap(lambda p, r: _gaussian_llc(key, chains, p, data, r), out_axes=0)(posterior, reference.by_example)
        return states, reference, control

    return jax.shard_map(
        start,
        mesh=mesh,
        in_specs=(P(), P(step_axis), P(step_axis), P(), P(chain_axis)),
        out_specs=(P(chain_axis, step_axis), P(step_axis), P(step_axis, chain_axis)),
        check_vma=False,
    )(key, sampler, posterior, data, jnp.arange(num_chains))


@partial(jax.jit, static_argnames=("mesh", "num_chains", "num_steps"), donate_argnames="state")
def _block(
    key: Key,
    sampler: Sampler,
    posterior: LocalPosterior,
    data: InMemory,
    state: Any,
    reference: jax.Array | None,
    first: jax.Array,
    *,
    mesh: Mesh,
    num_chains: int,
    num_steps: int,
) -> tuple[Any, jax.Array]:
    """`num_steps` steps of all chains: their new states, and `[3, K, C, num_steps]`: excess losses, losses at the centre, step bias."""
    step_axis, chain_axis = _axes(mesh)

    def block(
        key: Key, sampler: Sampler, posterior: LocalPosterior, data: InMemory, state: Any, reference: jax.Array | None, first: jax.Array, chains: jax.Array
    ) -> tuple[Any, jax.Array]:
        def one_chain(chain: jax.Array, state: Any, sampler: Sampler, posterior: LocalPosterior, reference: jax.Array | None) -> tuple[Any, jax.Array]:
            """The steps of one chain at one checkpoint. Batches and noise depend on the chain alone, so a group of checkpoints draws them once."""

            def step(state: Any, t: jax.Array) -> tuple[Any, jax.Array]:
                noise_key, batch_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, chain), t))
                window = data.window(batch_key)
                state, info = sampler.step(noise_key, state, posterior, data.batch(window))
                return state, jnp.stack([*_paired(info.losses, posterior, data, window, reference), info.step_bias])

            return jax.lax.scan(step, state, first + jnp.arange(num_steps))

        def one_group(chain: jax.Array, state: Any) -> tuple[Any, jax.Array]:
            return _batched(lambda *each: one_chain(chain, *each), checkpoint_width, state, sampler, posterior, reference)

        chain_width, checkpoint_width = _widths(one_chain, chains, state, sampler, posterior, reference)
        state, losses = _batched(one_group, chain_width, chains, state)
        return state, jnp.transpose(losses, (3, 1, 0, 2))

    return jax.shard_map(
        block,
        mesh=mesh,
        in_specs=(P(), P(step_axis), P(step_axis), P(), P(chain_axis, step_axis), P(step_axis), P(), P(chain_axis)),
        out_specs=(P(chain_axis, step_axis), P(None, step_axis, chain_axis)),
        check_vma=False,
    )(key, sampler, posterior, data, state, reference, first, jnp.arange(num_chains))


def _batched(function: Callable[..., Any], width: int, *arguments: Any) -> Any:
    """`vmap` over the leading axis, or a loop of `vmap`s of the given width."""
    size = jax.tree.leaves(arguments)[0].shape[0]
    if size == 1:  # a batch axis of one keeps a matrix product from the fast path of a CPU
        return jax.tree.map(lambda leaf: leaf[None], function(*jax.tree.map(lambda leaf: leaf[0], arguments)))
    if width >= size:
        return jax.vmap(function)(*arguments)
    return jax.lax.map(lambda each: function(*each), arguments, batch_size=width if width > 1 else None)


def _widths(one_chain: Callable[..., Any], chains: jax.Array, state: Any, sampler: Sampler, posterior: LocalPosterior, reference: Any) -> tuple[int, int]:
    """How many chains and checkpoints to run side by side on one device.

    All of them on an accelerator. On a CPU as many as keep what one step writes within the caches: a vmapped step beyond them is
    slower than one chain after the other. Checkpoints come first, since they share batches and noise.
    """
    num_chains, num_checkpoints = chains.size, jax.tree.leaves(posterior.center)[0].shape[0]
    if jax.default_backend() != "cpu":
        return num_chains, num_checkpoints
    first = jax.tree.map(lambda leaf: leaf[0], (sampler, posterior, reference))
    jaxpr = jax.make_jaxpr(one_chain)(chains[0], jax.tree.map(lambda leaf: leaf[0, 0], state), *first)
    side_by_side = max(1, CACHE_BYTES // _bytes_written(jaxpr.jaxpr))
    checkpoint_width = math.gcd(num_checkpoints, side_by_side) if side_by_side < num_checkpoints else num_checkpoints
    chain_width = max(
        width for width in range(1, num_chains + 1) if num_chains % width == 0 and width * checkpoint_width <= max(side_by_side, checkpoint_width)
    )
    return chain_width, checkpoint_width


def _bytes_written(jaxpr: Any) -> int:
    """Bytes of all intermediate results of a program, before any fusion."""
    total: int = 0
    for equation in jaxpr.eqns:
        inner = [_bytes_written(getattr(sub, "jaxpr", sub)) for sub in jaxprs_in_params(equation.params)]
        total += sum(inner) if inner else sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars if hasattr(v.aval, "size"))
    return total


def _paired(losses: jax.Array, posterior: LocalPosterior, data: InMemory, window: jax.Array, reference: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """What the losses of a batch exceed those of the same examples at the centre by, on average, and the mean loss there."""
    center = posterior.losses(posterior.position(), data.batch(window)) if reference is None else data.slice(reference, window)
    return (losses - center).mean(), center.mean()


def _center_losses(posterior: LocalPosterior, data: InMemory, mesh: Mesh, chain_axis: str | None) -> _Reference:
    """Losses of all examples at the centre, in batches as large as the chains', each device doing its share of them."""
    devices = 1 if chain_axis is None else mesh.shape[chain_axis]
    n, size = data.num_examples, data.batch_size
    share = math.ceil(math.ceil(n / size) / devices)
    first = 0 if chain_axis is None else jax.lax.axis_index(chain_axis) * share
    # The last windows would begin beyond the data: they begin at zero, and are dropped or overwritten below.
    starts = (first + jnp.arange(share, dtype=jnp.int32)) * size
    losses = jax.lax.map(lambda start: posterior.losses(posterior.position(), data.batch(jnp.where(start < n, start, jnp.zeros_like(start)))), starts)
    if chain_axis is not None:
        losses = jax.lax.all_gather(losses, chain_axis, tiled=True)
    if losses.ndim == 1:
        return _Reference(None, _mean_of_means(losses, posterior, data))
    by_example = losses.reshape(-1)[:n]
    return _Reference(data.wrap(by_example), by_example.mean())


def _mean_of_means(means: jax.Array, posterior: LocalPosterior, data: InMemory) -> jax.Array:
    """The mean over all examples where only means of batches are known: the last, shorter batch is run by itself."""
    n, size = data.num_examples, data.batch_size
    whole, rest = divmod(n, size)
    total = size * means[:whole].sum()
    if rest:
        total += rest * posterior.losses(posterior.position(), jax.tree.map(lambda leaf: leaf[whole * size : n], data.arrays))
    return total / n


def _gaussian_llc(key: Key, chains: jax.Array, posterior: LocalPosterior, data: InMemory, reference: jax.Array | None) -> jax.Array:
    r"""$n\beta\,(E[L(w^* + z)] - L(w^*))$ with $z \sim N(0, 1/\gamma)$, `[C]`: the control that no gradient went into."""

    def draw(key: Key) -> jax.Array:
        noise_key, batch_key = jax.random.split(key)
        window = data.window(batch_key)
        center = posterior.position()
        position = jax.tree.map(lambda w, z: w + z / jnp.sqrt(posterior.localization).astype(w.dtype), center, gaussian(noise_key, center))
        excess, _ = _paired(posterior.losses(position, data.batch(window)), posterior, data, window, reference)
        return jnp.asarray(posterior.nbeta) * excess

    # Steps count from 0 upwards; the control's keys lie far beyond any of them.
    places = jnp.uint32(2**32 - 1) - jnp.arange(CONTROL_DRAWS, dtype=jnp.uint32)
    of_chain = jax.vmap(lambda chain: jax.lax.map(lambda t: draw(jax.random.fold_in(jax.random.fold_in(key, chain), t)), places).mean())
    return of_chain(chains)
