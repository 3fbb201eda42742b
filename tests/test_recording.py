"""What is recorded of blocks of iterations: draws at their places whatever the blocks, evaluations whole or reduced, chains that repeat themselves."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllc import Probe
from jaxllc.recording import Block, Recording, repeating

K, C = 2, 3


def norm(params):
    return jnp.sum(params)


def recorded(num_iterations, block, draws, probes=None, on_steps=None, quantities=3):
    """Of running quantities that say where they stand: 1000 q + 100 k + 10 c + t."""
    recording = Recording((K, C, len(draws)), draws, np.float64, probes or {}, every=1)
    q, k, c = (np.arange(n) for n in (quantities, K, C))
    for first in range(0, num_iterations, block):
        t = np.arange(first, first + block)
        running = 1000.0 * q[:, None, None, None] + 100 * k[:, None, None] + 10 * c[:, None] + t
        values = {name: jnp.asarray(10.0 * np.arange(C)[:, None] + 100.0 * np.arange(K) + first) for name in probes or {}}
        recording.add(Block(range(first, first + block), jnp.asarray(running), jnp.asarray(running[:2]), values), on_steps)
    return recording


def trace_of(recording):
    return recording.trace(np.zeros(K), np.zeros((K, C)), np.zeros(K), np.ones((K, C)))


@pytest.mark.parametrize("draws", [range(0, 12), range(3, 12), range(3, 12, 2), range(5, 12, 6), range(11, 12)], ids=str)
@pytest.mark.parametrize("block", [1, 2, 5, 7, 12, 20])
def test_draws_are_those_of_their_iterations(draws, block):
    """Whatever blocks they come in, also where the last one ends beyond the last draw. Seen to fail with a block's first draw rounded down."""
    trace = trace_of(recorded(12, block, draws))
    here = 100 * np.arange(K)[:, None, None] + 10 * np.arange(C)[:, None] + np.asarray(draws)
    np.testing.assert_array_equal(trace.excess_loss, here)
    np.testing.assert_array_equal(trace.center_loss, 1000 + here)
    np.testing.assert_array_equal(trace.step_bias, 2000 + here)
    assert trace.acceptance_rate is None
    every = 100.0 * np.arange(K)[:, None, None] + 10 * np.arange(C)[:, None] + np.arange(draws[-1] + 1)
    np.testing.assert_array_equal(trace.squared_distance, every)  # from the first iteration of burn-in to that of the last draw
    np.testing.assert_array_equal(trace.probe_loss, 1000 + every)


def test_the_acceptance_rate_is_a_fourth_quantity():
    trace = trace_of(recorded(6, 3, range(2, 6), quantities=4))
    np.testing.assert_array_equal(trace.acceptance_rate - trace.excess_loss, 3000)


def test_iterations_are_reported_up_to_the_last_draw():
    done = []
    recorded(12, 5, range(3, 12), on_steps=done.append)
    assert done == [5, 5, 2]


def test_evaluations_are_kept_whole_or_reduced():
    """Of all chains `[C, K]` they come, by checkpoint `[K, C]` they are kept."""
    probes = {"whole": Probe(norm, every=4), "small": Probe(norm, every=4, reduce="mean")}
    trace = trace_of(recorded(12, 4, range(12), probes))
    here = 100.0 * np.arange(K)[:, None, None] + 10 * np.arange(C)[:, None] + np.array([0, 4, 8])
    np.testing.assert_array_equal(trace.probes["whole"], here)
    np.testing.assert_allclose(trace.probes["small_mean"], here.mean(-1))
    np.testing.assert_allclose(trace.probes["small_variance"], here.var(-1, ddof=1))
    assert set(trace.probes) == {"whole", "small_mean", "small_variance"}


def test_chains_that_repeat_themselves():
    """More than nine tenths of the draws; not those that broke."""
    draws = np.tile(np.arange(101.0), (4, 1))
    draws[1] = 3.0
    draws[2, 9:] = 5.0  # 92 of 100 repeat
    draws[3] = np.nan
    assert repeating(draws).tolist() == [False, True, True, False]
    draws[2, 9:14] = [1, 2, 3, 4, 6]
    assert not repeating(draws)[2]  # 87 of 100
