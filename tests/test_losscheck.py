"""What is taken for granted of a loss function is looked at: what breaks it is refused, or measured in the way that stays right and told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxllc
from jaxllc import InMemory, LocalPosterior
from jaxllc.losscheck import check_loss
from jaxllc.placement import default_mesh

N, D, BATCH = 960, 10, 64
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)).astype(np.float32)
Y = (X @ np.ones(D) + RNG.normal(size=N)).astype(np.float32)
KEEP = RNG.binomial(1, 0.8, (BATCH, D)).astype(np.float32) / np.float32(0.8)


def plain(w, batch):
    return (batch[0] @ w - batch[1]) ** 2 / 2


def mean(w, batch):
    return plain(w, batch).mean()


def total(w, batch):
    return plain(w, batch).sum()


def masked_inputs(x):
    """Dropout under one fixed key: what is dropped depends on the place in the batch."""
    return x * (KEEP if isinstance(x, np.ndarray) else jnp.asarray(KEEP))


def normalised(x):
    """Batch normalisation in train mode."""
    centered = x - x.mean(-2, keepdims=True)
    return centered / ((centered**2).mean(-2, keepdims=True) + 1e-5) ** 0.5


def dropout(w, batch):
    return plain(w, (masked_inputs(batch[0]), batch[1]))


def batch_norm(w, batch):
    return plain(w, (normalised(batch[0]), batch[1]))


def contrastive(w, batch):
    """Each example against all others of the batch: its mean grows with their number, and is no sum."""
    scores = (batch[0] * w[None]) @ batch[0].T
    return -jnp.diagonal(scores - jax.nn.logsumexp(scores, axis=-1, keepdims=True))


def look(loss_fn, batch_size=BATCH, w=None):
    return check_loss(LocalPosterior(loss_fn, jnp.zeros(D) if w is None else w, 100.0), InMemory.of((X, Y), batch_size), default_mesh(4))


@pytest.mark.parametrize(
    ("loss_fn", "by_example", "depends"),
    [(plain, True, False), (mean, False, False), (dropout, True, True), (batch_norm, True, True), (contrastive, True, True)],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_what_a_loss_depends_on_is_seen(loss_fn, by_example, depends):
    """At weights of zero, where predictions do not depend on the batch, too: the look is a little beside them."""
    kind = look(loss_fn)
    assert (kind.by_example, kind.depends_on_batch) == (by_example, depends)


def test_a_mean_over_all_data_depends_on_nothing():
    """Every batch is the same one, so pairing is right whatever examples have to do with each other."""
    assert not look(batch_norm, None).depends_on_batch


def test_a_mean_that_is_no_mean_of_examples_is_seen():
    """A mean over unmasked tokens, of which the halves of a batch have different numbers."""

    def by_token(w, batch):
        weight = jnp.exp(batch[0][:, 0])
        return (weight * plain(w, batch)).sum() / weight.sum()

    assert look(by_token).depends_on_batch


@pytest.mark.parametrize("loss_fn", [total, lambda w, b: 3 * plain(w, b).sum()], ids=["sum", "scaled sum"])
def test_a_sum_over_the_batch_is_refused(loss_fn):
    """Seen to fail without the check: λ̂ was -4.2, without a finding."""
    with pytest.raises(ValueError, match=r"grows with the batch, as a sum does; return one loss an example"):
        look(loss_fn)


def test_a_sum_with_weight_decay_is_refused():
    with pytest.raises(ValueError, match="grows with the batch"):
        look(lambda w, b: total(w, b) + 100 * jnp.vdot(w, w))


def test_masked_token_means_are_seen_whatever_the_lengths():
    """Ten data sets of sequences of 1 to 16 tokens; one pair of halves alone, which may agree, missed seven of thirty."""
    for seed in range(10):
        lengths = np.random.default_rng(seed).integers(1, 17, N)
        mask = (np.arange(16)[None] < lengths[:, None]).astype(np.float32)

        def loss(w, b):
            return (plain(w, b[:2])[:, None] * b[2]).sum() / b[2].sum()

        kind = check_loss(LocalPosterior(loss, jnp.zeros(D), 100.0), InMemory.of((X, Y, mask), 16), default_mesh(4))
        assert kind.depends_on_batch, seed


def test_a_mean_of_one_batch_size_needs_data_that_it_divides():
    with pytest.raises(ValueError, match="takes batches of 64 only, and 900 examples leave one of 4; .* pass 896 of the examples"):
        check_loss(LocalPosterior(lambda w, b: dropout(w, b).mean(), jnp.zeros(D), 100.0), InMemory.of((X[:900], Y[:900]), BATCH), default_mesh(4))


@pytest.mark.parametrize(
    ("loss_fn", "dtype", "weights_dtype"),
    [
        (plain, "float32", None),
        (lambda w, b: plain(w.astype(jnp.bfloat16).astype(jnp.float32), b), "float32", "bfloat16"),
        (lambda w, b: plain(w, b).astype(jnp.bfloat16).astype(jnp.float32), "bfloat16", None),
        (lambda w, b: mean(w, b).astype(jnp.float16).astype(jnp.float32), "float16", None),
    ],
    ids=["float32", "weights rounded inside", "losses rounded inside", "mean rounded inside"],
)
def test_narrow_dtypes_inside_a_loss_are_seen(loss_fn, dtype, weights_dtype):
    kind = look(loss_fn, w=jnp.ones(D))
    assert (kind.dtype, kind.weights_dtype) == (dtype, weights_dtype)


def test_a_sum_of_negative_values_is_refused():
    with pytest.raises(ValueError, match="grows with the batch"):
        look(lambda w, b: (plain(w, b) - 10).sum())


def test_a_contrastive_mean_over_few_examples_is_no_sum():
    kind = check_loss(LocalPosterior(lambda w, b: contrastive(w, b).mean(), jnp.zeros(D), 100.0), InMemory.of((X[:8], Y[:8]), None), default_mesh(4))
    assert not kind.by_example


def test_the_mean_of_a_contrastive_loss_is_no_sum():
    assert look(lambda w, b: contrastive(w, b).mean()).depends_on_batch


def test_a_loss_of_one_batch_size_is_taken_as_it_is():
    assert not look(lambda w, b: dropout(w, b).mean()).by_example


def test_chance_is_refused():
    count = iter(range(10**6))

    def noisy(w, batch):
        noise = jax.pure_callback(lambda: np.float32(next(count)), jax.ShapeDtypeStruct((), jnp.float32))
        return plain(w, batch) + noise

    with pytest.raises(ValueError, match="must be a pure function"):
        look(noisy)


def windows_quadratic(inputs):
    """The minimum and the curvatures of the mean over all n windows of the data, which is a quadratic; in float64."""
    rows = [np.asarray(a, np.float64) for a in InMemory.of((X, Y), BATCH).arrays]
    windows = np.arange(N)[:, None] + np.arange(BATCH)
    z = inputs(rows[0][windows])
    hessian = np.einsum("sbi,sbj->ij", z, z) / (N * BATCH)
    return np.linalg.solve(hessian, np.einsum("sbi,sb->i", z, rows[1][windows]) / (N * BATCH)), np.linalg.eigvalsh(hessian)


@pytest.mark.parametrize(("loss_fn", "inputs"), [(dropout, masked_inputs), (batch_norm, normalised)], ids=["dropout", "batch norm"])
def test_losses_that_depend_on_the_batch_are_paired_with_it(loss_fn, inputs, key):
    """Within 4 standard errors of the exact coefficient of the mean over all batches; the finding says how they were paired.

    Seen to fail where losses at w* are those of other batches.
    """
    w, curvature = windows_quadratic(inputs)
    nbeta = jaxllc.default_nbeta(N)
    exact = (nbeta * curvature / (nbeta * curvature + 1) / 2).sum()
    est = jaxllc.estimate(loss_fn, jnp.asarray(w, jnp.float32), (X, Y), key=key, batch_size=BATCH, num_draws=4000, progress=False)
    assert abs(est.llc - exact) < 4 * est.std_error
    assert [finding.code for finding in est.findings] == ["stateful-loss"]
    assert "a second forward pass" in est.findings[0].message


def test_a_plain_loss_has_no_finding():
    est = jaxllc.estimate(plain, jnp.ones(D), (X, Y), key=jax.random.key(1), batch_size=BATCH, progress=False)
    assert not est.findings
