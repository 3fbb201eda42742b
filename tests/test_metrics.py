"""Scores of patterns, losses, tables and weights whose values are known exactly."""

from collections import Counter
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllc import metrics
from jaxllc._tree import stack
from jaxllc.models.transformer import Transformer, next_token_loss, token_losses

LENGTH = 6


def uniform_pattern(length=LENGTH):
    """Each query attends to all tokens so far alike, `[1, 1, L, L]`."""
    return jnp.asarray(np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None], jnp.float32)[None, None]


def test_uniform_attention_scores_one_over_the_position():
    """Exactly the mean of 1 / i over the second to the last of L positions; a diagonal off by one gives another number."""
    expected = np.mean(1 / np.arange(2, LENGTH + 1))
    np.testing.assert_allclose(metrics.previous_token_score(uniform_pattern()), [expected], rtol=1e-6)
    only_last = jnp.arange(LENGTH)[None] == LENGTH - 1
    np.testing.assert_allclose(metrics.previous_token_score(uniform_pattern(), only_last), [1 / LENGTH], rtol=1e-6)


def test_prefix_matching_counts_what_followed_earlier_occurrences():
    """In `a b a a b c` the queries 2, 3, 4 have such keys: {1}, {1} (its own place is not one), {2}; uniform attention gives each 1 / (query + 1).

    Seen to fail with the key of the match itself in place of its successor, and with the token's own place counted.
    """
    tokens = jnp.asarray([[0, 1, 0, 0, 1, 2]])
    score = partial(metrics.prefix_matching_score, tokens_BxL=tokens)
    np.testing.assert_allclose(score(uniform_pattern()), [(1 / 3 + 1 / 4 + 1 / 5) / 3], rtol=1e-6)
    np.testing.assert_allclose(score(uniform_pattern(), where_BxL=tokens == 1), [1 / 5], rtol=1e-6)
    perfect = jnp.zeros((LENGTH, LENGTH)).at[jnp.arange(LENGTH), jnp.asarray([0, 0, 1, 1, 2, 0])].set(1.0)
    np.testing.assert_array_equal(score(perfect[None, None]), [1.0])
    assert np.isnan(metrics.prefix_matching_score(uniform_pattern(), jnp.arange(LENGTH)[None]))


def test_heads_and_sequences_are_separate():
    """Two heads of two sequences: the mean is over sequences, and queries that do not count weigh nothing."""
    previous = jnp.eye(LENGTH, k=-1).at[0, 0].set(1.0)
    patterns = jnp.stack([jnp.stack([previous, jnp.eye(LENGTH)]), jnp.stack([jnp.eye(LENGTH), jnp.eye(LENGTH)])])
    np.testing.assert_allclose(metrics.previous_token_score(patterns), [0.5, 0.0])
    np.testing.assert_allclose(metrics.previous_token_score(patterns, jnp.asarray([[True] * LENGTH, [False] * LENGTH])), [1.0, 0.0])


def test_in_context_score_is_late_less_early():
    losses = jnp.asarray([[3.0, 2.0, 1.0], [5.0, 4.0, 0.0]])
    assert float(metrics.in_context_score(losses, early=0, late=2)) == -3.5
    with pytest.raises(ValueError, match="early < late < 3"):
        metrics.in_context_score(losses, early=1, late=3)


