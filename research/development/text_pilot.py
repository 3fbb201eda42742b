"""How settings and window of `text` were found: on seeds 100 and 101, which are not reported, and a look at other texts.

    python -m research.development.text_pilot [--text text headers] [--parts train settings spectrum variants] [--quick]

*settings*: what `jaxllc.calibrate` chooses at several nβ for a checkpoint before the bump, one in it and the last, and how well both seeds mix with it.
*spectrum*: how many directions of the Hessian are steeper than the prior, at these and at the published settings. *variants*: other texts, both seeds.
A second call keeps the parts that it is not asked for. The result is `research/results/text-pilot.json` or `headers-pilot.json`, its tables beside it.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

jax.config.update("jax_num_cpu_devices", int(os.environ.get("DEVICES", os.cpu_count() or 1)))

import jaxllc  # noqa: E402
from benchmarks.timing import machine  # noqa: E402
from jaxllc.models.train import SeedRuns, checkpoint_steps  # noqa: E402
from jaxllc.spectrum import leading_spectrum  # noqa: E402
from research.development import text  # noqa: E402
from research.development.analysis import END, crossing  # noqa: E402
from research.development.common import RESULTS, Workplace, count_findings, plain  # noqa: E402
from research.development.tasks import Task, follow, train  # noqa: E402
from research.development.text_task import Variant, make  # noqa: E402

SEEDS = (100, 101)
NBETAS = (100.0, 300.0, 1000.0, 3000.0)
BUDGET = 10.0
"""Seconds of an estimate that a calibration aims at."""
TARGET_ERROR = 0.01
SHARES = (1 / 8, 2 / 5, 1.0)
"""Of the run: checkpoints that settings are found on."""
VARIANTS = (Variant(source="c"), Variant(), Variant(context=256), Variant(vocab_size=1024))
RANK, SPECTRUM_WINDOWS = 64, 64
PINS = {"published": 300 / 21.7, "1": 1.0, "0.3": 0.3, "3": 3.0}
"""γ / nβ: a direction feels the gradient more than the prior where its curvature is larger."""
PARTS = ("train", "settings", "spectrum", "variants")


def crossings(step: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Where a seed's scores have passed shares of their rises, and their levels at its end."""
    passed = {f"{name} {share:.2g}": crossing(step, score, share) for name, score in scores.items() for share in (0.1, 1 / 3, 0.5)}
    return passed | {f"{name} at the end": float(score[-END:].mean()) for name, score in scores.items()}


def followed(task: Task, runs: SeedRuns) -> list[dict[str, Any]]:
    """The probes of each run along its training, without chains."""
    steps = sorted(runs.stacked)
    look = jax.jit(lambda params: {name: probe(params) for name, probe in task.probes.items()} | {"loss": task.loss_fn(params, task.data[:256]).mean()})
    rows = []
    for run, checkpoints in runs.items():
        values = [jax.device_get(look(checkpoints[step])) for step in steps]
        previous, prefix = (np.array([one[name] for one in values]) for name in ("previous_token", "prefix_matching"))
        scores = {"previous_token": previous[:, 0].max(-1), "prefix_matching": prefix[:, -1].max(-1)}
        scores["in_context"] = np.array([one["in_context"] for one in values])
        row = crossings(np.array(steps), scores) | {"run": run, "step": steps, "loss": [float(one["loss"]) for one in values]}
        rows.append(row | {name: np.round(score, 4) for name, score in scores.items()})
    return rows


def settings(task: Task, runs: SeedRuns, place: Workplace, nbetas: Sequence[float], quick: bool) -> list[dict[str, Any]]:
    """What is chosen at each nβ, and λ̂ with it at three checkpoints of both seeds."""
    steps = nearest(sorted(runs.stacked))
    found = []
    for nbeta in nbetas:
        first = runs[f"seed_{SEEDS[0]}"]
        began = time.perf_counter()
        chosen = jaxllc.calibrate(
            task.loss_fn, {step: first[step] for step in steps}, task.data, key=jax.random.key(0), nbeta=nbeta, budget=2.0 if quick else BUDGET,
            num_chains=4, target_error=TARGET_ERROR,
        )  # fmt: skip
        spent = time.perf_counter() - began
        some = {run: {step: of_run[step] for step in steps} for run, of_run in runs.items()}
        began = time.perf_counter()
        traj = follow(task, some, place.folder / f"pilot-{nbeta:g}-{time.time():.0f}.zarr", chosen.settings)
        line = {"nbeta": nbeta, "settings": chosen.settings.to_dict(), "reasons": chosen.reasons, "cost": chosen.cost, "serves": chosen.serves}
        line |= {"seconds": [spent, time.perf_counter() - began], "step": steps, "findings": count_findings(traj)}
        names = ("llc", "std_error", "rhat", "slow_rhat", "step_bias", "gaussian_llc", "loss", "mean_loss")
        found.append(line | {name: np.round(traj.summary[name].values, 4) for name in names if name in traj.summary})
    return found


def nearest(steps: list[int]) -> list[int]:
    """The checkpoints at about `SHARES` of the run."""
    return [min(steps, key=lambda step: abs(step - share * steps[-1])) for share in SHARES]


