"""GPT-2 (Radford et al. 2019), with the weights and configurations of Hugging Face; its logits are those of `transformers`.

    config = gpt2.config_from("gpt2/config.json")
    params = jaxllc.SafetensorsCheckpoints("gpt2", convert=functools.partial(gpt2.params_from, config=config))[0]
    loss_fn = transformer.next_token_loss(gpt2.GPT2(config))

Dropout is left out. On GPUs and TPUs JAX multiplies float32 matrices at a lower precision unless `jax_default_matmul_precision` is "highest".
Shapes: B batch, L positions, D width, H heads, K width of a head, V vocabulary, C context.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxllc._typing import Key, Params
from jaxllc.models.decoder import Layer, Tensors, logits_of, normalise, read_config

_INIT = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the model, and the dtype of its computation; weights are cast to it where they are used, norms, softmax and logits are in float32."""

    vocab_size: int
    context: int
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    activation: str = "gelu_new"
    epsilon: float = 1e-5
    tied: bool = True
    dtype: Any = jnp.float32


class GPT2(nn.Module):
    """Embeddings of tokens and positions, pre-norm layers `h_0`, `h_1`, ..., and an unembedding, which is the embedding if these are tied.

    The leaves of `h_0/attention` all have an axis of heads, so that `jaxllc.Heads("h_0/attention/*", 1)` is head 1 of layer 0; the bias of the output,
    which is of no head, is `h_0/attention_bias`.
    """

    config: Config

    @nn.compact
    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        """Logits of the next token, `float[B, L, V]`."""
        c = self.config
        if tokens_BxL.shape[1] > c.context:
            raise ValueError(f"sequences of {tokens_BxL.shape[1]} tokens are longer than the context of {c.context}; cut them.")
        embedding_VxD = self.param("embedding", _INIT, (c.vocab_size, c.width))
        positions_CxD = self.param("positions", _INIT, (c.context, c.width))
        x_BxLxD = embedding_VxD.astype(c.dtype)[tokens_BxL] + positions_CxD.astype(c.dtype)[None, : tokens_BxL.shape[1]]
        for layer in range(c.num_layers):
            x_BxLxD = Layer(c.num_heads, c.mlp_width, c.activation, c.epsilon, c.dtype, name=f"h_{layer}")(x_BxLxD)
        x_BxLxD = normalise(x_BxLxD, "norm_final", c.epsilon, c.dtype)
        return logits_of(x_BxLxD, embedding_VxD.T if c.tied else self.param("unembedding", _INIT, (c.width, c.vocab_size)), c.dtype)

    def init_params(self, key: Key) -> Params:
        """Random weights."""
        return self.init(key, jnp.zeros((1, self.config.context), jnp.int32))["params"]


def config_from(config: Mapping[str, Any] | str | os.PathLike[str], dtype: Any = jnp.float32) -> Config:
    """The configuration of a model from Hugging Face's, as a dictionary or as the path of `config.json`.

    Args:
        config: with the names of `transformers.GPT2Config`; what it leaves out has the default values of that.
        dtype: of the computation.

    Raises:
        ValueError: it is of another model, or of a variant that is not there: attention that is not scaled by the width of a head, cross-attention.
    """
    values = read_config(config, "gpt2")
    for name, usual in {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}.items():
        if values.get(name, usual) != usual:
            raise ValueError(f"GPT-2 with {name} = {values[name]} is not implemented.")
    width = values.get("n_embd", 768)
    return Config(
        vocab_size=values.get("vocab_size", 50257),
        context=values.get("n_positions", 1024),
        width=width,
        num_layers=values.get("n_layer", 12),
        num_heads=values.get("n_head", 12),
        mlp_width=values.get("n_inner") or 4 * width,
        activation=values.get("activation_function", "gelu_new"),
        epsilon=values.get("layer_norm_epsilon", 1e-5),
        tied=values.get("tie_word_embeddings", True),
        dtype=dtype,
    )


def params_from(tensors: Mapping[str, Any], config: Config) -> Params:
    """The weights of `GPT2(config)` in float32 from the tensors of a safetensors file; for `SafetensorsCheckpoints(..., convert=)`.

    Raises:
        ValueError: a tensor is missing, has another shape than `config` says, or has no place in the model.
    """
    named, width, heads = Tensors(tensors, "transformer.", (".attn.bias", ".attn.masked_bias")), config.width, config.num_heads
    params: dict[str, Any] = {"embedding": named.take("wte.weight", config.vocab_size, width), "positions": named.take("wpe.weight", config.context, width)}
    for layer in range(config.num_layers):
        place = f"h.{layer}"
        kernels_Dx3xHxK = named.take(f"{place}.attn.c_attn.weight", width, 3 * width).reshape(width, 3, heads, -1)
        biases_3xHxK = named.take(f"{place}.attn.c_attn.bias", 3 * width).reshape(3, heads, -1)
        attention = {name: kernels_Dx3xHxK[:, i] for i, name in enumerate(("query", "key", "value"))}
        attention |= {f"{name}_bias": biases_3xHxK[i] for i, name in enumerate(("query", "key", "value"))}
        params[f"h_{layer}"] = {
            "attention_norm": named.norm(f"{place}.ln_1", width),
            "attention": attention | {"output": named.take(f"{place}.attn.c_proj.weight", width, width).reshape(heads, -1, width)},
            "attention_bias": named.take(f"{place}.attn.c_proj.bias", width),
            "mlp_norm": named.norm(f"{place}.ln_2", width),
            "mlp": {
                "in": {
                    "kernel": named.take(f"{place}.mlp.c_fc.weight", width, config.mlp_width),
                    "bias": named.take(f"{place}.mlp.c_fc.bias", config.mlp_width),
                },
                "out": {"kernel": named.take(f"{place}.mlp.c_proj.weight", config.mlp_width, width), "bias": named.take(f"{place}.mlp.c_proj.bias", width)},
            },
        }
    params["norm_final"] = named.norm("ln_f", width)
    if not config.tied or "lm_head.weight" in named:
        unembedding = named.take("lm_head.weight", config.vocab_size, width).T
        params |= {} if config.tied else {"unembedding": unembedding}
    return named.finish(params)