def test_repeated_tokens_are_a_sequence_twice(key):
    tokens = metrics.repeated_tokens(key, 3, 5, 7)
    assert tokens.shape == (3, 10)
    np.testing.assert_array_equal(tokens[:, :5], tokens[:, 5:])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_exact_model_scores_the_entropy(n, key):
    """The model that predicts the table scores the entropy of a token given each context, by counting; the uniform model scores ln 5."""
    tokens = jax.random.randint(key, (40, 30), 0, 4) ** 2 % 5
    table = metrics.ngram_table(tokens, n, 5)
    assert table.shape == (5,) * n
    grams = np.stack([np.asarray(tokens)[:, i : 30 - n + 1 + i] for i in range(n)], -1).reshape(-1, n)
    context = tuple(grams[7, :-1])
    rows = grams[(grams[:, :-1] == grams[7, :-1]).all(-1)]
    np.testing.assert_allclose(table[context], np.bincount(rows[:, -1], minlength=5) / len(rows), rtol=1e-6)

    index = (tokens,) if n == 2 else (jnp.roll(tokens, 1, -1), tokens)  # the context at each position; what wraps around is not scored
    law = jnp.broadcast_to(table, (*tokens.shape, 5)) if n == 1 else table[index]
    entropy = metrics.ngram_entropy(tokens, table)
    assert float(metrics.ngram_score(jnp.log(law + 1e-30), tokens, table)) == pytest.approx(float(entropy), rel=1e-5)
    assert float(metrics.ngram_score(jnp.zeros((*tokens.shape, 5)), tokens, table)) == pytest.approx(np.log(5), rel=1e-5)
    counts, contexts = Counter(map(tuple, grams.tolist())), Counter(map(tuple, grams[:, :-1].tolist()))
    of_context = {c: sum(counts[g] / contexts[c] * np.log(contexts[c] / counts[g]) for g in counts if g[:-1] == c) for c in contexts}
    read = [tuple(row[i : i + n - 1]) for row in np.asarray(tokens).tolist() for i in range(30 - n + 2)]  # the last context of a sequence, too
    assert float(entropy) == pytest.approx(np.mean([of_context[c] for c in read if c in of_context]), rel=1e-5)


