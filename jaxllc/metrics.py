r"""Developmental metrics of language models: attention scores, in-context learning, n-gram scores and composition of heads.

The scores are pure functions of attention patterns, losses, logits or weights, so they apply to any model. The probes at the end of the file are functions of
the weights alone, `probe(params) -> array`, for a flax model that sows its attention patterns as intermediates named `pattern`; `jax.vmap` of one takes stacked
checkpoints. Inside one jitted function, probes on the same tokens share one forward pass.

The definitions follow Olsson et al. (arXiv:2209.11895), Hoogland et al. (arXiv:2402.02364) and Elhage et al. (A Mathematical Framework for
Transformer Circuits, 2021). Shapes: B batch, L positions, H heads, V vocabulary, D width, K width of a head.
"""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import log_softmax

from jaxllc._typing import Params

ProbeFn: TypeAlias = Callable[[Params], jax.Array]
"""A function of the weights of one checkpoint whose value is a number or an array."""

LARGEST_TABLE = 2**26
"""The largest number of entries of an n-gram table, 256 MiB in float32."""


def in_context_score(losses_BxL: jax.Array, early: int, late: int) -> jax.Array:
    """In-context-learning score, in nats: the mean loss at a late position minus that at an early one; it is negative where the context helps.

    Olsson et al. and Hoogland et al. take the 50th and the 500th token.

    Args:
        losses_BxL: the loss of each token, in nats.
        early: the early position, an index along L.
        late: the late position; a ValueError unless `0 <= early < late < L`.

    Examples:
        >>> float(jaxllc.metrics.in_context_score(jnp.array([[3.0, 2.0, 1.0]]), early=0, late=2))
        -2.0
    """
    if not 0 <= early < late < losses_BxL.shape[-1]:
        raise ValueError(f"need 0 <= early < late < {losses_BxL.shape[-1]}, the number of positions; got early {early}, late {late}.")
    return (losses_BxL[..., late] - losses_BxL[..., early]).mean()


def previous_token_score(pattern_BxHxLxL: jax.Array, where_BxL: jax.Array | None = None) -> jax.Array:
    """Previous-token score of each head: its mean attention from a token to the one before it, `[H]`, between 0 and 1.

    The mean is over all positions but the first; Hoogland et al. take the last position of sequences of random length.

    Args:
        pattern_BxHxLxL: attention from each query (third axis) to each key; rows sum to one.
        where_BxL: the queries that count; default all. Where few tokens depend on their predecessor, heads may look at it only for those.

    Examples:
        >>> before = jnp.eye(4, k=-1).at[0, 0].set(1.0)  # one head, which looks at the token before
        >>> jaxllc.metrics.previous_token_score(before[None, None]).tolist()
        [1.0]
    """
    score_BxHxL = jnp.diagonal(pattern_BxHxLxL, offset=-1, axis1=-2, axis2=-1)
    counts_BxL = jnp.ones(score_BxHxL.shape[::2], bool) if where_BxL is None else where_BxL[:, 1:]
    return _mean_over_queries(score_BxHxL, counts_BxL)


def prefix_matching_score(pattern_BxHxLxL: jax.Array, tokens_BxL: jax.Array, where_BxL: jax.Array | None = None) -> jax.Array:
    """Prefix-matching score of each head: its mean attention to the successors of earlier occurrences of the present token, `[H]`.

    The attention to all such keys is added up, and the mean is over the queries that have at least one; a token does not count as its own successor. NaN
    where no token occurs twice. Olsson et al. score repeated random tokens (`repeated_tokens`), Hoogland et al. one token placed twice.

    Args:
        pattern_BxHxLxL: attention from each query (third axis) to each key; rows sum to one.
        tokens_BxL: the tokens that the model read.
        where_BxL: the queries that count; default all.

    Examples:
        >>> pattern = jnp.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])  # the second A looks at what followed the first one
        >>> jaxllc.metrics.prefix_matching_score(pattern[None, None], jnp.array([[7, 3, 7]])).tolist()
        [1.0]
    """
    length = tokens_BxL.shape[-1]
    same_BxLxL = tokens_BxL[:, :, None] == tokens_BxL[:, None, :]
    before_LxL = jnp.tri(length, k=-1, dtype=bool)
    follows_BxLxL = (jnp.roll(same_BxLxL, 1, -1) & before_LxL.at[:, 0].set(False)[None]).astype(pattern_BxHxLxL.dtype)
    counts_BxL = follows_BxLxL.any(-1) if where_BxL is None else follows_BxLxL.any(-1) & where_BxL
    return _mean_over_queries(jnp.einsum("bhqk,bqk->bhq", pattern_BxHxLxL, follows_BxLxL), counts_BxL)


