r"""The one loop: blocks of iterations, vmapped over chains and over a group of checkpoints, sharded over devices.

Every random number has a place: the iteration $t$ of chain $c$ uses `fold_in(fold_in(key, c), t)`, whatever the checkpoint, group or mesh.
So neighbouring checkpoints share their noise and their batches (common random numbers, drawn once for the whole group), and neither more
chains, nor another group size or mesh, nor a resumed run changes a chain (to rounding).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllc import stopping
from jaxllc._tree import at_least_float32, broadcast_leading
from jaxllc._typing import Key, Params
from jaxllc.chain import Chains, Iterations
from jaxllc.data import Drawn
from jaxllc.layout import layout_of
from jaxllc.placement import axes_of, batched, check_mesh, default_mesh, fetch, largest_width, on_devices, vmap_width
from jaxllc.posterior import LocalPosterior
from jaxllc.probes import Probe, Probes
from jaxllc.recording import Block, Recording, Trace, with_center_loss_seen
from jaxllc.sampler import Sampler
from jaxllc.settings import Counts, as_count
from jaxllc.starts import Inputs, Program, Start, kind_of, num_centers, specs, start_chains
from jaxllc.stream import Data, Stream
from jaxllc.timetable import Pace, Timetable, timetable


class NotFiniteError(ValueError):
    """The loss at a centre is not finite; `index` says at which one of the stack."""

    def __init__(self, index: int, message: str | None = None) -> None:
        super().__init__(message or f"the loss at w* is not finite for checkpoint {index} of the stack.")
        self.index = index


def sample(
    key: Key,
    sampler: Sampler,
    posterior: LocalPosterior,
    data: Data,
    *,
    stacked: bool = False,
    mesh: Mesh | None = None,
    probes: Probes | None = None,
    dispersion: float = 0.0,
    block: int | Pace | None = None,
    on_steps: Callable[[int], Any] | None = None,
    **counts: Unpack[Counts],
) -> Trace:
    """Run chains around one checkpoint, or around a group of them in one program.

    A draw is the position *before* an iteration; its loss is that of the iteration's batch, which it has not seen. New hyperparameters do not recompile.

    Args:
        key: a typed key, `jax.random.key(seed)`.
        sampler: what moves a chain; its numbers are scalars, or `[K]` where `stacked`.
        stacked: the leaves of `posterior.center` have a leading axis K, one entry a checkpoint.
        mesh: devices, with axes `chain` and `step` (checkpoints) or one of them, and those of split weights; default those of the weights, or all that fit.
        probes: functions to evaluate along the chains, between blocks of iterations (`jaxllc.Probe` with `every`).
        dispersion: see `jaxllc.Settings`.
        block: iterations between two returns to the host, at most, or a `jaxllc.timetable.Pace`; default as the sampler suggests.
        on_steps: called with the number of iterations of each block that has ended.
        counts: `num_chains`, C, and `num_draws`, T, which must be given, `num_burn_in` and `thinning` (see `jaxllc.Settings`).

    Raises:
        NotFiniteError: the loss at a centre is not finite.
        ValueError: a count below its least value, a mesh that does not divide the work, a loss of the wrong shape, or what the sampler cannot sample.

    Examples:
        >>> posterior, batches = jaxllc.LocalPosterior(loss_fn, params, nbeta=145.0), jaxllc.InMemory.of(data, batch_size=256)
        >>> trace = jaxllc.sample(jax.random.key(0), jaxllc.SGLD(1e-3), posterior, batches, num_chains=8, num_draws=500)
        >>> trace.excess_loss.shape
        (8, 500)
    """
    length = _length(counts)
    layout = layout_of(posterior.center, leading=int(stacked))
    center, mask = (tree if stacked else broadcast_leading(tree, 1) for tree in (posterior.center, posterior.mask))
    posterior = dataclasses.replace(posterior, center=center, mask=mask, center_grad=None, center_hessian=None, layout=layout)
    num_checkpoints = num_centers(posterior)
    sampler.check(posterior, data)
    mesh = mesh or default_mesh(length.num_chains, num_checkpoints, layout)
    check_mesh(mesh, length.num_chains, num_checkpoints, layout)
    program = Program(mesh, length.num_chains, kind_of(sampler), bool(dispersion))
    inputs, probe_data = _place(Inputs(key, sampler, posterior, data.resident, jnp.asarray(dispersion, jnp.float32)), probes or {}, mesh, num_checkpoints)

    start = start_chains(inputs, program=program)
    inputs = inputs._replace(posterior=dataclasses.replace(inputs.posterior, center_grad=start.center_grad, center_hessian=start.center_hessian))
    dtype = _check_finite(fetch(start.losses.mean)).dtype
    longest, pace = data.longest_block(length.num_chains, sampler.block), block if isinstance(block, Pace) else Pace(block)
    plan = timetable(probes or {}, length.num_burn_in, length.total, longest=longest, full_batch=sampler.full_batch, pace=pace)
    recording = Recording((num_checkpoints, length.num_chains, length.num_draws), length.draws, dtype, plan.probes, plan.every)
    blocks = data.blocks(inputs.key, length.num_chains, plan.spans(length.total, whole=isinstance(data, Stream)), mesh)
    state = _run(inputs, start, program, plan, blocks, probe_data, recording, on_steps)
    trace = _trace(recording, start, state, inputs, mesh, streams=isinstance(data, Stream))
    return trace if stacked else jax.tree.map(lambda x: x[0], trace)


def _trace(recording: Recording, start: Start, state: Any, inputs: Inputs, mesh: Mesh, *, streams: bool) -> Trace:
    """What was recorded, beside the quantities of the centres, `[K, ...]`."""
    gaussian_excess = fetch(start.gaussian_excess)
    share_moved = fetch(_share_moved(state.position, inputs.posterior, mesh=mesh)) if recording.repeats() else np.ones(gaussian_excess.shape)
    trace = recording.trace(fetch(start.losses.mean), gaussian_excess, fetch(start.rounding_excess), share_moved)
    return with_center_loss_seen(trace) if streams else trace


class Length(NamedTuple):
    """How many chains, and how long they are."""

    num_chains: int
    num_draws: int
    num_burn_in: int = 0
    thinning: int = 1

    @property
    def total(self) -> int:
        """Iterations of a chain."""
        return self.num_burn_in + (self.num_draws - 1) * self.thinning + 1

    @property
    def draws(self) -> range:
        """The iterations before which the position is a draw."""
        return range(self.num_burn_in, self.total, self.thinning)


def _length(counts: Counts) -> Length:
    if missing := sorted({"num_chains", "num_draws"} - set(counts)):
        raise TypeError(f"jaxllc.sample needs {missing[0]}=.")
    return Length(**{name: as_count(name, value) for name, value in counts.items()})


def _check_finite(losses: np.ndarray) -> np.ndarray:
    if not np.isfinite(losses).all():
        raise NotFiniteError(int(np.flatnonzero(~np.isfinite(losses))[0]))
    return losses


def _run(
    inputs: Inputs,
    start: Start,
    program: Program,
    plan: Timetable,
    blocks: Iterable[tuple[range, Drawn | None]],
    probe_data: Mapping[str, Any],
    recording: Recording,
    on_steps: Any,
) -> Any:
    """All blocks of a run, each recorded while the next one runs; gives the last states."""
    state, pending = start.state, None
    for iterations, drawn in blocks:
        stopping.check()
        room = plan.room if drawn is None else plan.block
        at = iterations.start, len(iterations) // plan.every
        state, running, slow = _block(inputs, state, start.losses.by_example, drawn, at, program=program, num_steps=room, every=plan.every)
        due = plan.due(iterations.stop)
        values = {name: plan.probes[name].at_chains(probe_data[name], state.position, inputs.posterior, program.mesh) for name in due}
        if pending is not None:
            recording.add(pending, on_steps)
        pending = Block(iterations, running, slow, values)
    assert pending is not None
    recording.add(pending, on_steps)
    return state


def _place(inputs: Inputs, probes: Mapping[str, Probe], mesh: Mesh, num_checkpoints: int) -> tuple[Inputs, dict[str, Any]]:
    """Numbers as `[K]`, and everything on its devices once: a program that finds its arguments elsewhere copies them again at each call."""
    per_checkpoint = partial(jnp.broadcast_to, shape=(num_checkpoints,))
    posterior = inputs.posterior
    posterior = dataclasses.replace(
        posterior, nbeta=per_checkpoint(at_least_float32(posterior.nbeta)), localization=per_checkpoint(at_least_float32(posterior.localization))
    )
    sampler = jax.tree.map(lambda x: per_checkpoint(at_least_float32(x)), inputs.sampler)
    everywhere = NamedSharding(mesh, P())
    data = inputs.data.on(mesh)
    by_step = NamedSharding(mesh, P(axes_of(mesh)[0]))
    center = posterior.center if posterior.layout is None else posterior.layout.place(posterior.center, mesh, axes_of(mesh)[0])
    sampler, posterior = jax.device_put((sampler, dataclasses.replace(posterior, center=None)), by_step)
    posterior = dataclasses.replace(posterior, center=center if posterior.layout else jax.device_put(center, by_step))
    probe_data = {name: data if probe.data is inputs.data else jax.device_put(probe.data, everywhere) for name, probe in probes.items()}
    return inputs._replace(sampler=sampler, posterior=posterior, data=data), probe_data


@partial(jax.jit, static_argnames=("program", "num_steps", "every"), donate_argnames="state")
def _block(
    inputs: Inputs, state: Any, by_example: Any, drawn: Drawn | None, at: tuple[Any, Any], *, program: Program, num_steps: int, every: int
) -> tuple[Any, jax.Array, jax.Array]:
    """Iterations of all chains: their new states, and the quantities that `recording.Block` names, the slow ones before each `every`th.

    `at` tells the first of them and how many times `every` they are; there is room for `num_steps`, beyond them zeros. Batches are `drawn`, `[C, num_steps]`
    of them, or where that is None cut from the data on the devices.
    """
    step_axis, chain_axis = axes_of(program.mesh)

    def block(inputs: Inputs, state: Any, by_example: jax.Array | None, at: tuple[jax.Array, jax.Array], chains: Chains) -> tuple[Any, jax.Array, jax.Array]:
        key, sampler, posterior, data, _ = inputs
        run = Iterations(key, data, *at, room=num_steps, every=every).run

        def one_group(chain: Chains, state: Any) -> tuple[Any, Any]:
            return batched(partial(run, chain), checkpoint_width, state, sampler, posterior, by_example)

        # Checkpoints come first, since they share batches and noise.
        first_chain, num_checkpoints = jax.tree.map(lambda leaf: leaf[0], (chains, state, sampler, posterior, by_example)), num_centers(posterior)
        largest = largest_width(run, first_chain[0], jax.tree.map(lambda leaf: leaf[0], first_chain[1]), *first_chain[2:])
        checkpoint_width = vmap_width(num_checkpoints, largest)
        chain_width = vmap_width(chains.number.size, largest // num_checkpoints)
        state, (running, slow) = batched(one_group, chain_width, chains, state)
        running, slow = (jnp.transpose(values, (3, 1, 0, 2, *range(4, values.ndim))) for values in (running, slow))
        return state, running, slow

    by_step, by_chain = P(step_axis), P(chain_axis, step_axis)
    return on_devices(
        block,
        program.mesh,
        in_specs=(specs(Inputs, P(), by_step, by_step, P(), P()), by_chain, by_step, P(), P(chain_axis)),
        out_specs=(by_chain, *[P(None, step_axis, chain_axis)] * 2),
    )(inputs, state, by_example, at, Chains.of(program.num_chains, drawn, every))


@partial(jax.jit, static_argnames="mesh")
def _share_moved(position: Params, posterior: LocalPosterior, *, mesh: Mesh) -> jax.Array:
    """The share of the weights of each chain that move which are not where they began, `[K, C]`."""
    step_axis, chain_axis = axes_of(mesh)

    def share(position: Params, posterior: LocalPosterior) -> jax.Array:
        center, masked = posterior.position(), posterior.masked(position)
        mask = jax.tree.map(lambda _: True, center) if posterior.mask is None else posterior.mask
        moved = sum(jnp.sum(w != c) for w, c in zip(jax.tree.leaves(masked), jax.tree.leaves(center), strict=True))
        return jnp.asarray(moved) / sum(jnp.sum(jnp.broadcast_to(m, c.shape)) for m, c in zip(jax.tree.leaves(mask), jax.tree.leaves(center), strict=True))

    def here(position: Params, posterior: LocalPosterior) -> jax.Array:
        return jnp.transpose(jax.vmap(lambda chain: jax.vmap(share)(chain, posterior))(position))

    by_chain = P(chain_axis, step_axis)
    return on_devices(here, mesh, in_specs=(by_chain, P(step_axis)), out_specs=P(step_axis, chain_axis))(position, posterior)
