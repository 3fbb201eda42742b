r"""How near each sampler comes to the truth, on deep linear nets whose learning coefficient is known.

    python -m benchmarks.accuracy [--quick] [--rivals] [--classes 1K 10K]

Two truths are told apart. The *posterior's own value*, from long chains of full-batch HMC in float64 on the very same posterior (the loss enters through its
second moments, so they cost no more for more data): what is left is the sampler's error. And $\lambda$ itself: what is left there is also the estimator's, of
finite n, nbeta and localization.
Every sampler makes the same number of minibatch gradients. Finished rows are kept in the result, and a second call goes on. `accuracy_models` adds models
without a closed form, `accuracy_rivals` other packages (after `make rivals`).
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxllc
from benchmarks import accuracy_models, accuracy_rivals
from benchmarks import deep_linear_nets as nets
from benchmarks.timing import RESULTS, machine
from jaxllc import HMC, SGHMC, SGLD, SGNHT, Adam, ControlVariate, RMSProp
from jaxllc.engine import default_mesh, sharpness

NUM_EXAMPLES = 20_000
BATCH_SIZE = 256
CHAINS = 8
GRADIENTS = {"1K": 4000, "10K": 2000, "100K": 1000}
"""Minibatch gradients of a chain, a third of them before the first draw."""
REFERENCE = {"1K": (400, 8), "10K": (60, 4), "100K": (40, 2)}
"""Draws and chains of the reference, at first."""
FREE = jaxllc.Paths("layers/*")


def posterior_setting(widths: Sequence[int], n: int) -> dict[str, float]:
    r"""What is sampled: nbeta and localization at which the value of the posterior itself is near $\lambda$.

    The pull must hold the product of the layers near that at $w^*$: noise of variance $1/\gamma$ in a layer has a norm of $2 \sqrt{d / \gamma}$, so
    $\gamma$ goes with the width d. At the true weights, whose loss is above the least by about $\lambda / n$, the estimator lacks a share $n\beta / n$;
    a fiftieth is little beside the tenth of $n / \ln n$. But $n\beta$ must also stay well above $\gamma$.
    """
    localization = float(np.mean(widths))
    return {"nbeta": max(n / 50, min(20 * localization, n / math.log(n))), "localization": localization}


def best_setting(widths: Sequence[int], n: int) -> dict[str, Any]:
    """Keyword arguments of `jaxllc.estimate` for a deep linear net, by the table of this benchmark: plain SGLD, over twice as many steps.

    Args:
        widths: of the net, input first.
        n: examples in the data.
    """
    return {
        **posterior_setting(widths, n), "sampler": SGLD(step_size=None), "batch_size": min(n, BATCH_SIZE), "num_chains": CHAINS,
        "num_burn_in": 3000, "num_draws": 5000,
    }  # fmt: skip


def samplers(curvature: float) -> dict[str, dict[str, Any]]:
    """What is compared: options of `jaxllc.trajectory` by name, and the gradients that a step costs; step sizes are shares of the stable one at w*."""
    limit = 4 / curvature
    return {
        "SGLD": {"sampler": SGLD(limit / 32)},
        "SGLD, 4 times the step": {"sampler": SGLD(limit / 8)},
        "SGLD, a quarter of the step": {"sampler": SGLD(limit / 128)},
        "SGLD, extrapolated": {"sampler": SGLD(limit / 32), "extrapolate": True, "cost": 2},
        "SGLD, control variate": {"sampler": SGLD(limit / 32, gradient=ControlVariate()), "cost": 2},
        "SGLD, RMSProp": {"sampler": SGLD(0.1 * limit / 16, RMSProp())},
        "SGLD, Adam": {"sampler": SGLD(0.1 * limit / 64, Adam())},
        "SGHMC": {"sampler": SGHMC(limit / 128, friction=math.sqrt(curvature))},
        "SGNHT": {"sampler": SGNHT(limit / 128, friction=math.sqrt(curvature))},
    }


MODEL_SAMPLERS: dict[str, dict[str, Any]] = {"SGLD": {}, "SGLD, extrapolated": {"extrapolate": True, "cost": 2}}
"""What `accuracy_models` compares: the default, and what it becomes extrapolated."""


def reference(made: nets.Nets, num_draws: int, num_chains: int) -> dict[str, list[float]]:
    """The posterior's own values by full-batch HMC in float64, in a process of its own, until all R-hats are below 1.01 or it had four times the draws."""
    setting = posterior_setting(made.widths, NUM_EXAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nets.npz"
        leaves = {f"{k}/{name}": value for k, net in made.centers.items() for name, value in (("product", net["product"]), ("signs", net["signs"]))}
        layers = {f"{k}/layer{i}": layer for k, net in made.centers.items() for i, layer in enumerate(net["layers"])}
        np.savez(path, **leaves, **layers, **nets.statistics(made.arrays))  # pyright: ignore[reportArgumentType]
        arguments = [
            str(path),
            str(len(made.centers)),
            str(len(made.widths) - 1),
            str(setting["nbeta"]),
            str(setting["localization"]),
            str(num_draws),
            str(num_chains),
        ]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.accuracy", "--reference", *arguments],
            env=os.environ | {"JAX_ENABLE_X64": "1"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def run_reference(path: str, count: str, depth: str, nbeta: str, localization: str, num_draws: str, num_chains: str) -> None:
    """The inside of `reference`: prints one line of JSON."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored}
    centers = {
        k: {"layers": [arrays[f"{k}/layer{i}"].astype(float) for i in range(int(depth))], **{x: arrays[f"{k}/{x}"].astype(float) for x in ("product", "signs")}}
        for k in range(1, int(count) + 1)
    }
    for center in centers.values():  # exactly the product of these layers, in float64
        center["product"] = np.linalg.multi_dot(center["layers"])
    data = {name: arrays[name] for name in ("inputs", "cross")}
    table = None
    posteriors = [jaxllc.LocalPosterior(nets.statistics_loss, center, float(nbeta), float(localization), FREE) for center in centers.values()]
    limit = 4 / max(sharpness(posterior, jaxllc.InMemory.of(data), default_mesh(int(num_chains))) for posterior in posteriors)
    for factor in (1, 2, 4):
        table = jaxllc.trajectory(
            nets.statistics_loss, centers, data, key=jax.random.key(1), sampler=HMC(limit / 64, num_integration_steps=60), nbeta=float(nbeta),
            localization=float(localization), free=FREE, batch_size=None, num_chains=int(num_chains), num_draws=factor * int(num_draws),
            num_burn_in=factor * int(num_draws) // 2, progress=False, group_size=int(count),
        ).table()  # fmt: skip
        if np.max(table["rhat"].to_numpy()) < 1.01:
            break
    assert table is not None
    print(json.dumps({name: table[name].tolist() for name in ("llc", "std_error", "rhat", "ess")}))


def run_shape(name: str, options: Mapping[str, Any], made: nets.Nets, num_gradients: int) -> dict[str, Any]:
    """All nets of one shape with one sampler."""
    options = dict(options)
    num_steps = num_gradients // options.pop("cost", 1)
    traj = jaxllc.trajectory(
        nets.loss, made.centers, made.arrays, key=jax.random.key(0), free=FREE, batch_size=BATCH_SIZE, num_chains=CHAINS, num_burn_in=num_steps // 3,
        num_draws=num_steps - num_steps // 3, progress=False, group_size=len(made.centers), **posterior_setting(made.widths, NUM_EXAMPLES), **options,
    )  # fmt: skip
    table = traj.table()
    return {"sampler": name, **{column: table[column].tolist() for column in ("llc", "std_error", "step_bias", "ess", "num_diverged", "findings")}}


def curvature_of(made: nets.Nets) -> float:
    """The largest curvature of the posterior at the nets, as the default step size sees it."""
    data = jaxllc.InMemory.of(made.arrays, BATCH_SIZE)
    setting = posterior_setting(made.widths, NUM_EXAMPLES)
    centers = list(made.centers.values())[:5]
    return max(sharpness(jaxllc.LocalPosterior(nets.loss, center, free=FREE, **setting), data, default_mesh(CHAINS)) for center in centers)


def measure(classes: Sequence[str], num_nets: int, num_shapes: int, rows: list[dict[str, Any]], keep: Callable[[], None]) -> None:
    """Fill `rows`, one a shape, and keep them as they come."""
    for name in classes:
        for widths in nets.CLASSES[name][:num_shapes]:
            known = next((row for row in rows if tuple(row["widths"]) == widths), None)
            made = nets.make(widths, num_nets, NUM_EXAMPLES)
            if known is None:
                known = {
                    "class": name,
                    "widths": list(widths),
                    "llc": made.llc.tolist(),
                    "lower": made.lower.tolist(),
                    "upper": made.upper.tolist(),
                    "runs": [],
                }
                known["reference"] = reference(made, *REFERENCE[name])
                rows.append(known)
                keep()
            for sampler, options in samplers(curvature_of(made)).items():
                if all(run["sampler"] != sampler for run in known["runs"]):
                    known["runs"].append(run_shape(sampler, options, made, GRADIENTS[name]))
                    keep()
            print(f"{name} {'-'.join(map(str, widths))}: done", flush=True)


def beside_rivals(rows: Sequence[Mapping[str, Any]], known: list[dict[str, Any]], keep: Callable[[], None]) -> None:
    """The rivals on the first net of each shape of the class 1K, which has full rank: their chains take a while."""
    for row in rows:
        if row["class"] != "1K":
            continue
        made = nets.make(tuple(row["widths"]), len(row["llc"]), NUM_EXAMPLES)  # all of them: the data come after them
        num_steps = GRADIENTS["1K"]
        options = {"num_chains": CHAINS, "num_burn_in": num_steps // 3, "num_draws": num_steps - num_steps // 3, **posterior_setting(made.widths, NUM_EXAMPLES)}
        accuracy_rivals.measure(made, 1, 4 / curvature_of(made), BATCH_SIZE, options, known, keep)
        print(f"rivals, {'-'.join(map(str, made.widths))}: done", flush=True)


def published(num_nets: int) -> dict[str, float]:
    """Of nets by the published recipe: how often the label lies below the rigorous lower bound of the local coefficient, and by how much."""
    made = [nets.make(widths, num_nets, 10, certified=False) for widths in nets.CLASSES["1K"]]
    label, lower, upper = (np.concatenate([getattr(one, name) for one in made]) for name in ("llc", "lower", "upper"))
    below = label < lower - 1e-9
    return {
        "nets": len(label), "share_label_below_local": float(below.mean()), "share_certified": float((upper - label < 1e-9).mean()),
        "median_gap": float(np.median(lower[below] / label[below] - 1)) if below.any() else 0.0,
    }  # fmt: skip


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line a class and sampler."""
    lines = []
    for name in dict.fromkeys(row["class"] for row in rows):
        mine = [row for row in rows if row["class"] == name]
        truth = np.concatenate([row["llc"] for row in mine])
        own = np.concatenate([row["reference"]["llc"] for row in mine])
        own_error = np.concatenate([row["reference"]["std_error"] for row in mine])
        lines.append(
            {
                "class": name,
                "sampler": "the posterior itself (HMC, float64)",
                **errors(own, truth, own),
                "max_rhat": max(max(row["reference"]["rhat"]) for row in mine),
            }
        )
        for sampler in [run["sampler"] for run in mine[0]["runs"]]:
            runs = [next(run for run in row["runs"] if run["sampler"] == sampler) for row in mine if any(run["sampler"] == sampler for run in row["runs"])]
            if len(runs) < len(mine):
                continue
            found, error, ess = (np.concatenate([run[column] for run in runs]).astype(float) for column in ("llc", "std_error", "ess"))
            covered = np.abs(found - own) < 2 * np.hypot(error, own_error)
            findings = [bool(text) for run in runs for text in run["findings"]]
            gradients = CHAINS * GRADIENTS[name]
            lines.append(
                {"class": name, "sampler": sampler, **errors(found, truth, own), "coverage": float(covered.mean()),
                 "ess_per_1000": float(np.nanmedian(ess) / gradients * 1000),
                 "with_findings": float(np.mean(findings)), "diverged": float(np.mean([d > 0 for run in runs for d in run["num_diverged"]]))}
            )  # fmt: skip
            if sampler in ("SGLD", "SGLD, 4 times the step"):
                left_in = found + np.concatenate([run["step_bias"] for run in runs])
                covered = np.abs(left_in - own) < 2 * np.hypot(error, own_error)
                lines.append({"class": name, "sampler": f"{sampler}, step_bias left in", **errors(left_in, truth, own), "coverage": float(covered.mean())})
    return lines


def errors(found: np.ndarray, truth: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Relative errors against λ and against the posterior's own value; the order of nets."""
    good = np.isfinite(found)
    to_truth, to_own = np.abs(found / truth - 1), np.abs(found / own - 1)
    pairs = [(i, j) for i, j in itertools.combinations(range(len(truth)), 2) if truth[i] != truth[j] and good[i] and good[j]]
    kept = np.mean([(found[i] - found[j]) * (truth[i] - truth[j]) > 0 for i, j in pairs]) if pairs else math.nan
    return {
        "nets": int(good.sum()), "median_error_to_posterior": float(np.nanmedian(to_own)), "p90_error_to_posterior": float(np.nanquantile(to_own, 0.9)),
        "bias_to_posterior": float(np.nanmean(found / own - 1)), "median_error_to_llc": float(np.nanmedian(to_truth)),
        "p90_error_to_llc": float(np.nanquantile(to_truth, 0.9)),
        "bias_to_llc": float(np.nanmean(found / truth - 1)), "rank_correlation": _rank_correlation(found[good], truth[good]), "order_preserved": float(kept),
    }  # fmt: skip


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(np.asarray(spearmanr(x, y)).ravel()[0])


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines for a reader, as Markdown."""
    head = [
        "class",
        "sampler",
        "to the posterior: median",
        "p90",
        "bias",
        "covered",
        "to λ: median",
        "p90",
        "bias",
        "order kept",
        "ESS / 1000 gradients",
        "findings",
    ]
    body = []
    for line in lines:
        cells = [
            f"{line[name]:.1%}" if name in line else "" for name in ("median_error_to_posterior", "p90_error_to_posterior", "bias_to_posterior", "coverage")
        ]
        cells += [f"{line[name]:.1%}" for name in ("median_error_to_llc", "p90_error_to_llc", "bias_to_llc")] + [f"{line['order_preserved']:.3f}"]
        cells += [f"{line['ess_per_1000']:.2g}", f"{line['with_findings']:.0%}"] if "ess_per_1000" in line else ["", ""]
        body.append([f"{line['class']}", line["sampler"], *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def plot(rows: Sequence[Mapping[str, Any]], path: Path, sampler: str = "SGLD") -> None:
    """The estimate of each net over its λ, for the default sampler, and the posterior's own value."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    classes = list(dict.fromkeys(row["class"] for row in rows))
    figure, axes = plt.subplots(1, len(classes), figsize=(5 * len(classes), 4.4), squeeze=False, layout="constrained")
    for name, axis in zip(classes, axes[0], strict=True):
        mine = [row for row in rows if row["class"] == name]
        truth = np.concatenate([row["llc"] for row in mine])
        own = np.concatenate([row["reference"]["llc"] for row in mine])
        runs = [next(run for run in row["runs"] if run["sampler"] == sampler) for row in mine]
        found, error = (np.concatenate([run[column] for run in runs]).astype(float) for column in ("llc", "std_error"))
        ends = np.asarray([truth.min(), truth.max()])
        axis.plot(ends, ends, color="0.6", linewidth=1, label="λ")
        axis.plot(truth, own, "_", color="C1", markersize=9, label="the posterior itself")
        axis.errorbar(truth, found, 2 * error, fmt="o", markersize=3, color="C0", linewidth=1, label=f"{sampler}, ± 2 standard errors")
        axis.set(xlabel="λ, exact", ylabel="λ̂", title=f"{len(truth)} certified deep linear nets of about {name} weights", xscale="log", yscale="log")
        axis.title.set_fontsize("medium")
        axis.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measure, print, keep."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two shapes of one class")
    parser.add_argument("--rivals", action="store_true", help="other packages too")
    parser.add_argument("--classes", nargs="*", default=list(nets.CLASSES), choices=list(nets.CLASSES))
    parser.add_argument("--reference", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        run_reference(*options.reference)
        return
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("accuracy-quick.json" if options.quick else "accuracy.json")
    found: dict[str, Any] = {"rows": [], "models": [], "rivals": []}
    if path.exists() and not options.quick:
        found |= json.loads(path.read_text())

    def keep() -> None:
        path.write_text(json.dumps(found | {"machine": machine()}) + "\n")

    measure(["1K"] if options.quick else options.classes, 4 if options.quick else 10, 2 if options.quick else 10, found["rows"], keep)
    accuracy_models.measure(MODEL_SAMPLERS, GRADIENTS["1K"], found["models"], keep, most=1 if options.quick else None)
    if options.rivals:
        beside_rivals(found["rows"], found["rivals"], keep)
    found |= {"lines": summarise(found["rows"]), "published_recipe": published(20)}
    found["rival_lines"] = accuracy_rivals.summarise(found["rivals"], found["rows"], ["SGLD", "SGHMC"])
    keep()
    plot(found["rows"], path.with_suffix(".png"))
    recipe = found["published_recipe"]
    print(table(found["lines"]))
    print(
        f"\nBy the published recipe, of {recipe['nets']} nets {recipe['share_label_below_local']:.0%} have a label below the rigorous lower bound of their "
        f"local coefficient (by {recipe['median_gap']:.0%} in the median), and {recipe['share_certified']:.0%} are certified."
    )
    print("\n" + accuracy_models.table(found["models"]))
    if found["rivals"]:
        print("\n" + accuracy_rivals.table(found["rival_lines"]))


if __name__ == "__main__":
    main()
