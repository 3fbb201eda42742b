"""Where the time of a chain-step goes: the cost of each part, the share of this machine's peak, and times computed from published peaks of accelerators.

    python -m benchmarks.roofline [--quick]

Parts are left out of the engine one at a time, in interleaved turns. Operations and bytes are XLA's counts for one step of one chain, compiled for this CPU
in float32. Times on accelerators are computed from these counts, not measured.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

import jaxllc
from benchmarks.cases import CASES, NBETA, Case, chain_step
from benchmarks.report import ablation, counted
from benchmarks.timing import Run, interleaved, marginal, ratios, save, seconds, slope
from jaxllc.placement import default_mesh
from jaxllc.samplers import noise

PEAKS = {
    "H100 SXM, float32": (67e12, 3.35e12),
    "H200 SXM, float32": (67e12, 4.8e12),
    "TPU v5e chip, bfloat16": (197e12, 0.819e12),
    "TPU v5p chip, bfloat16": (459e12, 2.765e12),
}
"""Operations and bytes of memory a second, as the makers publish them."""


def _own_centre(step: Callable[..., Any]) -> Callable[..., Any]:
    """SGLD's step with the prior centred at the chain: it vanishes, and w* is not read."""
    return lambda self, key, state, posterior, batch: step(self, key, state, posterior.replace(center=state.position), batch)


PARTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "noise": lambda: mock.patch.dict(noise.NOISES, rademacher=lambda key, like: jax.tree.map(jnp.zeros_like, like)),
    "pairing": lambda: mock.patch("jaxllc.chain.paired", lambda losses, *_: (losses.mean(), losses.mean())),
    "step_bias": lambda: mock.patch("jaxllc.samplers.sgld.step_bias", return_value=jnp.zeros(())),
    "a new window": lambda: mock.patch.object(jaxllc.InMemory, "window", return_value=jnp.zeros((), jnp.int32)),
    "the localization": lambda: mock.patch.object(jaxllc.SGLD, "step", _own_centre(jaxllc.SGLD.step)),
}
"""By what is left out."""


def without(case: Case, part: str) -> Run:
    """The engine without one part. A loss function of its own makes it a program of its own."""

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        return case.loss_fn(params, batch)

    loop = chain_step(case._replace(loss_fn=loss_fn))

    def run(num_steps: int) -> float:
        with PARTS[part]():
            return loop(num_steps)

    return run


def ablate(case: Case, repeats: int, scale: int) -> dict[str, Any]:
    """The microseconds of the whole step and of the step without each part, and their ratios."""
    case = case.cut(scale)
    loops = {"whole": chain_step(case)} | {part: without(case, part) for part in PARTS}
    found = interleaved({name: slope(run, case.num_steps) for name, run in loops.items()}, repeats)
    return {
        "case": case.name,
        "whole_us": statistics.median(found["whole"]),
        "without_us": {part: statistics.median(found[part]) for part in PARTS},
        "ratio": {part: ratios(found[part], found["whole"]) for part in PARTS},
        "us": found,
    }


def matmul_gflops(repeats: int, size: int = 1024) -> float:
    """10⁹ operations a second of float32 products of square matrices, one after the other on every device: the peak of this machine as XLA reaches it."""
    mesh = default_mesh(jax.device_count())

    @partial(jax.jit, static_argnums=1)
    def program(x: jax.Array, count: int) -> jax.Array:
        def device(x: jax.Array) -> jax.Array:
            return jax.lax.scan(lambda a, _: (a @ x[0], None), x[0], None, length=count)[0][None]

        return jax.shard_map(device, mesh=mesh, in_specs=P("chain"), out_specs=P("chain"), check_vma=False)(x)

    x = jnp.broadcast_to(jnp.eye(size), (mesh.size, size, size))
    found = interleaved({"matmul": lambda: marginal(lambda count: seconds(lambda: program(x, count)), 40)}, repeats)["matmul"]
    return mesh.size * 2 * size**3 / statistics.median(found) / 1e9


def counts(case: Case) -> tuple[float, float]:
    """Operations and bytes of one chain-step."""
    data = jaxllc.InMemory.of(case.data, case.batch_size)
    posterior = jaxllc.LocalPosterior(case.loss_fn, case.params, NBETA, 1.0)
    sampler = jaxllc.SGLD(1e-6)

    def step(key: jax.Array, state: Any, posterior: jaxllc.LocalPosterior, data: jaxllc.InMemory) -> Any:
        return sampler.step(key, state, posterior, data.batch(data.window(key)))

    state = sampler.init(posterior.position())
    cost: Any = jax.jit(step).lower(jax.random.key(0), state, posterior, data).compile().cost_analysis()
    return cost["flops"], cost["bytes accessed"]


def computed(case: Case, measured_us: float) -> dict[str, Any]:
    """What published peaks make of the counts of one net."""
    flops, moved = counts(case)
    bounds = {name: 1e6 * max(flops / peak, moved / bandwidth) for name, (peak, bandwidth) in PEAKS.items()}
    limits = {name: "arithmetic" if flops / peak > moved / bandwidth else "memory" for name, (peak, bandwidth) in PEAKS.items()}
    return {"case": case.name, "mflop": flops / 1e6, "megabytes": moved / 1e6, "measured_us": measured_us, "computed_us": bounds, "limit": limits}


def main() -> None:
    """Measure, count, compute, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short turns instead of five")
    options = parser.parse_args()
    repeats, scale = (2, 4) if options.quick else (5, 1)
    cases = [CASES[name]() for name in ("small", "medium", "wide", "transformer")]
    parts = [ablate(case, repeats, scale) for case in cases]
    rows = [computed(case, part["whole_us"]) for case, part in zip(cases, parts, strict=True)]
    result = {"matmul_gflops": matmul_gflops(repeats), "ablation": parts, "rows": rows}
    print(f"Products of matrices of 1024 columns reach {result['matmul_gflops']:.0f} GFLOP/s on all devices.")
    print(ablation(parts), counted(result), sep="\n\n")
    print(save("roofline", result, options.quick))


if __name__ == "__main__":
    main()
