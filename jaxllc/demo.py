"""The main job on real text: train a small transformer, keep its checkpoints, follow λ̂ through them."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxllc
from jaxllc._extras import require
from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.models import text
from jaxllc.models.train import Recipe, checkpoint_steps, train
from jaxllc.models.transformer import Transformer, next_token_loss
from jaxllc.progress import progress_bar

CONTEXT = 64
TRAIN_BATCH = 32


class Size(NamedTuple):
    """How long the demo trains and samples."""

    num_steps: int
    num_log: int
    num_linear: int
    budget: float
    """Seconds for a checkpoint."""


FULL = Size(num_steps=3000, num_log=18, num_linear=17, budget=8.0)
QUICK = Size(num_steps=900, num_log=7, num_linear=5, budget=2.0)

NBETA = 1000.0
"""Below n / ln n = 11 124 for the 131 072 tokens of the data; everything else is calibrated."""
NUM_SEQUENCES = 2048


def run_demo(out: Path, *, quick: bool = False, seed: int = 0, progress: bool = True) -> jaxllc.Trajectory:
    """Train, sample, print the table, and write `checkpoints/`, `llc.zarr` and `llc.png` into `out`; what is there is used again.

    Raises:
        ModuleNotFoundError: `matplotlib` is not installed.
        ValueError: `out` holds a run of another size or seed.
    """
    require("matplotlib", "the demo")  # before minutes of work
    logging.getLogger("absl").setLevel(logging.ERROR)
    size = QUICK if quick else FULL
    began = time.perf_counter()
    model = Transformer(text.VOCAB_SIZE, CONTEXT)
    loss_fn = next_token_loss(model)
    corpus = text.standard_library()
    weights_key, train_key, chain_key = jax.random.split(jax.random.key(seed), 3)
    params = model.init_params(weights_key)
    print(
        f"A {model.num_layers}-layer attention-only transformer of {sum(leaf.size for leaf in jax.tree.leaves(params)):,} weights, on {len(corpus.train):,} "
        f"characters of Python's standard library ({len(corpus.held_out):,} held out)."
    )

    steps = sorted(
        {*checkpoint_steps(size.num_steps // 3, size.num_log, 0, first=20), *checkpoint_steps(size.num_steps, 0, size.num_linear, first=size.num_steps // 3)}
    )
    _claim(out, {"num_steps": size.num_steps, "seed": seed})
    with progress_bar(size.num_steps, progress) as on_steps:
        since = dict(zip(steps, np.diff([0, *steps]).tolist(), strict=True))
        recipe = Recipe(loss_fn, draw_windows, jnp.asarray(corpus.train), optax.adam(optax.cosine_decay_schedule(3e-3, size.num_steps)))
        checkpoints = train(recipe, params, key=train_key, steps=steps, directory=out / "checkpoints", on_step=lambda step: on_steps(since[step]))
    held_out = jax.jit(loss_fn)(checkpoints[steps[-1]], text.windows(corpus.held_out, NUM_SEQUENCES, CONTEXT + 1)).mean()
    print(f"{len(checkpoints)} checkpoints in {out / 'checkpoints'}; at the last one the loss on held-out text is {held_out:.3f} nats a character.")

    data = text.windows(corpus.train, NUM_SEQUENCES, CONTEXT + 1)
    settings = _settings(out / "settings.json", loss_fn, checkpoints, data, chain_key, size.budget)
    traj = jaxllc.trajectory(
        loss_fn,
        checkpoints,
        data,
        settings,
        key=chain_key,
        store=out / "llc.zarr",
        progress=progress,
        reference_loss=float(np.log(text.VOCAB_SIZE)),
    )
    _print(traj)
    _plot(traj, out / "llc.png")
    print(f"Draws in {out / 'llc.zarr'}, picture in {out / 'llc.png'}. {time.perf_counter() - began:.0f} s.")
    return traj


def _settings(path: Path, loss_fn: LossFn, checkpoints: Mapping[int, Params], data: Batch, key: Key, budget: float) -> jaxllc.Settings:
    """Those of an earlier call, or calibrated now, with the reasons printed."""
    if path.exists():
        return jaxllc.Settings.from_dict(json.loads(path.read_text()))
    calibration = jaxllc.calibrate(loss_fn, checkpoints, data, key=key, nbeta=NBETA, budget=budget)
    print(f"Calibrated in {calibration.seconds:.0f} s:", *(f"  {reason}" for reason in calibration.reasons), sep="\n")
    path.write_text(json.dumps(calibration.settings.to_dict()) + "\n")
    return calibration.settings


def _claim(out: Path, run: dict[str, int]) -> None:
    """Note in a fresh `out` which run it is of; raise where it is of another."""
    note = out / "demo.json"
    out.mkdir(parents=True, exist_ok=True)
    if not note.exists():
        note.write_text(json.dumps(run) + "\n")
    earlier = json.loads(note.read_text())
    if earlier != run:
        raise ValueError(f"{out} holds the demo of {earlier}, not of {run}; pass another --out.")


def draw_windows(key: jax.Array, tokens: jax.Array) -> jax.Array:
    """A batch of windows of the training text."""
    starts = jax.random.randint(key, (TRAIN_BATCH,), 0, tokens.shape[0] - CONTEXT)
    return tokens[starts[:, None] + jnp.arange(CONTEXT + 1)]


def _print(traj: jaxllc.Trajectory) -> None:
    table = traj.table()
    print(f"\n{'step':>6} {'loss':>7} {'λ̂':>8}   {'error':>6} {'R-hat':>6}  findings")
    for step, line in table.iterrows():
        print(f"{step:>6} {line['loss']:7.3f} {line['llc']:8.1f} ± {line['std_error']:6.1f} {line['rhat']:6.2f}  {line['findings']}")
    messages = {finding.code: finding.message for findings in traj.findings() for finding in findings}
    print("".join(f"\n  {code}, for example: {message}" for code, message in messages.items()) + "\n")


def _plot(traj: jaxllc.Trajectory, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    axes = traj.plot()
    axes[0].set_title(
        f"A two-layer attention-only transformer learns Python (nβ = {traj.settings.nbeta:.0f}, γ = {traj.settings.localization:.0f})",
        loc="left",
        fontsize="medium",
    )
    axes[0].figure.savefig(path, dpi=150)
