"""Modular addition: every sum once, and the net that is trained on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllc.models import modular


def test_the_split_holds_every_sum_once(key):
    (train_terms, train_sums), (test_terms, test_sums) = modular.split(key, 11, 0.3)
    assert len(train_sums) == round(0.3 * 121)
    terms, sums = np.concatenate([train_terms, test_terms]), np.concatenate([train_sums, test_sums])
    assert len({tuple(pair) for pair in terms.tolist()}) == len(terms) == 121
    np.testing.assert_array_equal(sums, terms.sum(-1) % 11)


def test_impossible_splits_are_refused(key):
    with pytest.raises(ValueError, match="prime, got 9"):
        modular.split(key, 9, 0.5)
    with pytest.raises(ValueError, match="leaves none to train or to test on"):
        modular.split(key, 7, 1.0)


def test_the_loss_is_the_cross_entropy_and_the_accuracy_its_share(key):
    """Against optax's; logits that are all alike pay ln p."""
    model = modular.ModularNet(7, width=9)
    params = model.init_params(key)
    batch, _ = modular.split(jax.random.key(1), 7, 0.5)
    logits = model.apply({"params": params}, batch[0])
    np.testing.assert_allclose(modular.cross_entropy(model)(params, batch), optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]), rtol=1e-5)
    hidden = jax.nn.relu(params["first"][batch[0][:, 0]] + params["second"][batch[0][:, 1]])
    np.testing.assert_allclose(logits, hidden @ params["output"], rtol=1e-5)
    assert float(modular.accuracy(model, params, batch)) == pytest.approx(np.mean(np.argmax(logits, -1) == batch[1]))
    constant = params | {"output": jnp.zeros((9, 7))}
    np.testing.assert_allclose(modular.cross_entropy(model)(constant, batch), np.log(7), rtol=1e-6)
