"""The transformer whose components are compared: its training, its components by name, and the file by which its weights go to another package."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxllc
from jaxllc import _tree
from jaxllc.components import ComponentLike
from jaxllc.models import text
from jaxllc.models.transformer import Transformer, next_token_loss, token_losses

CONTEXT, WIDTH, LAYERS, HEADS = 32, 32, 2, 4
MATRICES = ("query", "key", "value", "output")
NUM_SEQUENCES = 64
TRAIN_SEQUENCES, TRAIN_BATCH, TRAIN_STEPS, NUM_CHECKPOINTS = 8192, 32, 1600, 16

MODEL = Transformer(text.VOCAB_SIZE, CONTEXT, WIDTH, LAYERS, HEADS)
LOSS = next_token_loss(MODEL)
TOKEN_LOSSES = token_losses(MODEL)


class Net(NamedTuple):
    """Checkpoints of one training run, and the sequences of its posterior."""

    checkpoints: dict[int, Any]
    tokens: np.ndarray
    """`[n, L + 1]`."""

    @property
    def last(self) -> Any:
        """The last checkpoint."""
        return self.checkpoints[max(self.checkpoints)]


def trained() -> Net:
    """Sixteen checkpoints of Adam on characters of Python's standard library."""
    windows = text.windows(text.standard_library().train, TRAIN_SEQUENCES, CONTEXT + 1)
    data, optimizer = jnp.asarray(windows), optax.adam(3e-3)

    def update(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        batch = data[jax.random.randint(key, (TRAIN_BATCH,), 0, len(data))]
        updates, state = optimizer.update(jax.grad(lambda p: LOSS(p, batch).mean())(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = MODEL.init_params(jax.random.key(0))
    carry, checkpoints, every = (params, optimizer.init(params)), {}, TRAIN_STEPS // NUM_CHECKPOINTS
    for i in range(NUM_CHECKPOINTS):
        carry, _ = jax.lax.scan(update, carry, jax.random.split(jax.random.fold_in(jax.random.key(1), i), every))
        checkpoints[(i + 1) * every] = jax.tree.map(np.asarray, carry[0])
    return Net(checkpoints, np.asarray(windows[:NUM_SEQUENCES]))


def component(name: str) -> ComponentLike:
    """What a name selects: `all`, a head as `l0h1`, or its part of one matrix as `l0h1 query`."""
    if name == "all":
        return None
    where, _, matrix = name.partition(" ")
    layer, _, head = where[1:].partition("h")
    return jaxllc.Heads(f"layers_{layer}/{matrix or '*'}", int(head))


def heads() -> list[str]:
    """All eight."""
    return [f"l{layer}h{head}" for layer in range(LAYERS) for head in range(HEADS)]


def parts() -> list[str]:
    """Of each head its four matrices: thirty-two."""
    return [f"{head} {matrix}" for head in heads() for matrix in MATRICES]


def write(path: Path, params: Any, tokens: np.ndarray, settings: Mapping[str, Any]) -> None:
    """The weights by path, the sequences and the settings of the chains."""
    leaves: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in _tree.named_leaves(params).items()}
    np.savez(path, tokens=tokens.astype(np.int64), settings=json.dumps(settings), **leaves)


def selected(names: Sequence[str]) -> dict[str, ComponentLike]:
    """Components by name."""
    return {name: component(name) for name in names}
