"""Functions of the weights that are evaluated along the chains, between two blocks of steps."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxllc._typing import Params
from jaxllc.devices import axes_of
from jaxllc.posterior import LocalPosterior

BLOCK = 256
"""Steps between two returns to the host: what a progress bar, an interrupt or a store can see."""

Functions: TypeAlias = tuple[tuple[str, Callable[[Params], jax.Array]], ...]
"""Functions of all weights, with their names."""


class Watch(NamedTuple):
    """Functions that are evaluated along the chains, after every so many steps, at least one."""

    functions: Functions
    every: int

    def times(self, num_burn_in: int, num_steps: int) -> np.ndarray:
        """The steps after which they are, once burn-in is over: multiples of `every`."""
        times = np.arange(self.every, num_steps + 1, self.every)
        return times[times >= num_burn_in]

    @property
    def block(self) -> int:
        """Steps of a block that ends wherever functions are evaluated, at most `BLOCK`."""
        return max(size for size in range(1, min(self.every, BLOCK) + 1) if self.every % size == 0)


@partial(jax.jit, static_argnames=("functions", "mesh"))
def watched(position: Params, posterior: LocalPosterior, *, functions: Functions, mesh: Mesh) -> dict[str, jax.Array]:
    """Each function of the weights of all chains, `[K, C, ...]`: one chain after the other, since what they compute may be large."""
    step_axis, chain_axis = axes_of(mesh)

    def here(position: Params, posterior: LocalPosterior) -> dict[str, jax.Array]:
        def of_one(each: tuple[Params, LocalPosterior]) -> dict[str, jax.Array]:
            params = each[1].params(each[0])
            return {name: jnp.asarray(jax.jit(function)(params), jnp.float32) for name, function in functions}

        return jax.lax.map(lambda chain: jax.lax.map(of_one, (chain, posterior)), position)

    by_chain = P(chain_axis, step_axis)
    found = jax.shard_map(here, mesh=mesh, in_specs=(by_chain, P(step_axis)), out_specs=by_chain, check_vma=False)(position, posterior)
    return {name: jnp.swapaxes(values, 0, 1) for name, values in found.items()}
