"""The example models do what they are examples of."""

import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllc import OrbaxCheckpoints, theory
from jaxllc.models import linear, text
from jaxllc.models.train import SeedRuns, checkpoint_steps, seed_keys, train, train_seeds
from jaxllc.models.transformer import Transformer, next_token_loss


@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_transformer_is_causal(num_layers, key):
    model = Transformer(11, 16, width=8, num_layers=num_layers, num_heads=2)
    params = model.init_params(key)
    tokens = jax.random.randint(key, (2, 16), 0, 11)
    changed = tokens.at[:, 9].set((tokens[:, 9] + 1) % 11)
    before, after = model.apply({"params": params}, tokens), model.apply({"params": params}, changed)
    np.testing.assert_allclose(before[:, :9], after[:, :9], rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(before[:, 9:] - after[:, 9:])).max() > 1e-3


def test_the_loss_is_the_cross_entropy_per_token(key):
    model = Transformer(11, 16, width=8, num_heads=2)
    params = model.init_params(key)
    tokens = jax.random.randint(key, (3, 17), 0, 11)
    expected = optax.softmax_cross_entropy_with_integer_labels(model.apply({"params": params}, tokens[:, :-1]), tokens[:, 1:]).mean(-1)
    np.testing.assert_allclose(next_token_loss(model)(params, tokens), expected, rtol=1e-5)


