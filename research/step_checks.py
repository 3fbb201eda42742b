r"""Three ways to judge a step of SGLD: the bias read off the chain, a half and a quarter of the step, and the acceptance of a MALA step along the chain.

    python -m research.step_checks

Problems of the zoo at what `jaxllc.calibrate` chooses within `BUDGET` seconds, which is SGLD. Half the step has twice the iterations, so that chains are
as long in time. `KEYS` keys tell how much of the noise a shared key takes out of the difference between two steps. The acceptance is that of
$w' = w - \frac{\epsilon}{2} \nabla U(w) + \sqrt\epsilon\, \xi$ on all data, from the ends of chains.
"""

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxllc
from benchmarks import zoo
from benchmarks.report_calibration import step_checks
from benchmarks.timing import machine
from research.accuracy_best import RESULTS

BUDGET = 2.0
PROBLEMS = ("tanh-20000", "mlp-4000", "transformer1-4000")
KEYS = 5
HALVINGS = (1, 2, 4)


def acceptance(made: zoo.Made, positions: jax.Array, settings: jaxllc.Settings, key: jax.Array) -> float:
    """The mean acceptance rate of a MALA step on all data from each of some positions, `[C, D]`, at the step size of the settings."""
    loss_fn, params, data = made
    center, unravel = ravel_pytree(params)
    step = _step_size(settings)
    nbeta = settings.nbeta or 0.0

    def potential(w: jax.Array) -> jax.Array:
        moved = w - center
        return nbeta * loss_fn(unravel(w), data).mean() + settings.localization / 2 * jnp.vdot(moved, moved)

    @jax.jit
    def accepted(w: jax.Array, key: jax.Array) -> jax.Array:
        noise_key, _ = jax.random.split(key)
        energy, slope = jax.value_and_grad(potential)(w)
        new = w - step / 2 * slope + np.sqrt(step) * jax.random.normal(noise_key, w.shape)
        new_energy, new_slope = jax.value_and_grad(potential)(new)
        there, back = new - w + step / 2 * slope, w - new + step / 2 * new_slope
        return jnp.exp(jnp.minimum(0.0, energy - new_energy + (jnp.vdot(there, there) - jnp.vdot(back, back)) / (2 * step)))

    return float(np.mean([accepted(w, one) for w, one in zip(positions, jax.random.split(key, len(positions)), strict=True)]))


def _step_size(settings: jaxllc.Settings) -> float:
    return float(settings.sampler.step_size)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


def measure(problem: str) -> dict[str, Any]:
    """The coefficient at each step by each key, what the finite step added, and the acceptance at the chosen step."""
    loss_fn, params, data = made = zoo.make(problem)
    settings = jaxllc.calibrate(loss_fn, params, data, key=jax.random.key(0), budget=BUDGET).settings
    sampler = settings.sampler
    assert isinstance(sampler, jaxllc.SGLD), "the budget pays for Hamiltonian chains; lower it"
    llc: dict[int, list[float]] = {}
    errors, biases, ends = {}, {}, None
    for halving in HALVINGS:
        shorter = settings.replace(
            sampler=sampler.with_step_size(_step_size(settings) / halving), num_burn_in=halving * settings.num_burn_in, thinning=halving * settings.thinning
        )
        last = shorter.num_iterations
        probes = {"weights": jaxllc.Probe(lambda w: ravel_pytree(w)[0], every=last - last % 16)} if halving == 1 else {}
        found = [jaxllc.estimate(loss_fn, params, data, shorter, key=jax.random.key(k), probes=probes, progress=False) for k in range(KEYS)]
        llc[halving] = [float(est.llc) for est in found]
        errors[halving] = float(np.mean([est.std_error for est in found]))
        biases[halving] = float(np.mean([est.summary["step_bias"].item() for est in found]))
        if halving == 1:
            ends = np.reshape(np.asarray(found[0].data["along_chains/weights"].values), (settings.num_chains, -1))
    rate = acceptance(made, jnp.asarray(ends), settings, jax.random.key(9))
    return {
        "problem": problem, "weights": int(ravel_pytree(params)[0].size), "localization": settings.localization, "llc": llc,
        "std_error": errors, "step_bias": biases, "acceptance": rate,
    }  # fmt: skip


def main() -> None:
    """Measure, print, keep."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    path = RESULTS / "step-checks.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"lines": []}
    for problem in PROBLEMS:
        if not any(line["problem"] == problem for line in result["lines"]):
            result["lines"].append(json.loads(json.dumps(measure(problem))))
            path.write_text(json.dumps(result | {"machine": machine()}) + "\n")
            print(result["lines"][-1], flush=True)
    print(step_checks(result["lines"]))


if __name__ == "__main__":
    main()