def _mean_over_queries(score_BxHxL: jax.Array, counts_BxL: jax.Array) -> jax.Array:
    """The mean score of each head over the queries that count, `[H]`."""
    counts_BxL = counts_BxL.astype(score_BxHxL.dtype)
    return jnp.einsum("bhq,bq->h", score_BxHxL, counts_BxL) / counts_BxL.sum()


def repeated_tokens(key: jax.Array, num_sequences: int, length: int, vocab_size: int) -> jax.Array:
    """Uniformly random sequences repeated once, `int32[num_sequences, 2 * length]`: the test of prefix matching of Olsson et al.

    Examples:
        >>> jaxllc.metrics.repeated_tokens(jax.random.key(0), num_sequences=5, length=8, vocab_size=11).shape
        (5, 16)
    """
    tokens = jax.random.randint(key, (num_sequences, length), 0, vocab_size)
    return jnp.concatenate([tokens, tokens], -1)


def ngram_table(tokens_BxL: jax.Array, n: int, vocab_size: int) -> jax.Array:
    """Empirical probabilities of a token given the `n - 1` before it, `float[V, ..., V]` with n axes, the predicted token last.

    The entries of a context that never occurs are zero.

    Args:
        tokens_BxL: sequences of tokens below `vocab_size`; n-grams do not reach across sequences.
        n: 1 for the frequencies of tokens, 2 for bigrams; a ValueError outside 1 .. L, or for a table of more than `LARGEST_TABLE` entries.

    Examples:
        >>> jaxllc.metrics.ngram_table(jnp.array([[0, 1, 0, 1]]), n=2, vocab_size=2).tolist()  # each token is followed by the other
        [[0.0, 1.0], [1.0, 0.0]]
    """
    if not 1 <= n <= tokens_BxL.shape[-1]:
        raise ValueError(f"n must lie between 1 and the length {tokens_BxL.shape[-1]} of the sequences, got {n}.")
    if vocab_size**n > LARGEST_TABLE:
        raise ValueError(f"a table of {vocab_size}^{n} entries is too large (more than {LARGEST_TABLE}); take a smaller n.")
    count = jnp.zeros((vocab_size,) * n).at[_grams(tokens_BxL, n)].add(1.0)
    return count / jnp.maximum(count.sum(-1, keepdims=True), 1.0)


def ngram_score(logits_BxLxV: jax.Array, tokens_BxL: jax.Array, table: jax.Array) -> jax.Array:
    r"""n-gram score: the mean cross-entropy of the model's prediction relative to the empirical n-gram probabilities, in nats.

    $-\sum_v p(v \mid \text{context}) \ln q(v)$, over the positions that have $n - 1$ tokens and a context that occurs in the table. Its minimum is
    `ngram_entropy`, for a model that predicts the table. For bigrams, $n = 2$, it is the score of Hoogland et al.; their n-gram scores are losses on words of
    n tokens, which need their tokenizer.

    Args:
        logits_BxLxV: of the next token, at each of the tokens.
        tokens_BxL: the tokens that the model read.
        table: from `ngram_table`; its number of axes is n.

    Examples:
        >>> tokens = jnp.array([[0, 1, 0, 1]])
        >>> logits, bigrams = jnp.zeros((1, 4, 2)), jaxllc.metrics.ngram_table(tokens, n=2, vocab_size=2)
        >>> round(float(jaxllc.metrics.ngram_score(logits, tokens, bigrams)), 3)  # ln 2, of a model that guesses
        0.693
    """
    probs_BxMxV = _probabilities(tokens_BxL, table)
    return _cross_entropy(probs_BxMxV, log_softmax(logits_BxLxV)[:, -probs_BxMxV.shape[1] :])


