"""GPT-NeoX (Black et al., arXiv:2204.06745), such as the Pythia models (arXiv:2304.01373), with the weights and configurations of Hugging Face.

    config = gpt_neox.config_from("pythia-14m/step1000/config.json")
    checkpoints = jaxllc.SafetensorsCheckpoints("pythia-14m", convert=functools.partial(gpt_neox.params_from, config=config))
    loss_fn = transformer.next_token_loss(gpt_neox.GPTNeoX(config))

Its logits are those of `transformers`. Dropout is left out. On GPUs and TPUs JAX multiplies float32 matrices at a lower precision unless
`jax_default_matmul_precision` is "highest".
Shapes: B batch, L positions, D width, H heads, K width of a head, V vocabulary.
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
    """Sizes of the model, and the dtype of its computation; weights are cast to it where they are used, norms, softmax and logits are in float32.

    `rotated` is how many components of each head rotary embeddings turn; `parallel` whether attention and MLP of a layer see the same residual stream;
    `bias` whether attention has biases.
    """

    vocab_size: int
    context: int
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    rotated: int
    rotary_base: float = 10_000.0
    activation: str = "gelu"
    epsilon: float = 1e-5
    parallel: bool = True
    bias: bool = True
    tied: bool = False
    dtype: Any = jnp.float32


class GPTNeoX(nn.Module):
    """An embedding, pre-norm layers `h_0`, `h_1`, ... with rotary positions, and an unembedding, which is the embedding if these are tied.

    The leaves of `h_0/attention` all have an axis of heads, so that `jaxllc.Heads("h_0/attention/*", 1)` is head 1 of layer 0; the bias of the output,
    which is of no head, is `h_0/attention_bias`.
    """

    config: Config

    @nn.compact
    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        """Logits of the next token, `float[B, L, V]`."""
        c = self.config
        embedding_VxD = self.param("embedding", _INIT, (c.vocab_size, c.width))
        x_BxLxD = embedding_VxD.astype(c.dtype)[tokens_BxL]
        for layer in range(c.num_layers):
            x_BxLxD = Layer(c.num_heads, c.mlp_width, c.activation, c.epsilon, c.dtype, c.bias, c.parallel, (c.rotated, c.rotary_base), name=f"h_{layer}")(
                x_BxLxD
            )
        x_BxLxD = normalise(x_BxLxD, "norm_final", c.epsilon, c.dtype)
        return logits_of(x_BxLxD, embedding_VxD.T if c.tied else self.param("unembedding", _INIT, (c.width, c.vocab_size)), c.dtype)

    def init_params(self, key: Key) -> Params:
        """Random weights."""
        return self.init(key, jnp.zeros((1, 2), jnp.int32))["params"]


def config_from(config: Mapping[str, Any] | str | os.PathLike[str], dtype: Any = jnp.float32) -> Config:
    """The configuration of a model from Hugging Face's, as a dictionary or as the path of `config.json`.

    Args:
        config: with the names of `transformers.GPTNeoXConfig`, those of version 5 (`rope_parameters`) or before (`rotary_pct`, `rotary_emb_base`); what it
            leaves out has the default values of that.
        dtype: of the computation.

    Raises:
        ValueError: it is of another model, or its rotary embedding is scaled.
    """
    values = read_config(config, "gpt_neox")
    rope = values.get("rope_parameters") or {}
    scaling = values.get("rope_scaling") or rope
    if scaling.get("rope_type", scaling.get("type", "default")) != "default":
        raise ValueError(f"GPT-NeoX with scaled rotary embeddings, {dict(scaling)}, is not implemented.")
    width, heads = values.get("hidden_size", 6144), values.get("num_attention_heads", 64)
    share = rope.get("partial_rotary_factor", values.get("rotary_pct", 0.25))
    return Config(
        vocab_size=values.get("vocab_size", 50432),
        context=values.get("max_position_embeddings", 2048),
        width=width,
        num_layers=values.get("num_hidden_layers", 44),
        num_heads=heads,
        mlp_width=values.get("intermediate_size", 24576),
        rotated=int(width // heads * share),
        rotary_base=float(rope.get("rope_theta", values.get("rotary_emb_base", 10_000))),
        activation=values.get("hidden_act", "gelu"),
        epsilon=values.get("layer_norm_eps", 1e-5),
        parallel=values.get("use_parallel_residual", True),
        bias=values.get("attention_bias", True),
        tied=values.get("tie_word_embeddings", False),
        dtype=dtype,
    )


def params_from(tensors: Mapping[str, Any], config: Config) -> Params:
    """The weights of `GPTNeoX(config)` in float32 from the tensors of a safetensors file; for `SafetensorsCheckpoints(..., convert=)`.

    Raises:
        ValueError: a tensor is missing, has another shape than `config` says, or has no place in the model.
    """
    buffers = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
    named, width, heads = Tensors(tensors, "gpt_neox.", buffers), config.width, config.num_heads
    params: dict[str, Any] = {"embedding": named.take("embed_in.weight", config.vocab_size, width)}
    for layer in range(config.num_layers):
        place = f"layers.{layer}"
        kernels_Hx3xKxD = named.take(f"{place}.attention.query_key_value.weight", 3 * width, width).reshape(heads, 3, -1, width)
        attention = {name: kernels_Hx3xKxD[:, i].transpose(2, 0, 1) for i, name in enumerate(("query", "key", "value"))}
        attention["output"] = named.take(f"{place}.attention.dense.weight", width, width).T.reshape(heads, -1, width)
        weights: dict[str, Any] = {"attention": attention}
        if config.bias:
            biases_Hx3xK = named.take(f"{place}.attention.query_key_value.bias", 3 * width).reshape(heads, 3, -1)
            attention |= {f"{name}_bias": biases_Hx3xK[:, i] for i, name in enumerate(("query", "key", "value"))}
            weights["attention_bias"] = named.take(f"{place}.attention.dense.bias", width)
        weights["attention_norm"] = named.norm(f"{place}.input_layernorm", width)
        weights["mlp_norm"] = named.norm(f"{place}.post_attention_layernorm", width)
        weights["mlp"] = {
            "in": _dense(named, f"{place}.mlp.dense_h_to_4h", width, config.mlp_width),
            "out": _dense(named, f"{place}.mlp.dense_4h_to_h", config.mlp_width, width),
        }
        params[f"h_{layer}"] = weights
    params["norm_final"] = named.norm("final_layer_norm", width)
    head = "embed_out.weight" if "embed_out.weight" in named else "lm_head.weight"
    if not config.tied or head in named:
        unembedding = named.take(head, config.vocab_size, width).T
        params |= {} if config.tied else {"unembedding": unembedding}
    return named.finish(params)


def _dense(named: Tensors, name: str, inputs: int, outputs: int) -> dict[str, Any]:
    return {"kernel": named.take(f"{name}.weight", outputs, inputs).T, "bias": named.take(f"{name}.bias", outputs)}
