"""Addition modulo a prime, which a small net first memorises and much later generalises: grokking (Power et al., arXiv:2201.02177).

The net has one hidden layer on two one-hot inputs, the smallest that groks (Gromov, arXiv:2301.02679), with cross-entropy in nats.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxllc._typing import Key, LossFn, Params

Pairs = tuple[jax.Array, jax.Array]
"""Pairs of terms, `int32[n, 2]`, and their sums, `int32[n]`."""


class ModularNet(nn.Module):
    """`relu(U[a] + V[b]) @ W`: an embedding for each term, one hidden layer.

    Args:
        modulus: p, the number of values of each term and of the sum.
        width: of the hidden layer.
    """

    modulus: int
    width: int = 128

    @nn.compact
    def __call__(self, terms_Bx2: jax.Array) -> jax.Array:
        """Logits of the sum, `float[B, p]`."""
        init = nn.initializers.normal(self.width**-0.5)
        first_PxW, second_PxW = (self.param(name, init, (self.modulus, self.width)) for name in ("first", "second"))
        output_WxP = self.param("output", init, (self.width, self.modulus))
        return nn.relu(first_PxW[terms_Bx2[:, 0]] + second_PxW[terms_Bx2[:, 1]]) @ output_WxP

    def init_params(self, key: Key) -> Params:
        """Random weights."""
        return self.init(key, jnp.zeros((1, 2), jnp.int32))["params"]


def split(key: Key, modulus: int, train_fraction: float) -> tuple[Pairs, Pairs]:
    """All `modulus²` sums, shuffled and split into a training set and a test set.

    Raises:
        ValueError: a modulus that is not prime, or a fraction that leaves one of the two sets empty.
    """
    if modulus < 2 or any(modulus % divisor == 0 for divisor in range(2, int(modulus**0.5) + 1)):
        raise ValueError(f"modulus must be prime, got {modulus}; 113 is a usual choice.")
    count = round(train_fraction * modulus**2)
    if not 0 < count < modulus**2:
        raise ValueError(f"train_fraction {train_fraction} of {modulus**2} sums leaves none to train or to test on; take a fraction further from 0 and 1.")
    order = jax.random.permutation(key, modulus**2)
    terms = jnp.stack([order // modulus, order % modulus], -1)
    sums = terms.sum(-1) % modulus
    return (terms[:count], sums[:count]), (terms[count:], sums[count:])


def cross_entropy(model: nn.Module) -> LossFn:
    """`loss_fn(params, (terms, sums)) -> float[B]`: cross-entropy of each sum, in nats."""

    def loss_fn(params: Params, batch: Pairs) -> jax.Array:
        logits_BxP: jax.Array = model.apply({"params": params}, batch[0])  # pyright: ignore[reportAssignmentType]
        return jax.nn.logsumexp(logits_BxP, -1) - (logits_BxP * jax.nn.one_hot(batch[1], logits_BxP.shape[-1])).sum(-1)

    return loss_fn


def accuracy(model: nn.Module, params: Params, batch: Pairs) -> jax.Array:
    """The share of sums that the net predicts correctly, between 0 and 1."""
    logits_BxP: jax.Array = model.apply({"params": params}, batch[0])  # pyright: ignore[reportAssignmentType]
    return (logits_BxP.argmax(-1) == batch[1]).mean()
