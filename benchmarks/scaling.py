"""How the cost of a chain-step grows with chains, checkpoints, weights and the batch.

    python -m benchmarks.scaling [--quick]

Marginal microseconds a chain-step (see `benchmarks.throughput`), medians of interleaved turns.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import numpy as np

import jaxllc
from benchmarks.cases import CASES, NBETA, Case, deep_linear
from benchmarks.report import curves, goals
from benchmarks.timing import cheapest, interleaved, ratios, row, save, seconds, slope
from jaxllc.engine import sample
from jaxllc.placement import resident_checkpoints

FLAT = 1.1
"""The goal for curves over chains and checkpoints: largest cost ÷ smallest cost."""

CHAIN_STEPS = 16_000
"""of a timed run of the small net: about half a second."""


def cost(case: Case, num_chains: int, num_checkpoints: int, chain_steps: int) -> Callable[[], float]:
    """The marginal microseconds of a chain-step, over the groups that `trajectory` would make of so many checkpoints."""
    groups = math.ceil(num_checkpoints / resident_checkpoints(case.num_weights, num_chains))
    group = math.ceil(num_checkpoints / groups)
    data = jaxllc.InMemory.of(case.data, case.batch_size)
    center = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (group, *leaf.shape)), case.params)
    posterior = jaxllc.LocalPosterior(case.loss_fn, center, NBETA, 1.0)

    def run(num_steps: int) -> float:
        def all_groups() -> Any:
            for _ in range(groups):
                sample(jax.random.key(0), jaxllc.SGLD(1e-6), posterior, data, num_chains=num_chains, num_draws=num_steps, stacked=True)

        return seconds(all_groups) / (num_chains * group * groups)

    return slope(run, max(8, chain_steps // (num_chains * group * groups)))


def measure(quick: bool) -> dict[str, Any]:
    """The curves, by what varies, and how flat those over chains and checkpoints are."""
    repeats, small, medium = (2, CHAIN_STEPS // 4, 800) if quick else (5, CHAIN_STEPS, 3200)
    small_net, medium_net = CASES["small"](), CASES["medium"]()
    flat = {
        "chains, small net": {count: cost(small_net, count, 1, small) for count in (4, 16, 64, 256)},
        "chains, medium net": {count: cost(medium_net, count, 1, medium) for count in (4, 16, 64, 256)},
        "checkpoints, 8 chains, small net": {count: cost(small_net, 8, count, small * factor) for count, factor in ((10, 2), (100, 6), (1000, 30))},
    }
    growing = {
        "weights, batch 64, 8 chains": {
            sum(a * b for a, b in pairwise(widths)): cost(deep_linear(widths, 64, 0), 8, 1, steps)
            for widths, steps in (((10, 20, 20, 10), small), ((50,) * 4, small), ((100,) * 4, medium * 2), ((200,) * 4, medium), ((580,) * 4, medium // 8))
        },
        "batch, medium net, 8 chains": {size: cost(deep_linear((100,) * 4, size, 0), 8, 1, medium) for size in (32, 128, 512, 2048)},
    }
    rows, found_curves = [], {}
    for name, runs in (flat | growing).items():
        found = interleaved(runs, repeats)
        if name in flat:
            least = cheapest(found)
            rows.append(row(f"{name}: largest ÷ smallest cost", FLAT, max(ratios(found[at], found[least]) for at in found), at_most=True, cheapest=least))
        found_curves[name] = [{"at": at, "us": statistics.median(figures), "all_us": figures} for at, figures in found.items()]
    return {"rows": rows, "curves": found_curves}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short turns instead of five")
    options = parser.parse_args()
    result = measure(options.quick)
    print(goals(result["rows"]), curves(result["curves"]), sep="\n\n")
    print(save("scaling", result, options.quick))


if __name__ == "__main__":
    main()
