r"""The hidden transition on real text: does λ̂ fall, unseen in the loss, while previous-token heads form (Hoogland et al., arXiv:2402.02364)?

A two-layer attention-only transformer of 107 000 weights learns the tests of Python itself (`text_task`). Previous-token heads form there three to four times
earlier in steps than induction heads, so a fall between the two would have room, which it has not on the synthetic source of `induction`. One-layer
transformers are the control.

Scores, onsets and rules are those of `induction` (`bump`, `fall`, `analysis`). The window differs: it begins at a quarter of the step at which prefix
matching sets in, and has ten bins, since previous-token attention rises over a factor of four in steps there. Window, settings and the text that decides were
fixed on seeds 100 and 101 (`text_pilot`), which are not reported. `headers` is the same experiment on C headers: there both pilots formed an induction
head at nearly one time, within 10 000 steps, where on Python's tests one needed 16 000 and the other 32 000. So its verdict is the verdict; that on Python's
tests is told beside it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxllc
from jaxllc import results
from jaxllc.estimator import corrected_draws
from jaxllc.models.train import SeedRuns, checkpoint_steps
from research.development.analysis import END, crossing, over_seeds
from research.development.answers import judge, sensitivity
from research.development.bump import FORMED, Curves, later_window, over_all, rounded_curves, rows, stages_of
from research.development.common import Workplace, count_findings
from research.development.fall import Window, before, largest_fall
from research.development.tasks import Task, follow, train
from research.development.text_report import TITLES, figure, table
from research.development.text_task import Variant, make

__all__ = ["OPTIONAL_PARTS", "run", "table"]

NBETA, LOCALIZATION, BATCH_SIZE = 100.0, 320.0, 4
"""What `jaxllc.calibrate` chose for Python's tests at nβ = 100. The loss is the mean over the tokens of a window of text, so n counts windows. On C headers,
which are more curved, it raised γ to 1400 for chains of the same seconds; γ is left at 320 there, and chains are longer."""
STEP_SIZES = {"tests": 1.28e-4, "c": 2.82e-5, "few": 1.28e-4}
"""That it chose for each text, eight times the default."""
LEAST_RELAXATIONS = 3.0, 7.0
"""Of burn-in and draws: their iterations in relaxation times 2 / (εγ) of directions that the loss does not curve."""
WINDOW = Window(4.0, 10)
WINDOWS = (Window(2.0, 5), WINDOW, Window(6.0, 13))
SENSITIVITY = (dict(nbeta=0.3), dict(nbeta=3.0, localization=3.0, step_size=1 / 3), dict(localization=0.25), dict(step_size=0.5))
"""Factors by which settings are varied."""
LONGER = 4
"""Times the usual length of chains that have mixed by every diagnostic."""
PUBLISHED = jaxllc.Settings(
    jaxllc.SGLD(3e-3, noise="gaussian"), nbeta=21.7, localization=300.0, batch_size=BATCH_SIZE, num_chains=4, num_draws=200, num_burn_in=0
)
"""Step size, nβ, γ and draws without burn-in of the published estimate (timaeus-research/icl); it has 20 chains and batches of 100."""
PUBLISHED_CHAINS = 20
FIRST_SEED = 10
OPTIONAL_PARTS = ("calibrated", "themselves", "published", "sensitivity", "heads")
"""Parts that a call may leave out; the last four need the first."""
CALIBRATED = {"tests": 320.0, "c": 1400.0, "few": 320.0}
"""γ as calibrated for each text, at which the parts are followed."""


class Size(NamedTuple):
    """How large an experiment is."""

    num_steps: int
    num_checkpoints: int
    num_seeds: int
    num_control_seeds: int
    num_chains: int
    most_iterations: int
    """Of a chain, however slow."""
    num_sequences: int
    side_seeds: int
    every: int
    """Of these seeds' checkpoints, so many apart are followed in the optional parts."""
    two: Variant
    one: Variant


FULL = Size(40_000, 100, 8, 3, 4, 10_000, 2000, 4, 3, Variant(), Variant(1))
HEADERS = FULL._replace(num_steps=20_000, num_checkpoints=84, two=Variant(source="c"), one=Variant(1, "c"))
QUICK = Size(400, 40, 2, 1, 2, 20, 64, 2, 1, Variant(2, "few", 256, 32, 32), Variant(1, "few", 256, 32, 32))


