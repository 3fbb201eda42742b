r"""How near each sampler comes to the truth, on deep linear nets whose learning coefficient is known.

    python -m benchmarks.accuracy [--quick] [--rivals] [--classes 1K 10K] [--examples 20000 200000]

Each estimate is compared with two truths. The first is the exact expectation under the same posterior, from Gibbs sampling of whole layers in float64
(`gibbs`): the difference is the sampler's error. The second is $\lambda$: that difference also contains the bias of finite n, nbeta and localization.
Two-temperature extrapolation has less of this bias; it is compared with the exact expectations at its own two temperatures.

All samplers use the same number of minibatch gradients. A second set of nets follows the published recipe.
With more than 20 000 examples only the two best samplers run. Finished entries are kept in the result, and a second call continues.
`accuracy_models` adds models without a closed form, `accuracy_rivals` other packages (after `make rivals`).
"""

import argparse
import itertools
import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxllc
from benchmarks import accuracy_models, accuracy_rivals, gibbs, report
from benchmarks import deep_linear_nets as nets
from benchmarks.timing import RESULTS, machine
from jaxllc import SGHMC, SGLD, SGNHT, Adam, ControlVariate, RMSProp
from jaxllc.placement import default_mesh
from jaxllc.stepsize import curvature

NUM_EXAMPLES = 20_000
BATCH_SIZE = 256
CHAINS = 8
GRADIENTS = {"1K": 4000, "10K": 2000, "100K": 1000, "1M": 500}
"""Minibatch gradients of one chain; the first third is burn-in."""
SWEEPS = {"1K": 2000, "10K": 1000, "100K": 160, "1M": 80}
"""Gibbs sweeps for the exact posterior; more are made where R-hat asks for it."""
NUM_NETS = {"1K": 10, "10K": 10, "100K": 5, "1M": 2}
"""Nets in a group, which share data and random numbers; fewer of the largest, which take minutes each."""
SEEDS = {"1K": (0,), "10K": (0,), "100K": (0, 2), "1M": (0,)}
"""Seeds of the groups of nets of each shape; seed 1 is left to `research.accuracy_best`."""
IN_FULL = ("1K", "10K")
"""Classes whose nets run with every sampler; the others, and all with more examples, with the `BEST`."""
LARGER = "SGLD, larger steps in burn-in"
LADDER = "SGLD, two temperatures, larger steps in burn-in"
BEST = (LARGER, LADDER)
OURS = {"SGLD": "reference", LARGER: "reference", LADDER: "ladder_reference"}
"""Our samplers in the table of the rivals, and the reference that each is compared with."""
RIVALS_RUN = {"1K": 10, "10K": 3}
"""Shapes of a class whose first net the rivals are run on."""
BARS = 2
"""Raised where error bars or findings are made in another way; coverage and findings of runs from before are not shown."""
FRACTION: float = SGLD.default_fraction  # pyright: ignore[reportAssignmentType]
"""The default step size of SGLD, as a share of the largest stable one."""
FREE = jaxllc.Paths("layers/*")
ITSELF = {"reference": "exact posterior (Gibbs, float64)", "ladder_reference": "exact posteriors at two temperatures (Gibbs, float64)"}
"""Labels of the exact references in the tables, by their names in the result."""


def posterior_setting(widths: Sequence[int], n: int) -> dict[str, float]:
    r"""The nbeta and localization at which the exact expectation under the posterior is near $\lambda$.

    The Gaussian prior must keep the product of the layers near that at $w^*$: noise of variance $1/\gamma$ in a layer has norm $2 \sqrt{d / \gamma}$, so
    $\gamma$ is proportional to the width d. Two biases remain. The loss of the true weights is about $\lambda / n$ above the minimum, which lowers the estimate
    by a share $n\beta / n$. The prior and the finite temperature lower it by a share of order $\gamma / n\beta$. With $n\beta \propto \sqrt n$ both shrink.
    """
    localization = float(np.mean(widths))
    return {"nbeta": min(max(400, 20 * localization) * math.sqrt(n / 20_000), n / math.log(n)), "localization": localization}


def ladder_setting(widths: Sequence[int], n: int) -> dict[str, float]:
    r"""The smaller nbeta of a two-temperature extrapolation, and its localization.

    A slope in $1/n\beta$ does not depend on $L_n(w^*)$, so nbeta can be larger and the prior weaker, which lowers the bias of order $\gamma / n\beta$. A still
    larger nbeta would increase the noise of minibatches.
    """
    wide = float(np.mean(widths)) / 2
    nbeta = min(n / 5, max(2000, 20 * wide))
    return {"nbeta": nbeta, "localization": min(wide, nbeta / 20)}


