"""The small nets of the zoo, and their training. Trained weights are kept in results/zoo/, since the references are for these very weights.

Shapes: B batch, P pixels, H hidden units, C classes, L positions, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.report import RESULTS
from jaxllc.models.transformer import Attention

WEIGHTS = RESULTS / "zoo"
"""One file a training run, with the weights of each of its stages."""

LossFn = Callable[[Any, Any], jax.Array]


def trained(
    name: str, loss_fn: LossFn, init: Callable[[], Any], data: Any, stages: Sequence[int], *, rate: float = 3e-3, batch_size: int | None = None
) -> list[Any]:
    """The weights after each of these numbers of Adam steps, from the file of this name or by training.

    Args:
        name: of the file.
        loss_fn: whose mean is minimised.
        init: makes the first weights; called for their structure also where the file is there.
        data: what batches are drawn from.
        stages: steps of training, rising.
        rate: of learning.
        batch_size: examples a step; None takes all.
    """
    path = WEIGHTS / f"{name}.npz"
    params = init()
    structure = jax.tree.structure(params)
    if not path.exists():
        WEIGHTS.mkdir(exist_ok=True, parents=True)
        leaves = {f"{stage}/{i}": leaf for stage, at in _train(loss_fn, params, data, stages, rate, batch_size) for i, leaf in enumerate(jax.tree.leaves(at))}
        np.savez_compressed(path, **jax.tree.map(np.asarray, leaves))
    with np.load(path) as stored:
        return [jax.tree.unflatten(structure, [jnp.asarray(stored[f"{stage}/{i}"]) for i in range(structure.num_leaves)]) for stage in stages]


def _train(loss_fn: LossFn, params: Any, data: Any, stages: Sequence[int], rate: float, batch_size: int | None) -> list[tuple[int, Any]]:
    optimizer = optax.adam(rate)
    count = len(jax.tree.leaves(data)[0])

    def update(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        batch = data
        if batch_size is not None:
            rows = jax.random.randint(key, (batch_size,), 0, count)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
        updates, state = optimizer.update(jax.grad(lambda p: loss_fn(p, batch).mean())(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry, keys: jax.lax.scan(update, carry, keys)[0])
    carry, keys, before, kept = (params, optimizer.init(params)), jax.random.split(jax.random.key(0), stages[-1]), 0, []
    for stage in stages:
        carry, before = run(carry, keys[before:stage]), stage
        kept.append((stage, carry[0]))
    return kept


def dense(widths: Sequence[int], key: jax.Array) -> list[dict[str, jax.Array]]:
    """Layers of a multilayer perceptron that preserve the variance of activations."""
    keys = jax.random.split(key, len(widths))
    return [{"w": jax.random.normal(k, (i, o)) / i**0.5, "b": jnp.zeros(o)} for k, i, o in zip(keys, widths[:-1], widths[1:], strict=False)]


def forward(layers: Sequence[dict[str, jax.Array]], x: jax.Array, activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The outputs of a multilayer perceptron."""
    for layer in layers[:-1]:
        x = activation(x @ layer["w"] + layer["b"][None])
    return x @ layers[-1]["w"] + layers[-1]["b"][None]


def regression_loss(activation: Callable[[jax.Array], jax.Array]) -> LossFn:
    """Half the squared error of a multilayer perceptron: nats under unit noise, up to a constant."""
    return lambda params, batch: 0.5 * jnp.square(forward(params, batch[0], activation) - batch[1]).sum(-1)


def classes_loss(apply: Callable[[Any, jax.Array], jax.Array]) -> LossFn:
    """Cross-entropy of the classes, in nats."""

    def loss_fn(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits_BxC = apply(params, batch[0])
        return jax.nn.logsumexp(logits_BxC, -1) - (logits_BxC * jax.nn.one_hot(batch[1], logits_BxC.shape[-1], dtype=logits_BxC.dtype)).sum(-1)

    return loss_fn


def init_cnn(key: jax.Array, channels: tuple[int, int] = (4, 8)) -> dict[str, jax.Array]:
    """Two convolutions of 3 by 3 with stride 2, on images of 8 by 8, and a linear layer."""
    first, second = channels
    keys = jax.random.split(key, 3)
    return {
        "first": jax.random.normal(keys[0], (3, 3, 1, first)) / 3, "first_bias": jnp.zeros(first),
        "second": jax.random.normal(keys[1], (3, 3, first, second)) / (9 * first) ** 0.5, "second_bias": jnp.zeros(second),
        "output": jax.random.normal(keys[2], (4 * second, 10)) / (4 * second) ** 0.5, "output_bias": jnp.zeros(10),
    }  # fmt: skip


def cnn(params: dict[str, jax.Array], images_BxP: jax.Array) -> jax.Array:
    """Logits of the ten digits."""
    x = images_BxP.reshape(-1, 8, 8, 1)
    for name in ("first", "second"):
        x = jax.lax.conv_general_dilated(x, params[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + params[f"{name}_bias"][None, None, None])
    return x.reshape(len(x), -1) @ params["output"] + params["output_bias"][None]


class GPT(nn.Module):
    """A decoder as GPT-2's: learned positions, pre-norm blocks of attention and an MLP of four times the width, a tied unembedding.

    Positions enter queries and keys only, as in `jaxllc.models.transformer`.
    """

    vocab_size: int
    context: int
    width: int = 12
    num_layers: int = 1
    num_heads: int = 2

    @nn.compact
    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        """Logits of the next token, `float[B, L, V]`."""
        embedding_VxD = self.param("embedding", nn.initializers.normal(0.3), (self.vocab_size, self.width))
        positions_LxD = self.param("positions", nn.initializers.normal(0.3), (self.context, self.width))[: tokens_BxL.shape[1]]
        x_BxLxD = embedding_VxD[tokens_BxL]
        for layer in range(self.num_layers):
            x_BxLxD += Attention(self.num_heads, name=f"attention_{layer}")(nn.LayerNorm(name=f"norm_{layer}")(x_BxLxD), positions_LxD)
            hidden = nn.gelu(nn.Dense(4 * self.width, name=f"mlp_in_{layer}")(nn.LayerNorm(name=f"mlp_norm_{layer}")(x_BxLxD)))
            x_BxLxD += nn.Dense(self.width, name=f"mlp_out_{layer}")(hidden)
        return nn.LayerNorm(name="norm_final")(x_BxLxD) @ embedding_VxD.T

    def init_params(self, key: jax.Array) -> Any:
        """Random weights."""
        return self.init(key, jnp.zeros((1, self.context), jnp.int32))["params"]
