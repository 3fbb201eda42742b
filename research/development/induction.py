r"""The induction bump: does λ̂ fall, hidden from the loss, while previous-token heads form (Hoogland et al., arXiv:2402.02364)?

The main runs are seeds 12, 13, ... of a two-layer attention-only transformer of 14 000 weights on the source of `jaxllc.models.induction`. A one-layer
transformer, which cannot do induction, is the control; two seeds learn real text. The onset, third rise and half rise of a score are where it has passed 10, 33
and 50 % of the way from its first to its last level (`analysis.crossing`). A score is the greatest over the heads of a layer: of the first layer for previous
tokens, at the queries just after a trigger, where an induction circuit needs them; of the last layer for prefix matching, at triggers. λ̂, the gradient-free
cloud and the loss are all asked in one window, which ends at the onset of prefix matching and begins at half of that step (`fall`).

Checkpoints are moving averages of the weights (`AVERAGE`). SGD noise raises the loss at the weights themselves, by amounts that differ from checkpoint to
checkpoint, and λ̂ is measured from that loss. On seeds 100 and 101 neighbouring checkpoints of the weights themselves scattered more than averages with
a decay of 0.9, and these more than averages with 0.97, before the bump; that decided.

The settings of the chains were chosen on seeds 100 and 101, which are not reported, by R-hat, drift, `step_bias` and the distance from the gradient-free
control at six checkpoints each. nβ = 100 with γ = 100 drifted over 300 iterations at nearly all of them, and with γ = 1000 was hardly distinguishable from the
control; nβ = γ = 1000 was, with R-hat at most 1.04. The step size 3e-5 is three times the default for the curvature there, so that chains forget w* in
burn-in; at 2e-5 and 4e-5 no chain drifted and `step_bias` was 2 to 12 %, more only at step 25, where λ̂ is near zero.

Quick runs, with shorter chains, use seeds 0 and 1, which were seen before `FIRST_STEP`, `FORMED` and the checkpoints were set. Seeds 2 to 11 were followed
before the window, the statistic of the fall and the level of the third rise were chosen, by what finds the fall in the published curve and what the one-layer
control does not reach. None of these is reported: the seeds from 12 on were first looked at when everything was fixed.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxllc
from jaxllc import metrics
from jaxllc.models import induction, text
from jaxllc.models.train import checkpoint_steps
from jaxllc.models.transformer import Transformer, next_token_loss, token_losses
from research.development.answers import judge, sensitivity
from research.development.bump import Curves, over_all, rounded_curves, rows, stages_of
from research.development.common import Workplace
from research.development.fall import BINS, RATIO
from research.development.induction_report import figure, table
from research.development.tasks import Task, follow, themselves, train

__all__ = ["OPTIONAL_PARTS", "run", "table"]

CONTEXT = 64
VOCAB_SIZE = 64
EARLY, LATE = 7, 63
"""Positions of the in-context score."""
NBETA, LOCALIZATION, STEP_SIZE, BATCH_SIZE = 1000.0, 1000.0, 3e-5, 8
"""The loss is the mean over the tokens of a sequence, so n counts sequences, and nβ = 1000 multiplies the mean loss per token."""
AVERAGE = 0.97
"""Decay of the moving average of the weights, which so spans 33 steps."""
SENSITIVITY = (dict(nbeta=300.0), dict(nbeta=2000.0), dict(localization=500.0), dict(localization=2000.0), dict(step_size=1.5e-5), dict(step_size=6e-5))
"""Settings that are varied, one at a time."""
FEWER_CHAINS = 4
"""Chains for the sensitivity, the weights themselves and real text."""
OPTIONAL_PARTS = ("sensitivity", "themselves", "text")
"""Parts that a call may leave out."""


class Size(NamedTuple):
    """How large an experiment is."""

    num_steps: int
    num_log: int
    num_linear: int
    num_seeds: int
    num_control_seeds: int
    num_text_seeds: int
    num_text_steps: int
    num_chains: int
    num_draws: int
    num_burn_in: int
    num_sequences: int
    sensitivity_seeds: int


FULL = Size(2000, 16, 44, 10, 3, 2, 4000, 8, 80, 80, 1024, 2)
FIRST_SEED = 12
"""The first seed of a full run; a quick one begins with seed 0."""
QUICK = Size(1200, 4, 10, 2, 1, 1, 200, 4, 20, 20, 256, 1)


def triggers(num_layers: int, num_sequences: int) -> Task:
    """The synthetic source, in which only induction improves on a bigram table."""
    model = Transformer(VOCAB_SIZE, CONTEXT, width=32, num_layers=num_layers, num_heads=4)
    source = induction.make_source(jax.random.key(0), VOCAB_SIZE)
    tokens = induction.draw(jax.random.key(1), source, 256, CONTEXT)
    read = tokens[:, :-1]
    at_trigger = induction.is_trigger(source, read)
    after_trigger = jnp.pad(at_trigger[:, :-1], ((0, 0), (1, 0)))
    probes = {
        "previous_token": metrics.pattern_probe(model, read, partial(metrics.previous_token_score, where_BxL=after_trigger)),
        "previous_token_everywhere": metrics.pattern_probe(model, read, metrics.previous_token_score),
        "prefix_matching": metrics.pattern_probe(model, read, partial(metrics.prefix_matching_score, tokens_BxL=read, where_BxL=at_trigger)),
        "in_context": metrics.loss_probe(token_losses(model), tokens, partial(metrics.in_context_score, early=EARLY, late=LATE)),
    }
    return Task(
        model,
        next_token_loss(model),
        draw_sequences,
        source,
        induction.draw(jax.random.key(2), source, num_sequences, CONTEXT),
        probes,
        optax.adam(1e-2),
        AVERAGE,
    )


def real_text(num_sequences: int) -> Task:
    """The source of Python's standard library, by characters; prefix matching is scored on random tokens repeated once."""
    model = Transformer(text.VOCAB_SIZE, CONTEXT, width=32, num_layers=2, num_heads=4)
    corpus = text.standard_library()
    twice = metrics.repeated_tokens(jax.random.key(1), 256, CONTEXT // 2, text.VOCAB_SIZE)
    held_out = jnp.asarray(text.windows(corpus.held_out, 512, CONTEXT + 1))
    probes = {
        "previous_token": metrics.pattern_probe(model, held_out[:256, :-1].astype(jnp.int32), metrics.previous_token_score),
        "prefix_matching": metrics.pattern_probe(model, twice, partial(metrics.prefix_matching_score, tokens_BxL=twice)),
        "in_context": metrics.loss_probe(token_losses(model), held_out, partial(metrics.in_context_score, early=EARLY, late=LATE)),
    }
    data = jnp.asarray(text.windows(corpus.train, num_sequences, CONTEXT + 1))
    return Task(model, next_token_loss(model), draw_windows, jnp.asarray(corpus.train), data, probes, optax.adam(3e-3), AVERAGE)


def draw_sequences(key: jax.Array, source: induction.Source) -> jax.Array:
    """A batch of 32 fresh sequences."""
    return induction.draw(key, source, 32, CONTEXT)


def draw_windows(key: jax.Array, tokens: jax.Array) -> jax.Array:
    """A batch of 32 windows of text."""
    starts = jax.random.randint(key, (32,), 0, tokens.shape[0] - CONTEXT)
    return tokens[starts[:, None] + jnp.arange(CONTEXT + 1)]


def checkpoints(num_steps: int, size: Size) -> list[int]:
    """0, log-spaced from 10 on, dense and linearly spaced from 15 % to 85 % of the run, where the bump of seeds 100 and 101 lies, and a few to the end."""
    first, last = 3 * num_steps // 20, 17 * num_steps // 20
    log, dense, end = checkpoint_steps(first, size.num_log, 0, first=10), checkpoint_steps(last, 0, size.num_linear, first=first), range(1, 4)
    return sorted({0, *log, *dense, *(last + (num_steps - last) * i // 3 for i in end)})


def settings_of(size: Size, *, nbeta: float = NBETA, localization: float = LOCALIZATION, step_size: float = STEP_SIZE) -> jaxllc.Settings:
    """How chains are run."""
    return jaxllc.Settings(
        jaxllc.SGLD(step_size), nbeta=nbeta, localization=localization, batch_size=BATCH_SIZE, num_chains=size.num_chains, num_draws=size.num_draws,
        num_burn_in=size.num_burn_in,
    )  # fmt: skip


def run(seeds: int | None, quick: bool, without: Collection[str] = ()) -> dict[str, Any]:
    """Train, follow, judge, draw. The result is written after each part, so that a run that is stopped leaves one."""
    size = QUICK if quick else FULL
    size = size._replace(num_seeds=seeds or size.num_seeds)
    place = Workplace("induction", quick)
    two, one = triggers(2, size.num_sequences), triggers(1, size.num_sequences)
    steps = checkpoints(size.num_steps, size)
    first = 0 if quick else FIRST_SEED
    with place.part("train"):
        runs = train(two, list(range(first, first + size.num_seeds)), steps, place.folder / "checkpoints")
    with place.part("coefficients"):
        traj = follow(two, runs, place.folder / "llc.zarr", settings_of(size))
    with place.part("control"):
        control_runs = train(one, list(range(first, first + size.num_control_seeds)), steps, place.folder / "control")
        control = follow(one, control_runs, place.folder / "llc-control.zarr", settings_of(size))
    with place.part("judge"):
        best = induction.best_losses(two.source, CONTEXT)
        bigram, least = float(best.bigram.mean()), float(best.induction.mean())
        halfway = (bigram + least) / 2
        result, answer = judge(traj, control, halfway)
    result |= {"num_checkpoints": len(steps), "best_losses": {"bigram": bigram, "induction": least}, "settings": settings(size)}
    saved = place.save(result, figure(traj, control, None, result["rows"], answer))
    fewer = size._replace(num_chains=min(size.num_chains, FEWER_CHAINS))
    if "sensitivity" not in without:
        with place.part("sensitivity"):
            chosen = [seed for seed in result["rows"] if seed["formed"]][: size.sensitivity_seeds]
            varied = [(setting, settings_of(fewer, **setting)) for setting in ({}, *SENSITIVITY)]
            result["sensitivity"] = sensitivity(two, runs, answer["llc_drop"], chosen, place.folder, varied)
        saved = place.save(result, figure(traj, control, None, result["rows"], answer))
    if "themselves" not in without:
        with place.part("themselves"):
            result["themselves"] = weights_themselves(two, place, fewer, halfway)
        saved = place.save(result, figure(traj, control, None, result["rows"], answer))
    if "text" not in without:
        with place.part("text"):
            text_traj, of_text = follow_text(place, fewer)
            result |= of_text
        saved = place.save(result, figure(traj, control, text_traj, result["rows"], answer))
    return saved


def settings(size: Size) -> dict[str, Any]:
    """All settings, for the result."""
    return {
        "nbeta": NBETA, "localization": LOCALIZATION, "step_size": STEP_SIZE, "batch_size": BATCH_SIZE, "num_draws": size.num_draws,
        "num_burn_in": size.num_burn_in, "num_sequences": size.num_sequences, "tokens_of_a_sequence": CONTEXT, "fixed_on_seeds": [100, 101],
        "first_seed": FIRST_SEED, "average": AVERAGE, "window_ratio": RATIO, "window_bins": BINS,
    }  # fmt: skip


def weights_themselves(task: Task, place: Workplace, size: Size, halfway: float) -> dict[str, Any]:
    """The same seeds, followed at the weights in the place of their moving average."""
    traj = follow(task, themselves(task, place.folder / "checkpoints"), place.folder / "llc-themselves.zarr", settings_of(size))
    seeds = rows(traj, stages_of(traj), halfway)
    return {"rows": seeds, "curves": rounded_curves(Curves.of(traj)), **over_all(seeds)}


def follow_text(place: Workplace, size: Size) -> tuple[jaxllc.Trajectory, dict[str, Any]]:
    """The runs on real text, and what they add to the result."""
    task = real_text(size.num_sequences)
    runs = train(task, list(range(size.num_text_seeds)), checkpoints(size.num_text_steps, size), place.folder / "text")
    traj = follow(task, runs, place.folder / "llc-text.zarr", settings_of(size))
    seeds = rows(traj, stages_of(traj), None)
    return traj, {"text": {"rows": seeds, **over_all(seeds)}, "text_curves": rounded_curves(Curves.of(traj))}
