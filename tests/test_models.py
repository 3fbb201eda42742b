"""The example models do what they are examples of."""

import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllc import OrbaxCheckpoints
from jaxllc.models import linear, text
from jaxllc.models.train import Recipe, SeedRuns, checkpoint_steps, seed_keys, train, train_seeds
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
    """So do all partial products; and the noise of the examples has variance one, within four standard errors."""
    params = linear.teacher(key, widths, rank)
    assert [p.shape for p in params] == list(itertools.pairwise(widths))
    x, y = linear.examples(key, params, 4000)
    residual = np.asarray(y - linear.apply(params, x))
    assert residual.var() == pytest.approx(1, abs=4 * np.sqrt(2 / residual.size))
    ranks = [[rank or min(widths[i : j + 1]) for j in range(i + 1, len(widths))] for i in range(len(params))]
    partial_products = [[np.linalg.multi_dot([np.eye(widths[i]), *params[i:j]]) for j in range(i + 1, len(widths))] for i in range(len(params))]
    assert [[np.linalg.matrix_rank(matrix, tol=1e-4) for matrix in row] for row in partial_products] == ranks


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


@pytest.fixture
def recipe(key):
    return Recipe(mean_squares, draw, jax.random.normal(key, (64, 3)), optax.adam(0.1))


def fresh(key):
    return {"w": jax.random.normal(key, (3,))}


def training(test):
    """Marks of a test that trains: Orbax warns of its own calls, and optax counts steps as integers."""
    return pytest.mark.filterwarnings("default")(jax.numpy_dtype_promotion("standard")(test))


@training
def test_training_continues_where_it_stopped(recipe, tmp_path):
    """Two calls, the second with more steps, leave what one call leaves; saved steps are not trained again."""
    start, options = {"w": jnp.zeros(3)}, dict(key=jax.random.key(1))
    whole = train(recipe, start, steps=[0, 5, 20], directory=tmp_path / "whole", **options)
    train(recipe, start, steps=[0, 5], directory=tmp_path / "parts", **options)
    saved = []
    parts = train(recipe, start, steps=[0, 5, 20], directory=tmp_path / "parts", on_step=saved.append, **options)
    assert saved == [20]
    assert isinstance(parts, OrbaxCheckpoints)
    assert list(parts) == [0, 5, 20]
    np.testing.assert_array_equal(parts[0]["w"], np.zeros(3))
    assert np.abs(parts[20]["w"] - parts[5]["w"]).max() > 0.01
    np.testing.assert_array_equal(parts[20]["w"], whole[20]["w"])


SEEDS = dict(init_params=fresh, steps=[0, 5, 20])


@training
@pytest.mark.parametrize(
    ("seeds", "vmapped"), [((4, 7, 1), True), (tuple(range(8)), True), (tuple(range(8)), None)], ids=["three devices", "four devices", "in turn"]
)
def test_a_seed_among_others_is_the_seed_alone(seeds, vmapped, recipe, tmp_path):
    """Weights and batches of a seed depend on its own number only, whatever runs beside it and on however many devices.

    Seen to fail with batches shared by the seeds, and with keys by place in the list.
    """
    runs = train_seeds(recipe, **SEEDS, key=jax.random.key(1), seeds=seeds, vmapped=vmapped, directory=tmp_path / "together")
    assert list(runs) == [f"seed_{seed}" for seed in seeds]
    weights_key, batch_key = seed_keys(jax.random.key(1), 7)
    alone = train(recipe, fresh(weights_key), key=batch_key, steps=[0, 5, 20], directory=tmp_path / "alone")
    assert list(runs["seed_7"]) == list(alone) == [0, 5, 20]
    for step in alone:
        np.testing.assert_allclose(runs["seed_7"][step]["w"], alone[step]["w"], rtol=1e-5, atol=1e-6)
    assert np.abs(alone[20]["w"] - alone[0]["w"]).max() > 0.1


