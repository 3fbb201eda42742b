"""A decoder with gated MLPs (as Touvron et al., arXiv:2302.13971), whose layers are scanned and which computes in bfloat16; for compiling at any size.

Shapes: B batch, L positions, D width, H heads, K width of a head, F hidden width, V vocabulary, N layers; E is D too, of what the heads give.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P


class Decoder(NamedTuple):
    """The sizes of a model: D, F, N, H, V."""

    width: int
    hidden: int
    num_layers: int
    num_heads: int
    vocab_size: int = 32_000
    axis: str = "model"
    """The mesh axis over which heads, hidden units and vocabulary are split."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights, by name."""
        d, n = self.width, self.num_layers
        heads = dict.fromkeys(("query", "key", "value", "output"), (n, d, d))
        mlp = dict.fromkeys(("gate", "up", "down"), (n, d, self.hidden))
        norms = {"attention_norm": (n, d), "mlp_norm": (n, d), "last_norm": (d,)}
        return {"embedding": (self.vocab_size, d), **heads, **mlp, **norms, "unembedding": (self.vocab_size, d)}

    def specs(self) -> dict[str, P]:
        """How tensor parallelism splits them."""
        split = {"embedding": P(self.axis, None), "unembedding": P(self.axis, None)}
        norms = ("attention_norm", "mlp_norm", "last_norm")
        return {name: P() if name in norms else split.get(name, P(None, None, self.axis)) for name in self.shapes()}

    def loss_fn(self) -> Callable[[Any, jax.Array], jax.Array]:
        """`loss_fn(params, tokens_BxL) -> float[B]`: cross-entropy of tokens 1 .. L-1 given those before, in nats per token."""

        def loss_fn(params: Any, tokens_BxL: jax.Array) -> jax.Array:
            low = {name: params[name].astype(jnp.bfloat16) for name in ("embedding", "unembedding", "last_norm")}
            layers = {name: leaf for name, leaf in params.items() if name not in low}
            x_BxLxD, _ = jax.lax.scan(partial(_layer, self.num_heads), low["embedding"][tokens_BxL[:, :-1]], layers)
            logits_BxLxV = jnp.einsum("bld,vd->blv", _normed(x_BxLxD, low["last_norm"]), low["unembedding"]).astype(jnp.float32)
            # A product with the one-hot target, since the gradient of a gather is a scatter.
            target_BxLxV = jax.nn.one_hot(tokens_BxL[:, 1:], self.vocab_size, dtype=logits_BxLxV.dtype)
            return (jax.nn.logsumexp(logits_BxLxV, -1) - (logits_BxLxV * target_BxLxV).sum(-1)).mean(-1)

        return loss_fn


def _normed(x_BxLxD: jax.Array, scale_D: jax.Array) -> jax.Array:
    square = jnp.mean(jnp.square(x_BxLxD.astype(jnp.float32)), -1, keepdims=True)
    return (x_BxLxD * jax.lax.rsqrt(square + 1e-6).astype(x_BxLxD.dtype)) * scale_D[None, None]


def _rotated(x_BxLxHxK: jax.Array) -> jax.Array:
    """Positions, as rotations of pairs of numbers (Su et al., arXiv:2104.09864)."""
    _, length, _, width = x_BxLxHxK.shape
    angles_LxK = jnp.arange(length, dtype=jnp.float32)[:, None] * 10_000.0 ** (-jnp.arange(width // 2, dtype=jnp.float32)[None] * 2 / width)
    cos, sin = (wave(angles_LxK)[None, :, None].astype(x_BxLxHxK.dtype) for wave in (jnp.cos, jnp.sin))
    first, second = jnp.split(x_BxLxHxK, 2, -1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], -1)


@partial(jax.checkpoint, static_argnums=0)
def _layer(num_heads: int, x_BxLxD: jax.Array, layer: dict[str, jax.Array]) -> tuple[jax.Array, None]:
    low = {name: leaf.astype(jnp.bfloat16) for name, leaf in layer.items()}
    inner_BxLxD = _normed(x_BxLxD, low["attention_norm"])
    query, key, value = ((inner_BxLxD @ low[name]).reshape(*x_BxLxD.shape[:2], num_heads, -1) for name in ("query", "key", "value"))
    scores_BxHxLxL = jnp.einsum("bqhk,blhk->bhql", _rotated(query), _rotated(key)).astype(jnp.float32) / value.shape[-1] ** 0.5
    causal_LxL = jnp.tril(jnp.ones(scores_BxHxLxL.shape[-2:], bool))
    pattern_BxHxLxL = jax.nn.softmax(jnp.where(causal_LxL[None, None], scores_BxHxLxL, -1e30)).astype(jnp.bfloat16)
    mixed_BxLxE = jnp.einsum("bhql,blhk->bqhk", pattern_BxHxLxL, value).reshape(x_BxLxD.shape)
    x_BxLxD = x_BxLxD + jnp.einsum("ble,de->bld", mixed_BxLxE, low["output"])
    inner_BxLxD = _normed(x_BxLxD, low["mlp_norm"])
    return x_BxLxD + jnp.einsum("blf,df->bld", jax.nn.silu(inner_BxLxD @ low["gate"]) * (inner_BxLxD @ low["up"]), low["down"]), None
