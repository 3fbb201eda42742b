r"""The one loop: a scan over steps, vmapped over chains and over a group of checkpoints, sharded over devices.

Every random number has a place: the step $t$ of chain $c$ uses `fold_in(fold_in(key, c), t)`, whatever the checkpoint, group or mesh.
So neighbouring checkpoints share their noise and their batches (common random numbers, drawn once for the whole group), and neither more
chains, nor another group size or mesh, nor a resumed run changes a chain (to rounding); only what is taken back of its step's bias (`held`) is of all chains.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllc import held
from jaxllc._tree import at_least_float32, broadcast_leading
from jaxllc._typing import Key, Params
from jaxllc.batching import batched, even_width, side_by_side
from jaxllc.data import InMemory
from jaxllc.devices import axes_of, check_mesh, default_mesh, fetch
from jaxllc.posterior import LocalPosterior
from jaxllc.reference import Reference, center_gradient, center_losses, gaussian_llc, paired
from jaxllc.samplers.base import Sampler
from jaxllc.watch import BLOCK, Watch, watched


class Trace(NamedTuple):
    """What a run leaves, as numpy arrays: K checkpoints, C chains, T draws; without K where one posterior was given."""

    excess_loss: np.ndarray
    r"""`[K, C, T]`: mean over the draw's batch of the loss at the draw minus the loss of the same example at $w^*$, nats per example."""
    center_loss: np.ndarray
    r"""`[K, C, T]`: mean loss of the same batch at $w^*$; their sum is the loss at the draw."""
    step_bias: np.ndarray
    r"""`[K, C, T]`: what the finite step adds to $\hat\lambda$, of which the mean counts: `Info.step_bias`, less what `held` takes back of it."""
    full_center_loss: np.ndarray
    r"""`[K]`: $L_n(w^*)$, over all examples."""
    gaussian_llc: np.ndarray
    r"""`[K, C]`: what $N(w^*, 1/\gamma)$, which knows no loss, gives in the place of the chain; inf or NaN where $\gamma = 0$."""
    watched: dict[str, np.ndarray] = {}  # noqa: RUF012 - of a NamedTuple, whose defaults are not changed
    """`[K, C, W, ...]` of each function of `watch`, at its W times."""


