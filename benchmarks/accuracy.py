r"""How near each sampler comes to the truth, on deep linear nets whose learning coefficient is known.

    python -m benchmarks.accuracy [--quick] [--rivals] [--classes 1K 10K] [--examples 20000 200000]

Two truths are told apart. The *posterior's own value*, from long chains of full-batch HMC in float64 on the very same posterior (the loss enters through its
second moments, so they cost no more for more data): what is left is the sampler's error. And $\lambda$ itself: what is left there is also the estimator's, of
finite n, nbeta and localization.
Every sampler makes the same number of minibatch gradients. Beside the certified nets stand nets by the published recipe, and a ladder of two temperatures.
With more examples than 20 000 the best setting's sampler alone is run, for what more data do. Finished rows are kept in the result, and a second call goes on.
`accuracy_models` adds models without a closed form, `accuracy_rivals` other packages (after `make rivals`).
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxllc
from benchmarks import accuracy_models, accuracy_rivals
from benchmarks import deep_linear_nets as nets
from benchmarks.reference_chains import WARM_UP, until_mixed, warming_up
from benchmarks.timing import RESULTS, machine
from jaxllc import HMC, SGHMC, SGLD, SGNHT, Adam, ControlVariate, RMSProp
from jaxllc.devices import default_mesh
from jaxllc.engine import sharpness
from jaxllc.settings import with_step_size

NUM_EXAMPLES = 20_000
BATCH_SIZE = 256
CHAINS = 8
GRADIENTS = {"1K": 4000, "10K": 2000, "100K": 1000}
"""Minibatch gradients of a chain, a third of them before the first draw."""
REFERENCE = {"1K": (400, 8, 64), "10K": (160, 4, 256), "100K": (80, 2, 256)}
"""Draws and chains of the reference, at first, and how many times its step size goes into the limit of stability at w*: chains meet larger curvatures."""
NUM_NETS = {"1K": 10, "10K": 10, "100K": 2}
"""Nets of a shape. References of the largest take minutes a net."""
IN_FULL = ("1K", "10K")
"""Classes whose nets run with every sampler; the others with `FEW`."""
LARGER = "SGLD, larger steps in burn-in"
FEW = ("SGLD", LARGER, "SGHMC")
LADDER = "SGLD, ladder of nβ"
RIVALS_RUN = {"1K": 10, "10K": 3}
"""Shapes of a class whose first net the rivals are run on."""
FREE = jaxllc.Paths("layers/*")


def posterior_setting(widths: Sequence[int], n: int) -> dict[str, float]:
    r"""What is sampled: nbeta and localization at which the value of the posterior itself is near $\lambda$.

    The pull must hold the product of the layers near that at $w^*$: noise of variance $1/\gamma$ in a layer has a norm of $2 \sqrt{d / \gamma}$, so
    $\gamma$ goes with the width d. At the true weights, whose loss is above the least by about $\lambda / n$, the estimator lacks a share $n\beta / n$, and the
    pull and the finite temperature take a share that goes with $\gamma / n\beta$: with more data $n\beta$ grows as the root of n, so that both shrink.
    """
    localization = float(np.mean(widths))
    return {"nbeta": min(max(400, 20 * localization) * math.sqrt(n / 20_000), n / math.log(n)), "localization": localization}


def best_setting(widths: Sequence[int], n: int) -> dict[str, Any]:
    """Keyword arguments of `jaxllc.estimate` for a deep linear net, by the table of this benchmark: SGLD with larger steps in burn-in, over twice as many.

    Args:
        widths: of the net, input first.
        n: examples in the data.
    """
    return {
        **posterior_setting(widths, n), "sampler": SGLD(step_size=None, burn_in_factor=4.0), "batch_size": min(n, BATCH_SIZE), "num_chains": CHAINS,
        "num_burn_in": 3000, "num_draws": 5000,
    }  # fmt: skip


def samplers(curvature: float, num_burn_in: int, only: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """What is compared: options of `jaxllc.trajectory` by name, and the gradients that a step costs; step sizes are shares of the stable one at w*.

    The first is the default of `jaxllc.estimate`, the second that of `best_setting`.
    """
    limit = 4 / curvature
    found: dict[str, dict[str, Any]] = {
        "SGLD": {"sampler": SGLD(limit / 32)},
        LARGER: {"sampler": with_step_size(SGLD(None, burn_in_factor=4.0), limit / 32, num_burn_in)},
        "SGLD, 4 times the step": {"sampler": SGLD(limit / 8)},
        "SGLD, a quarter of the step": {"sampler": SGLD(limit / 128)},
        "SGLD, extrapolated": {"sampler": SGLD(limit / 32), "extrapolate": True, "cost": 2},
        "SGLD, control variate": {"sampler": SGLD(limit / 32, gradient=ControlVariate()), "cost": 2},
        "SGLD, RMSProp": {"sampler": SGLD(0.1 * limit / 16, RMSProp())},
        "SGLD, Adam": {"sampler": SGLD(0.1 * limit / 64, Adam())},
        "SGHMC": {"sampler": SGHMC(limit / 128, friction=math.sqrt(curvature))},
        "SGNHT": {"sampler": SGNHT(limit / 128, friction=math.sqrt(curvature))},
        LADDER: {"sampler": SGLD(limit / 32), "cost": 2},
    }
    return {name: options for name, options in found.items() if only is None or name in only}


MODEL_SAMPLERS: dict[str, dict[str, Any]] = {"SGLD": {}, "SGLD, extrapolated": {"extrapolate": True, "cost": 2}}
"""What `accuracy_models` compares: the default, and what it becomes extrapolated."""


def reference(made: nets.Nets, num_draws: int, num_chains: int, share: int) -> dict[str, list[float]]:
    """The posterior's own values by full-batch HMC in float64, in a process of its own, until all R-hats are low or it had four times the draws."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nets.npz"
        leaves = {f"{k}/{name}": value for k, net in made.centers.items() for name, value in (("product", net["product"]), ("signs", net["signs"]))}
        layers = {f"{k}/layer{i}": layer for k, net in made.centers.items() for i, layer in enumerate(net["layers"])}
        np.savez(path, **leaves, **layers, **nets.statistics(made.arrays))  # pyright: ignore[reportArgumentType]
        task = {"path": str(path), "count": len(made.centers), "depth": len(made.widths) - 1, **posterior_setting(made.widths, len(made.arrays[0]))}
        task |= {"num_draws": num_draws, "num_chains": num_chains, "share": share}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.accuracy", "--reference", json.dumps(task)],
            env=os.environ | {"JAX_ENABLE_X64": "1"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def run_reference(path: str, count: int, depth: int, nbeta: float, localization: float, num_draws: int, num_chains: int, share: int) -> None:
    """The inside of `reference`: prints one line of JSON."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored}
    centers = {
        k: {"layers": [arrays[f"{k}/layer{i}"].astype(float) for i in range(depth)], **{x: arrays[f"{k}/{x}"].astype(float) for x in ("product", "signs")}}
        for k in range(1, count + 1)
    }
    for center in centers.values():  # exactly the product of these layers, in float64
        center["product"] = np.linalg.multi_dot(center["layers"])
    data = {name: arrays[name] for name in ("inputs", "cross")}
    posteriors = [jaxllc.LocalPosterior(nets.statistics_loss, center, nbeta, localization, FREE) for center in centers.values()]
    step_size = 4 / max(sharpness(posterior, jaxllc.InMemory.of(data), default_mesh(num_chains)) for posterior in posteriors) / share
    sampler = HMC(warming_up(step_size), num_integration_steps=60)

    def run(draws: int) -> Any:
        return jaxllc.trajectory(
            nets.statistics_loss, centers, data, key=jax.random.key(1), sampler=sampler, nbeta=nbeta, localization=localization, free=FREE, batch_size=None,
            num_chains=num_chains, num_draws=draws, num_burn_in=WARM_UP + draws // 2, progress=False, group_size=count,
        ).table()  # fmt: skip

    found = until_mixed(run, lambda table: float(np.max(table["rhat"].to_numpy())), num_draws)  # NaN where chains stand still
    print(json.dumps({name: found[name].tolist() for name in ("llc", "std_error", "rhat", "ess")}))


def run_shape(name: str, options: Mapping[str, Any], made: nets.Nets, num_gradients: int) -> dict[str, Any]:
    """All nets of one shape with one sampler."""
    options = dict(options)
    num_steps = num_gradients // options.pop("cost", 1)
    setting = posterior_setting(made.widths, len(made.arrays[0]))

    def follow(nbeta: float, sampler: Any) -> jaxllc.Trajectory:
        return jaxllc.trajectory(
            nets.loss, made.centers, made.arrays, key=jax.random.key(0), sampler=sampler, free=FREE, batch_size=BATCH_SIZE, num_chains=CHAINS,
            num_burn_in=num_steps // 3, num_draws=num_steps - num_steps // 3, progress=False, group_size=len(made.centers),
            **setting | {"nbeta": nbeta}, **options,
        )  # fmt: skip

    sampler = options.pop("sampler")
    traj = follow(setting["nbeta"], sampler)
    if name == LADDER:
        traj = ladder(traj, follow(2 * setting["nbeta"], sampler.replace(step_size=sampler.step_size / 2)))
    table = traj.table()
    return {"sampler": name, **{column: table[column].tolist() for column in ("llc", "std_error", "step_bias", "ess", "num_diverged", "findings")}}


def ladder(once: jaxllc.Trajectory, twice: jaxllc.Trajectory) -> jaxllc.Trajectory:
    r"""The slope of $E[L]$ in $1 / n\beta$ between $n\beta$ and twice it, which needs no loss at $w^*$: twice the first coefficient less the second."""
    tree = once.data.copy(deep=True)
    for group, names in (("posterior", ["llc"]), ("sample_stats", ["step_bias"])):
        first, second = (traj.data[group].to_dataset() for traj in (once, twice))
        tree[group] = first.assign({name: 2 * first[name] - second[name] for name in names})
    return jaxllc.Trajectory(tree)


def curvature_of(made: nets.Nets) -> float:
    """The largest curvature of the posterior at the nets, as the default step size sees it."""
    data = jaxllc.InMemory.of(made.arrays, BATCH_SIZE)
    setting = posterior_setting(made.widths, len(made.arrays[0]))
    centers = list(made.centers.values())[:5]
    return max(sharpness(jaxllc.LocalPosterior(nets.loss, center, free=FREE, **setting), data, default_mesh(CHAINS)) for center in centers)


def measure(classes: Sequence[str], num_nets: int | None, num_shapes: int, rows: list[dict[str, Any]], keep: Callable[[], None], n: int = NUM_EXAMPLES) -> None:
    """Fill `rows`, one a shape and number of examples, and keep them as they come; `NUM_NETS` nets a shape unless told otherwise."""
    for name in classes:
        for widths in nets.CLASSES[name][:num_shapes]:
            known = next((row for row in rows if (tuple(row["widths"]), row["num_examples"]) == (widths, n)), None)
            made = nets.make(widths, num_nets or NUM_NETS[name], n)
            if known is None:
                known = {"class": name, "widths": list(widths), "num_examples": n, **posterior_setting(widths, n), **labels(made), "runs": []}
                known["reference"] = reference(made, *REFERENCE[name])
                rows.append(known)
                keep()
            only = (LARGER,) if n != NUM_EXAMPLES else None if name in IN_FULL else FEW
            for sampler, options in samplers(curvature_of(made), GRADIENTS[name] // 3, only).items():
                if all(run["sampler"] != sampler for run in known["runs"]):
                    known["runs"].append(run_shape(sampler, options, made, GRADIENTS[name]))
                    keep()
            print(f"{name}, n = {n}, {'-'.join(map(str, widths))}: done", flush=True)
            jax.clear_caches()  # of programs that no other shape runs: their code would fill the process's memory maps


def labels(made: nets.Nets) -> dict[str, list[float]]:
    """The coefficient that each net is labelled by, and the rigorous bounds of its local one."""
    return {"llc": made.llc.tolist(), "lower": made.lower.tolist(), "upper": made.upper.tolist()}


def measure_published(num_nets: int, num_shapes: int, rows: list[dict[str, Any]], keep: Callable[[], None]) -> None:
    """The same of nets of the class 1K by the published recipe, with the default sampler; no reference is run."""
    for widths in nets.CLASSES["1K"][:num_shapes]:
        if any(tuple(row["widths"]) == widths for row in rows):
            continue
        made = nets.make(widths, num_nets, NUM_EXAMPLES, certified=False)
        options = samplers(curvature_of(made), GRADIENTS["1K"] // 3, FEW[:1])["SGLD"]
        rows.append({"widths": list(widths), **labels(made), "run": run_shape("SGLD", options, made, GRADIENTS["1K"])})
        keep()


def beside_rivals(rows: Sequence[Mapping[str, Any]], known: list[dict[str, Any]], keep: Callable[[], None]) -> None:
    """The rivals on the first net of each of some shapes, which has full rank: their chains take a while."""
    for name, count in RIVALS_RUN.items():
        for row in of_class(rows, name, NUM_EXAMPLES)[:count]:
            made = nets.make(tuple(row["widths"]), len(row["llc"]), NUM_EXAMPLES)  # all of them: the data come after them
            steps = GRADIENTS[name]
            options = {"num_chains": CHAINS, "num_burn_in": steps // 3, "num_draws": steps - steps // 3, **posterior_setting(made.widths, NUM_EXAMPLES)}
            accuracy_rivals.measure(made, 1, 4 / curvature_of(made), BATCH_SIZE, options, known, keep)
            print(f"rivals, {'-'.join(map(str, made.widths))}: done", flush=True)


def of_class(rows: Sequence[Mapping[str, Any]], name: str, n: int) -> list[Mapping[str, Any]]:
    """The rows of a class with so many examples."""
    return [row for row in rows if (row["class"], row["num_examples"]) == (name, n)]


def published(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of nets by the published recipe: how often the label lies below the rigorous lower bound of the local coefficient, and where the estimate lies."""
    label, lower, upper = (np.concatenate([row[name] for row in rows]) for name in ("llc", "lower", "upper"))
    found, error = (np.concatenate([row["run"][name] for row in rows]).astype(float) for name in ("llc", "std_error"))
    below, certified = label < lower - 1e-9, upper - label < 1e-9
    return {
        "nets": len(label), "share_label_below_local": float(below.mean()), "share_certified": float(certified.mean()),
        "median_gap": float(np.median(lower[below] / label[below] - 1)) if below.any() else 0.0,
        "median_error_to_label": float(np.nanmedian(np.abs(found / label - 1))),
        "median_error_to_label_certified": float(np.nanmedian(np.abs(found / label - 1)[certified])) if certified.any() else math.nan,
        "share_below_bounds": float(np.mean(found < lower - 2 * error)), "share_above_bounds": float(np.mean(found > upper + 2 * error)),
        "median_share_of_lower": float(np.nanmedian(found / lower)),
    }  # fmt: skip


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line a class, number of examples and sampler."""
    lines = []
    for name, n in sorted({(row["class"], row["num_examples"]) for row in rows}, key=lambda of: (list(nets.CLASSES).index(of[0]), of[1])):
        mine = of_class(rows, name, n)
        truth = np.concatenate([row["llc"] for row in mine])
        own = np.concatenate([row["reference"]["llc"] for row in mine])
        own_error = np.concatenate([row["reference"]["std_error"] for row in mine])
        lines.append(
            {
                "class": name,
                "num_examples": n,
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
                {"class": name, "num_examples": n, "sampler": sampler, **errors(found, truth, own), "coverage": float(covered.mean()),
                 "ess_per_1000": float(np.nanmedian(ess) / gradients * 1000),
                 "with_findings": float(np.mean(findings)), "diverged": float(np.mean([d > 0 for run in runs for d in run["num_diverged"]]))}
            )  # fmt: skip
            if sampler == LADDER:  # it is no estimate of the posterior at one temperature
                lines[-1] = {k: v for k, v in lines[-1].items() if not (k == "coverage" or k.endswith("to_posterior"))}
            if sampler in ("SGLD", "SGLD, 4 times the step"):
                left_in = found + np.concatenate([run["step_bias"] for run in runs])
                covered = np.abs(left_in - own) < 2 * np.hypot(error, own_error)
                line = {"class": name, "num_examples": n, "sampler": f"{sampler}, step_bias left in"}
                lines.append(line | errors(left_in, truth, own) | {"coverage": float(covered.mean())})
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
        "n",
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
        body.append([f"{line['class']}", f"{line['num_examples']:,}", line["sampler"], *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def plot(rows: Sequence[Mapping[str, Any]], path: Path, sampler: str = LARGER) -> None:
    """The estimate of each net of `IN_FULL` over its λ, for the best setting's sampler, and the posterior's own value."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    classes = [name for name in IN_FULL if of_class(rows, name, NUM_EXAMPLES)]
    if not classes:
        return
    figure, axes = plt.subplots(1, len(classes), figsize=(5 * len(classes), 4.4), squeeze=False, layout="constrained")
    for name, axis in zip(classes, axes[0], strict=True):
        mine = of_class(rows, name, NUM_EXAMPLES)
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
    parser.add_argument("--examples", nargs="*", type=int, default=[NUM_EXAMPLES], help="of the data")
    parser.add_argument("--reference", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        run_reference(**options.reference)
        return
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("accuracy-quick.json" if options.quick else "accuracy.json")
    found: dict[str, Any] = {"rows": [], "models": [], "rivals": [], "published": []}
    if path.exists() and not options.quick:
        found |= json.loads(path.read_text())
        if any("localization" not in row for row in found["rows"]):
            parser.error(f"{path} has an older format; remove it to begin anew.")

    def keep() -> None:
        path.write_text(json.dumps(found | {"machine": machine()}) + "\n")

    num_nets, num_shapes = (4, 2) if options.quick else (None, 10)
    for n in [NUM_EXAMPLES] if options.quick else options.examples:
        measure(["1K"] if options.quick else options.classes, num_nets, num_shapes, found["rows"], keep, n)
    measure_published(num_nets or NUM_NETS["1K"], num_shapes, found["published"], keep)
    accuracy_models.measure(MODEL_SAMPLERS, GRADIENTS["1K"], found["models"], keep, most=1 if options.quick else None)
    if options.rivals:
        beside_rivals(found["rows"], found["rivals"], keep)
    found |= {"lines": summarise(found["rows"]), "published_recipe": published(found["published"])}
    found["rival_lines"] = [
        {"class": name, **line}
        for name in RIVALS_RUN
        for line in accuracy_rivals.summarise(found["rivals"], of_class(found["rows"], name, NUM_EXAMPLES), FEW[:2])
    ]
    keep()
    plot(found["rows"], path.with_suffix(".png"))
    recipe = found["published_recipe"]
    print(table(found["lines"]))
    print(
        f"\nBy the published recipe, of {recipe['nets']} nets {recipe['share_label_below_local']:.0%} have a label below the rigorous lower bound of their "
        f"local coefficient (by {recipe['median_gap']:.0%} in the median), and {recipe['share_certified']:.0%} are certified. SGLD "
        f"lies {recipe['median_error_to_label']:.0%} from the label in the median ({recipe['median_error_to_label_certified']:.0%} where it is certified), "
        f"below both bounds in {recipe['share_below_bounds']:.0%} and above them in {recipe['share_above_bounds']:.0%}."
    )
    print("\n" + accuracy_models.table(found["models"]))
    if found["rivals"]:
        print("\n" + accuracy_rivals.table(found["rival_lines"]))


if __name__ == "__main__":
    main()
