"""Real text on which induction heads form: the tests of Python itself, a small transformer that reads them, and probes on text that it has not read."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllc import metrics
from jaxllc.models import python_text, text
from jaxllc.models.transformer import Transformer, next_token_loss, token_losses
from research.development.tasks import Task

SEQUENCES_A_STEP = 16
AVERAGE = 0.99
"""Decay of the moving average of the weights, which so spans 100 of 20 000 steps."""
C_CHARACTERS = 14_000_000
"""Of C headers, about as much text as Python's tests have."""
PROBED = 64
"""Held-out windows whose attention is scored."""


class Variant(NamedTuple):
    """What reads what."""

    num_layers: int = 2
    source: str = "tests"
    """`tests` of Python, `c` for the C headers of this machine, `few` for some of Python's modules."""
    vocab_size: int = 512
    context: int = 128
    width: int = 64

    @property
    def name(self) -> str:
        """For files and tables."""
        return f"{self.source}-{self.vocab_size}-{self.context}-{self.num_layers}"


def corpus(variant: Variant, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Tokens to learn from and held-out ones, `uint16`; kept in the folder, since the sources of another Python are another text."""
    path = folder / f"{variant.source}-{variant.vocab_size}.npz"
    if not path.exists():
        if variant.source == "c":
            train, held_out = _encoded(_c_headers(), variant.vocab_size)
        else:
            tests = variant.source == "tests"
            train, held_out, _ = python_text.python_text(variant.vocab_size, tests=tests, num_files=None if tests else 60)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, train=train, held_out=held_out)
    with np.load(path) as stored:
        return stored["train"], stored["held_out"]


def _c_headers() -> list[str]:
    texts, left = [], C_CHARACTERS
    for path in sorted(Path("/usr/include").rglob("*.h")):
        texts.append(path.read_bytes().decode("ascii", "replace").replace("\ufffd", "?").replace("\t", "    "))
        left -= len(texts[-1])
        if left < 0:
            break
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order]


def _encoded(texts: list[str], vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    train = [one for i, one in enumerate(texts) if i % 10]
    tokenizer = python_text.train_tokenizer(train, vocab_size)
    return python_text.encode(tokenizer, train), python_text.encode(tokenizer, texts[::10])


def make(variant: Variant, folder: Path, num_sequences: int) -> Task:
    """The task of a variant, with `num_sequences` windows of its text as the examples of the posterior.

    Attention is scored on held-out text: uniformly random tokens lie far outside of it, and the model's loss there is 8 to 10 nats. *In context* is the mean
    loss of the last quarter of a window less that of its first quarter.
    """
    model = Transformer(variant.vocab_size, variant.context, variant.width, num_layers=variant.num_layers)
    train, held_out = corpus(variant, folder)
    windows = jnp.asarray(text.windows(held_out, 4 * PROBED, variant.context + 1, seed=1).astype(np.int32))
    read = windows[:PROBED, :-1]
    quarter = variant.context // 4

    def in_context(losses_BxL: jax.Array) -> jax.Array:
        return losses_BxL[:, -quarter:].mean() - losses_BxL[:, :quarter].mean()

    probes = {
        "previous_token": metrics.pattern_probe(model, read, metrics.previous_token_score),
        "prefix_matching": metrics.pattern_probe(model, read, partial(metrics.prefix_matching_score, tokens_BxL=read)),
        "in_context": metrics.loss_probe(token_losses(model), windows, in_context),
    }
    data = jnp.asarray(text.windows(train, num_sequences, variant.context + 1))
    draw = partial(draw_windows, length=variant.context + 1)
    return Task(model, next_token_loss(model), draw, jnp.asarray(train), data, probes, optimizer(), AVERAGE)


def draw_windows(key: jax.Array, tokens: jax.Array, length: int) -> jax.Array:
    """A batch of windows of text."""
    starts = jax.random.randint(key, (SEQUENCES_A_STEP,), 0, tokens.shape[0] - length + 1)
    return tokens[starts[:, None] + jnp.arange(length)[None]]


def optimizer() -> optax.GradientTransformation:
    """AdamW at 5e-3 after 100 steps of warm-up; all leaves but the scales and biases of norms decay."""
    rate = optax.linear_schedule(0.0, 5e-3, 100)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.05, mask=_is_matrix))


def _is_matrix(params: object) -> object:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
