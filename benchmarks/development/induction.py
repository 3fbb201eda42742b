r"""The induction bump: does the coefficient fall, hidden from the loss, while previous-token heads form (Hoogland et al., arXiv:2402.02364)?

Seeds 2, 3, ... of a two-layer attention-only transformer of 14 000 weights on the source of `jaxllc.models.induction`; a one-layer control, which cannot do
induction; and two seeds on real text. Half-rise and onset are 50 % and 10 % of the way from the first to the last level (`analysis.crossing`). Scores are the
greatest of a layer's heads: of the first layer for previous tokens, at the queries just after a trigger, which is where an induction circuit needs them; of the
last layer for prefix matching, at triggers.

The settings of the chains were fixed on the seeds 100 and 101, which are not among those reported, by R-hat, drift, step-size bias and the distance from
the gradient-free control at six checkpoints each: nβ = 100 with γ = 100 drifted over 300 steps at nearly all of them and with γ = 1000 could
hardly be told from the control;
nβ = γ = 1000 could, with R-hat at most 1.04. The step size, 3e-5, is three times the default for the curvature there, so that chains forget their start in
burn-in; at 2e-5 and 4e-5 no chain drifted and the step added 2 to 12 %, more only at step 25, where the coefficient is near zero.
Quick runs, with shorter chains, are of the seeds 0 and 1 and were seen before `FIRST_STEP`, `FORMED` and the checkpoints were set: these two seeds are not
among those reported either, and no rule of the verdict was changed.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxllc
from benchmarks.development import analysis
from benchmarks.development.analysis import change, crossing, over_chains, over_seeds, over_seeds_and_chains
from benchmarks.development.common import Workplace
from jaxllc import diagnostics, metrics
from jaxllc.models import induction, text
from jaxllc.models.train import SeedRuns, checkpoint_steps, train_seeds
from jaxllc.models.transformer import Transformer, next_token_loss, token_losses
from jaxllc.results import values
from jaxllc.stages import recurring

CONTEXT = 64
VOCAB_SIZE = 64
EARLY, LATE = 7, 63
"""Positions of the in-context score."""
NBETA, LOCALIZATION, STEP_SIZE, BATCH_SIZE = 1000.0, 1000.0, 3e-5, 8
FIRST_STEP = 50
"""Stages are sought from here on. The weights before are near no minimum: chains find lower losses, and coefficients far below zero, whose scale would hide
all that comes later."""
FORMED = 0.2
"""A seed has formed its induction head when the score of prefix matching ends above this; chance gives 0.03 to 0.06."""
SENSITIVITY = (dict(nbeta=300.0), dict(nbeta=2000.0), dict(localization=500.0), dict(localization=2000.0), dict(step_size=1.5e-5), dict(step_size=6e-5))
"""What is varied, one at a time."""


class Size(NamedTuple):
    """How much is done."""

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
    stride: int
    """Every which checkpoint sensitivity is measured at."""


FULL = Size(2000, 16, 44, 10, 3, 2, 4000, 8, 100, 80, 1024, 2, 6)
FIRST_SEED = 2
"""Of a full run; a quick one begins with seed 0."""
QUICK = Size(1200, 4, 10, 2, 1, 1, 200, 4, 20, 20, 256, 1, 5)


class Task(NamedTuple):
    """A model, where its batches come from and what is watched."""

    model: Transformer
    draw_batch: Any
    source: Any
    data: jax.Array
    observables: dict[str, Any]
    learning_rate: float


def triggers(num_layers: int, num_sequences: int) -> Task:
    """The source in which nothing but induction helps beyond a bigram table."""
    model = Transformer(VOCAB_SIZE, CONTEXT, width=32, num_layers=num_layers, num_heads=4)
    source = induction.make_source(jax.random.key(0), VOCAB_SIZE)
    tokens = induction.draw(jax.random.key(1), source, 256, CONTEXT)
    read = tokens[:, :-1]
    at_trigger = induction.is_trigger(source, read)
    after_trigger = jnp.pad(at_trigger[:, :-1], ((0, 0), (1, 0)))
    observables = {
        "previous_token": metrics.pattern_observable(model, read, partial(metrics.previous_token_score, where_BxL=after_trigger)),
        "previous_token_everywhere": metrics.pattern_observable(model, read, metrics.previous_token_score),
        "prefix_matching": metrics.pattern_observable(model, read, partial(metrics.prefix_matching_score, tokens_BxL=read, where_BxL=at_trigger)),
        "in_context": metrics.loss_observable(token_losses(model), tokens, partial(metrics.in_context_score, early=EARLY, late=LATE)),
    }
    return Task(model, draw_sequences, source, induction.draw(jax.random.key(2), source, num_sequences, CONTEXT), observables, 1e-2)


def real_text(num_sequences: int) -> Task:
    """The standard library's source, by characters; prefix matching and previous tokens on random tokens said twice."""
    model = Transformer(text.VOCAB_SIZE, CONTEXT, width=32, num_layers=2, num_heads=4)
    corpus = text.standard_library()
    twice = metrics.repeated_tokens(jax.random.key(1), 256, CONTEXT // 2, text.VOCAB_SIZE)
    held_out = jnp.asarray(text.windows(corpus.held_out, 512, CONTEXT + 1))
    observables = {
        "previous_token": metrics.pattern_observable(model, held_out[:256, :-1].astype(jnp.int32), metrics.previous_token_score),
        "prefix_matching": metrics.pattern_observable(model, twice, partial(metrics.prefix_matching_score, tokens_BxL=twice)),
        "in_context": metrics.loss_observable(token_losses(model), held_out, partial(metrics.in_context_score, early=EARLY, late=LATE)),
    }
    data = jnp.asarray(text.windows(corpus.train, num_sequences, CONTEXT + 1))
    return Task(model, draw_windows, jnp.asarray(corpus.train), data, observables, 3e-3)


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


def follow(
    task: Task,
    runs: Any,
    store: Path,
    size: Size,
    *,
    nbeta: float = NBETA,
    localization: float = LOCALIZATION,
    step_size: float = STEP_SIZE,
) -> jaxllc.Trajectory:
    """The coefficient and the scores at all checkpoints of all runs."""
    return jaxllc.trajectory(
        loss_functions(task.model), runs, task.data, key=jax.random.key(3), sampler=jaxllc.SGLD(step_size), nbeta=nbeta, localization=localization,
        batch_size=BATCH_SIZE, num_chains=size.num_chains, num_draws=size.num_draws, num_burn_in=size.num_burn_in, observables=task.observables,
        store=store, reference_loss=float(np.log(task.model.vocab_size)), progress=False,
    )  # fmt: skip


_LOSS: dict[Transformer, Any] = {}


def loss_functions(model: Transformer) -> Any:
    """The loss of a model, the same function at each call, so that nothing compiles again."""
    return _LOSS.setdefault(model, next_token_loss(model))


def train(task: Task, seeds: list[int], steps: list[int], folder: Path) -> SeedRuns:
    """All seeds in one program; a folder that holds other seeds is refused."""
    return train_seeds(
        loss_functions(task.model), task.model.init_params, task.draw_batch, task.source, optax.adam(task.learning_rate), key=jax.random.key(4),
        seeds=seeds, steps=steps, directory=folder,
    )  # fmt: skip


class Curves(NamedTuple):
    """What is known of each run, by step: losses and scores `[run, step]`, coefficients `[run, step, chain]` and of the gradient-free cloud."""

    step: np.ndarray
    loss: np.ndarray
    llc: np.ndarray
    cloud: np.ndarray
    scores: dict[str, np.ndarray]

    @classmethod
    def of(cls, traj: jaxllc.Trajectory) -> "Curves":
        """The curves of a trajectory of several runs."""
        tree = traj.data
        last = values(tree, "observables/prefix_matching").shape[-2] - 1
        scores = {
            "previous_token": values(tree, "observables/previous_token")[..., 0, :].max(-1),
            "prefix_matching": values(tree, "observables/prefix_matching")[..., last, :].max(-1),
            "in_context": values(tree, "observables/in_context"),
        }
        return cls(
            np.asarray(tree.coords["step"].values),
            values(tree, "constant_data/full_center_loss"),
            values(tree, "posterior/llc").mean(-1),
            values(tree, "constant_data/gaussian_llc"),
            scores,
        )


def stages_of(traj: jaxllc.Trajectory) -> Any:
    """The stages of all runs from `FIRST_STEP` on."""
    return jaxllc.Trajectory(traj.data.sel(step=slice(FIRST_STEP, None))).stages()


def rows(traj: jaxllc.Trajectory, bump_level: float | None) -> list[dict[str, Any]]:
    """What is asked of each seed; steps of crossings, changes of the coefficient over windows with errors paired by chain, and its stages.

    Args:
        traj: of several runs.
        bump_level: the loss halfway down the bump, None where it is not known.
    """
    curves, table = Curves.of(traj), stages_of(traj)
    found = []
    for i, (run, stages) in enumerate(table.groupby("run", sort=False)):
        step, scores = curves.step, {name: score[i] for name, score in curves.scores.items()}
        onset = {name: crossing(step, score, 0.1) for name, score in scores.items()}
        half = {name: crossing(step, score, 0.5) for name, score in scores.items()}
        formed = float(scores["prefix_matching"][-analysis.END :].mean()) > FORMED
        start, late, early = onset["previous_token"], half["prefix_matching"], onset["prefix_matching"]
        chains = change(step, curves.llc[i].T, start, late) if formed else np.full(curves.llc.shape[-1], np.nan)
        first = change(step, curves.llc[i].T, start, early) if formed else chains
        whole = float(change(step, curves.loss[i], start, float(step[-1]))) if formed else np.nan
        below = curves.loss[i] < bump_level if bump_level is not None else np.zeros(len(step), bool)
        found.append(
            {
                "run": str(run),
                "formed": formed,
                "onset": onset,
                "half": half,
                "loss_halfway": float(step[np.flatnonzero(~below)[-1] + 1]) if below[-1] else np.nan,
                "log_lag_half": float(np.log(half["prefix_matching"] / half["previous_token"])) if formed else np.nan,
                "lag_half": half["prefix_matching"] - half["previous_token"] if formed else np.nan,
                "log_lag_onset": float(np.log(early / start)) if formed else np.nan,
                "lag_onset": early - start if formed else np.nan,
                "llc_at_start": float(np.interp(np.log(start), analysis.log_step(step), curves.llc[i].mean(-1))),
                "llc_at_end": float(curves.llc[i, -analysis.END :].mean()),
                "drop": -over_chains(chains)[0],
                "drop_error": over_chains(chains)[1],
                "drop_by_chain": -chains,
                "drop_before_onset": -over_chains(first)[0],
                "drop_before_onset_error": over_chains(first)[1],
                "drop_before_onset_by_chain": -first,
                "loss_share_before_onset": float(change(step, curves.loss[i], start, early)) / whole if formed else np.nan,
                "final_loss": float(curves.loss[i, -analysis.END :].mean()),
                **analysis.stages_of_bump(stages, start, late),
                "stages": stages.drop(columns="run").to_dict("records"),
            }
        )
    return found


def over_all(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The answers over seeds. Seeds that have not formed an induction head have no lag and no window, and are counted."""
    formed = [row for row in found if row["formed"]]

    def mean(name: str) -> analysis.Interval:
        return over_seeds(np.asarray([row[name] for row in formed], float))

    def share(rows: list[bool]) -> float:
        return float(np.mean(rows)) if rows else np.nan

    def drops(name: str) -> analysis.Interval:
        return over_seeds_and_chains(np.stack([row[name] for row in formed])) if formed else over_seeds(np.empty(0))

    drop, before = drops("drop_by_chain"), drops("drop_before_onset_by_chain")
    type_b = share([row["type_b"] for row in formed])
    lag, hidden, start = mean("log_lag_half"), mean("loss_share_before_onset"), mean("llc_at_start")
    return {
        "num_formed": len(formed),
        "share_previous_token_first": share([row["log_lag_half"] > 0 for row in formed]),
        "share_previous_token_onset_first": share([row["log_lag_onset"] > 0 for row in formed]),
        "log_lag_half": lag,
        "lag_half": mean("lag_half"),
        "log_lag_onset": mean("log_lag_onset"),
        "lag_onset": mean("lag_onset"),
        "type_b_share": type_b,
        "hidden_share": share([row["hidden"] for row in formed]),
        "llc_drop_mean": drop.mean,
        "llc_drop_std_error": drop.std_error,
        "llc_drop": drop,
        "llc_drop_before_onset": before,
        "llc_at_start": start,
        "loss_share_before_onset": hidden,
        "verdict": analysis.verdict(lag, drop, start.mean, type_b, hidden),
    }


def control_answer(traj: jaxllc.Trajectory, found: list[dict[str, Any]]) -> dict[str, Any]:
    """What one layer does over the window of the two-layer seeds (the geometric means of its ends), and in their bump."""
    formed = [row for row in found if row["formed"]]
    curves, table = Curves.of(traj), stages_of(traj)
    answer: dict[str, Any] = {"num_seeds": len(curves.loss), "final_loss": curves.loss[:, -analysis.END :].mean(-1)}
    answer["prefix_matching_at_end"] = curves.scores["prefix_matching"][:, -analysis.END :].mean(-1)
    answer["num_type_b"] = [int((stages["type"] == "B").sum()) for _, stages in table.groupby("run", sort=False)]
    answer["stages"] = table.to_dict("records")
    if formed:
        start, end = (float(np.exp(np.mean([np.log(row[a][b]) for row in formed]))) for a, b in (("onset", "previous_token"), ("half", "prefix_matching")))
        chains = np.stack([change(curves.step, run.T, start, end) for run in curves.llc])
        answer |= {"window": [start, end], "llc_drop": over_seeds_and_chains(-chains)}
    return answer


def sensitivity(task: Task, runs: SeedRuns, main: jaxllc.Trajectory, found: list[dict[str, Any]], place: Workplace, size: Size) -> list[dict[str, Any]]:
    """The drop of the first seeds under other settings, at every `stride`-th checkpoint; the windows are those of the scores and stay."""
    names = [row["run"] for row in found[: size.sensitivity_seeds]]
    steps = sorted(runs[names[0]])[:: size.stride]
    fewer = {name: {step: runs[name][step] for step in steps} for name in names}
    coarse = jaxllc.Trajectory(main.data.sel(run=names, step=steps))
    answers = []
    for setting in ({}, *SENSITIVITY):
        told = "-".join(f"{name}-{value:g}" for name, value in setting.items())
        traj = follow(task, fewer, place.folder / f"llc-{told}.zarr", size, **setting) if setting else coarse
        curves, windows = Curves.of(traj), [(row["onset"]["previous_token"], row["half"]["prefix_matching"]) for row in found]
        drops = [over_chains(-change(curves.step, curves.llc[i].T, *windows[i])) for i in range(len(names))]
        codes = " ".join(" ".join(finding.code for finding in one) for one in traj.findings()).split()
        answers.append({"setting": setting, "runs": names, "drop": [d[0] for d in drops], "drop_error": [d[1] for d in drops]})
        answers[-1] |= {"llc": curves.llc.mean(-1), "step": curves.step, "findings": {code: codes.count(code) for code in sorted(set(codes))}}
    return answers


def run(seeds: int | None, quick: bool) -> dict[str, Any]:
    """Train, follow, judge, draw."""
    size = QUICK if quick else FULL
    size = size._replace(num_seeds=seeds or size.num_seeds)
    place = Workplace("induction", quick)
    two, one, words = triggers(2, size.num_sequences), triggers(1, size.num_sequences), real_text(size.num_sequences)
    steps, text_steps = checkpoints(size.num_steps, size), checkpoints(size.num_text_steps, size)
    with place.part("train"):
        first = 0 if quick else FIRST_SEED
        runs = train(two, list(range(first, first + size.num_seeds)), steps, place.folder / "checkpoints")
    with place.part("coefficients"):
        traj = follow(two, runs, place.folder / "llc.zarr", size)
    with place.part("control"):
        control_runs = train(one, list(range(size.num_control_seeds)), steps, place.folder / "control")
        control = follow(one, control_runs, place.folder / "llc-control.zarr", size)
    with place.part("judge"):
        best = induction.best_losses(two.source, CONTEXT)
        bigram, least = float(best.bigram.mean()), float(best.induction.mean())
        found = rows(traj, (bigram + least) / 2)
        answer = over_all(found)

    def kept(text_traj: jaxllc.Trajectory | None) -> dict[str, Any]:
        """Write what there is so far, so that a run that is stopped leaves an answer: at first without real text."""
        text_found = None if text_traj is None else rows(text_traj, None)
        codes = " ".join(" ".join(finding.code for finding in one) for one in traj.findings()).split()
        result = {
            "num_seeds": size.num_seeds,
            "num_checkpoints": len(steps),
            "num_chains": size.num_chains,
            **answer,
            "settings": {
                "nbeta": NBETA, "localization": LOCALIZATION, "step_size": STEP_SIZE, "batch_size": BATCH_SIZE, "num_draws": size.num_draws,
                "num_burn_in": size.num_burn_in, "fixed_on_seeds": [100, 101], "first_seed": FIRST_SEED,
            },
            "best_losses": {"bigram": bigram, "induction": least},
            "findings": {code: codes.count(code) for code in sorted(set(codes))},
            "recurring_stages": recurring(stages_of(traj)).to_dict("records"),
            "rows": found,
            "control": control_answer(control, found),
            "sensitivity": sensitive,
            "text": None if text_found is None else {"rows": text_found, **over_all(text_found)},
            "curves": _kept(Curves.of(traj)),
            "control_curves": _kept(Curves.of(control)),
            "text_curves": None if text_traj is None else _kept(Curves.of(text_traj)),
        }  # fmt: skip
        return place.keep(result, figure(traj, control, text_traj, found, answer))

    with place.part("sensitivity"):
        sensitive: list[dict[str, Any]] = []
        kept(None)
        sensitive = sensitivity(two, runs, traj, found, place, size)
        kept(None)
    with place.part("text"):
        text_runs = train(words, list(range(size.num_text_seeds)), text_steps, place.folder / "text")
        text_traj = follow(words, text_runs, place.folder / "llc-text.zarr", size)
    return kept(text_traj)


def _kept(curves: Curves) -> dict[str, Any]:
    """The curves to four digits: of the coefficient the mean over chains and the gradient-free cloud's."""
    found = {"loss": curves.loss, "llc": curves.llc.mean(-1), "gaussian_llc": curves.cloud.mean(-1), **curves.scores}
    return {"step": curves.step, **{name: [[float(f"{x:.4g}") for x in row] for row in value] for name, value in found.items()}}


def figure(
    traj: jaxllc.Trajectory, control: jaxllc.Trajectory, text_traj: jaxllc.Trajectory | None, found: list[dict[str, Any]], answer: dict[str, Any]
) -> Any:
    """Loss, coefficient and scores over the step: two layers, one layer, real text."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    from jaxllc.plots import BLUE, GREY, ORANGE

    green = "#009e73"
    columns = [
        (traj, "two layers, triggers"),
        (control, "one layer, triggers (control)"),
        *([] if text_traj is None else [(text_traj, "two layers, real text")]),
    ]
    shape = {"figsize": (4 * len(columns), 8), "sharex": "col", "height_ratios": (2, 3, 2), "layout": "constrained"}
    both, axes = plt.subplots(3, len(columns), **shape)
    for j, (each, title) in enumerate(columns):
        curves, step = Curves.of(each), np.asarray(each.data.coords["step"].values, float)
        x = np.exp(analysis.log_step(step))
        top, middle, bottom = axes[:, j]
        top.set_title(f"{title}: {len(curves.loss)} seed{'s' * (len(curves.loss) > 1)}", fontsize="medium", loc="left")
        top.plot(x, curves.loss.T, color=ORANGE, lw=0.7)
        middle.plot(x, curves.llc.mean(-1).T, color=BLUE, lw=0.6, alpha=0.6)
        if len(curves.loss) > 1:
            mean = diagnostics.over_runs(each.data)
            middle.errorbar(x, mean["llc"].values, 2 * mean["std_error"].values, color=BLUE, lw=1.8, elinewidth=0.8, label="mean ± 2 standard errors")
        middle.plot(x, curves.cloud.mean((0, -1)), color=GREY, lw=1, ls="--", label="without gradients: N(w*, 1/γ)")
        top_llc = float(curves.llc.mean(-1).max())
        middle.set_ylim(-0.3 * top_llc, 1.25 * top_llc)  # what lies below is of the first steps, near no minimum
        bottom.plot(x, curves.scores["previous_token"].T, color=green, lw=0.7)
        bottom.plot(x, curves.scores["prefix_matching"].T, color="#cc79a7", lw=0.7)
        bottom.plot([], [], color=green, label="previous token")
        bottom.plot([], [], color="#cc79a7", label="prefix matching")
        bottom.set_ylim(0, 1)
        bottom.set_xscale("log")
        bottom.set_xlabel("training step (0 at the left edge)")
        for ax in axes[:, j]:
            ax.spines[["top", "right"]].set_visible(False)
    for row in found:
        if row["formed"] and row["half"]["prefix_matching"] > row["onset"]["previous_token"]:
            axes[1, 0].axvspan(row["onset"]["previous_token"], row["half"]["prefix_matching"], color=green, alpha=0.08, lw=0, zorder=0)
    for ax, label in zip(axes[:, 0], ("loss (nats per token)", "local learning coefficient λ̂", "attention score"), strict=True):
        ax.set_ylabel(label)
    axes[1, 0].legend(frameon=False, fontsize="small", loc="lower right")
    axes[2, 0].legend(frameon=False, fontsize="small", loc="upper left")
    both.suptitle(
        f"{str(answer['verdict']).split(':')[0].split(' (')[0]}: λ̂ drop before the bump {answer['llc_drop_mean']:.2f} ± {answer['llc_drop_std_error']:.2f}",
        fontsize="large",
    )
    return both


def table(result: dict[str, Any]) -> str:
    """The answers as Markdown."""

    def told(interval: dict[str, Any], digits: int = 2) -> str:
        if interval["mean"] is None or interval["low"] is None:
            return "unknown"
        return f"{interval['mean']:.{digits}f} ± {interval['std_error']:.{digits}f} ({interval['low']:.{digits}f} to {interval['high']:.{digits}f})"

    def percent(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.0%}"

    lines = ["| what | two layers, triggers | real text |", "|---|---|---|"]
    for label, name, show in (
        ("seeds that formed an induction head", "num_formed", str),
        ("previous-token half rise first, share of seeds", "share_previous_token_first", percent),
        ("previous-token onset first, share of seeds", "share_previous_token_onset_first", percent),
        ("lag of half rises, steps", "lag_half", partial(told, digits=0)),
        ("lag of half rises, log of the ratio", "log_lag_half", told),
        ("lag of onsets, log of the ratio", "log_lag_onset", told),
        ("certain type B before the bump's type A, share of seeds", "type_b_share", percent),
        ("drop of λ̂, previous-token onset to prefix half rise", "llc_drop", told),
        ("drop of λ̂, previous-token onset to prefix onset", "llc_drop_before_onset", told),
        ("λ̂ at previous-token onset", "llc_at_start", told),
        ("share of the loss's fall paid before prefix onset", "loss_share_before_onset", told),
    ):
        lines.append(f"| {label} | {show(result[name])} | {show(result['text'][name]) if result['text'] else 'not run'} |")
    lines += ["", f"Verdict: {result['verdict']}", "", "| setting | drop of λ̂, by seed | findings |", "|---|---|---|"]
    for row in result["sensitivity"]:
        setting = ", ".join(f"{name} {value:g}" for name, value in row["setting"].items()) or "as above, fewer checkpoints"
        drops = ", ".join("unknown" if d is None else f"{d:.2f} ± {e:.2f}" for d, e in zip(row["drop"], row["drop_error"], strict=True))
        lines.append(f"| {setting} | {drops} | {', '.join(f'{code} {count}' for code, count in row['findings'].items()) or 'none'} |")
    control = result["control"]
    if "llc_drop" in control:
        lines += ["", f"One layer over the same window ({control['window'][0]:.0f} to {control['window'][1]:.0f}): a drop of {told(control['llc_drop'])}."]
    return "\n".join(lines)
