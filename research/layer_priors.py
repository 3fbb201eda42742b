r"""A prior for each layer in the place of one for all: does it shorten what is slow, and what becomes of $\hat\lambda$?

    python -m research.layer_priors

With weights $w = w^* + s_l u$, $s_l$ one scale for each leaf, the prior $\frac12 \|u\|^2$ is one of localization $1 / s_l^2$ on that leaf. Here $s_l$ is in
proportion to the root mean square of the leaf at $w^*$, and the mean of $1 / s_l^2$ over weights is one, as that of the prior which is the same for all.
SGLD in $u$ has a step for each leaf too. Each posterior has its own reference, `AdaptiveHMC` of `REFERENCE` seconds; SGLD has the steps, the batches and the
seconds of `slow_directions`, and of its steps the one nearest to the reference counts.
"""

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxllc
from benchmarks import zoo
from benchmarks.report_calibration import layer_priors
from benchmarks.timing import machine
from research.accuracy_best import RESULTS
from research.slow_directions import BATCH_SIZE, FACTORS, estimate, numbers_of

REFERENCE = 60.0
PROBLEMS = ("deep-linear", "tanh-20000", "mlp-600")
LEAST_SCALE = 0.1
"""Of a leaf, of the root mean square of all weights: biases may be zero."""


def per_layer(made: zoo.Made) -> zoo.Made:
    """The same problem in weights u, around zero."""
    loss_fn, params, data = made
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(params)]
    whole = np.sqrt(sum((leaf**2).sum() for leaf in leaves) / sum(leaf.size for leaf in leaves))
    scales = np.array([max(np.sqrt((leaf**2).mean()), LEAST_SCALE * whole) for leaf in leaves])
    sizes = np.array([leaf.size for leaf in leaves])
    scales *= np.sqrt((sizes / scales**2).sum() / sizes.sum())
    tree = jax.tree.unflatten(jax.tree.structure(params), [np.float32(scale) for scale in scales])

    def loss(moved: Any, batch: Any) -> jax.Array:
        return loss_fn(jax.tree.map(lambda w, s, u: w + s * u, params, tree, moved), batch)

    return loss, jax.tree.map(jnp.zeros_like, params), data


def measure(problem: str, prior: str) -> dict[str, Any]:
    """The reference of a problem with one kind of prior, and the best of SGLD beside it."""
    made = zoo.make(problem)
    loss_fn, params, data = made = made if prior == "one for all" else per_layer(made)
    settings = jaxllc.calibrate(loss_fn, params, data, key=jax.random.key(0), budget=REFERENCE, localization=1.0).settings
    reference = numbers_of(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0), progress=False))
    default = jaxllc.estimate(loss_fn, params, data, key=jax.random.key(1), localization=1.0, batch_size=BATCH_SIZE, num_draws=8, num_burn_in=8, progress=False)
    step = float(default.settings.sampler.step_size)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    runs = [estimate(made, jaxllc.SGLD(factor * step), BATCH_SIZE) | {"factor": factor} for factor in FACTORS]
    runs = [run for run in runs if run["llc"] is not None]
    best = min(runs, key=lambda run: abs(run["llc"] - reference["llc"]))
    return {"problem": problem, "prior": prior, "reference": reference, "sampler": type(settings.sampler).__name__, "sgld": best}


def main() -> None:
    """Measure, print, keep."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    path = RESULTS / "layer-priors.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"lines": []}
    for problem in PROBLEMS:
        for prior in ("one for all", "per layer"):
            if not any((line["problem"], line["prior"]) == (problem, prior) for line in result["lines"]):
                result["lines"].append(measure(problem, prior))
                path.write_text(json.dumps(result | {"machine": machine()}) + "\n")
                print(result["lines"][-1], flush=True)
    print(layer_priors(result["lines"]))


if __name__ == "__main__":
    main()
