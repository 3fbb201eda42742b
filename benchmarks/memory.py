"""What a resident chain costs in memory, and what a longer run or more checkpoints add.

    python -m benchmarks.memory [--quick]

Bytes are those of the compiled programs (XLA's own account of arguments, results and temporaries) on one device, as copies of the weights for one more chain;
resident memory is the peak of a process of its own.
"""

import argparse
import os
import subprocess
import sys
from functools import partial
from typing import Any

os.environ.setdefault("DEVICES", "1")

import jax
import jax.numpy as jnp

import jaxllc
from benchmarks.throughput import MEDIUM, SMALL, Case, deep_linear, language_model
from benchmarks.timing import save
from jaxllc import engine

STEPS = 200


def footprint(compiled: Any) -> int:
    """Bytes that a program holds while it runs."""
    sizes = compiled.memory_analysis()
    return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes - sizes.alias_size_in_bytes


def chains_bytes(case: Case, num_chains: int) -> int:
    """Of the engine's block of steps, without the losses that it gives out."""
    data = jaxllc.InMemory.of(case.data, case.batch_size)
    posterior = jaxllc.LocalPosterior(case.loss_fn, jax.tree.map(lambda leaf: leaf[None], case.params), jnp.ones(1), jnp.ones(1))
    sampler, mesh, key = jaxllc.SGLD(jnp.full(1, 1e-6)), engine.default_mesh(num_chains), jax.random.key(0)
    state, reference, _ = engine._start(key, sampler, posterior, data, mesh=mesh, num_chains=num_chains)
    block = engine._block.lower(key, sampler, posterior, data, state, reference.by_example, 0, mesh=mesh, num_chains=num_chains, num_steps=STEPS)
    return footprint(block.compile()) - 2 * 3 * 4 * STEPS * num_chains


def gradient_bytes(case: Case, num_chains: int) -> int:
    """Of as many bare gradient descents side by side, each on a batch of its own out of the same data."""
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
    """Copies of the weights that one more chain holds, in the engine and in bare gradients; their difference is what sampling adds."""
    weights = 4 * case.num_weights
    ours, bare = ((measured(case, 24) - measured(case, 8)) / 16 / weights for measured in (chains_bytes, gradient_bytes))
    what = f"{case.name} ({case.num_weights:,} weights, batch {case.batch_size}): copies of the weights a chain, ours less bare gradient"
    return {"what": what, "goal": 1.0, "measured": ours - bare, "ours": ours, "bare": bare}


def peak_mebibytes(num_draws: int, num_checkpoints: int) -> float:
    """Peak resident memory of a process that runs a trajectory of the small net into a store, at a fixed group size."""
    code = (
        "import re, tempfile, jax, jaxllc\n"
        "from benchmarks import throughput as t\n"
        "case = t.SMALL(0)\n"
        f"run = {{step: case.params for step in range({num_checkpoints})}}\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    jaxllc.trajectory(case.loss_fn, run, case.data, key=jax.random.key(0), sampler=jaxllc.SGLD(1e-6), nbeta=1000.0, batch_size=500,\n"
        f"        num_draws={num_draws}, num_burn_in=0, store=folder + '/llc.zarr', group_size=5, progress=False)\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1)) / 1024)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    options = parser.parse_args()
    rows = [per_chain(case) for case in (SMALL(0), MEDIUM(0), deep_linear((580,) * 4, 64, 0), language_model(0))]
    draws = 250 if options.quick else 1000
    base = peak_mebibytes(draws, 5)
    growth = []
    for name, factor, peak in (("draws", 8, peak_mebibytes(8 * draws, 5)), ("checkpoints", 8, peak_mebibytes(draws, 40))):
        results = (factor - 1) * 5 * 8 * draws * 4 * 5 / 2**20
        growth.append({"what": f"{factor} times the {name}", "mebibytes": peak, "more_than_base": peak - base, "results_returned_add": results})
    print("| what | goal | measured | ours · bare |\n|---|---|---|---|")
    for line in rows:
        print(f"| {line['what']} | ≤ 1 | {line['measured']:.2f} | {line['ours']:.2f} · {line['bare']:.2f} |")
    print(f"\nPeak of a process with 5 checkpoints × 8 chains × {draws} draws: {base:.0f} MiB.")
    for line in growth:
        more, returned = line["more_than_base"], line["results_returned_add"]
        print(f"With {line['what']}: {more:+.0f} MiB, of which the draws that are returned, as arrays, are about {returned:.0f} MiB.")
    print(save("memory", {"rows": rows, "base_mebibytes": base, "growth": growth}, options.quick))


if __name__ == "__main__":
    main()