def test_attention_patterns_can_be_read(key):
    model = Transformer(11, 16, width=8, num_heads=2)
    _, sown = model.apply({"params": model.init_params(key)}, jnp.zeros((1, 16), jnp.int32), mutable="intermediates")
    pattern = sown["intermediates"]["layers_1"]["pattern"][0]
    assert pattern.shape == (1, 2, 16, 16)
    np.testing.assert_allclose(pattern.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(("widths", "rank"), [((6, 5, 4), 2), ((4, 4, 4), None), ((3, 7, 9), 3)])
def test_teachers_have_the_rank_asked_for(widths, rank, key):
    params = linear.teacher(key, widths, rank)
    assert [p.shape for p in params] == list(itertools.pairwise(widths))
    product = np.linalg.multi_dot([np.asarray(p) for p in params])
    assert np.linalg.matrix_rank(product, tol=1e-4) == (rank or min(widths))
    x, y = linear.examples(key, params, 4000)
    residual = np.asarray(y - linear.apply(params, x))
    assert residual.var() == pytest.approx(1, abs=4 * np.sqrt(2 / residual.size))
    assert theory.deep_linear_llc(widths, rank or min(widths)).value <= sum(p.size for p in params) / 2


def test_text_is_split_by_file_and_tokenised_reversibly():
    corpus = text.standard_library()
    assert corpus.train.dtype == np.uint8
    assert len(corpus.train) > 5 * len(corpus.held_out) > 100_000
    assert int(max(corpus.train.max(), corpus.held_out.max())) < text.VOCAB_SIZE
    sample = "def f(x):\n    return [x] * 2\n"
    assert "".join(text.ALPHABET[token] for token in text.tokenize(sample.encode())) == sample
    assert text.tokenize("é".encode()).tolist() == [text.VOCAB_SIZE - 1] * 2
    assert text.windows(corpus.held_out, 7, 33).shape == (7, 33)


def test_checkpoint_steps():
    assert checkpoint_steps(100, 3, 3) == [1, 10, 50, 100]
    assert checkpoint_steps(100, 3, 2, first=4) == [4, 20, 100]
    with pytest.raises(ValueError, match="between 1 and num_steps 10, got 0"):
        checkpoint_steps(10, 2, 2, first=0)


def mean_squares(params, batch):
    return jnp.square(batch @ params["w"] - 1.0)


def draw(key, data):
    return data[jax.random.randint(key, (8,), 0, len(data))]


@pytest.mark.filterwarnings("default")  # Orbax warns of its own calls
@jax.numpy_dtype_promotion("standard")  # optax counts steps as integers
def test_training_goes_on_where_it_stopped(tmp_path, key):
    """Two calls, the second with more steps, leave what one call leaves; what is there is not trained again."""
    data, params, optimizer = jax.random.normal(key, (64, 3)), {"w": jnp.zeros(3)}, optax.adam(0.1)
    options = dict(key=jax.random.key(1))
    whole = train(mean_squares, params, draw, data, optimizer, steps=[0, 5, 20], directory=tmp_path / "whole", **options)
    train(mean_squares, params, draw, data, optimizer, steps=[0, 5], directory=tmp_path / "parts", **options)
    saved = []
    parts = train(mean_squares, params, draw, data, optimizer, steps=[0, 5, 20], directory=tmp_path / "parts", on_step=saved.append, **options)
    assert saved == [20]
    assert isinstance(parts, OrbaxCheckpoints)
    assert list(parts) == [0, 5, 20]
    np.testing.assert_array_equal(parts[0]["w"], np.zeros(3))
    assert np.abs(parts[20]["w"] - parts[5]["w"]).max() > 0.01
    np.testing.assert_array_equal(parts[20]["w"], whole[20]["w"])


def fresh(key):
    return {"w": jax.random.normal(key, (3,))}


SEEDS = dict(loss_fn=mean_squares, init_params=fresh, draw_batch=draw, optimizer=optax.adam(0.1), steps=[0, 5, 20])


@pytest.mark.filterwarnings("default")  # Orbax warns of its own calls
@jax.numpy_dtype_promotion("standard")  # optax counts steps as integers
@pytest.mark.parametrize(
    ("seeds", "vmapped"), [((4, 7, 1), True), (tuple(range(8)), True), (tuple(range(8)), None)], ids=["three devices", "four devices", "in turn"]
)
def test_a_seed_among_others_is_the_seed_alone(seeds, vmapped, tmp_path, key):
    """Weights and batches of a seed depend on its own number only, whatever runs beside it and on however many devices.

    Seen to fail with batches shared by the seeds, and with keys by place in the list.
    """
    data = jax.random.normal(key, (64, 3))
    runs = train_seeds(**SEEDS, data=data, key=jax.random.key(1), seeds=seeds, vmapped=vmapped, directory=tmp_path / "together")
    assert list(runs) == [f"seed_{seed}" for seed in seeds]
    weights_key, batch_key = seed_keys(jax.random.key(1), 7)
    alone = train(mean_squares, fresh(weights_key), draw, data, SEEDS["optimizer"], key=batch_key, steps=[0, 5, 20], directory=tmp_path / "alone")
    assert list(runs["seed_7"]) == list(alone) == [0, 5, 20]
    for step in alone:
        np.testing.assert_allclose(runs["seed_7"][step]["w"], alone[step]["w"], rtol=1e-5, atol=1e-6)
    assert np.abs(alone[20]["w"] - alone[0]["w"]).max() > 0.1


@pytest.mark.filterwarnings("default")
@jax.numpy_dtype_promotion("standard")
def test_seeds_go_on_where_they_stopped(tmp_path, key):
    """As `train` does: the same weights, and only what is missing is trained; other seeds in the same directory are refused."""
    data, options = jax.random.normal(key, (64, 3)), dict(key=jax.random.key(1), seeds=[0, 3])
    whole = train_seeds(**SEEDS, data=data, directory=tmp_path / "whole", **options)
    train_seeds(**SEEDS | {"steps": [0, 5]}, data=data, directory=tmp_path / "parts", **options)
    saved = []
    parts = train_seeds(**SEEDS, data=data, directory=tmp_path / "parts", on_step=saved.append, **options)
    assert saved == [20]
    for run in whole:
        np.testing.assert_array_equal(parts[run][20]["w"], whole[run][20]["w"])
    with pytest.raises(ValueError, match=r"holds the seeds \[0, 3\], not \[0, 1\]"):
        train_seeds(**SEEDS, data=data, directory=tmp_path / "parts", key=jax.random.key(1), seeds=[0, 1])
    with pytest.raises(ValueError, match="distinct numbers"):
        train_seeds(**SEEDS, data=data, directory=tmp_path / "none", key=jax.random.key(1), seeds=[2, 2])

    opened = pickle.loads(pickle.dumps(SeedRuns(tmp_path / "whole")))
    assert opened.seeds == (0, 3)
    assert opened["seed_3"][20]["w"].shape == (3,)
    np.testing.assert_array_equal(opened["seed_3"][20]["w"], whole["seed_3"][20]["w"])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(whole["seed_3"]))[5]["w"], whole["seed_3"][5]["w"])
    assert whole.stacked[20]["w"].shape == (2, 3)
    with pytest.raises(KeyError, match="no run 'seed_1'.*seed_0, seed_3"):
        opened["seed_1"]


