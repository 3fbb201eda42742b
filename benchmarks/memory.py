"""What a resident chain costs in memory, and what a longer run or more checkpoints add.

    python -m benchmarks.memory [--quick]

Bytes are XLA's account of arguments, results and temporaries of the compiled programs on one device, as copies of the weights for one more chain.
One copy is the chain's own weights; what is beyond it is compared with the goal, to three decimals (a chain's index and step count are a few bytes).
Both numbers of chains use the same vmap width, so gradients and activations, which only the chains of one vmap have, are the same in both.
Resident memory is the peak of a separate process.
"""

import argparse
import os
import subprocess
import sys
from functools import partial
from typing import Any
from unittest import mock

os.environ.setdefault("DEVICES", "1")

import jax
import jax.numpy as jnp

import jaxllc
from benchmarks.cases import CASES, NBETA, Case, deep_linear
from benchmarks.report import copies, goals, growth
from benchmarks.timing import ROOT, row, save
from jaxllc import engine

STEPS = 100


def footprint(compiled: Any) -> int:
    """Bytes that a program holds while it runs."""
    sizes = compiled.memory_analysis()
    return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes - sizes.alias_size_in_bytes


def chains_bytes(case: Case, num_chains: int) -> int:
    """Bytes of the block of steps in `jaxllc.sample`, without the collected losses, which grow with the steps; a block has at most 256."""
    return 2 * block_bytes(case, num_chains, STEPS) - block_bytes(case, num_chains, 2 * STEPS)


def block_bytes(case: Case, num_chains: int, num_steps: int) -> int:
    """Bytes of a block of so many steps."""
    data = jaxllc.InMemory.of(case.data, case.batch_size)
    posterior = jaxllc.LocalPosterior(case.loss_fn, case.params, NBETA, 1.0)
    block, found = engine._block, []

    def measured(*args: Any, **kwargs: Any) -> Any:
        found.append(footprint(block.lower(*args, **kwargs).compile()))
        return block(*args, **kwargs)

    with mock.patch.object(engine, "_block", measured):
        engine.sample(jax.random.key(0), jaxllc.SGLD(1e-6), posterior, data, num_chains=num_chains, num_draws=num_steps)
    return found[0]


def widest(case: Case) -> int:
    """The vmap width of the chains in a block of steps."""
    engine_rule, found = engine.largest_width, []

    def noted(*args: Any) -> int:
        found.append(engine_rule(*args))
        return found[-1]

    jax.clear_caches()  # a program that was traced before does not ask
    with mock.patch.object(engine, "largest_width", noted):
        block_bytes(case, 1, STEPS)
    return found[-1]


def gradient_bytes(case: Case, num_chains: int) -> int:
    """Bytes of as many vmapped gradient descents, each on a batch of its own from the same data."""
    stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_chains, *leaf.shape)), case.params)
    data = jaxllc.InMemory.of(case.data, case.batch_size)

    def descend(params: Any, start: jax.Array, data: jaxllc.InMemory) -> Any:
        def step(params: Any, t: jax.Array) -> tuple[Any, None]:
            grad = jax.grad(lambda p: case.loss_fn(p, data.batch(start + t)).mean())(params)
            return jax.tree.map(lambda w, g: w - 1e-6 * g, params, grad), None

        return jax.lax.scan(step, params, jnp.arange(STEPS))[0]

    program = jax.jit(lambda stacked, starts, data: jax.vmap(partial(descend, data=data))(stacked, starts), donate_argnums=0)
    return footprint(program.lower(stacked, jnp.arange(num_chains), data).compile())


def per_chain(case: Case) -> dict[str, Any]:
    """Copies of the weights that one more chain holds, in the engine and in bare gradients, and those of the engine beyond the chain's own weights."""
    weights, width = 4 * case.num_weights, widest(case)
    few, many = (k * width * max(1, 8 // width) for k in (2, 4))
    ours, bare = ((measured(case, many) - measured(case, few)) / (many - few) / weights for measured in (chains_bytes, gradient_bytes))
    what = f"{case.label}: copies of the weights that a chain holds beyond its own"
    return row(what, 1.0, round(ours - 1, 3), at_most=True, case=case.label, ours=ours, bare=bare)


def peak_mebibytes(num_draws: int, num_checkpoints: int) -> float:
    """Peak resident memory of a process that runs a trajectory of the small net into a store, at a fixed group size."""
    code = (
        "import re, tempfile, jax, jaxllc\n"
        "from benchmarks.cases import CASES\n"
        "case = CASES['small']()\n"
        f"run = {{step: case.params for step in range({num_checkpoints})}}\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    jaxllc.trajectory(case.loss_fn, run, case.data, key=jax.random.key(0), sampler=jaxllc.SGLD(1e-6), nbeta=1000.0, batch_size=500,\n"
        f"        num_draws={num_draws}, num_burn_in=0, store=folder + '/llc.zarr', group_size=5, progress=False)\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1)) / 1024)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    options = parser.parse_args()
    rows = [per_chain(case) for case in (CASES["small"](), CASES["medium"](), deep_linear((580,) * 4, 64, 0), CASES["transformer"]())]
    draws = 250 if options.quick else 1000
    base = peak_mebibytes(draws, 5)
    grown = []
    for name, factor, peak in (("draws", 8, peak_mebibytes(8 * draws, 5)), ("checkpoints", 8, peak_mebibytes(draws, 40))):
        returned = (factor - 1) * 5 * 8 * draws * 4 * 5 / 2**20
        grown.append({"what": f"{factor} times the {name}", "mebibytes": peak, "more_than_base": peak - base, "results_returned_add": returned})
    result = {"rows": rows, "base_mebibytes": base, "growth": grown}
    print(goals(rows), copies(rows), growth(result), sep="\n\n")
    print(save("memory", result, options.quick))


if __name__ == "__main__":
    main()
