r"""A source of tokens in which nothing but induction helps beyond a bigram table, with its exact losses.

A fixed Markov chain, in which some tokens are *triggers*: what follows a trigger is drawn anew for each sequence and stays fixed within
it. A trigger comes with the same probability after every plain token, so nothing but its own past tells what follows it. A model that knows
all bigrams pays $\ln(\text{number of plain tokens})$ at every trigger; one that looks up what followed the trigger last time pays that
only the first time. Close to the bigram task of Bietti et al., arXiv:2306.00802.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxllc._typing import Key


@struct.dataclass
class Source:
    """The law of the sequences. Made by `make_source`; tokens below `num_triggers` are the triggers, the others are plain."""

    transitions: jax.Array
    """`[vocab, vocab]`, the chance of each next token in a row for each token, over all sequences: for a trigger, uniform over the plain tokens."""
    start: jax.Array
    """`[vocab]`, the stationary law of these transitions, which the first token has."""
    num_triggers: int = struct.field(pytree_node=False)


class Losses(NamedTuple):
    """What the best predictors pay for each token but the first, in nats, by position."""

    bigram: np.ndarray
    """Knowing the present token only, `[length]`; the same at every position."""
    induction: np.ndarray
    """Knowing all tokens so far, `[length]`: no model does better."""


def make_source(key: Key, vocab_size: int = 64, num_triggers: int = 8, trigger_rate: float = 0.5, spread: float = 0.1) -> Source:
    """Random transitions between the plain tokens.

    Args:
        key: of the transitions.
        vocab_size: triggers and plain tokens together.
        num_triggers: how many tokens are triggers.
        trigger_rate: the chance that a plain token is followed by a trigger, each as likely as the others.
        spread: the concentration of the Dirichlet law of the rows: small values leave few successors, large ones make them alike.

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
    """Sequences of `length` tokens and one more, `int32[num_sequences, length + 1]`: `length` predictions. Pure, for use inside a jitted step."""
    start_key, successor_key, step_key = jax.random.split(key, 3)
    vocab_size = len(source.start)
    successor_BxT = jax.random.randint(successor_key, (num_sequences, source.num_triggers), source.num_triggers, vocab_size)
    cumulative_VxV = jnp.cumsum(source.transitions, -1)
    last_V = vocab_size - 1 - jnp.argmax(source.transitions[:, ::-1] > 0, -1)  # sums that end below one give the last token that can come

    def following(token_B: jax.Array, uniform_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        plain_B = jnp.minimum((cumulative_VxV[token_B] <= uniform_B[:, None]).sum(-1), last_V[token_B])
        told_B = jnp.take_along_axis(successor_BxT, jnp.minimum(token_B, source.num_triggers - 1)[:, None], -1)[:, 0]
        token_B = jnp.where(token_B < source.num_triggers, told_B, plain_B)
        return token_B, token_B

    first_B = jax.random.categorical(start_key, jnp.log(source.start), shape=(num_sequences,)).astype(jnp.int32)
    _, tokens_LxB = jax.lax.scan(following, first_B, jax.random.uniform(step_key, (length, num_sequences)))
    return jnp.concatenate([first_B[:, None], tokens_LxB.T], -1)


def best_losses(source: Source, length: int) -> Losses:
    r"""The exact losses of the best predictors, in nats per token, at each of `length` positions.

    With $\pi$ the stationary law and $H_v$ the entropy of the row of token $v$ (for a trigger the logarithm of the number of plain tokens), the
    bigram loss is $\sum_v \pi_v H_v$ everywhere. The induction loss at position $i$ counts a trigger only where it has not stood before
    $i$, with probability $f_i$ for each trigger, by recursion over "plain", "another trigger" and "this trigger for the first time".
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
    """Where the tokens are triggers: the queries on which prefix matching is worth anything here."""
    return tokens < source.num_triggers
