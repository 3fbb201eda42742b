"""How many operations and bytes a chain-step is, and what published peaks make of them: computed, not measured.

    python -m benchmarks.roofline

Counts are XLA's own, of one step of one chain compiled for this machine; on an accelerator all chains of a group run at once, and weights, noise and
activations of a step go through its memory once if they do not fit its caches. The measured column is that of the last `benchmarks.throughput`.
"""

import json
from typing import Any

import jax

import jaxllc
from benchmarks.throughput import MEDIUM, SMALL, WIDE, Case, language_model
from benchmarks.timing import RESULTS, save

PEAKS = {
    "H100 SXM, float32": (67e12, 3.35e12),
    "H200 SXM, float32": (67e12, 4.8e12),
    "TPU v5e chip, bfloat16": (197e12, 0.819e12),
    "TPU v5p chip, bfloat16": (459e12, 2.765e12),
}
"""Operations and bytes of memory a second, as the makers publish them."""


def counts(case: Case) -> tuple[float, float]:
    """Operations and bytes of one chain-step."""
    data = jaxllc.InMemory.of(case.data, case.batch_size)
    posterior = jaxllc.LocalPosterior(case.loss_fn, case.params, 1000.0, 1.0)
    sampler = jaxllc.SGLD(1e-6)

    def step(key: jax.Array, state: Any, posterior: jaxllc.LocalPosterior, data: jaxllc.InMemory) -> Any:
        return sampler.step(key, state, posterior, data.batch(data.window(key)))

    state = sampler.init(posterior.position())
    cost: Any = jax.jit(step).lower(jax.random.key(0), state, posterior, data).compile().cost_analysis()
    return cost["flops"], cost["bytes accessed"]


def main() -> None:
    """Count, compute, print, keep."""
    path = RESULTS / "throughput.json"
    measured = (
        {line["what"].split(" (")[0]: line["ours_us"] for line in reversed(json.loads(path.read_text())["rows"]) if "ours_us" in line} if path.exists() else {}
    )
    rows = []
    for case in (SMALL(0), MEDIUM(0), WIDE(0), language_model(0)):
        flops, moved = counts(case)
        bounds = {name: 1e6 * max(flops / peak, moved / bandwidth) for name, (peak, bandwidth) in PEAKS.items()}
        limits = {name: "arithmetic" if flops / peak > moved / bandwidth else "memory" for name, (peak, bandwidth) in PEAKS.items()}
        rows.append(
            {"case": case.name, "mflop": flops / 1e6, "megabytes": moved / 1e6, "measured_us": measured.get(case.name), "computed_us": bounds, "limit": limits}
        )
    print(f"| net | MFLOP | MB | flop a byte | measured here, µs | GFLOP/s here | {' | '.join(f'{name}, µs' for name in PEAKS)} |")
    print("|---|" + "---|" * (5 + len(PEAKS)))
    for line in rows:
        here = line["measured_us"]
        speed = f"{here:.0f} | {line['mflop'] / here * 1e3:.0f}" if here else "- | -"
        computed = " | ".join(f"{line['computed_us'][name]:.2g} ({line['limit'][name]})" for name in PEAKS)
        print(f"| {line['case']} | {line['mflop']:.2f} | {line['megabytes']:.2f} | {line['mflop'] / line['megabytes']:.1f} | {speed} | {computed} |")
    print(save("roofline", {"rows": rows}, quick=False))


if __name__ == "__main__":
    main()