def spectrum(task: Task, runs: SeedRuns, quick: bool) -> list[dict[str, Any]]:
    """The leading curvatures of the mean loss at three checkpoints, and how many exceed each γ / nβ (at most the rank)."""
    data, rank = task.data[: 16 if quick else SPECTRUM_WINDOWS], 8 if quick else RANK
    of_run = runs[f"seed_{SEEDS[0]}"]

    @jax.jit
    def curvatures(params: Any, key: jax.Array) -> jax.Array:
        def gradient(at: Any) -> Any:
            return jax.grad(lambda p: jax.lax.map(lambda batch: task.loss_fn(p, batch).mean(), data.reshape(-1, 16, data.shape[-1])).mean())(at)

        return leading_spectrum(lambda v: jax.jvp(gradient, (params,), (v,))[1], params, rank, key).values

    found = []
    for step in nearest(sorted(runs.stacked)):
        values = np.sort(np.asarray(curvatures(of_run[step], jax.random.key(5))))[::-1]
        found.append({"step": step, "largest": values[:8], "least": values[-1], "above": {name: int((values > pin).sum()) for name, pin in PINS.items()}})
    return found


def variants(place: Workplace, quick: bool, done: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Both seeds of each variant that is not done, with the seconds of their training; all lines after each."""
    found = list(done)
    for variant in (text.QUICK.two,) if quick else VARIANTS:
        if any(line["variant"] == variant.name for line in found):
            continue
        task = make(variant, place.folder, 256)
        end = 200 if quick else text.FULL.num_steps
        steps = sorted({0, *checkpoint_steps(end, 40, 0, first=end // 100)})
        began = time.perf_counter()
        runs = train(task, SEEDS, steps, place.folder / f"variant-{variant.name}")
        spent = time.perf_counter() - began
        found += [{"variant": variant.name, "seconds": spent, **row} for row in followed(task, runs)]
        yield found


def table(result: dict[str, Any]) -> str:
    """All of it as Markdown."""
    lines = []
    for part in ("train", "variants"):
        rows = result.get(part, [])
        names = [name for name in (rows[0] if rows else {}) if name.startswith(("previous_token ", "prefix_matching ", "in_context at"))]
        lines += [f"| {part} | {' | '.join(names)} | final loss |", "|---" * (2 + len(names)) + "|"] if rows else []
        for row in rows:
            cells = ["never" if row[name] is None else f"{row[name]:.3g}" if "end" in name else f"{row[name]:.0f}" for name in names]
            lines.append(f"| {row.get('variant', '')} {row['run']} | {' | '.join(cells)} | {np.mean(row['loss'][-END:]):.3f} |")
        lines.append("")
    lines += ["| nβ | γ | sampler | batch | chains, draws, burn-in | λ̂ by seed and step | R-hat | findings |", "|---" * 8 + "|"]
    for one in result.get("settings", []):
        chosen = jaxllc.Settings.from_dict(one["settings"])
        lengths = f"{chosen.num_chains}, {chosen.num_draws * chosen.thinning}, {chosen.num_burn_in}"
        levels = "; ".join(
            ", ".join(f"{llc:.1f} ± {error:.1f}" for llc, error in zip(*pair, strict=True)) for pair in zip(one["llc"], one["std_error"], strict=True)
        )
        rhat = "; ".join(", ".join(f"{value:.2f}" for value in row) for row in one["rhat"])
        codes = ", ".join(f"{code} {count}" for code, count in one["findings"].items()) or "none"
        name = f"{type(chosen.sampler).__name__}({getattr(chosen.sampler, 'step_size', '')})"
        lines.append(f"| {chosen.nbeta:g} | {chosen.localization:g} | {name} | {chosen.batch_size} | {lengths} | {levels} | {rhat} | {codes} |")
    lines += ["", "| step | largest curvatures | of the rank | " + " | ".join(f"above {name}" for name in PINS) + " |", "|---" * (3 + len(PINS)) + "|"]
    for one in result.get("spectrum", []):
        largest = ", ".join(f"{value:.3g}" for value in one["largest"][:4])
        lines.append(f"| {one['step']} | {largest} | {one['least']:.3g} | {' | '.join(str(count) for count in one['above'].values())} |")
    return "\n".join(lines)


def main() -> None:
    """Make the parts that are asked for, print, keep."""
    parser = argparse.ArgumentParser(
        prog="python -m research.development.text_pilot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", default="text", choices=("text", "headers"), help="which text")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--nbetas", nargs="+", type=float, default=NBETAS, help="of the part settings")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that everything works")
    options = parser.parse_args()
    place = Workplace(options.text, options.quick)
    path = RESULTS / f"{options.text}-pilot{'-quick' if options.quick else ''}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    size = text.QUICK if options.quick else {"text": text.FULL, "headers": text.HEADERS}[options.text]
    task = make(size.two, place.folder, size.num_sequences)
    runs = train(task, SEEDS, text.checkpoints(size), place.folder / "pilot") if {*options.parts} - {"variants"} else None
    for part in options.parts:
        with place.part(f"pilot {part}"):
            if part == "variants":
                for lines in variants(place, options.quick, result.get(part, [])):
                    result[part] = lines
                    path.write_text(json.dumps(plain(result), indent=1) + "\n")
            else:
                assert runs is not None
                made = {
                    "train": lambda: followed(task, runs),
                    "settings": lambda: settings(task, runs, place, options.nbetas[: 1 if options.quick else None], options.quick),
                }
                result[part] = (made | {"spectrum": lambda: spectrum(task, runs, options.quick)})[part]()
        result = plain(result | {"command": "python -m research.development.text_pilot", "machine": machine()})
        path.write_text(json.dumps(result, indent=1) + "\n")
    header = f"<!-- Generated by `python -m research.development.text_pilot`; do not edit. -->\n\n# Pilots of `{options.text}`: all tables"
    path.with_suffix(".md").write_text(f"{header}\n\n{table(result)}\n")
    print(table(result))


if __name__ == "__main__":
    main()