class NotFiniteError(ValueError):
    """The loss at a centre is not finite; `index` tells at which one of the stack."""

    def __init__(self, index: int) -> None:
        super().__init__(f"the loss at w* is not finite for checkpoint {index} of the stack.")
        self.index = index


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
    watch: Watch | None = None,
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
        watch: functions to evaluate along the chains, between blocks of steps.

    Raises:
        NotFiniteError: the loss at a centre is not finite.
        ValueError: a count below its least value, a mesh that does not divide the work, a loss of the wrong shape, minibatches for a sampler
            that needs all data, or no localization for one that takes its friction from it.
    """
    check_counts(num_chains=num_chains, num_draws=num_draws, num_burn_in=num_burn_in, thinning=thinning)
    posterior = dataclasses.replace(posterior, center=posterior.center if stacked else broadcast_leading(posterior.center, 1), center_grad=None)
    num_checkpoints = _num_centers(posterior)
    if getattr(sampler, "full_batch", False) and data.batch_size < data.num_examples:
        raise ValueError(
            f"{type(sampler).__name__} needs the loss of all {data.num_examples} examples at each step, but batches have {data.batch_size}; "
            "pass batch_size=None."
        )
    if getattr(sampler, "friction", 0.0) is None and np.any(np.asarray(posterior.localization) == 0):
        raise ValueError(
            f"{type(sampler).__name__}(friction=None) takes its friction from the localization, which is 0, and without any a chain does not forget its "
            "energy; pass friction=, in units of one over time (0.0 for none)."
        )
    mesh = mesh or default_mesh(num_chains, num_checkpoints)
    check_mesh(mesh, num_chains, num_checkpoints)

    per_checkpoint = partial(jnp.broadcast_to, shape=(num_checkpoints,))
    posterior = dataclasses.replace(
        posterior, nbeta=per_checkpoint(at_least_float32(posterior.nbeta)), localization=per_checkpoint(at_least_float32(posterior.localization))
    )
    sampler = jax.tree.map(lambda x: per_checkpoint(at_least_float32(x)), sampler)

    # Placed once: a program that finds its arguments elsewhere copies them again at each call.
    data = jax.device_put(data, NamedSharding(mesh, P()))
    sampler, posterior = jax.device_put((sampler, posterior), NamedSharding(mesh, P(axes_of(mesh)[0])))

    static: dict[str, Any] = dict(mesh=mesh, num_chains=num_chains, kind=kind_of(sampler))
    state, reference, center_grad, control = _start(key, sampler, posterior, data, **static)
    posterior = dataclasses.replace(posterior, center_grad=center_grad)
    full_center_loss = fetch(reference.mean)
    if not np.isfinite(full_center_loss).all():
        raise NotFiniteError(int(np.flatnonzero(~np.isfinite(full_center_loss))[0]))

    total = num_burn_in + (num_draws - 1) * thinning + 1
    block = math.ceil(total / math.ceil(total / BLOCK)) if watch is None else watch.block
    times = set() if watch is None else set(watch.times(num_burn_in, total).tolist())
    next_losses = num_burn_in + 1 if held.is_known(sampler, data, num_chains) else math.inf
    kept = _Kept(np.empty((3, num_checkpoints, num_chains, num_draws), full_center_loss.dtype), range(num_burn_in, total, thinning))
    pending: tuple[range, _Found] | None = None

    for first in range(0, total, block):
        steps = range(first, first + block)
        state, running = _block(key, sampler, posterior, data, state, reference.by_example, first, num_steps=block, **static)
        found = _Found(running)
        if watch is not None and steps.stop in times:
            found = found._replace(watched=watched(state.position, posterior, functions=watch.functions, mesh=mesh))
        if steps.stop >= next_losses:
            found = found._replace(losses=held.example_losses(state.position, posterior, data, mesh=mesh, by_example=reference.by_example is not None))
            next_losses = max(next_losses + BLOCK, steps.stop + 1)
        if pending is not None:
            kept.add(*pending, on_steps)
        pending = steps, found
    assert pending is not None
    kept.add(*pending, on_steps)

    excess, center, bias = kept.draws
    if kept.products:
        good = np.isfinite(excess).all(-1)
        variance = held.functional_variance(np.stack(kept.products), good)
        bias -= held.held_noise(sampler, posterior, data, kept.steps, variance, bias, good, mesh, static["kind"])[:, None, None].astype(bias.dtype)
    along = jax.tree.map(lambda *at_times: np.stack(at_times, 2), *kept.watched) if kept.watched else {}
    trace = Trace(excess, center, bias, full_center_loss, fetch(control), along)
    return trace if stacked else jax.tree.map(lambda x: x[0], trace)


class _Found(NamedTuple):
    """What a block of steps gives, on the devices."""

    running: jax.Array
    """`[3, K, C, steps]`, as `_block` gives it."""
    watched: dict[str, jax.Array] | None = None
    """At its end, where something is watched there."""
    losses: jax.Array | None = None
    """At its end, where chains are compared there (see `held.example_losses`)."""


@dataclasses.dataclass
class _Kept:
    """What a run keeps of its blocks, on the host; a block is fetched while the next one runs."""

    draws: np.ndarray
    """`[3, K, C, T]`."""
    steps: range
    """At which they are."""
    watched: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)
    products: list[np.ndarray] = dataclasses.field(default_factory=list)
    """Of the losses of any two chains (see `held.products`)."""

    def add(self, steps: range, found: _Found, on_steps: Callable[[int], Any] | None) -> None:
        """A block of these steps, of which the last ones may lie beyond the last draw."""
        running = fetch(found.running)
        first, stop = (min(max(-(-(step - self.steps.start) // self.steps.step), 0), len(self.steps)) for step in (steps.start, steps.stop))
        if first < stop:
            mine = self.steps[first:stop]
            self.draws[..., first:stop] = running[..., mine[0] - steps.start : mine[-1] - steps.start + 1 : mine.step]
        if found.watched is not None:
            self.watched.append(jax.tree.map(fetch, found.watched))
        if found.losses is not None:
            self.products.append(held.products(fetch(found.losses)))
        if on_steps is not None:
            on_steps(min(steps.stop, self.steps[-1] + 1) - steps.start)


def kind_of(sampler: Sampler) -> str:
    """The classes in a sampler, for the programs' keys.

    JAX takes two dataclasses with the same number of leaves and the same static fields for one structure whatever their classes (`SGHMC` and `SGNHT`,
    `Minibatch` and `ControlVariate`), and only their hashes differ. Where these meet in one slot of `jax.jit`'s table, another sampler's program would run.
    """
    return str(jax.tree.structure(sampler))


def check_counts(**counts: int) -> None:
    """Raise a ValueError that names the first count below its least value."""
    for name, value in counts.items():
        least = 0 if name == "num_burn_in" else 1
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


def sharpness(posterior: LocalPosterior, data: InMemory, mesh: Mesh) -> float:
    """The largest curvature of the potential at the centre (see `LocalPosterior.sharpness`), in the same context as the chains: no new trace."""
    rng = np.random.default_rng(0)  # on the host: a normal draw would have to be compiled
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), posterior.position())
    return float(_sharpness(posterior, data, direction, mesh=mesh))


@partial(jax.jit, static_argnames="mesh")
def _sharpness(posterior: LocalPosterior, data: InMemory, direction: Params, *, mesh: Mesh) -> jax.Array:
    at = jnp.zeros((), jnp.int32)
    measure = jax.shard_map(lambda p, d, v: p.sharpness(v, d.batch(at)), mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    return measure(posterior, data, direction)


def _num_centers(posterior: LocalPosterior) -> int:
    return jax.tree.leaves(posterior.center)[0].shape[0]


@partial(jax.jit, static_argnames=("mesh", "num_chains", "kind"))
def _start(
    key: Key, sampler: Sampler, posterior: LocalPosterior, data: InMemory, *, mesh: Mesh, num_chains: int, kind: str
) -> tuple[Any, Reference, Params | None, jax.Array]:
    """States at the centres, the losses there, the gradient there if the sampler needs it, and the Gaussian control."""
    step_axis, chain_axis = axes_of(mesh)
    devices = 1 if chain_axis is None else mesh.shape[chain_axis]
    wants_gradient = getattr(getattr(sampler, "gradient", None), "needs_center_grad", False)

    def start(key: Key, sampler: Sampler, posterior: LocalPosterior, data: InMemory, chains: jax.Array) -> tuple[Any, Reference, Params | None, jax.Array]:
        state = jax.vmap(lambda s, p: s.init(p.position()))(sampler, posterior)

        def at_center(posterior: LocalPosterior) -> tuple[Reference, Params | None]:
            gradient = center_gradient(posterior, data, devices, chain_axis) if wants_gradient else None
            return center_losses(posterior, data, devices, chain_axis), gradient

        one = jax.tree.map(lambda leaf: leaf[0], posterior)
        most = side_by_side(lambda p: p.losses(p.position(), data.batch(jnp.zeros((), jnp.int32))), one)
        reference, gradient = batched(at_center, even_width(_num_centers(posterior), most), posterior)

        def control(posterior: LocalPosterior, by_example: jax.Array | None) -> jax.Array:
            return batched(lambda chain: gaussian_llc(key, chain, posterior, data, by_example), even_width(chains.size, most), chains)

        controls = batched(control, even_width(_num_centers(posterior), most // chains.size), posterior, reference.by_example)
        return broadcast_leading(state, chains.size), reference, gradient, controls

    return jax.shard_map(
        start,
        mesh=mesh,
        in_specs=(P(), P(step_axis), P(step_axis), P(), P(chain_axis)),
        out_specs=(P(chain_axis, step_axis), P(step_axis), P(step_axis), P(step_axis, chain_axis)),
        check_vma=False,
    )(key, sampler, posterior, data, jnp.arange(num_chains))


@partial(jax.jit, static_argnames=("mesh", "num_chains", "kind", "num_steps"), donate_argnames="state")
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
    kind: str,
    num_steps: int,
) -> tuple[Any, jax.Array]:
    """`num_steps` steps of all chains: their new states, and `[3, K, C, num_steps]`: excess losses, losses at the centre, step bias."""
    step_axis, chain_axis = axes_of(mesh)

    def block(
        key: Key, sampler: Sampler, posterior: LocalPosterior, data: InMemory, state: Any, reference: jax.Array | None, first: jax.Array, chains: jax.Array
    ) -> tuple[Any, jax.Array]:
        def one_chain(chain: jax.Array, state: Any, sampler: Sampler, posterior: LocalPosterior, reference: jax.Array | None) -> tuple[Any, jax.Array]:
            """The steps of one chain at one checkpoint. Batches and noise depend on the chain alone, so a group of checkpoints draws them once."""

            def step(state: Any, t: jax.Array) -> tuple[Any, jax.Array]:
                noise_key, batch_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, chain), t))
                window = data.window(batch_key)
                state, info = sampler.step(noise_key, state, posterior, data.batch(window))
                return state, jnp.stack([*paired(info.losses, posterior, data, window, reference), info.step_bias])

            return jax.lax.scan(step, state, first + jnp.arange(num_steps))

        def one_group(chain: jax.Array, state: Any) -> tuple[Any, jax.Array]:
            return batched(lambda *each: one_chain(chain, *each), checkpoint_width, state, sampler, posterior, reference)

        # Checkpoints come first, since they share batches and noise.
        first_chain, num_checkpoints = jax.tree.map(lambda leaf: leaf[0], (chains, state, sampler, posterior, reference)), _num_centers(posterior)
        most = side_by_side(one_chain, first_chain[0], jax.tree.map(lambda leaf: leaf[0], first_chain[1]), *first_chain[2:])
        checkpoint_width = even_width(num_checkpoints, most)
        chain_width = even_width(chains.size, most // num_checkpoints)
        state, losses = batched(one_group, chain_width, chains, state)
        return state, jnp.transpose(losses, (3, 1, 0, 2))

    return jax.shard_map(
        block,
        mesh=mesh,
        in_specs=(P(), P(step_axis), P(step_axis), P(), P(chain_axis, step_axis), P(step_axis), P(), P(chain_axis)),
        out_specs=(P(chain_axis, step_axis), P(None, step_axis, chain_axis)),
        check_vma=False,
    )(key, sampler, posterior, data, state, reference, first, jnp.arange(num_chains))
