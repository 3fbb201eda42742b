r"""Functions of the weights beside the loss: evaluated at each checkpoint, along its chains, or both; kept whole or reduced as they come."""

import dataclasses
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxllc._tree import at_least_float32, stack
from jaxllc._typing import Batch, LossFn, Params
from jaxllc.data import InMemory
from jaxllc.placement import axes_of, batched, largest_width, on_devices, vmap_width
from jaxllc.posterior import LocalPosterior
from jaxllc.reductions import REDUCTIONS
from jaxllc.sampler import BLOCK

LONGEST_BLOCK = 1024
"""Iterations of a block where a probe's `every` has no large divisor."""

Reduce: TypeAlias = Literal["mean", "covariance", "between_chains"]


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """A function of the weights, or of the weights and data, whose values go beside the coefficient.

    Args:
        fn: `fn(params) -> array`, or `fn(params, data) -> array` where data is given; a real array of a fixed shape.
        data: a pytree of arrays, handed over as it is; other values do not recompile.
        every: iterations of a chain from one evaluation to the next, after burn-in; None evaluates at the checkpoint alone. Chains return to the host at
            the common divisor of the `every`s of all probes, so let them divide one another.
        reduce: what is kept of the evaluations along a chain. None keeps each of them; "mean" their mean and variance, "covariance" their mean and the
            covariances of all elements of the array; "between_chains" the covariances over elements of any two chains, by which
            chains that explore different functions are seen. With the last three memory does not
            grow with the number of evaluations.
        at_checkpoint: also at the checkpoint itself, where it is kept whole.

    Raises:
        TypeError: `fn` is no function.
        ValueError: `every` is below one, `reduce` is not known, or it is given without `every`.

    Examples:
        >>> norm = jaxllc.Probe(lambda params: jnp.linalg.norm(params["linear"]))  # at each checkpoint
        >>> along = jaxllc.Probe(norm.fn, every=10)  # and along its chains
        >>> losses = jaxllc.Probe(loss_fn, data, every=10, reduce="mean")  # mean and variance over the draws of each chain
        >>> est = jaxllc.estimate(loss_fn, params, data, sampler=jaxllc.SGLD(1e-3), probes={"norm": along, "loss": losses}, key=jax.random.key(0))
        >>> est.data["along_chains/norm"].dims, est.data["along_chains/loss_mean"].shape
        (('chain', 'evaluation'), (8, 1000))
    """

    fn: Callable[..., jax.Array]
    data: Batch | None = None
    every: int | None = None
    reduce: Reduce | None = None
    at_checkpoint: bool = True

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"a probe must be a function fn(params), got {type(self.fn).__name__}.")
        if self.every is not None:
            if isinstance(self.every, bool) or not isinstance(self.every, int | np.integer):
                raise TypeError(f"Probe(every) must be a whole number of iterations, got {self.every!r}.")
            if self.every < 1:
                raise ValueError(f"Probe(every) must be at least 1, got {self.every}.")
        if self.reduce is not None and self.reduce not in REDUCTIONS:
            raise ValueError(f"Probe(reduce) must be None or one of {', '.join(map(repr, REDUCTIONS))}, got {self.reduce!r}.")
        if not (self.along_chains or self.at_checkpoint):
            raise ValueError("Probe(at_checkpoint=False) is evaluated along the chains alone, so it needs every=.")
        if self.reduce is not None and not self.along_chains:
            raise ValueError(f"Probe(reduce={self.reduce!r}) reduces evaluations along the chains, so it needs every=.")

    @property
    def along_chains(self) -> bool:
        """Whether it is evaluated along the chains."""
        return self.every is not None

    def at_chains(self, data: Batch | None, position: Params, posterior: LocalPosterior, mesh: Mesh) -> jax.Array:
        """Its values at the positions of all chains, `[C, K, ...]` in float32 at least.

        Args:
            data: its data, on the devices of the mesh.
            position: of all chains, `[C, K, ...]`.
            posterior: of K checkpoints.
            mesh: where the chains run.
        """
        return _at_chains(data, position, posterior, function=self.fn, mesh=mesh)

    @property
    def block(self) -> int:
        """Iterations of a block that ends wherever the probe is evaluated along the chains, at most `BLOCK`, or up to `LONGEST_BLOCK` where it is `every`.

        0 where it asks for none.
        """
        every = self.every or 0
        return max((size for size in range(1, min(every, LONGEST_BLOCK) + 1) if every % size == 0 and size in (every, min(size, BLOCK))), default=0)

    def times(self, num_burn_in: int, num_steps: int, block: int) -> np.ndarray:
        """The iterations after which it is evaluated along a chain, once burn-in is over: multiples of `every`, and of the length of a block."""
        if self.every is None:
            return np.zeros(0, np.int64)
        times = np.arange(self.every, num_steps + 1, self.every)
        return times[times >= num_burn_in]