def ngram_entropy(tokens_BxL: jax.Array, table: jax.Array) -> jax.Array:
    """The smallest n-gram score that any model can have on these tokens, in nats; arguments as for `ngram_score`.

    Examples:
        >>> tokens = jnp.array([[0, 1, 1, 0, 0]])
        >>> round(float(jaxllc.metrics.ngram_entropy(tokens, jaxllc.metrics.ngram_table(tokens, n=2, vocab_size=2))), 3)
        0.693
    """
    probs_BxMxV = _probabilities(tokens_BxL, table)
    return _cross_entropy(probs_BxMxV, jnp.log(jnp.where(probs_BxMxV > 0, probs_BxMxV, 1.0)))


def _cross_entropy(probs_BxMxV: jax.Array, log_prob_BxMxV: jax.Array) -> jax.Array:
    """The mean over the positions whose context occurs in the table."""
    num_positions = (probs_BxMxV.sum(-1) > 0).sum().astype(probs_BxMxV.dtype)
    return -(probs_BxMxV * log_prob_BxMxV).sum() / num_positions


def _probabilities(tokens_BxL: jax.Array, table: jax.Array) -> jax.Array:
    """The table's probabilities of the next token at the positions M that have n - 1 tokens; zero where the context does not occur."""
    if table.ndim == 1:
        return jnp.broadcast_to(table, (*tokens_BxL.shape, len(table)))
    return table[_grams(tokens_BxL, table.ndim - 1)]


def _grams(tokens_BxL: jax.Array, n: int) -> tuple[jax.Array, ...]:
    """Indices of all n-grams: n arrays `[B, L - n + 1]`."""
    length = tokens_BxL.shape[-1]
    return tuple(tokens_BxL[:, i : length - n + 1 + i].astype(jnp.int32) for i in range(n))


def k_composition(query_DxHxK: jax.Array, key_DxHxK: jax.Array, value_DxHxK: jax.Array, output_HxKxD: jax.Array) -> jax.Array:
    r"""K-composition: how much of the output of an earlier head enters the keys of a later head, `[later head, earlier head]`.

    $$\frac{\lVert W_{QK} W_{OV} \rVert_F}{\lVert W_{QK} \rVert_F \lVert W_{OV} \rVert_F}$$

    in the notation of Elhage et al. (column vectors), between 0 and 1. Randomly rotated heads have the root mean square
    $1/\sqrt{D}$; Elhage et al. subtract such a baseline.

    Args:
        query_DxHxK: of the later layer. Factors of its input, such as the scale of a layer norm, must be multiplied in.
        key_DxHxK: of the later layer, likewise.
        value_DxHxK: of the earlier layer.
        output_HxKxD: of the earlier layer.

    Examples:
        >>> one = jnp.ones((1, 1, 1))  # a single head of width one
        >>> jaxllc.metrics.k_composition(one, one, one, one).tolist()
        [[1.0]]
    """
    qk_HxDxD = jnp.einsum("dhk,ehk->hde", query_DxHxK, key_DxHxK)
    ov_HxDxD = jnp.einsum("dhk,hke->hde", value_DxHxK, output_HxKxD)
    both_HxHxDxD = jnp.einsum("hde,ife->hidf", qk_HxDxD, ov_HxDxD)

    def norm(matrices: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.square(matrices).sum((-2, -1)))

    return norm(both_HxHxDxD) / jnp.outer(norm(qk_HxDxD), norm(ov_HxDxD))


