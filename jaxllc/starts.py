r"""Chains before their first iteration, and full-data quantities at the centres.

Chains start at $w^*$, or dispersed around it, so that R-hat, which compares chains, sees what one start would hide (Gelman & Rubin 1992).
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxllc._tree import broadcast_leading
from jaxllc._typing import Key, Params, Scalar
from jaxllc.data import InMemory
from jaxllc.full_data import CenterLosses, center_gradient, center_hessian, center_losses, gaussian_cloud, has_low_precision, rounding_cloud
from jaxllc.placement import axes_of, batched, largest_width, on_devices, vmap_width
from jaxllc.posterior import LocalPosterior
from jaxllc.sampler import Sampler
from jaxllc.samplers.noise import gaussian
from jaxllc.spectrum import Spectrum

HALVINGS = 6
"""Of the distance from $w^*$, until the potential allows a start."""
_DISPERSED = 2**32 - 1024
"""Where the noise of a start lies: iterations count from 0 upwards, and the clouds at the centre from the other end downwards."""


class Program(NamedTuple):
    """What a compiled program depends on, beside the shapes and static fields of its inputs."""

    mesh: Mesh
    num_chains: int
    kind: str
    """The classes in the sampler (see `kind_of`)."""
    disperses: bool
    """Whether some chains start away from the centres."""


class Inputs(NamedTuple):
    """What the programs read, of K checkpoints."""

    key: Key
    sampler: Sampler
    posterior: LocalPosterior
    data: InMemory
    dispersion: jax.Array
    """`float[]`."""


class Start(NamedTuple):
    """The chains before their first iteration, and full-data quantities at the centres."""

    state: Any
    """Of all chains, `[C, K, ...]`."""
    losses: CenterLosses
    center_grad: Params | None
    center_hessian: Spectrum | None
    gaussian_excess: jax.Array
    """`[K, C]`."""
    rounding_excess: jax.Array
    """`[K]`."""


def kind_of(sampler: Sampler) -> str:
    """The classes in a sampler, for the programs' keys.

    JAX takes two dataclasses with the same number of leaves and the same static fields for one structure whatever their classes (`SGHMC` and `SGNHT`,
    `Minibatch` and `ControlVariate`), and only their hashes differ. Where these meet in one slot of `jax.jit`'s table, another sampler's program would run.
    """
    return str(jax.tree.structure(sampler))


@partial(jax.jit, static_argnames="program")
def start_chains(inputs: Inputs, *, program: Program) -> Start:
    """States at the centres, the losses there, the gradient there if the sampler needs it, and the excess losses of clouds around them."""
    step_axis, chain_axis = axes_of(program.mesh)
    devices = 1 if chain_axis is None else program.mesh.shape[chain_axis]

    def start(inputs: Inputs, chains: jax.Array) -> Start:
        key, sampler, posterior, data, dispersion = inputs

        def at_center(posterior: LocalPosterior) -> tuple[CenterLosses, Params | None]:
            gradient = center_gradient(posterior, data, devices, chain_axis) if sampler.needs_center_grad else None
            return center_losses(posterior, data, devices, chain_axis), gradient

        def hessian_at(posterior: LocalPosterior) -> Spectrum:
            return center_hessian(posterior, data, sampler.hessian_rank)

        one = jax.tree.map(lambda leaf: leaf[0], posterior)
        largest = largest_width(lambda p: p.losses(p.position(), data.batch(jnp.zeros((), jnp.int32))), one)
        width = vmap_width(num_centers(posterior), largest)
        losses, gradient = batched(at_center, width, posterior)
        # LAPACK for a CPU spreads eight factorisations or more over the threads that the programs of all host devices share, and these wait for ever.
        hessian = batched(hessian_at, 1 if jax.default_backend() == "cpu" else width, posterior) if sampler.hessian_rank else None

        def clouds(posterior: LocalPosterior, by_example: jax.Array | None) -> tuple[jax.Array, jax.Array]:
            def of_chain(chain: jax.Array) -> jax.Array:
                return gaussian_cloud(key, chain, posterior, data, by_example)

            rounding = rounding_cloud(key, posterior, data, by_example) if has_low_precision(posterior) else jnp.zeros(())
            return batched(of_chain, vmap_width(chains.size, largest), chains), rounding

        cloud, rounding = batched(clouds, vmap_width(num_centers(posterior), largest // chains.size), posterior, losses.by_example)
        knowing = dataclasses.replace(posterior, center_grad=gradient, center_hessian=hessian)

        def states(chain: jax.Array) -> Any:
            """Those of one chain at all checkpoints, which share the noise."""
            noise = gaussian(jax.random.fold_in(jax.random.fold_in(key, chain), _DISPERSED), one.position())
            scale = jnp.where(chain % 2 == 1, dispersion, 0)
            width = vmap_width(num_centers(posterior), largest)
            return batched(lambda sampler, posterior: sampler.init(dispersed(noise, sampler, posterior, data, scale)), width, sampler, knowing)

        if program.disperses:
            state = jax.lax.map(states, chains)
        else:
            state = broadcast_leading(jax.vmap(lambda s, p: s.init(p.position()))(sampler, posterior), chains.size)
        return Start(state, losses, gradient, hessian, cloud, rounding)

    by_step = P(step_axis)
    return on_devices(
        start,
        program.mesh,
        in_specs=(specs(Inputs, P(), by_step, by_step, P(), P()), P(chain_axis)),
        out_specs=specs(Start, P(chain_axis, step_axis), specs(CenterLosses, by_step, by_step), by_step, by_step, P(step_axis, chain_axis), by_step),
    )(inputs, jnp.arange(program.num_chains))


def dispersed(noise: Params, sampler: Sampler, posterior: LocalPosterior, data: InMemory, scale: Scalar) -> Params:
    r"""A start with `scale` times the standard deviations of `Sampler.disperse`, or the largest half, quarter, ... of it that is no steep climb.

    A start must not leave the basin: $U$, on the first batch, may rise by twice what the Gaussian law foretells for these numbers, $s^2 \lVert z \rVert^2 / 2$.

    Args:
        noise: standard normal numbers, a position.
        sampler: whose law it is.
        posterior: around one checkpoint.
        data: what the batch is taken from.
        scale: $s$; 0 gives $w^*$.
    """
    batch = data.batch(jnp.zeros((), jnp.int32))
    center = posterior.position()
    square = sum(jnp.sum(jnp.square(z)).astype(jnp.float32) for z in jax.tree.leaves(noise))
    at_center = posterior.losses(center, batch)

    def start(scale: jax.Array) -> Params:
        return jax.tree.map(lambda x, w: x.astype(w.dtype), sampler.disperse(noise, posterior, scale), center)

    def rise(scale: jax.Array) -> jax.Array:
        position = start(scale)
        return posterior.potential(position, posterior.losses(position, batch) - at_center)

    scales = jnp.asarray(scale, jnp.float32) * 0.5 ** jnp.arange(HALVINGS, dtype=jnp.float32)
    rises = jax.lax.map(rise, scales)
    allowed = rises <= (jnp.square(scales[0]) * square).astype(rises.dtype)  # NaN is not
    return start(jnp.max(jnp.where(allowed, scales, 0.0)))


def specs(kind: Any, *parts: Any) -> Any:
    """Partition specs in the structure of a NamedTuple of arrays."""
    return kind(*parts)


def num_centers(posterior: LocalPosterior) -> int:
    """How many checkpoints a stack has."""
    return jax.tree.leaves(posterior.center)[0].shape[0]