@training
def test_seeds_continue_where_they_stopped(recipe, tmp_path):
    """As `train` does: the same weights, and only what is missing is trained; other seeds in the same directory are refused."""
    options = dict(key=jax.random.key(1), seeds=[0, 3])
    whole = train_seeds(recipe, **SEEDS, directory=tmp_path / "whole", **options)
    train_seeds(recipe, **SEEDS | {"steps": [0, 5]}, directory=tmp_path / "parts", **options)
    saved = []
    parts = train_seeds(recipe, **SEEDS, directory=tmp_path / "parts", on_step=saved.append, **options)
    assert saved == [20]
    for run in whole:
        np.testing.assert_array_equal(parts[run][20]["w"], whole[run][20]["w"])
    with pytest.raises(ValueError, match=r"holds the seeds \[0, 3\], not \[0, 1\]"):
        train_seeds(recipe, **SEEDS, directory=tmp_path / "parts", key=jax.random.key(1), seeds=[0, 1])
    with pytest.raises(ValueError, match="distinct numbers"):
        train_seeds(recipe, **SEEDS, directory=tmp_path / "none", key=jax.random.key(1), seeds=[2, 2])

    opened = pickle.loads(pickle.dumps(SeedRuns(tmp_path / "whole")))
    assert opened.seeds == (0, 3)
    assert opened["seed_3"][20]["w"].shape == (3,)
    np.testing.assert_array_equal(opened["seed_3"][20]["w"], whole["seed_3"][20]["w"])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(whole["seed_3"]))[5]["w"], whole["seed_3"][5]["w"])
    assert whole.stacked[20]["w"].shape == (2, 3)
    with pytest.raises(KeyError, match="no run 'seed_1'.*seed_0, seed_3"):
        opened["seed_1"]


@training
def test_a_moving_average_of_the_weights(recipe, tmp_path):
    """It is the average of the weights along training, with a decay at update t of at most t / (t + 9), also where training was interrupted."""
    options, averaging = dict(key=jax.random.key(1), seeds=[0, 3]), recipe.replace(average=0.6)
    weights = train_seeds(recipe, **SEEDS | {"steps": list(range(31))}, directory=tmp_path / "weights", **options)
    train_seeds(averaging, **SEEDS | {"steps": [0, 20]}, directory=tmp_path / "averaged", **options)
    averaged = train_seeds(averaging, **SEEDS | {"steps": [0, 20, 30]}, directory=tmp_path / "averaged", **options)
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

    weights_key, batch_key = seed_keys(jax.random.key(1), 3)
    alone = train(averaging, fresh(weights_key), key=batch_key, steps=[0, 20], directory=tmp_path / "alone")
    np.testing.assert_allclose(alone[20]["w"], averaged["seed_3"][20]["w"], rtol=1e-5, atol=1e-6)


@training
def test_another_average_in_the_same_directory_is_refused(recipe, tmp_path):
    start, averaging = {"w": jnp.zeros(3)}, recipe.replace(average=0.6)
    for directory, verb, options in (
        ("one", train, dict(params=start, key=jax.random.key(1), steps=[0])),
        ("seeds", train_seeds, dict(init_params=fresh, key=jax.random.key(1), steps=[0], seeds=[0, 3])),
    ):
        for name, stored, others in (("none", recipe, [0.6]), ("average", averaging, [None, 0.9])):
            verb(stored, **options, directory=tmp_path / directory / name)
            for other in others:
                with pytest.raises(ValueError, match=f"was trained with average={stored.average}, not {other}"):
                    verb(recipe.replace(average=other), **options, directory=tmp_path / directory / name)
        with pytest.raises(ValueError, match="between 0 and 1, got 1"):
            verb(recipe.replace(average=1), **options, directory=tmp_path / directory / "one")


@training
def test_an_average_of_half_precision_weights(recipe, tmp_path):
    """It is kept in float32, where small shares of small differences do not round away: after hundreds of updates by nothing it equals the weights."""

    def fresh_half(key):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), fresh(key))

    half = Recipe(mean_squares, lambda key, data: data, jnp.ones((64, 3), jnp.bfloat16), optax.sgd(0.1), average=0.97)
    runs = train_seeds(half, fresh_half, steps=[0, 1, 400], key=jax.random.key(1), seeds=[0], directory=tmp_path / "half")
    weights, average = SeedRuns(tmp_path / "half")["seed_0"][400]["w"], runs["seed_0"][400]["w"]
    assert average.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(average, float), np.asarray(weights, float))
    assert SeedRuns(tmp_path / "half", averaged=True)["seed_0"][400]["w"].dtype == np.float32