def test_the_entropy_of_a_table_counts_by_the_contexts_met():
    """Of `0 1 0 1` with rows (½, ½) and (1, 0) of a given table: contexts 0, 1, 0, 1 pay ln 2, 0, ln 2, 0. A context without a row counts nowhere."""
    table = jnp.asarray([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert float(metrics.ngram_entropy(jnp.asarray([[0, 1, 0, 1]]), table)) == pytest.approx(np.log(2) / 2)
    assert float(metrics.ngram_entropy(jnp.asarray([[0, 1, 2, 2]]), table)) == pytest.approx(np.log(2) / 2)


def test_impossible_tables_are_refused():
    tokens = jnp.zeros((2, 5), jnp.int32)
    with pytest.raises(ValueError, match="between 1 and the length 5"):
        metrics.ngram_table(tokens, 6, 2)
    with pytest.raises(ValueError, match="100\\^5"):
        metrics.ngram_table(tokens, 5, 100)


def heads(key, width, head_width):
    """Random query, key, value `[D, 2, K]` and output `[2, K, D]`."""
    keys = jax.random.split(key, 4)
    return [jax.random.normal(k, (width, 2, head_width)) for k in keys[:3]] + [jax.random.normal(keys[3], (2, head_width, width))]


def test_k_composition_is_the_ratio_of_frobenius_norms(key):
    """By the definition of Elhage et al., matrix by matrix, in their notation of column vectors. Seen to fail with $W_{QK}$ transposed (Q-composition)."""
    query, key_, value, output = (np.asarray(x, float) for x in heads(key, 5, 2))
    composition = metrics.k_composition(query, key_, value, output)
    for later in range(2):
        for earlier in range(2):
            qk = query[:, later] @ key_[:, later].T
            ov = (value[:, earlier] @ output[earlier]).T
            expected = np.linalg.norm(qk @ ov) / np.linalg.norm(qk) / np.linalg.norm(ov)
            assert float(composition[later, earlier]) == pytest.approx(expected, rel=1e-5)


def test_composition_of_matched_and_orthogonal_heads():
    """A head that writes exactly the one direction that the later key reads composes fully; one that writes another direction not at all."""
    unit = jnp.eye(4)
    key_ = jnp.stack([unit[0][:, None], unit[1][:, None]], 1)
    output = jnp.stack([unit[0][None], unit[1][None]])
    np.testing.assert_allclose(metrics.k_composition(key_[::-1], key_, key_, output), np.eye(2), atol=1e-7)


def test_random_heads_compose_as_one_over_the_width(key):
    """For normal weights the square is 1/D in the mean: within four standard errors over 500 pairs of layers."""
    width = 12
    squares = np.asarray(jax.vmap(lambda k: metrics.k_composition(*heads(k, width, 3)) ** 2)(jax.random.split(key, 500))).mean((1, 2))
    assert abs(squares.mean() - 1 / width) < 4 * squares.std() / np.sqrt(500)


@pytest.fixture
def model():
    return Transformer(5, LENGTH, width=12, num_layers=2, num_heads=1)


def previous_token_params(model, key, sharpness):
    """Weights whose first layer attends to the previous token: queries hold the position before, keys the position; neither depends on the token."""
    params = dict(jax.tree.map(jnp.zeros_like, model.init_params(key)))
    positions = jnp.eye(12)[:LENGTH]
    shift = jnp.zeros((12, 12)).at[jnp.arange(1, LENGTH), jnp.arange(LENGTH - 1)].set(1.0)
    first = {**params["layers_0"], "query": sharpness * shift[:, None], "key": jnp.eye(12)[:, None]}
    return {**params, "positions": positions, "layers_0": first}


def test_a_transformer_built_to_look_back_has_a_known_score(model, key):
    """Scores before the softmax are a constant c at the previous token and 0 elsewhere, so position i attends to it by $e^c / (e^c + i)$: exactly known."""
    sharpness = 9.0
    tokens = jax.random.randint(key, (3, LENGTH), 0, 5)
    probe = metrics.pattern_probe(model, tokens, metrics.previous_token_score)
    scores = probe(previous_token_params(model, key, sharpness))
    weight = np.exp(sharpness / np.sqrt(12))
    positions = np.arange(1, LENGTH)
    np.testing.assert_allclose(scores[0], [np.mean(weight / (weight + positions))], rtol=1e-5)
    np.testing.assert_allclose(scores[1], [np.mean(1 / (positions + 1))], rtol=1e-5)


def test_probes_run_over_a_stack_of_checkpoints(model, key):
    """Each, vmapped over stacked weights, gives what it gives one by one."""
    tokens = jax.random.randint(key, (3, LENGTH + 1), 0, 5)
    inputs = tokens[:, :-1]
    probes = {
        "previous": metrics.pattern_probe(model, inputs, metrics.previous_token_score),
        "prefix": metrics.pattern_probe(model, inputs, partial(metrics.prefix_matching_score, tokens_BxL=inputs)),
        "in_context": metrics.loss_probe(token_losses(model), tokens, partial(metrics.in_context_score, early=0, late=5)),
        "bigram": metrics.ngram_probe(model, inputs, metrics.ngram_table(tokens, 2, 5)),
        "composition": metrics.k_composition_probe(),
    }
    checkpoints = [model.init_params(jax.random.key(seed)) for seed in range(3)]
    shapes = {"previous": (2, 1), "prefix": (2, 1), "in_context": (), "bigram": (), "composition": (1, 1)}
    for name, probe in probes.items():
        together = jax.jit(jax.vmap(probe))(stack(checkpoints))
        assert together.shape == (3, *shapes[name])
        np.testing.assert_allclose(together, [probe(params) for params in checkpoints], rtol=1e-4, atol=1e-6)
        assert np.ptp(np.asarray(together), axis=0).min() > 0, f"{name} does not see the weights"


def test_layers_are_ordered_by_number():
    """Layer ten comes after layer two: a head that attends to the previous token is that of the last of eleven layers."""
    model = Transformer(3, 4, width=4, num_layers=11, num_heads=1)
    params = jax.tree.map(jnp.zeros_like, model.init_params(jax.random.key(0)))
    sharp = {**params["layers_10"], "query": 50 * jnp.eye(4, k=-1)[:, None], "key": jnp.eye(4)[:, None]}
    probe = metrics.pattern_probe(model, jnp.zeros((1, 4), jnp.int32), metrics.previous_token_score)
    scores = probe({**params, "positions": jnp.eye(4), "layers_10": sharp})[:, 0]
    np.testing.assert_allclose(scores[:10], np.mean(1 / np.arange(2, 5)), rtol=1e-5)
    assert float(scores[10]) > 0.99


def test_a_model_without_patterns_is_refused():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            return jax.nn.one_hot(tokens, 3)

    with pytest.raises(ValueError, match="Plain sows no attention pattern"):
        metrics.pattern_probe(Plain(), jnp.zeros((1, 4), jnp.int32), metrics.previous_token_score)({})


def test_token_losses_average_to_the_loss(model, key):
    tokens = jax.random.randint(key, (3, LENGTH + 1), 0, 5)
    params = model.init_params(jax.random.key(1))
    losses = token_losses(model)(params, tokens)
    assert losses.shape == (3, LENGTH)
    np.testing.assert_allclose(losses.mean(-1), next_token_loss(model)(params, tokens), rtol=1e-6)
