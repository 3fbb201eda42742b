"""An attention-only transformer, in which induction heads form (Elhage et al. 2021; Olsson et al., arXiv:2209.11895).

Shapes: B batch, L positions, D width, H heads, K width of a head, V vocabulary.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxllc._typing import Params

_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class Attention(nn.Module):
    """Causal self-attention; positions enter queries and keys only, so that values carry no position (Press et al., arXiv:2012.15832).

    Examples:
        >>> from jaxllc.models.transformer import Attention
        >>> layer, x, positions = Attention(num_heads=4), jnp.ones((4, 16, 32)), jnp.ones((16, 32))
        >>> layer.init_with_output(jax.random.key(0), x, positions)[0].shape
        (4, 16, 32)
    """

    num_heads: int

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, positions_LxD: jax.Array) -> jax.Array:
        """The output of all heads, which is added to the residual stream, `float[B, L, D]`."""
        _, length, width = x_BxLxD.shape
        head_width = width // self.num_heads

        def project(name: str, inputs_BxLxD: jax.Array) -> jax.Array:
            return jnp.einsum("bld,dhk->bhlk", inputs_BxLxD, self.param(name, _INIT, (width, self.num_heads, head_width)))

        placed_BxLxD = x_BxLxD + positions_LxD[None]
        q_BxHxLxK, k_BxHxLxK, v_BxHxLxK = project("query", placed_BxLxD), project("key", placed_BxLxD), project("value", x_BxLxD)
        scores_BxHxLxL = jnp.einsum("bhqk,bhlk->bhql", q_BxHxLxK, k_BxHxLxK) / head_width**0.5
        causal_LxL = jnp.tril(jnp.ones((length, length), bool))
        pattern_BxHxLxL = nn.softmax(jnp.where(causal_LxL[None, None], scores_BxHxLxL, -1e30))
        self.sow("intermediates", "pattern", pattern_BxHxLxL)
        mixed_BxHxLxK = jnp.einsum("bhql,bhlk->bhqk", pattern_BxHxLxL, v_BxHxLxK)
        out_HxKxD = self.param("output", nn.initializers.normal((1 / width) ** 0.5), (self.num_heads, head_width, width))
        return jnp.einsum("bhlk,hkd->bld", mixed_BxHxLxK, out_HxKxD)


class Transformer(nn.Module):
    """Embedding, attention layers with layer norm on a residual stream, and an unembedding: no MLP.

    Args:
        vocab_size: V.
        context: the largest L.
        width: D.
        num_layers: one or two are the cases of interest; with one layer, induction is not possible.
        num_heads: H, which divides D.

    Examples:
        >>> from jaxllc.models.transformer import Transformer
        >>> params = Transformer(vocab_size=11, context=16).init_params(jax.random.key(1))
        >>> jax.tree.map(jnp.shape, params["layers_0"])
        {'key': (32, 4, 8), 'output': (4, 8, 32), 'query': (32, 4, 8), 'value': (32, 4, 8)}
    """

    vocab_size: int
    context: int
    width: int = 32
    num_layers: int = 2
    num_heads: int = 4

    @nn.compact
    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        """Logits of the next token, `float[B, L, V]`."""
        embedding_VxD = self.param("embedding", nn.initializers.normal(1.0), (self.vocab_size, self.width))
        positions_LxD = self.param("positions", nn.initializers.normal(1.0), (self.context, self.width))[: tokens_BxL.shape[1]]
        x_BxLxD = embedding_VxD[tokens_BxL]
        for layer in range(self.num_layers):
            x_BxLxD += Attention(self.num_heads, name=f"layers_{layer}")(nn.LayerNorm(name=f"norm_{layer}")(x_BxLxD), positions_LxD)
        return nn.LayerNorm(name="norm_final")(x_BxLxD) @ self.param("unembedding", _INIT, (self.width, self.vocab_size))

    def init_params(self, key: jax.Array) -> Params:
        """Random weights."""
        return self.init(key, jnp.zeros((1, self.context), jnp.int32))["params"]


def token_losses(model: nn.Module) -> Callable[[Params, jax.Array], jax.Array]:
    """`losses(params, tokens_BxL) -> float[B, L - 1]`: cross-entropy of each of the tokens 1 .. L-1 given those before, in nats.

    Examples:
        >>> from jaxllc.models.transformer import Transformer, token_losses
        >>> model = Transformer(vocab_size=11, context=16)
        >>> token_losses(model)(model.init_params(jax.random.key(1)), jnp.zeros((4, 17), jnp.int32)).shape
        (4, 16)
    """

    def losses(params: Params, tokens_BxL: jax.Array) -> jax.Array:
        tokens_BxL = tokens_BxL.astype(jnp.int32)
        logits_BxLxV: jax.Array = model.apply({"params": params}, tokens_BxL[:, :-1])  # pyright: ignore[reportAssignmentType]
        # A product with the one-hot target, since the gradient of a gather is a scatter, which is slow on CPUs and TPUs.
        target_BxLxV = jax.nn.one_hot(tokens_BxL[:, 1:], logits_BxLxV.shape[-1], dtype=logits_BxLxV.dtype)
        return jax.nn.logsumexp(logits_BxLxV, -1) - (logits_BxLxV * target_BxLxV).sum(-1)

    return losses


def next_token_loss(model: nn.Module) -> Callable[[Params, jax.Array], jax.Array]:
    """`loss_fn(params, tokens_BxL) -> float[B]`: cross-entropy of tokens 1 .. L-1 given those before, in nats per token.

    Examples:
        >>> from jaxllc.models.transformer import Transformer, next_token_loss
        >>> model = Transformer(vocab_size=11, context=16)
        >>> next_token_loss(model)(model.init_params(jax.random.key(1)), jnp.zeros((4, 17), jnp.int32)).shape
        (4,)
    """
    losses = token_losses(model)

    def loss_fn(params: Params, tokens_BxL: jax.Array) -> jax.Array:
        return losses(params, tokens_BxL).mean(-1)

    return loss_fn