@pytest.mark.filterwarnings("default")
@jax.numpy_dtype_promotion("standard")
def test_a_moving_average_of_the_weights(tmp_path, key):
    """It is the average of the weights along training, with the decay of the first updates t at most t / (t + 9), also where training was stopped."""
    data, options = jax.random.normal(key, (64, 3)), dict(key=jax.random.key(1), seeds=[0, 3])
    every = dict(SEEDS, steps=list(range(31)))
    weights = train_seeds(**every, data=data, directory=tmp_path / "weights", **options)
    train_seeds(**SEEDS | {"steps": [0, 20]}, data=data, directory=tmp_path / "averaged", average=0.6, **options)
    averaged = train_seeds(**SEEDS | {"steps": [0, 20, 30]}, data=data, directory=tmp_path / "averaged", average=0.6, **options)
    expected = np.asarray(weights["seed_3"][0]["w"])
    for step in range(1, 31):
        decay = min(0.6, step / (step + 9))
        expected = decay * expected + (1 - decay) * weights["seed_3"][step]["w"]
        if step in averaged["seed_3"]:
            np.testing.assert_allclose(averaged["seed_3"][step]["w"], expected, rtol=1e-5, atol=1e-6)
    raw = SeedRuns(tmp_path / "averaged")
    np.testing.assert_allclose(raw["seed_3"][20]["w"], weights["seed_3"][20]["w"], rtol=1e-5, atol=1e-6)
    assert np.abs(raw["seed_3"][20]["w"] - averaged["seed_3"][20]["w"]).max() > 1e-3
    with pytest.raises(ValueError, match="no moving average"):
        SeedRuns(tmp_path / "weights", averaged=True)
    assert "averaged weights of seed_0, seed_3" in repr(averaged)
    reopened = SeedRuns(tmp_path / "averaged", averaged=True, like=fresh(jax.random.key(0)))
    np.testing.assert_array_equal(reopened["seed_3"][20]["w"], averaged["seed_3"][20]["w"])
    for kept, other in ((0.6, None), (0.6, 0.9)):
        with pytest.raises(ValueError, match=f"was trained with average={kept}, not {other}"):
            train_seeds(**SEEDS, data=data, directory=tmp_path / "averaged", average=other, **options)
    with pytest.raises(ValueError, match="was trained with average=None, not 0.6"):
        train_seeds(**every, data=data, directory=tmp_path / "weights", average=0.6, **options)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        train_seeds(**SEEDS, data=data, directory=tmp_path / "none", average=1, **options)


@pytest.mark.filterwarnings("default")
@jax.numpy_dtype_promotion("standard")
def test_an_average_of_half_precision_weights(tmp_path, key):
    """It is kept in float32, where small shares of small differences do not round away: after a hundred updates by nothing it is the weights."""

    def fresh_half(key):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), fresh(key))

    options = dict(SEEDS, init_params=fresh_half, optimizer=optax.sgd(0.1), steps=[0, 1, 400], average=0.97)
    options["draw_batch"] = lambda key, data: data
    data = jnp.ones((64, 3), jnp.bfloat16)
    runs = train_seeds(**options, data=data, key=jax.random.key(1), seeds=[0], directory=tmp_path / "half")
    weights, average = SeedRuns(tmp_path / "half")["seed_0"][400]["w"], runs["seed_0"][400]["w"]
    assert average.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(average, float), np.asarray(weights, float))
    assert SeedRuns(tmp_path / "half", averaged=True)["seed_0"][400]["w"].dtype == np.float32
