r"""Exact expectations under the posterior of deep linear nets: Gibbs sampling of whole layers in float64 (Geman and Geman 1984).

Given the other layers, $f(x) = x\, A W B$ is linear in a layer $W$, so its conditional posterior is a Gaussian with precision
$n\beta\, A^T \Sigma A \otimes B B^T + \gamma$, diagonal in the eigenvectors of the two factors. A layer is therefore drawn exactly by two eigendecompositions,
without a step size and without rejection. The loss enters through its second moments, so the cost does not depend on n.

    python -m benchmarks.gibbs

prints the bias of the exact expectation relative to the learning coefficient, by nbeta and localization, at one temperature and extrapolated from two.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any

import numpy as np

from benchmarks import deep_linear_nets as nets
from benchmarks.reference_chains import until_mixed
from benchmarks.timing import RESULTS

CHAINS = 4
NBETAS = (500.0, 1000.0, 2000.0, 4000.0, 8000.0)
LOCALIZATIONS = (0.25, 0.5, 1.0, 2.0)
"""Localization divided by the mean width."""
SWEEPS = {(24, 20, 10): 2000, (50, 50, 50, 50): 500, (60, 70, 80): 500, (150, 200, 250): 160}
"""Gibbs sweeps of the shapes in the finite-n table."""


def chain(center: dict[str, Any], moments: dict[str, np.ndarray], nbeta: float, localization: float, num_sweeps: int, seed: Sequence[int]) -> np.ndarray:
    r"""$n\beta\,(L_n(w) - L_n(w^*))$ after each sweep over the layers, `[num_sweeps]`, of one chain that starts at $w^*$.

    Args:
        center: one of `Nets.centers`.
        moments: of the data, by `deep_linear_nets.moments`.
        nbeta: $n\beta$.
        localization: $\gamma$.
        num_sweeps: over all layers.
        seed: of NumPy's generator.
    """
    rng = np.random.default_rng(list(seed))
    there = [layer.astype(float) for layer in center["layers"]]
    layers = list(there)
    inputs, cross = moments["inputs"], moments["cross"] * center["signs"][None].astype(float)
    product = reduce(np.matmul, there)
    target = inputs @ product + cross

    def loss(product: np.ndarray) -> float:
        """Up to what depends on the data alone."""
        return float(0.5 * np.sum((inputs @ product) * product) - np.sum(target * product))

    at_center = loss(product)
    of_inputs, last = np.linalg.eigh(inputs), len(layers) - 1
    found = np.empty(num_sweeps)
    for sweep in range(num_sweeps):
        after = [np.eye(layers[-1].shape[1])]  # products of the layers behind each, the last one's first
        for layer in layers[:0:-1]:
            after.append(layer @ after[-1])
        before = np.eye(len(inputs))
        for i, behind in enumerate(after[::-1]):
            left, rows = of_inputs if i == 0 else np.linalg.eigh(before.T @ inputs @ before)
            right, columns = (np.ones(len(behind)), behind) if i == last else np.linalg.eigh(behind @ behind.T)
            precision = nbeta * np.maximum(left, 0)[:, None] * np.maximum(right, 0) + localization
            mean = rows.T @ (nbeta * before.T @ target @ behind.T + localization * there[i]) @ columns
            layers[i] = rows @ (mean / precision + rng.normal(size=mean.shape) / np.sqrt(precision)) @ columns.T
            before = before @ layers[i]
        found[sweep] = nbeta * (loss(before) - at_center)
    return found


def values(made: nets.Nets, temperatures: dict[float, float], localization: float, num_sweeps: int) -> dict[str, list[float]]:
    r"""The exact expectation for each net, or a weighted sum of those at several temperatures.

    Args:
        made: the nets and their data.
        temperatures: weight of each expectation by its $n\beta$: one, or the two of an extrapolation.
        localization: $\gamma$.
        num_sweeps: over all layers, the first quarter of which is burn-in; more are made where R-hat asks for it.

    Returns:
        `llc`, `std_error`, `rhat` and `ess`, one number a net; with several temperatures, the worst of their R-hats and ESS.
    """
    from arviz_stats.base import array_stats  # pyright: ignore[reportPrivateImportUsage]
    from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingImports]  # pip install -e '.[benchmarks]'

    moments = nets.moments(made.arrays)

    def run(num_sweeps: int) -> dict[str, np.ndarray]:
        tasks = [(nbeta, k, c) for nbeta in temperatures for k in made.centers for c in range(CHAINS)]
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            chains = list(pool.map(lambda task: chain(made.centers[task[1]], moments, task[0], localization, num_sweeps, task[1:]), tasks))
        draws = np.reshape(chains, (len(temperatures), len(made.centers), CHAINS, num_sweeps))[..., num_sweeps // 4 :]
        sums = np.einsum("r,rkct->kct", list(temperatures.values()), draws)
        return {
            "llc": sums.mean((1, 2)),
            "std_error": np.asarray([array_stats.mcse(one, method="mean") for one in sums]),
            "rhat": np.max(np.asarray(array_stats.rhat(draws, method="rank")), 0),
            "ess": np.min(np.asarray(array_stats.ess(draws, method="mean")), 0),
        }

    return {name: column.tolist() for name, column in until_mixed(run, lambda found: float(np.max(found["rhat"])), num_sweeps).items()}


def finite_n(widths: tuple[int, ...], num_sweeps: int, num_examples: int = 20_000) -> list[dict[str, Any]]:
    r"""The exact expectation relative to $\lambda$, minus one, of one net of full rank and one below it, by localization and nbeta."""
    made = nets.make(widths, 2, num_examples)
    rows = []
    for ratio in LOCALIZATIONS:
        localization = ratio * float(np.mean(widths))
        relative = {nbeta: np.asarray(values(made, {nbeta: 1.0}, localization, num_sweeps)["llc"]) / made.llc for nbeta in NBETAS}
        extrapolated = {nbeta: 2 * relative[nbeta] - relative[2 * nbeta] for nbeta in NBETAS[:-1]}
        for kind, by_nbeta in (("one temperature", relative), ("two temperatures", extrapolated)):
            errors = {nbeta: (value - 1).tolist() for nbeta, value in by_nbeta.items()}
            rows.append({"widths": widths, "localization_over_width": ratio, "kind": kind, "error": errors})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """All settings, as Markdown: at full rank, and below it."""
    lines = [f"| net | γ ÷ mean width | from | {' | '.join(f'nβ = {nbeta:g}' for nbeta in NBETAS)} |", "|---" * (3 + len(NBETAS)) + "|"]
    for row in rows:
        cells = [", ".join(f"{error:+.1%}" for error in row["error"].get(nbeta, [])) for nbeta in NBETAS]
        lines.append(f"| {'-'.join(map(str, row['widths']))} | {row['localization_over_width']:g} | {row['kind']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    found = [row for widths, num_sweeps in SWEEPS.items() for row in finite_n(widths, num_sweeps)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "finite-n.json").write_text(json.dumps(found) + "\n")
    print(table(found))
