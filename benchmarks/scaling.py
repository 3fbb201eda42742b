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
from benchmarks.throughput import MEDIUM, SMALL, Case, deep_linear, slope
from benchmarks.timing import interleaved, save, seconds
from jaxllc.engine import sample
from jaxllc.trajectory import RESIDENT_WEIGHTS

CHAIN_STEPS = 16_000
"""of a timed run of the small net: about half a second."""


def cost(case: Case, num_chains: int, num_checkpoints: int, chain_steps: int) -> Callable[[], float]:
    """The marginal microseconds of a chain-step, over the groups that `trajectory` would make of so many checkpoints."""
    groups = math.ceil(num_checkpoints / max(1, RESIDENT_WEIGHTS // (case.num_weights * num_chains)))
    group = math.ceil(num_checkpoints / groups)
    data = jaxllc.InMemory.of(case.data, case.batch_size)
    center = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (group, *leaf.shape)), case.params)
    posterior = jaxllc.LocalPosterior(case.loss_fn, center, 1000.0, 1.0)

    def run(num_steps: int) -> float:
        def all_groups() -> Any:
            for _ in range(groups):
                sample(jax.random.key(0), jaxllc.SGLD(1e-6), posterior, data, num_chains=num_chains, num_draws=num_steps, stacked=True)

        return seconds(all_groups) / (num_chains * group * groups)

    return slope(run, max(8, chain_steps // (num_chains * group * groups)))


def measure(quick: bool) -> dict[str, list[dict[str, Any]]]:
    """The curves, by what varies."""
    repeats, small, medium = (2, CHAIN_STEPS // 4, 800) if quick else (5, CHAIN_STEPS, 3200)
    small_net, medium_net = SMALL(0), MEDIUM(0)
    curves = {
        "chains, small net": {count: cost(small_net, count, 1, small) for count in (4, 16, 64, 256)},
        "chains, medium net": {count: cost(medium_net, count, 1, medium) for count in (4, 16, 64, 256)},
        "checkpoints, 8 chains, small net": {count: cost(small_net, 8, count, small * factor) for count, factor in ((10, 2), (100, 6), (1000, 30))},
        "weights, batch 64, 8 chains": {
            sum(a * b for a, b in pairwise(widths)): cost(deep_linear(widths, 64, 0), 8, 1, steps)
            for widths, steps in (((10, 20, 20, 10), small), ((50,) * 4, small), ((100,) * 4, medium * 2), ((200,) * 4, medium), ((580,) * 4, medium // 8))
        },
        "batch, medium net, 8 chains": {size: cost(deep_linear((100,) * 4, size, 0), 8, 1, medium) for size in (32, 128, 512, 2048)},
    }
    return {
        name: [{"at": at, "us": statistics.median(found), "all_us": found} for at, found in interleaved(runs, repeats).items()] for name, runs in curves.items()
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short turns instead of five")
    options = parser.parse_args()
    curves = measure(options.quick)
    print("| what varies | µs a chain-step |\n|---|---|")
    for name, points in curves.items():
        told = " · ".join(f"{point['at']:,}: {point['us']:.1f}" for point in points)
        print(f"| {name} | {told} |")
    print(save("scaling", {"curves": curves}, options.quick))


if __name__ == "__main__":
    main()
