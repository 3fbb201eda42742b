"""What the decoders of Hugging Face share: a layer of attention and MLP, and the tensors of a file, checked.

Shapes: B batch, L positions, D width, H heads, K width of a head, R rotated part of it, M width of the MLP, V vocabulary.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxllc._typing import Params

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_new": nn.gelu,
    "gelu_fast": nn.gelu,
    "gelu_pytorch_tanh": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
}
"""By their name in a configuration; all but the first of the gelus are its approximation with tanh."""

_INIT = nn.initializers.normal(0.02)


class Attention(nn.Module):
    """Causal self-attention with one axis of heads in each leaf, and none of its leaves without heads: its output has no bias.

    Args:
        num_heads: H.
        bias: whether query, key and value have one.
        rotary: how many components of each head are rotated, R, and the base of their wavelengths; R of 0 rotates none.
        dtype: of the computation; the softmax is in float32 at least.
    """

    num_heads: int
    bias: bool
    rotary: tuple[int, float]
    dtype: Any

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """The output of all heads, `float[B, L, D]`."""
        _, length, width = x_BxLxD.shape
        head_width = width // self.num_heads

        def project(name: str) -> jax.Array:
            weight_DxHxK = self.param(name, _INIT, (width, self.num_heads, head_width)).astype(self.dtype)
            out_BxHxLxK = jnp.einsum("bld,dhk->bhlk", x_BxLxD, weight_DxHxK)
            if self.bias:
                bias_HxK = self.param(f"{name}_bias", nn.initializers.zeros, (self.num_heads, head_width)).astype(self.dtype)
                out_BxHxLxK += bias_HxK[None, :, None, :]
            return out_BxHxLxK

        q_BxHxLxK, k_BxHxLxK, v_BxHxLxK = rotate(project("query"), *self.rotary), rotate(project("key"), *self.rotary), project("value")
        scores_BxHxLxL = jnp.einsum("bhqk,bhlk->bhql", q_BxHxLxK, k_BxHxLxK, preferred_element_type=wide(self.dtype)) / head_width**0.5
        causal_LxL = jnp.tril(jnp.ones((length, length), bool))
        pattern_BxHxLxL = nn.softmax(jnp.where(causal_LxL[None, None], scores_BxHxLxL, -1e30))
        self.sow("intermediates", "pattern", pattern_BxHxLxL)
        mixed_BxHxLxK = jnp.einsum("bhql,bhlk->bhqk", pattern_BxHxLxL.astype(self.dtype), v_BxHxLxK)
        out_HxKxD = self.param("output", _INIT, (self.num_heads, head_width, width)).astype(self.dtype)
        return jnp.einsum("bhlk,hkd->bld", mixed_BxHxLxK, out_HxKxD)


class Mlp(nn.Module):
    """One hidden layer, of width M; its leaves are `in/kernel`, `in/bias`, `out/kernel` and `out/bias`."""

    width: int
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """What is added to the residual stream, `float[B, L, D]`."""
        hidden_BxLxM = ACTIVATIONS[self.activation](nn.Dense(self.width, dtype=self.dtype, kernel_init=_INIT, name="in")(x_BxLxD))
        return nn.Dense(x_BxLxD.shape[-1], dtype=self.dtype, kernel_init=_INIT, name="out")(hidden_BxLxM)


class Layer(nn.Module):
    """Attention and MLP, each of the normalised residual stream, in parallel or one after the other. Arguments are those of its parts."""

    num_heads: int
    mlp_width: int
    activation: str
    epsilon: float
    dtype: Any
    bias: bool = True
    parallel: bool = False
    rotary: tuple[int, float] = (0, 1.0)

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """The residual stream after this layer, `float[B, L, D]`."""
        attention_BxLxD = Attention(self.num_heads, self.bias, self.rotary, self.dtype, name="attention")(
            normalise(x_BxLxD, "attention_norm", self.epsilon, self.dtype)
        )
        if self.bias:  # beside `attention`, whose leaves all have heads
            bias_D = self.param("attention_bias", nn.initializers.zeros, (x_BxLxD.shape[-1],)).astype(self.dtype)
            attention_BxLxD += bias_D[None, None]
        inner_BxLxD = x_BxLxD if self.parallel else x_BxLxD + attention_BxLxD
        mlp = Mlp(self.mlp_width, self.activation, self.dtype, name="mlp")
        return x_BxLxD + attention_BxLxD + mlp(normalise(inner_BxLxD, "mlp_norm", self.epsilon, self.dtype))


def wide(dtype: Any) -> Any:
    """A dtype, but float32 in the place of what is narrower: of softmax, normalisation and logits."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def normalise(x_BxLxD: jax.Array, name: str, epsilon: float, dtype: Any) -> jax.Array:
    """Layer norm, to be called within a compact method: its moments in float32 at least, the variance as the mean of squared differences."""
    norm = nn.LayerNorm(epsilon, dtype=wide(dtype), use_fast_variance=False, name=name)
    return norm(x_BxLxD.astype(wide(dtype))).astype(dtype)