Probes: TypeAlias = Mapping[str, Probe]
"""Probes by name."""
ProbesLike: TypeAlias = Mapping[str, "Probe | Callable[[Params], jax.Array]"]
"""Probes by name; a function stands for the probe of it at each checkpoint."""

COMPARED_EXAMPLES, COMPARED_BATCHES, COMPARED_MEANS = 1024, 32, 16
"""Whose losses are compared, in whole batches and not too many; or the means of so many batches, where `loss_fn` gives means only."""


@dataclasses.dataclass(frozen=True)
class _LossesOfBatches:
    r"""Losses of the first examples in the order of the data, `[example]`; where only means are known, those of batches times $\sqrt B$, which vary as much."""

    loss_fn: LossFn

    def __call__(self, params: Params, data: InMemory) -> jax.Array:
        size = data.batch_size
        by_example = jax.eval_shape(jax.jit(self.loss_fn), params, data.batch(jnp.zeros((), jnp.int32))).ndim > 0
        num_batches = min(min(-(-COMPARED_EXAMPLES // size), COMPARED_BATCHES) if by_example else COMPARED_MEANS, data.num_examples // size)
        starts = jnp.arange(num_batches, dtype=jnp.int32) * size
        losses = jax.lax.map(lambda start: at_least_float32(jax.jit(self.loss_fn)(params, data.batch(start))), starts)
        return losses.reshape(-1) if by_example else losses * jnp.sqrt(jnp.asarray(size, losses.dtype))


class LossesBetweenChains(Probe):
    """How the losses of the same examples differ between chains: their covariances over examples, about every `BLOCK` iterations after burn-in."""

    def __init__(self, loss_fn: LossFn, data: InMemory) -> None:
        super().__init__(_LossesOfBatches(loss_fn), data, BLOCK, "between_chains", at_checkpoint=False)

    @property
    def block(self) -> int:
        """Any will do."""
        return 0

    def times(self, num_burn_in: int, num_steps: int, block: int) -> np.ndarray:
        """The ends of blocks after burn-in, `BLOCK` iterations apart, or a block where that is longer."""
        times, least = [], num_burn_in + 1
        for stop in range(block, num_steps + block, block):
            if stop >= least:
                times.append(stop)
                least = max(least + BLOCK, stop + 1)
        return np.asarray(times, np.int64)


def as_probes(probes: ProbesLike | None, taken: tuple[str, ...]) -> dict[str, Probe]:
    """The probes as a dictionary, whose names can be those of arrays.

    Raises:
        TypeError: no mapping from names to probes or functions.
        ValueError: a name that is no identifier, or one that is `taken`.
    """
    if probes is None:
        return {}
    if not isinstance(probes, Mapping):
        raise TypeError(f"probes must be a mapping from names to jaxllc.Probe, got {type(probes).__name__}.")
    for name, probe in probes.items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"a probe is named by an identifier such as 'prefix_matching', got {name!r}.")
        if name in taken or re.search(r"_dim_\d+$|_(mean|variance|covariance|between_chains)$", name):
            raise ValueError(f"the probe {name!r} has the name of something else in the result; give it another.")
        if not (isinstance(probe, Probe) or callable(probe)):
            raise TypeError(f"the probe {name!r} must be a jaxllc.Probe or a function fn(params), got {type(probe).__name__}.")
    return {name: probe if isinstance(probe, Probe) else Probe(probe) for name, probe in probes.items()}


def shapes(probes: Probes, params: Params) -> dict[str, list[int]]:
    """The shape of each probe's array, without computing any.

    Raises:
        TypeError: one of them gives something other than one real array.
        ValueError: one gives an array without elements.
    """
    sizes = {}
    for name, probe in probes.items():
        try:
            value = jax.eval_shape(jax.jit(probe.fn), *_arguments(jax.tree.map(jnp.asarray, params), _on_device(probe.data)))
        except Exception as error:
            error.add_note(f"in the probe {name!r}, which was given the weights of the first checkpoint")
            raise
        if not isinstance(value, jax.ShapeDtypeStruct):
            raise TypeError(f"the probe {name!r} must give one array, got {type(value).__name__}; make several probes of it.")
        if not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == bool):
            raise TypeError(f"the probe {name!r} must give real numbers, got {value.dtype}.")
        if 0 in value.shape:
            raise ValueError(f"the probe {name!r} gives an array of shape {value.shape}, which holds nothing.")
        sizes[name] = list(value.shape)
    return sizes


def at_checkpoints(probes: Probes, checkpoints: Sequence[Params]) -> dict[str, np.ndarray]:
    """Each probe at some checkpoints, `[K, ...]` in float32; one program for as many of them."""
    probes = {name: probe for name, probe in probes.items() if probe.at_checkpoint}
    if not probes:
        return {}
    stacked = stack(list(checkpoints))

    def of_all(probe: Probe) -> np.ndarray:
        data = _on_device(probe.data)

        def of_one(params: Params) -> jax.Array:
            return jax.jit(probe.fn)(*_arguments(params, data))

        largest = largest_width(of_one, jax.tree.map(lambda leaf: leaf[0], stacked))
        return np.asarray(batched(of_one, vmap_width(len(checkpoints), largest), stacked), np.float32)

    return {name: of_all(probe) for name, probe in probes.items()}


@partial(jax.jit, static_argnames=("function", "mesh"))
def _at_chains(data: Batch | None, position: Params, posterior: LocalPosterior, *, function: Callable[..., jax.Array], mesh: Mesh) -> jax.Array:
    step_axis, chain_axis = axes_of(mesh)

    def here(data: Batch | None, position: Params, posterior: LocalPosterior) -> jax.Array:
        def of_one(position: Params, posterior: LocalPosterior) -> jax.Array:
            return at_least_float32(jax.jit(function)(*_arguments(posterior.params(position), data)))

        chains, checkpoints = jax.tree.leaves(position)[0].shape[:2]
        first = jax.tree.map(lambda leaf: leaf[0], (jax.tree.map(lambda leaf: leaf[0], position), posterior))
        largest = largest_width(of_one, *first)

        def of_group(position: Params) -> jax.Array:
            return batched(of_one, vmap_width(checkpoints, largest), position, posterior)

        return batched(of_group, vmap_width(chains, largest // checkpoints), position)

    by_chain = P(chain_axis, step_axis)
    return on_devices(here, mesh, in_specs=(P(), by_chain, P(step_axis)), out_specs=by_chain)(data, position, posterior)


def _arguments(params: Params, data: Batch | None) -> tuple[Any, ...]:
    return (params,) if data is None else (params, data)


def _on_device(data: Batch | None) -> Any:
    return None if data is None else jax.tree.map(jnp.asarray, data)


def AlongChains(functions: Mapping[str, Callable[[Params], jax.Array]], *, every: int) -> dict[str, Probe]:  # noqa: N802 - the name of what it replaces
    """Deprecated: probes along the chains; write `{name: Probe(fn, every=every)}`.

    Examples:
        >>> probes = {"norm": jaxllc.Probe(lambda params: jnp.linalg.norm(params["linear"]), every=50)}
    """
    warnings.warn("jaxllc.AlongChains is deprecated; pass probes={name: jaxllc.Probe(fn, every=...)}.", DeprecationWarning, stacklevel=2)
    return {name: Probe(function, every=every) for name, function in functions.items()}
