"""Programs for TPUs that are not there, and the decoder that is compiled for them."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.decoder import Decoder
from benchmarks.report import ROOT, pods

TINY = Decoder(width=64, hidden=128, num_layers=2, num_heads=4, vocab_size=96)


def drawn(model, key=0):
    keys = jax.random.split(jax.random.key(key), len(model.shapes()))
    return {name: 2 * jax.random.normal(each, shape) / shape[-1] ** 0.5 for each, (name, shape) in zip(keys, model.shapes().items(), strict=True)}


def test_a_decoder_gives_probabilities_of_the_next_token():
    """With weights of zero every token is as likely. With others the probabilities of a fourth token, from losses of three and of four, add up to one.

    To the rounding of bfloat16. Seen to fail without the mask: then a third token changes the loss of the second.
    """
    tokens = jax.random.randint(jax.random.key(1), (3, 9), 0, 96)
    zeros = {name: jnp.zeros(shape) for name, shape in TINY.shapes().items()}
    np.testing.assert_allclose(TINY.loss_fn()(zeros, tokens), np.log(96), rtol=1e-5)
    params, loss = drawn(TINY), TINY.loss_fn()
    fourth = jnp.stack([jnp.asarray([5, 6, 7, last]) for last in range(96)])
    log_probability = 2 * loss(params, fourth[:1, :3]) - 3 * loss(params, fourth)
    assert jnp.std(log_probability) > 0.5
    np.testing.assert_allclose(jnp.exp(log_probability).sum(), 1, atol=0.02)
    assert abs(loss(params, jnp.asarray([[5, 6, 7, 8]])) - loss(params, jnp.asarray([[6, 5, 7, 8]])))[0] > 0.05


def test_specs_split_what_is_large():
    assert set(TINY.specs()) == set(TINY.shapes())
    whole = sum(np.prod(shape) for name, shape in TINY.shapes().items() if TINY.specs()[name] == jax.sharding.PartitionSpec())
    assert whole == (2 * TINY.num_layers + 1) * TINY.width


def test_tables_of_pods_sum_collectives():
    program = {"bytes": 2**31, "seconds": 3.2, "collectives": {"all-reduce": 2, "all-gather": 1}}
    line = {"case": "tiny", "chips": 8, "checkpoints": 1, "chains": 2, "mesh": {"step": 1, "chain": 1, "model": 8}}
    text = pods([line | dict.fromkeys(("start", "block", "gradient", "losses"), program)])
    assert text.splitlines()[-1] == "| tiny | 8 | 1 × 2 | 1 × 1 × 8 | 2.0 · 2.0 | 3 · 3 · 3 | 3 · 3 |"


@pytest.mark.slow
def test_a_tiny_decoder_compiles_for_a_pod():
    """In a process of its own, since libtpu is loaded once: the block has no more collectives than the gradient and the losses of the fixed batch."""
    pytest.importorskip("libtpu")
    code = (
        "import json\n"
        "from benchmarks.decoder import Decoder\n"
        "from benchmarks.pods import compiled, decoder\n"
        "case = decoder('tiny', Decoder(width=256, hidden=1024, num_layers=2, num_heads=8, vocab_size=512), (2, 65), {8: (1, 2)}, shards=4)\n"
        "print('answer', json.dumps(compiled(case, 8)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.split("answer ")[1])
    assert found["mesh"] == {"step": 1, "chain": 2, "model": 4}
    counts = {name: sum(found[name]["collectives"].values()) for name in ("block", "gradient", "losses")}
    assert 0 < counts["block"] <= counts["gradient"] + counts["losses"]
    shard = 4 * found["num_weights"] / 4
    assert 2 * shard < found["block"]["bytes"] < 6 * shard