def best_setting(widths: Sequence[int], n: int) -> dict[str, Any]:
    """Keyword arguments of `jaxllc.estimate` for a deep linear net: two-temperature extrapolation with larger batches and more steps (docs/accuracy.md).

    The batch grows with nbeta because the gradient noise does. The number of steps grows with nbeta / localization because flat directions need that long to
    forget $w^*$. The cost is at most 16 chains of 8000 gradients of at most 1000 examples: seconds for some hundred weights, many minutes for a million.

    Args:
        widths: of the net, input first.
        n: examples in the data.
    """
    setting = ladder_setting(widths, n)
    num_steps = round(min(max(40 * setting["nbeta"] / setting["localization"], 500), 4000))
    return {
        **setting, "extrapolate": "nbeta", "sampler": SGLD(step_size=None, burn_in_factor=4.0), "batch_size": min(n, 1000, math.ceil(setting["nbeta"] / 2)),
        "num_chains": CHAINS, "num_burn_in": num_steps, "num_draws": num_steps,
    }  # fmt: skip


def samplers(made: nets.Nets, num_gradients: int, only: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """The samplers compared: options of `jaxllc.trajectory` by name, and gradients per step. Step sizes are shares of the largest stable one at w*.

    The first is the default of `jaxllc.estimate`, the last that of `best_setting`.
    """
    n = len(made.arrays[0])
    ladder = ladder_setting(made.widths, n)
    curvature, of_ladder = (curvature_of(made, setting) for setting in (posterior_setting(made.widths, n), ladder))
    limit = 4 / curvature
    step = FRACTION * limit
    found: dict[str, dict[str, Any]] = {
        "SGLD": {"sampler": SGLD(step)},
        LARGER: {"sampler": larger(step, num_gradients)},
        "SGLD, 4 times the step": {"sampler": SGLD(limit / 8)},
        "SGLD, a quarter of the step": {"sampler": SGLD(limit / 128)},
        "SGLD, extrapolated": {"sampler": SGLD(step), "extrapolate": True, "cost": 2},
        "SGLD, control variate": {"sampler": SGLD(step, gradient=ControlVariate()), "cost": 2},
        "SGLD, RMSProp": {"sampler": SGLD(0.1 * limit / 16, RMSProp())},
        "SGLD, Adam": {"sampler": SGLD(0.1 * limit / 64, Adam())},
        "SGHMC": {"sampler": SGHMC(limit / 128, friction=math.sqrt(curvature))},
        "SGNHT": {"sampler": SGNHT(limit / 128, friction=math.sqrt(curvature))},
        LADDER: {"sampler": larger(FRACTION * 4 / of_ladder, num_gradients // 2), "extrapolate": "nbeta", "cost": 2, **ladder},
    }
    return {name: options for name, options in found.items() if only is None or name in only}


MODEL_SAMPLERS: dict[str, dict[str, Any]] = {
    "SGLD": {},
    "SGLD, extrapolated": {"extrapolate": True, "cost": 2},
    LARGER: {"sampler": SGLD(None, burn_in_factor=4.0)},
    "SGHMC": {"sampler": SGHMC(None)},
}
"""Samplers of `accuracy_models`: the default, extrapolated in the step size, with larger steps in burn-in, and with momentum."""


def larger(step_size: float, num_steps: int) -> SGLD:
    """SGLD with a given step size, and larger steps during the burn-in of `run_group`."""
    return SGLD(None, burn_in_factor=4.0).with_default_step_size(step_size, num_steps // 3)


def run_group(name: str, options: Mapping[str, Any], made: nets.Nets, num_gradients: int, seed: int = 0) -> dict[str, Any]:
    """All nets of one group with one sampler."""
    merged: dict[str, Any] = {"batch_size": BATCH_SIZE, **posterior_setting(made.widths, len(made.arrays[0])), **options}
    num_steps = num_gradients // merged.pop("cost", 1)
    table = jaxllc.trajectory(
        nets.loss, made.centers, made.arrays, key=jax.random.key(seed), free=FREE, num_chains=CHAINS,
        num_burn_in=num_steps // 3, num_draws=num_steps - num_steps // 3, progress=False, group_size=len(made.centers),
        **merged,
    ).table()  # fmt: skip
    return {
        "sampler": name,
        "bars": BARS,
        **{column: table[column].tolist() for column in ("llc", "std_error", "step_bias", "ess", "num_diverged", "findings")},
    }


def curvature_of(made: nets.Nets, setting: Mapping[str, float]) -> float:
    """The largest curvature of the posterior at the nets, estimated as for the default step size."""
    data = jaxllc.InMemory.of(made.arrays, BATCH_SIZE)
    centers = list(made.centers.values())[:5]
    return max(
        curvature(jaxllc.LocalPosterior(nets.loss, center, setting["nbeta"], setting["localization"], FREE), data, default_mesh(CHAINS)) for center in centers
    )


def measure(classes: Sequence[str], num_nets: int | None, num_shapes: int, rows: list[dict[str, Any]], keep: Callable[[], None], n: int = NUM_EXAMPLES) -> None:
    """Fill `rows`, one per group of nets and number of examples, and keep each when it is finished; `num_nets` None means `NUM_NETS` nets a group."""
    for name, widths in ((of, shape) for of in classes for shape in nets.CLASSES[of][:num_shapes]):
        for seed in SEEDS[name]:
            known = next((row for row in rows if (tuple(row["widths"]), row["num_examples"], row["seed"]) == (widths, n, seed)), None)
            made = nets.make(widths, num_nets or NUM_NETS[name], n, seed=seed)
            if known is None:
                known = {"class": name, "widths": list(widths), "num_examples": n, "seed": seed, **posterior_setting(widths, n), **labels(made), "runs": []}
                rows.append(known)
            if "reference" not in known:
                known["reference"] = gibbs.values(made, {known["nbeta"]: 1.0}, known["localization"], SWEEPS[name])
            if "ladder_reference" not in known:
                known["ladder"] = ladder = ladder_setting(widths, n)
                known["ladder_reference"] = gibbs.values(made, {ladder["nbeta"]: 2.0, 2 * ladder["nbeta"]: -1.0}, ladder["localization"], SWEEPS[name])
                keep()
            only = None if name in IN_FULL and n == NUM_EXAMPLES else BEST
            for sampler, options in samplers(made, GRADIENTS[name], only).items():
                if all(run["sampler"] != sampler for run in known["runs"]):
                    known["runs"].append(run_group(sampler, options, made, GRADIENTS[name], seed))
                    keep()
            print(f"{name}, n = {n}, {'-'.join(map(str, widths))}, group {seed}: done", flush=True)
            jax.clear_caches()  # of programs that no other shape runs: their code would fill the process's memory maps


def labels(made: nets.Nets) -> dict[str, list[float]]:
    """The label of each net, Aoyagi's coefficient, and rigorous bounds of its local coefficient."""
    return {"llc": made.llc.tolist(), "lower": made.lower.tolist(), "upper": made.upper.tolist()}


def measure_published(num_nets: int, num_shapes: int, rows: list[dict[str, Any]], keep: Callable[[], None]) -> None:
    """Nets of the class 1K by the published recipe, with the default sampler and without an exact reference."""
    for widths in nets.CLASSES["1K"][:num_shapes]:
        if any(tuple(row["widths"]) == widths for row in rows):
            continue
        made = nets.make(widths, num_nets, NUM_EXAMPLES, certified=False)
        options = samplers(made, GRADIENTS["1K"], ["SGLD"])["SGLD"]
        rows.append({"widths": list(widths), **labels(made), "run": run_group("SGLD", options, made, GRADIENTS["1K"])})
        keep()


def beside_rivals(rows: Sequence[Mapping[str, Any]], known: list[dict[str, Any]], keep: Callable[[], None]) -> None:
    """The rivals on the first net, which has full rank, of `RIVALS_RUN` shapes a class: their chains are slow."""
    for name, count in RIVALS_RUN.items():
        for row in of_class(rows, name, NUM_EXAMPLES)[:count]:
            made = nets.make(tuple(row["widths"]), len(row["llc"]), NUM_EXAMPLES, seed=row["seed"])  # all of them: the data come after them
            steps = GRADIENTS[name]
            setting = posterior_setting(made.widths, NUM_EXAMPLES)
            options = {"num_chains": CHAINS, "num_burn_in": steps // 3, "num_draws": steps - steps // 3, **setting}
            accuracy_rivals.measure(made, 1, 4 / curvature_of(made, setting), BATCH_SIZE, options, known, keep)
            print(f"rivals, {'-'.join(map(str, made.widths))}: done", flush=True)


def of_class(rows: Sequence[Mapping[str, Any]], name: str, n: int) -> list[Mapping[str, Any]]:
    """The rows of a class with so many examples."""
    return [row for row in rows if (row["class"], row["num_examples"]) == (name, n)]


def published(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """For nets by the published recipe: how often the label is below the rigorous lower bound of the local coefficient, and how far the estimate is off."""
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
        owns = {kind: {of: np.concatenate([row[kind][of] for row in mine]) for of in ("llc", "std_error", "rhat")} for kind in ITSELF}
        for kind, label in ITSELF.items():
            own = owns[kind]["llc"]
            lines.append({"class": name, "num_examples": n, "sampler": label, **errors(own, truth, own), "max_rhat": float(owns[kind]["rhat"].max())})
        for sampler in [run["sampler"] for run in mine[0]["runs"]]:
            runs = [next(run for run in row["runs"] if run["sampler"] == sampler) for row in mine if any(run["sampler"] == sampler for run in row["runs"])]
            if len(runs) < len(mine):
                continue
            own, own_error, _ = owns["ladder_reference" if sampler == LADDER else "reference"].values()
            found, error, ess = (np.concatenate([run[column] for run in runs]).astype(float) for column in ("llc", "std_error", "ess"))
            findings = [bool(text) for run in runs for text in run["findings"]]
            gradients = CHAINS * GRADIENTS[name]
            line = {"class": name, "num_examples": n, "sampler": sampler, **errors(found, truth, own)}
            line |= {
                "ess_per_1000": float(np.nanmedian(ess) / gradients * 1000),
                "diverged": float(np.mean([d > 0 for run in runs for d in run["num_diverged"]])),
            }
            if all(run.get("bars") == BARS for run in runs):
                within = np.abs(found - own) < 2 * np.hypot(error, own_error)
                clean = within[~np.array(findings)]
                line |= {"coverage": float(within.mean()), "with_findings": float(np.mean(findings)), "clean": len(clean), "covered": int(clean.sum())}
            lines.append(line)
            if sampler in ("SGLD", "SGLD, 4 times the step"):
                left_in = found + np.concatenate([run["step_bias"] for run in runs])
                lines.append({"class": name, "num_examples": n, "sampler": f"{sampler}, bias not corrected", **errors(left_in, truth, own)})
    return lines


def errors(found: np.ndarray, truth: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Relative errors against λ and against the exact posterior, and how well the nets are ordered."""
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
    """All lines, as Markdown."""
    shares = [
        ("error to the posterior: median", "median_error_to_posterior"), ("p90", "p90_error_to_posterior"), ("signed mean", "bias_to_posterior"),
        ("coverage", "coverage"), ("error to λ: median", "median_error_to_llc"), ("p90", "p90_error_to_llc"), ("signed mean", "bias_to_llc"),
    ]  # fmt: skip
    body = []
    for line in lines:
        cells = [f"{line[name]:.1%}" if name in line else "" for _, name in shares]
        cells += [f"{line[name]:.3f}" for name in ("rank_correlation", "order_preserved")]
        cells += [f"{line[name]:{spec}}" if name in line else "" for name, spec in (("ess_per_1000", ".2g"), ("with_findings", ".0%"))]
        body.append([line["class"], f"{line['num_examples']:,}", line["sampler"], *cells])
    head = ["class", "n", "sampler", *(of for of, _ in shares), "rank correlation", "pairs in order", "ESS / 1000 gradients", "with findings"]
    return report.table(head, body)


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Two-temperature estimates and exact expectations divided by λ, for each net of the classes with more than one group."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if any(run["sampler"] == LADDER for run in row["runs"])]
    classes = [name for name in nets.CLASSES if len(of_class(rows, name, NUM_EXAMPLES)) > 1]
    if not classes:
        return
    figure, axes = plt.subplots(1, len(classes), figsize=(4.6 * len(classes), 4.2), squeeze=False, layout="constrained")
    for name, axis in zip(classes, axes[0], strict=True):
        mine = of_class(rows, name, NUM_EXAMPLES)
        truth = np.concatenate([row["llc"] for row in mine])
        own = np.concatenate([row["ladder_reference"]["llc"] for row in mine])
        alone = np.concatenate([row["reference"]["llc"] for row in mine])
        runs = [next(run for run in row["runs"] if run["sampler"] == LADDER) for row in mine]
        found, error = (np.concatenate([run[column] for run in runs]).astype(float) for column in ("llc", "std_error"))
        axis.axhline(1, color="0.6", linewidth=1)
        axis.plot(truth, alone / truth, "_", color="0.6", markersize=7, label="exact posterior at one temperature")
        axis.plot(truth, own / truth, "_", color="C1", markersize=9, label="exact posteriors at two temperatures")
        axis.errorbar(
            truth, found / truth, 2 * error / truth, fmt="o", markersize=3, color="C0", linewidth=1, label="SGLD, two temperatures, ± 2 standard errors"
        )
        axis.set(xlabel="λ, exact", ylabel="λ̂ ÷ λ", title=f"{len(truth)} certified deep linear nets of about {name} weights")
        axis.title.set_fontsize("medium")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
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
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("accuracy-quick.json" if options.quick else "accuracy.json")
    found: dict[str, Any] = {"rows": [], "models": [], "rivals": [], "published": []}
    if path.exists() and not options.quick:
        found |= json.loads(path.read_text())
        if any("seed" not in row or "ladder_reference" not in row or len(row["llc"]) != NUM_NETS[row["class"]] for row in found["rows"]):
            parser.error(f"{path} is of another version of this benchmark; remove it to begin anew.")

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
        {"class": name, **line} for name in RIVALS_RUN for line in accuracy_rivals.summarise(found["rivals"], of_class(found["rows"], name, NUM_EXAMPLES), OURS)
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