def checkpoints(size: Size) -> list[int]:
    """0, some steps to 500, and most of them log-spaced from there on."""
    first = size.num_steps // 40
    return sorted({0, *checkpoint_steps(first, size.num_checkpoints // 8, 0, first=min(10, first)), *log_spaced(first, size)})


def log_spaced(first: int, size: Size) -> list[int]:
    """Steps from one on to the end."""
    return checkpoint_steps(size.num_steps, size.num_checkpoints - size.num_checkpoints // 8, 0, first=first)


def base_settings(size: Size) -> dict[str, float]:
    """nβ, γ and ε of a text."""
    return {"nbeta": NBETA, "localization": LOCALIZATION, "step_size": STEP_SIZES[size.two.source]}


def settings_of(size: Size, **changes: float) -> jaxllc.Settings:
    """How chains are run, with some of the settings changed: as long as directions need to forget, and no shorter than as calibrated."""
    base = base_settings(size)
    values = base | changes
    relaxation = 2 / min(values["step_size"] * values["localization"], base["step_size"] * CALIBRATED[size.two.source])
    burn_in, drawn = (min(round(count * relaxation), size.most_iterations // 2) for count in LEAST_RELAXATIONS)
    thinning = max(1, drawn // 300)
    return jaxllc.Settings(
        jaxllc.SGLD(values["step_size"]), nbeta=values["nbeta"], localization=values["localization"], batch_size=BATCH_SIZE, num_chains=size.num_chains,
        num_draws=drawn // thinning, num_burn_in=burn_in, thinning=thinning,
    )  # fmt: skip


def run(seeds: int | None, quick: bool, without: Collection[str] = ()) -> dict[str, Any]:
    """On the tests of Python."""
    return run_on("text", QUICK if quick else FULL, seeds, quick, without)


def run_on(name: str, size: Size, seeds: int | None, quick: bool, without: Collection[str]) -> dict[str, Any]:
    """Train, follow, judge, draw. The result is written after each part, so that a run that is stopped leaves one."""
    size = size._replace(num_seeds=seeds or size.num_seeds)
    place = Workplace(name, quick)
    two, one = (make(variant, place.folder, size.num_sequences) for variant in (size.two, size.one))
    steps = checkpoints(size)
    traj = trajectory_of(two, size.num_seeds, steps, place, Where("train", "checkpoints", "coefficients", "llc.zarr"), settings_of(size))
    control = trajectory_of(one, size.num_control_seeds, steps, place, Where("train, one layer", "control", "control", "llc-control.zarr"), settings_of(size))
    with place.part("judge"):
        result, answer = judge(traj, control, None, WINDOW, WINDOWS)
        result |= {"num_checkpoints": len(steps), "settings": settings(size), "slopes": slopes(Curves.of(traj), result["rows"])}
        result |= {"later_window": later_window(traj, result["rows"], WINDOW), "drawn_with": results.attributes(traj.data)["versions"]}
        result |= dict.fromkeys(OPTIONAL_PARTS)
    drawn = figure(traj, control, result["rows"], answer, WINDOW, TITLES[size.two.source])
    saved = place.save(result, drawn)
    if "calibrated" in without:
        return saved
    averages, weights, events = side_runs(two, size, place, steps)
    chosen = settings_of(size, localization=CALIBRATED[size.two.source])
    as_published = PUBLISHED.replace(num_draws=min(PUBLISHED.num_draws, size.most_iterations))
    with place.part("calibrated"):
        side = follow(two, averages, place.folder / "llc-calibrated.zarr", chosen)
        result["calibrated"] = answers_of(side, events)
    saved, of_side = place.save(result, drawn), result["calibrated"]["rows"]
    parts = {
        "themselves": lambda: answers_of(follow(two, weights, place.folder / "llc-themselves.zarr", chosen), events),
        "published": lambda: published(follow(two, weights, place.folder / "llc-published.zarr", as_published), of_side),
        "heads": lambda: by_head(two, averages, side, of_side, place, chosen),
        "sensitivity": lambda: sensitivity(two, averages, answer["llc_drop"], formed(of_side)[:1], place.folder, varied(size), WINDOW),
    }
    for name, follow_part in parts.items():
        if name not in without:
            with place.part(name):
                result[name] = follow_part()
            saved = place.save(result, drawn)
    return saved


class Where(NamedTuple):
    """The names of a training and its part of the experiment, and of what follows it."""

    training: str
    folder: str
    part: str
    store: str


def trajectory_of(task: Task, num_seeds: int, steps: Sequence[int], place: Workplace, where: Where, chosen: jaxllc.Settings) -> jaxllc.Trajectory:
    """The first seeds trained and followed. A store that is whole is enough: checkpoints are large, and need not be kept."""
    store = place.folder / where.store
    if not (store.exists() and len(jaxllc.open(store).table()) == num_seeds * len(steps)):
        with place.part(where.training):
            runs = train(task, range(FIRST_SEED, FIRST_SEED + num_seeds), steps, place.folder / where.folder)
        with place.part(where.part):
            follow(task, runs, store, chosen)
    traj = jaxllc.open(store)
    assert isinstance(traj, jaxllc.Trajectory)
    return traj


def side_runs(task: Task, size: Size, place: Workplace, steps: Sequence[int]) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Some checkpoints of the first seeds, their averages and the weights themselves, and the onsets of prefix matching, from all checkpoints.

    They are trained again where only the draws of the main runs were kept.
    """
    seeds, folder = range(FIRST_SEED, FIRST_SEED + size.side_seeds), place.folder / "checkpoints"
    if not folder.exists():
        folder = place.folder / "side"
        with place.part("train, for the parts"):
            train(task, seeds, steps, folder)
    like = jax.eval_shape(task.model.init_params, jax.random.key(0))
    averaged, themselves = (SeedRuns(folder, like=like, averaged=averaged) for averaged in (True, False))
    names = [f"seed_{seed}" for seed in seeds]
    with place.part("onsets, for the parts"):
        events = onsets(task, {name: averaged[name] for name in names})
    averages, weights = ({name: some(runs[name], size.every) for name in names} for runs in (averaged, themselves))
    return averages, weights, events


def onsets(task: Task, runs: Mapping[str, Mapping[int, Any]]) -> dict[str, float]:
    """Where prefix matching has made a tenth of its rise, by all checkpoints and without chains; NaN of a run that formed no induction head."""
    look, found = jax.jit(task.probes["prefix_matching"]), {}
    for run, checkpoints in runs.items():
        steps = sorted(checkpoints)
        score = np.array([float(look(checkpoints[step])[-1].max()) for step in steps])
        found[run] = crossing(np.array(steps), score, 0.1) if score[-END:].mean() > FORMED else np.nan
    return found


def answers_of(traj: jaxllc.Trajectory, events: Mapping[str, float]) -> dict[str, Any]:
    """What the main runs are asked, of others whose onsets are known."""
    seeds = rows(traj, stages_of(traj), None, WINDOW, events)
    return {"rows": seeds, "curves": rounded_curves(Curves.of(traj)), "findings": count_findings(traj), **over_all(seeds)}


def formed(seeds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the seeds that have formed an induction head."""
    return [seed for seed in seeds if seed["formed"]]


def settings(size: Size) -> dict[str, Any]:
    """All settings, for the result."""
    chosen = settings_of(size)
    return {
        **base_settings(size), "batch_size": BATCH_SIZE, "num_draws": chosen.num_draws, "thinning": chosen.thinning, "num_burn_in": chosen.num_burn_in,
        "num_sequences": size.num_sequences, "fixed_on_seeds": [100, 101], "first_seed": FIRST_SEED, "window_ratio": WINDOW.ratio, "window_bins": WINDOW.bins,
        "model": size.two.name,
    }  # fmt: skip


def varied(size: Size) -> list[tuple[dict[str, float], jaxllc.Settings]]:
    """The settings as calibrated with one of them varied: what is changed, and all."""
    base = base_settings(size) | {"localization": CALIBRATED[size.two.source]}
    changes = [{name: factor * base[name] for name, factor in factors.items()} for factors in SENSITIVITY]
    usual = settings_of(size, **base)
    lengths = {"num_burn_in": LONGER * usual.num_burn_in, "num_draws": LONGER * usual.num_draws}
    return [(dict(lengths), usual.replace(**lengths)), *((change, settings_of(size, **(base | change))) for change in changes)]


def some(checkpoints: Mapping[int, Any], every: int) -> Mapping[int, Any]:
    """Every so many of the checkpoints, the last among them, read when they are asked for."""
    return _Some(checkpoints, sorted(checkpoints)[::-1][::every][::-1])


class _Some(Mapping[int, Any]):
    def __init__(self, checkpoints: Mapping[int, Any], steps: Sequence[int]) -> None:
        self.checkpoints, self.steps = checkpoints, steps

    def __getitem__(self, step: int) -> Any:
        return self.checkpoints[step]

    def __iter__(self) -> Any:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def slopes(curves: Curves, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """By how much λ̂ changes per e-fold of steps, over seeds: in both halves of the window, by log-time, and in as much log-time after it."""
    half = WINDOW.ratio**0.5
    found: dict[str, list[float]] = {"first half of the window": [], "second half of the window": [], "after the onset of prefix matching": []}
    for i, seed in enumerate(seeds):
        event = seed["window"][1]
        ends = event / WINDOW.ratio * half ** np.arange(4)
        levels = np.interp(np.log(ends), np.log(np.maximum(curves.step, 1)), curves.llc[i].mean(-1))
        for name, change in zip(found, np.diff(levels) / np.log(half), strict=True):
            found[name].append(float(change) if seed["formed"] else np.nan)
    return {name: over_seeds(np.array(values)) for name, values in found.items()}


def published(traj: jaxllc.Trajectory, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    r"""What the published estimate says of these runs, at the weights themselves: its draws as they are, and with its own baseline in the place of $L(w^*)$.

    That baseline is a mean over all chains of their first losses, taken while later chains count as zero: chain c of C subtracts c / C of the loss at $w^*$.
    So $n\beta (C - 1) / 2C$ of the loss is added to λ̂.
    """
    curves = Curves.of(traj)
    draws = results.values(traj.data, "posterior/llc").mean(-1) + results.values(traj.data, "sample_stats/step_bias")  # which they do not take off
    assert PUBLISHED.nbeta is not None
    own = {}
    baseline = PUBLISHED.nbeta * (PUBLISHED_CHAINS - 1) / (2 * PUBLISHED_CHAINS) * curves.loss
    for name, llc in {"as defined": draws, "with its own baseline": draws + baseline[..., None], "without gradients": curves.cloud}.items():
        binned = np.stack([before(curves.step, llc[i].T, seed["window"][1], WINDOW) for i, seed in enumerate(seeds)])
        own[name] = in_window(binned) | {"curve": np.round(llc.mean(-1), 2)}
    return {"step": curves.step, "findings": count_findings(traj), **own}


def in_window(binned: np.ndarray) -> dict[str, Any]:
    """The largest fall and the level of curves in the bins of their windows, `[seed, chain, bin]`; NaN where no seed has a window."""
    known = binned[np.isfinite(binned)]
    return {"fall": largest_fall(binned), "level": float(known.mean()) if len(known) else np.nan}


def by_head(
    task: Task, runs: Mapping[str, Any], traj: jaxllc.Trajectory, seeds: list[dict[str, Any]], place: Workplace, chosen: jaxllc.Settings
) -> dict[str, Any]:
    """λ̂ of the previous-token head alone and of the prefix-matching head alone: of each seed the heads with the greatest scores at its end."""
    probes = {name: results.values(traj.data, f"probes/{name}") for name in ("previous_token", "prefix_matching")}
    names = {"previous-token head": ("previous_token", 0), "induction head": ("prefix_matching", 1)}
    picked, llc, step = [], {name: [] for name in names}, np.zeros(0)
    for i, (run, of_run) in enumerate(runs.items()):
        heads = {name: int(probes[probe][i, -1, layer].argmax()) for name, (probe, layer) in names.items()}
        components = {name: jaxllc.Heads(f"layers_{layer}/*", heads[name]) for name, (_, layer) in names.items()}
        followed = follow(task, {run: of_run}, place.folder / f"llc-heads-{run}.zarr", chosen, components=components)
        picked.append(heads)
        step = np.asarray(followed.data.coords["step"].values)
        for name in names:
            llc[name].append(corrected_draws(followed.component(name).data).mean(-1)[0])
    answers = {"step": step, "chosen": picked}
    for name, curves in llc.items():
        binned = np.stack([before(step, curve.T, seed["window"][1], WINDOW) for curve, seed in zip(curves, seeds, strict=True)])
        answers[name] = in_window(binned) | {"curve": np.round(np.stack(curves).mean(-1), 3)}
    return answers
