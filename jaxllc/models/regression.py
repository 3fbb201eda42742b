r"""In-context linear regression: a transformer that must infer a task from examples (Garg et al., arXiv:2208.01066).

Each sequence has its own task $t \sim N(0, I_D)$ and $K$ examples $x_k \sim N(0, I_D)$, $y_k = t \cdot x_k + \sigma \xi_k$; the sizes are
those of Hoogland et al. (arXiv:2402.02364): $D = 4$, $K = 8$, $\sigma^2 = 0.125$. The loss is their mean squared error, not nats: it has the
units of $y^2$, and $1 / (2 \sigma^2) = 4$ times it, up to a constant, is nats per example under the true noise.

Shapes: B batch, K examples of a sequence, D their dimension, L = 2K − 1 tokens, W width.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxllc._typing import Key, Params
from jaxllc.models.transformer import Attention

NOISE_VARIANCE = 0.125


class RegressionTransformer(nn.Module):
    r"""Tokens $(0, x_1), (y_1, 0), (0, x_2), \ldots, (0, x_K)$, with the prediction of $y_k$ read at the token of $x_k$.

    Pre-norm layers of attention and MLP. Two things differ from Hoogland et al.: the last token $(y_K, 0)$, on which no prediction depends, is left
    out, and positions enter queries and keys only, as in `jaxllc.models.transformer.Transformer`.
    """

    dimension: int = 4
    num_examples: int = 8
    width: int = 64
    num_layers: int = 2
    num_heads: int = 4
    mlp_width: int = 64

    @nn.compact
    def __call__(self, x_BxKxD: jax.Array, y_BxK: jax.Array) -> jax.Array:
        """Predictions of all $y_k$ from the examples before them, `float[B, K]`."""
        tokens_BxLxD = interleave(x_BxKxD, y_BxK)
        positions_LxW = self.param("positions", nn.initializers.normal(1.0), (2 * self.num_examples - 1, self.width))[: tokens_BxLxD.shape[1]]
        x_BxLxW = nn.Dense(self.width, name="embedding")(tokens_BxLxD)
        for layer in range(self.num_layers):
            x_BxLxW += Attention(self.num_heads, name=f"layers_{layer}")(nn.LayerNorm(name=f"norm_{layer}")(x_BxLxW), positions_LxW)
            hidden_BxLxM = nn.relu(nn.Dense(self.mlp_width, name=f"mlp_in_{layer}")(nn.LayerNorm(name=f"mlp_norm_{layer}")(x_BxLxW)))
            x_BxLxW += nn.Dense(self.width, name=f"mlp_out_{layer}")(hidden_BxLxM)
        return nn.Dense(1, name="unembedding")(nn.LayerNorm(name="norm_final")(x_BxLxW[:, ::2]))[..., 0]

    def init_params(self, key: Key) -> Params:
        """Random weights."""
        return self.init(key, jnp.zeros((1, self.num_examples, self.dimension)), jnp.zeros((1, self.num_examples)))["params"]


def interleave(x_BxKxD: jax.Array, y_BxK: jax.Array) -> jax.Array:
    """The tokens, y in the first component and x in the others, `[B, 2K - 1, D + 1]`."""
    x_tokens_BxKxE = jnp.pad(x_BxKxD, ((0, 0), (0, 0), (1, 0)))
    y_tokens_BxKxE = jnp.pad(y_BxK[..., None], ((0, 0), (0, 0), (0, x_BxKxD.shape[-1])))
    both_BxKx2xE = jnp.stack([x_tokens_BxKxE, y_tokens_BxKxE], 2)
    return both_BxKx2xE.reshape(x_BxKxD.shape[0], -1, both_BxKx2xE.shape[-1])[:, :-1]


def draw(
    key: Key, num_sequences: int, num_examples: int = 8, dimension: int = 4, noise_variance: float = NOISE_VARIANCE, input_scale: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Sequences of examples, `x[n, K, D]` and `y[n, K]`; an `input_scale` other than 1 gives out-of-distribution inputs."""
    task_key, input_key, noise_key = jax.random.split(key, 3)
    task_BxD = jax.random.normal(task_key, (num_sequences, dimension))
    x_BxKxD = input_scale * jax.random.normal(input_key, (num_sequences, num_examples, dimension))
    noise_BxK = noise_variance**0.5 * jax.random.normal(noise_key, (num_sequences, num_examples))
    return x_BxKxD, jnp.einsum("bkd,bd->bk", x_BxKxD, task_BxD) + noise_BxK


def squared_loss(model: nn.Module) -> Callable[[Params, tuple[jax.Array, jax.Array]], jax.Array]:
    r"""`loss_fn(params, (x, y)) -> float[B]`: the mean over a sequence's K predictions of $(\hat y_k - y_k)^2$."""

    def loss_fn(params: Params, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        predicted_BxK: jax.Array = model.apply({"params": params}, *batch)  # pyright: ignore[reportAssignmentType]
        return jnp.square(predicted_BxK - batch[1]).mean(-1)

    return loss_fn


def zero_loss(batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    r"""The loss of the constant prediction 0, `float[B]`; its expectation is $D + \sigma^2$."""
    return jnp.square(batch[1]).mean(-1)


def ridge_predictions(batch: tuple[jax.Array, jax.Array], noise_variance: float = NOISE_VARIANCE) -> jax.Array:
    r"""The best predictions of $y_k$ from the examples before it, the posterior mean, `float[B, K]`: $x_k \cdot (X^\top X + \sigma^2 I)^{-1} X^\top y$."""
    x_BxKxD, y_BxK = batch
    gram_BxKxDxD, moment_BxKxD = _before(jnp.einsum("bkd,bke->bkde", x_BxKxD, x_BxKxD)), _before(x_BxKxD * y_BxK[..., None])
    ridge_DxD = noise_variance * jnp.eye(x_BxKxD.shape[-1])
    task_BxKxD = jnp.linalg.solve(gram_BxKxDxD + ridge_DxD[None, None], moment_BxKxD[..., None])[..., 0]
    return (x_BxKxD * task_BxKxD).sum(-1)


def ridge_loss(batch: tuple[jax.Array, jax.Array], noise_variance: float = NOISE_VARIANCE) -> jax.Array:
    """The loss of `ridge_predictions`, `float[B]`: no predictor has a smaller expected loss."""
    return jnp.square(ridge_predictions(batch, noise_variance) - batch[1]).mean(-1)


def _before(values_BxKx: jax.Array) -> jax.Array:
    """Sums over the examples before each one."""
    return jnp.cumsum(values_BxKx, 1) - values_BxKx