def pattern_probe(model: nn.Module, tokens_BxL: jax.Array, score: Callable[[jax.Array], jax.Array]) -> ProbeFn:
    """Probe for a score of attention patterns, such as `previous_token_score` or `partial(prefix_matching_score, tokens_BxL=tokens)`, `[layer, head]`.

    Args:
        model: a flax model of tokens that sows a `pattern`, `[B, H, L, L]`, in each of its attention layers.
        tokens_BxL: the tokens that the model reads.
        score: of a pattern, an array `[H]`.

    Raises:
        ValueError: when the probe is called, if the model sows no such intermediates.

    Examples:
        >>> from jaxllc.models.transformer import Transformer
        >>> model, tokens = Transformer(vocab_size=11, context=16), jaxllc.metrics.repeated_tokens(jax.random.key(0), 4, 8, 11)
        >>> previous = jaxllc.metrics.pattern_probe(model, tokens, jaxllc.metrics.previous_token_score)
        >>> previous(model.init_params(jax.random.key(1))).shape  # [layer, head]
        (2, 4)
    """

    def probe(params: Params) -> jax.Array:
        _, sown = model.apply({"params": params}, tokens_BxL, mutable="intermediates")
        leaves = jax.tree_util.tree_leaves_with_path(sown)
        patterns = {_natural(path): leaf for path, leaf in leaves if any(getattr(entry, "key", None) == "pattern" for entry in path)}
        if not patterns:
            raise ValueError(f"{type(model).__name__} sows no attention pattern; let its layers call self.sow('intermediates', 'pattern', pattern).")
        return jnp.stack([score(patterns[path]) for path in sorted(patterns)])

    return probe


def loss_probe(losses: Callable[[Params, jax.Array], jax.Array], tokens_BxL: jax.Array, score: Callable[[jax.Array], jax.Array]) -> ProbeFn:
    """Probe for a score of token losses, such as `partial(in_context_score, early=7, late=63)`.

    Args:
        losses: `losses(params, tokens_BxL) -> float[B, L - 1]`, such as `jaxllc.models.transformer.token_losses(model)`.
        tokens_BxL: the argument of `losses`, which includes the targets.
        score: of the losses, a number or an array.

    Examples:
        >>> losses = lambda params, tokens: params["per token"] * tokens[:, 1:]
        >>> probe = jaxllc.metrics.loss_probe(losses, jnp.arange(8)[None], lambda losses: losses.mean())
        >>> float(probe({"per token": 2}))
        8.0
    """
    return lambda params: score(losses(params, tokens_BxL))


def ngram_probe(model: nn.Module, tokens_BxL: jax.Array, table: jax.Array) -> ProbeFn:
    """Probe for the n-gram score of a flax language model on `tokens_BxL`, a number in nats; see `ngram_score`.

    Examples:
        >>> from jaxllc.models.transformer import Transformer
        >>> model, tokens = Transformer(vocab_size=11, context=16), jaxllc.metrics.repeated_tokens(jax.random.key(0), 4, 8, 11)
        >>> bigrams = jaxllc.metrics.ngram_probe(model, tokens, jaxllc.metrics.ngram_table(tokens, n=2, vocab_size=11))
        >>> bigrams(model.init_params(jax.random.key(1))).shape
        ()
    """

    def probe(params: Params) -> jax.Array:
        logits_BxLxV: jax.Array = model.apply({"params": params}, tokens_BxL)  # pyright: ignore[reportAssignmentType]
        return ngram_score(logits_BxLxV, tokens_BxL, table)

    return probe


def k_composition_probe(later: int = 1, earlier: int = 0) -> ProbeFn:
    """Probe for the K-composition of two layers of `jaxllc.models.transformer.Transformer`, `[later head, earlier head]`.

    The scale of the later layer's norm is multiplied into its weights; the bias and the centring of the norm are left out.

    Examples:
        >>> from jaxllc.models.transformer import Transformer
        >>> params = Transformer(vocab_size=11, context=16).init_params(jax.random.key(1))
        >>> jaxllc.metrics.k_composition_probe()(params).shape  # [later head, earlier head]
        (4, 4)
    """

    def probe(params: Params) -> jax.Array:
        reads, writes = params[f"layers_{later}"], params[f"layers_{earlier}"]
        scale_Dx1x1 = params[f"norm_{later}"]["scale"][:, None, None]
        return k_composition(scale_Dx1x1 * reads["query"], scale_Dx1x1 * reads["key"], writes["value"], writes["output"])

    return probe


def _natural(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Key for sorting layers by number: `layers_10` after `layers_9`."""
    words = re.split(r"(\d+)", jax.tree_util.keystr(path))
    return tuple(int(word) if word.isdigit() else word for word in words)
