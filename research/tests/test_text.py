"""The experiment on real text: its task learns and is scored on held-out text, its estimates say what they should on made-up runs, a quick run ends."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from research.development import text, text_report
from research.development.bump import Curves
from research.development.common import RESULTS, ROOT, page
from research.development.text_task import PROBED, SEQUENCES_A_STEP, Variant, make


@pytest.fixture
def variant(tmp_path):
    """A small model and a made-up corpus in which every second token repeats the one four before it."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 16, 20_000).astype(np.uint16)
    tokens[4::2] = tokens[:-4:2]
    variant = Variant(2, "few", 16, 16, 8)
    np.savez(tmp_path / "few-16.npz", train=tokens[:15_000], held_out=tokens[15_000:])
    return variant


def test_a_task_draws_windows_of_its_text_and_scores_held_out_text(variant, tmp_path):
    task = make(variant, tmp_path, 32)
    batch = task.draw_batch(jax.random.key(0), task.source)
    assert batch.shape == (SEQUENCES_A_STEP, 17)
    assert task.data.shape == (32, 17)
    params = task.model.init_params(jax.random.key(1))
    assert task.probes["previous_token"](params).shape == (2, 4)
    assert 0 < float(task.probes["prefix_matching"](params).max()) < 1
    held_out = np.load(tmp_path / "few-16.npz")["held_out"]
    source = np.lib.stride_tricks.sliding_window_view(np.asarray(task.source), 17)
    assert (source == np.asarray(batch[0])).all(-1).any()
    assert len(held_out) > PROBED
    losses = np.asarray(jax.jit(jax.vmap(lambda key: task.probes["in_context"](task.model.init_params(key))))(jax.random.split(jax.random.key(2), 8)))
    assert abs(losses.mean()) < 4 * losses.std() / np.sqrt(8) + 0.05  # untrained weights gain nothing from a context


def test_checkpoints_are_as_many_as_asked_and_log_spaced():
    steps = text.checkpoints(text.FULL)
    assert len(steps) >= 80
    assert steps[0] == 0
    assert steps[-1] == text.FULL.num_steps
    late = np.array([step for step in steps if step >= 2000])
    assert np.diff(np.log(late)).max() < 0.06


def test_some_checkpoints_are_read_when_they_are_asked_for():
    read = []

    class Lazy(dict):
        def __getitem__(self, step):
            read.append(step)
            return super().__getitem__(step)

    chosen = text.some(Lazy({step: -step for step in range(10)}), 4)
    assert list(chosen) == [1, 5, 9]
    assert not read
    assert chosen[5] == -5
    assert read == [5]


def test_slopes_are_those_of_the_curve():
    """λ̂ that rises by 3 an e-fold before the onset and by 7 after it."""
    step = np.array([0, *np.geomspace(10, 4000, 200)])
    event = 1000.0
    log = np.log(np.maximum(step, 1) / event)
    llc = np.where(log < 0, 3 * log, 7 * log)[None, :, None] * np.ones((3, 1, 2))
    curves = Curves(step, llc[..., 0], llc, llc, {})
    found = text.slopes(curves, [{"window": [event / 4, event], "formed": True}] * 3)
    assert [round(one.mean, 1) for one in found.values()] == [3.0, 3.0, 7.0]


@pytest.mark.parametrize("name", ["text", "headers"])
def test_the_page_is_that_of_the_stored_result(name):
    assert (RESULTS / f"{name}.md").read_text() == page(name, text_report.table(json.loads((RESULTS / f"{name}.json").read_text())))


@pytest.mark.slow
def test_a_quick_run_ends():
    done = subprocess.run([sys.executable, "-m", "research.development", "text", "--quick"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "Verdict:" in done.stdout
    result = json.loads((RESULTS / "text-quick.json").read_text())
    assert {"calibrated", "themselves", "published", "heads"} <= {name for name, value in result.items() if value}