def rotate(x_BxHxLxK: jax.Array, num_rotated: int, base: float) -> jax.Array:
    r"""Rotary embedding of positions 0 to L − 1 (arXiv:2104.09864): components $i$ and $i + R/2$ turn by $l \cdot \text{base}^{-2i/R}$, $i < R/2$."""
    if not num_rotated:
        return x_BxHxLxK
    dtype = wide(x_BxHxLxK.dtype)
    frequencies_I = base ** -(jnp.arange(0, num_rotated, 2, dtype=dtype) / num_rotated)
    angles_LxI = jnp.arange(x_BxHxLxK.shape[2], dtype=dtype)[:, None] * frequencies_I[None]
    cos_LxI, sin_LxI = (values.astype(x_BxHxLxK.dtype)[None, None] for values in (jnp.cos(angles_LxI), jnp.sin(angles_LxI)))
    first, second, rest = jnp.split(x_BxHxLxK, [num_rotated // 2, num_rotated], -1)
    return jnp.concatenate([first * cos_LxI - second * sin_LxI, second * cos_LxI + first * sin_LxI, rest], -1)


def logits_of(x_BxLxD: jax.Array, unembedding_DxV: jax.Array, dtype: Any) -> jax.Array:
    """Of the next token, in float32 at least, so that the cross-entropy is."""
    return jnp.einsum("bld,dv->blv", x_BxLxD, unembedding_DxV.astype(dtype), preferred_element_type=wide(dtype))


class Tensors:
    """The tensors of a file by name, in float32, each checked when it is taken.

    Args:
        tensors: as the file has them.
        prefix: that a name may have or not, as the weights of a model with or without its head do.
        buffers: endings of names of tensors that are no weights.
    """

    def __init__(self, tensors: Mapping[str, Any], prefix: str, buffers: Collection[str]) -> None:
        self._tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if not name.endswith(tuple(buffers))}
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def take(self, name: str, *shape: int) -> np.ndarray:
        """A tensor.

        Raises:
            ValueError: there is none, or it has another shape.
        """
        if name not in self._tensors:
            some = ", ".join(sorted(self._tensors)[:4]) or "nothing"
            raise ValueError(f"there is no tensor {name!r} (there are {some}, ...); the configuration or the architecture is not that of these weights.")
        tensor = np.asarray(self._tensors[name])
        if tensor.shape != shape:
            raise ValueError(
                f"the tensor {name!r} has the shape {tensor.shape}, and the configuration asks for {shape}; take the config.json of these weights."
            )
        self._taken.add(name)
        return tensor.astype(np.float32)

    def norm(self, name: str, width: int) -> dict[str, np.ndarray]:
        """The leaves of a layer norm."""
        return {"scale": self.take(f"{name}.weight", width), "bias": self.take(f"{name}.bias", width)}

    def finish(self, params: Params) -> Params:
        """The weights, each in one piece of memory.

        Raises:
            ValueError: tensors were left that the model has no place for.
        """
        left = sorted(set(self._tensors) - self._taken)
        if left:
            listed = ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
            raise ValueError(f"the model of this configuration has no place for {listed}; take the config.json of these weights.")
        return jax.tree.map(np.ascontiguousarray, params)


def read_config(config: Mapping[str, Any] | str | os.PathLike[str], model_type: str) -> Mapping[str, Any]:
    """A configuration of Hugging Face, or its file.

    Raises:
        ValueError: it is of another model, or its activation is not one of `ACTIVATIONS`.
    """
    values = config if isinstance(config, Mapping) else json.loads(Path(config).read_text())
    if values.get("model_type", model_type) != model_type:
        raise ValueError(f"the configuration is of a {values['model_type']!r}, not of a {model_type!r}.")
    for name in ("activation_function", "hidden_act"):
        if values.get(name, "gelu") not in ACTIVATIONS:
            raise ValueError(f"{name} {values[name]!r} is not one of {', '.join(ACTIVATIONS)}.")
    return values
