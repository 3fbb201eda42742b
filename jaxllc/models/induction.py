r"""A source of tokens on which only induction improves on a bigram table, with the exact losses of both.

The source is a fixed Markov chain in which some tokens are *triggers*: the successor of a trigger is drawn anew for each sequence and stays fixed within it.
A trigger has the same probability after every plain token, so that only its own earlier occurrences predict its successor. A model that knows all bigrams has
the loss $\ln(\text{number of plain tokens})$ at every trigger; one that looks up the successor of the trigger's last occurrence has that loss only the first
time. It is close to the bigram task of Bietti et al., arXiv:2306.00802.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxllc._typing import Key


@struct.dataclass
class Source:
    """The distribution of the sequences, as `make_source` makes it. Tokens below `num_triggers` are the triggers, the others are plain."""

    transitions: jax.Array
    """`[vocab, vocab]`, the probability of each next token (second axis) after each token, over all sequences: uniform over plain tokens after a trigger."""
    start: jax.Array
    """`[vocab]`, the stationary distribution of these transitions, from which the first token is drawn."""
    num_triggers: int = struct.field(pytree_node=False)


class Losses(NamedTuple):
    """The losses of the best predictors at each predicted position, in nats per token."""

    bigram: np.ndarray
    """Of the best predictor that sees the present token only, `[length]`; the same at every position."""
    induction: np.ndarray
    """Of the best predictor that sees all tokens so far, `[length]`: no model does better."""


def make_source(key: Key, vocab_size: int = 64, num_triggers: int = 8, trigger_rate: float = 0.5, spread: float = 0.1) -> Source:
    """A source with random transitions between the plain tokens.

    Args:
        key: for the transitions.
        vocab_size: number of triggers and plain tokens together.
        num_triggers: number of triggers.
        trigger_rate: probability that a plain token is followed by a trigger; all triggers are equally likely.
        spread: concentration of the Dirichlet distribution of the transitions: small values give few likely successors, large ones nearly equal ones.

    Raises:
        ValueError: fewer than two plain tokens, no trigger, or a rate outside (0, 1).
    """
    if not 1 <= num_triggers <= vocab_size - 2:
        raise ValueError(f"num_triggers must lie between 1 and vocab_size - 2 = {vocab_size - 2}, got {num_triggers}.")
    if not 0 < trigger_rate < 1:
        raise ValueError(f"trigger_rate must lie between 0 and 1, got {trigger_rate}.")
    num_plain = vocab_size - num_triggers
    rows = np.asarray(jax.random.dirichlet(key, jnp.full(num_plain, spread), (num_plain,)), float)
    transitions = np.zeros((vocab_size, vocab_size))
    transitions[:num_triggers, num_triggers:] = 1 / num_plain
    transitions[num_triggers:, :num_triggers] = trigger_rate / num_triggers
    transitions[num_triggers:, num_triggers:] = (1 - trigger_rate) * rows / rows.sum(-1, keepdims=True)
    balance = np.vstack([transitions.T - np.eye(vocab_size), np.ones(vocab_size)])
    start = np.linalg.lstsq(balance, np.append(np.zeros(vocab_size), 1.0), rcond=None)[0].clip(0)
    return Source(jnp.asarray(transitions, jnp.float32), jnp.asarray(start / start.sum(), jnp.float32), num_triggers)


def draw(key: Key, source: Source, num_sequences: int, length: int) -> jax.Array:
    """Sequences with `length` predicted tokens, `int32[num_sequences, length + 1]`. Pure, for use inside a jitted step."""
    start_key, successor_key, step_key = jax.random.split(key, 3)
    vocab_size = len(source.start)
    successor_BxT = jax.random.randint(successor_key, (num_sequences, source.num_triggers), source.num_triggers, vocab_size)
    cumulative_VxV = jnp.cumsum(source.transitions, -1)
    last_V = vocab_size - 1 - jnp.argmax(source.transitions[:, ::-1] > 0, -1)  # the last possible token, for cumulative sums that end below one

    def following(token_B: jax.Array, uniform_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        plain_B = jnp.minimum((cumulative_VxV[token_B] <= uniform_B[:, None]).sum(-1), last_V[token_B])
        triggered_B = jnp.take_along_axis(successor_BxT, jnp.minimum(token_B, source.num_triggers - 1)[:, None], -1)[:, 0]
        token_B = jnp.where(token_B < source.num_triggers, triggered_B, plain_B)
        return token_B, token_B

    first_B = jax.random.categorical(start_key, jnp.log(source.start), shape=(num_sequences,)).astype(jnp.int32)
    _, tokens_LxB = jax.lax.scan(following, first_B, jax.random.uniform(step_key, (length, num_sequences)))
    return jnp.concatenate([first_B[:, None], tokens_LxB.T], -1)


def best_losses(source: Source, length: int) -> Losses:
    r"""The exact losses of the best predictors, in nats per token, at each of `length` predicted positions.

    With $\pi$ the stationary distribution and $H_v$ the entropy of the successor of token $v$ (for a trigger the logarithm of the number of plain tokens), the
    bigram loss is $\sum_v \pi_v H_v$ at every position. The induction loss counts a trigger only at its first occurrence. That a given trigger occurs at
    position $i$ for the first time has a probability that follows by recursion over the states "plain", "another trigger" and "this trigger, first time".
    """
    transitions, start, triggers = np.asarray(source.transitions, float), np.asarray(source.start, float), source.num_triggers
    entropies = -np.sum(transitions * np.log(np.where(transitions > 0, transitions, 1.0)), -1)
    rate = transitions[triggers:, :triggers].sum(-1)[0]
    plain, other, first = start[triggers:].sum(), start[1:triggers].sum(), start[0]
    first_time = np.zeros(length)
    for position in range(length):
        first_time[position] = first
        plain, other, first = (1 - rate) * plain + other, rate * (triggers - 1) / triggers * plain, rate / triggers * plain
    at_plain = start[triggers:] @ entropies[triggers:]
    at_trigger = np.log(len(start) - triggers)
    return Losses(
        bigram=np.full(length, at_plain + start[:triggers].sum() * at_trigger),
        induction=at_plain + triggers * first_time * at_trigger,
    )


def is_trigger(source: Source, tokens: jax.Array) -> jax.Array:
    """Where the tokens are triggers, the only queries where prefix matching lowers the loss; `bool` of the shape of `tokens`."""
    return tokens < source.num_triggers
