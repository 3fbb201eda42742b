"""The iterations of one chain at one checkpoint, as a pure function, which the engine vmaps and shards.

Random numbers are drawn by position, for several iterations at once: so much smaller than the gradient are what many small draws compute that starting them
would cost more.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllc._typing import Key
from jaxllc.data import Drawn, InMemory, keys_at
from jaxllc.full_data import known_losses, paired, probe_loss
from jaxllc.layout import stack_sums
from jaxllc.posterior import LocalPosterior, squared_distance
from jaxllc.sampler import Sampler

AHEAD = 16
"""Iterations whose random numbers are drawn at once, at most."""


class Chains(NamedTuple):
    """Chains, and the batches of a block that were drawn for them."""

    number: jax.Array
    drawn: Drawn | None
    """`[C, num_steps / every, every, ...]`."""

    @classmethod
    def of(cls, num_chains: int, drawn: Drawn | None, every: int) -> "Chains":
        """All chains, their batches `[C, num_steps, ...]` cut into stretches."""
        return cls(jnp.arange(num_chains), jax.tree.map(lambda leaf: leaf.reshape(num_chains, -1, every, *leaf.shape[2:]), drawn))


class Iterations(NamedTuple):
    """Of a block: what all chains share, and how many there are."""

    key: Key
    data: InMemory
    first: jax.Array
    """Number of the first of them."""
    stretches: jax.Array
    """How many times `every` are made."""
    room: int
    """For how many there is room, a multiple of `every`; beyond those that are made are zeros."""
    every: int
    """From one evaluation of the slow quantities to the next."""

    def run(
        self, chain: Chains, state: Any, sampler: Sampler, posterior: LocalPosterior, by_example: jax.Array | None
    ) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        """Run them; batches and noise depend on the chain alone, so a group of checkpoints draws them once.

        Args:
            chain: one of them.
            state: of its sampler.
            sampler: of one checkpoint.
            posterior: of one checkpoint.
            by_example: losses at w*, as `full_data.center_losses` gives them.

        Returns:
            The new state, and what `recording.Block` names: of each iteration, and the slow quantities before each `every`th.
        """
        key, data, every = self.key, self.data, self.every
        on_all_data = data.batch_size == data.num_examples and chain.drawn is None

        def wrapped(data_of_key: jax.Array) -> Key:
            return jax.random.wrap_key_data(data_of_key, impl=jax.random.key_impl(key))

        def step(state: Any, at: tuple[Any, jax.Array, jax.Array, Drawn | None]) -> tuple[Any, jax.Array]:
            ahead, data_of_key, window, drawn = at
            batch = data.batch(window) if drawn is None else drawn.batch
            state, info = sampler.step(wrapped(data_of_key) if ahead is None else ahead, state, posterior, batch)
            if posterior.mask is not None and not sampler.full_batch:  # coordinates that no weight follows need not wander
                state = state._replace(position=posterior.masked(state.position))
            accepted = () if info.acceptance_rate is None else (info.acceptance_rate,)
            on_noise = () if info.virial is None else (info.virial, window.astype(info.virial.dtype))
            pair = paired(info.losses, posterior, batch, None if drawn else known_losses(by_example, data, window))
            return state, stack_sums([*pair, info.step_bias, *accepted, *on_noise], posterior.layout)

        def some(state: Any, at: tuple[jax.Array, jax.Array, Drawn | None]) -> tuple[Any, jax.Array]:
            """Iterations whose random numbers are drawn at once."""
            ahead = jax.vmap(lambda data_of_key: sampler.ahead(wrapped(data_of_key), state.position))(at[0])
            return jax.lax.scan(step, state, (ahead, *at))

        def stretch(state: Any, at: tuple[jax.Array, Drawn | None]) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            before, (start, drawn) = state.position, at
            keys, windows = jax.vmap(partial(_random, key, data, chain.number))(start + jnp.arange(every))
            parts = (keys, windows if drawn is None else drawn.window, drawn)
            state, running = jax.lax.scan(some, state, jax.tree.map(lambda x: x.reshape(-1, math.gcd(every, AHEAD), *x.shape[1:]), parts))
            running = running.reshape(every, *running.shape[2:])
            loss = running[0, 0] if on_all_data else probe_loss(before, posterior, data, by_example)
            return state, (running, stack_sums([squared_distance(posterior.masked(before), posterior).astype(loss.dtype), loss], posterior.layout))

        starts = self.first + every * jnp.arange(self.room // every)
        state, (running, slow) = _scan_first(self.stretches, stretch, state, (starts, chain.drawn))
        return state, (running.reshape(self.room, *running.shape[2:]), slow)


def _scan_first(count: jax.Array, step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any) -> tuple[Any, Any]:
    """`jax.lax.scan` of `step`, of which only the first `count` steps are made; the others give zeros."""

    def at(i: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False), xs)

    def body(i: jax.Array, both: tuple[Any, Any]) -> tuple[Any, Any]:
        carry, ys = step(both[0], at(i))
        return carry, jax.tree.map(lambda whole, y: jax.lax.dynamic_update_index_in_dim(whole, y, i, 0), both[1], ys)

    size, one = jax.tree.leaves(xs)[0].shape[0], jax.eval_shape(step, carry, at(0))[1]
    return jax.lax.fori_loop(0, count, body, (carry, jax.tree.map(lambda y: jnp.zeros((size, *y.shape), y.dtype), one)))


def _random(key: Key, data: InMemory, chain: jax.Array, iteration: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The data of the key of an iteration's noise, and where its batch begins in the data on the devices."""
    noise_key, batch_key = keys_at(key, chain, iteration)
    return jax.random.key_data(noise_key), data.window(batch_key)
