r"""The accuracy benchmark's second part: models without a closed form, against long chains on the very same posterior.

An MLP on handwritten digits (scikit-learn's), a two-layer attention-only transformer, and the polygons of the toy model of superposition, whose
coefficients are also known. The reference is full-batch HMC in float64, run in a separate process until R-hat is below 1.01.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxllc
from benchmarks.reference_chains import WARM_UP, until_mixed, warming_up
from jaxllc.models import induction, tms
from jaxllc.models.transformer import Transformer, next_token_loss
from jaxllc.placement import default_mesh
from jaxllc.stepsize import curvature

STORED = "center", "data"


@dataclasses.dataclass(frozen=True)
class Model:
    """A posterior: a loss, and how its centre and data are made. Both draw random numbers in float32 and so are made once, by the parent process."""

    loss_fn: Callable[[Any, Any], jax.Array]
    make: Callable[[], tuple[Any, Any]]
    like: Callable[[], tuple[Any, Any]]
    """The structures of centre and data, of any shapes."""
    nbeta: float
    localization: float
    batch_size: int
    num_integration_steps: int
    """Of the reference, whose time step is a quarter of the largest stable one at w*."""
    num_draws: int
    """Of each of the four chains of the reference, at first; a half of them before the first draw."""
    llc: float | None = None
    """The learning coefficient where it is known."""


def descend(loss_fn: Callable[[Any, Any], jax.Array], params: Any, data: Any, num_steps: int) -> Any:
    """Near a minimum: Adam on all data, its rate falling to zero."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, num_steps))

    @jax.jit
    def run(params: Any) -> Any:
        def update(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(lambda p: loss_fn(p, data).mean())(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(update, (params, optimizer.init(params)), length=num_steps)[0][0]

    return run(params)


def mlp_loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Cross-entropy of the classes, in nats, of a net with one hidden layer."""
    images_BxP, labels_B = batch
    hidden_BxH = jnp.tanh(images_BxP @ params["hidden"]["weight"] + params["hidden"]["bias"][None])
    logits_BxC = hidden_BxH @ params["output"]["weight"] + params["output"]["bias"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxC, labels_B)


def make_digits(width: int = 8) -> tuple[Any, Any]:
    """1797 images of 8 by 8 pixels, a fifth of whose labels are drawn anew so that a minimum exists; 610 weights."""
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]  # pip install -e '.[benchmarks]'

    rng = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    labels = np.where(rng.random(len(labels)) < 0.2, rng.integers(0, 10, len(labels)), labels).astype(np.int32)
    data = (np.asarray(images / 16 - 0.3, np.float32), labels)
    params = {
        "hidden": {"weight": rng.normal(size=(64, width)) / 4, "bias": np.zeros(width)},
        "output": {"weight": rng.normal(size=(width, 10)) / width**0.5, "bias": np.zeros(10)},
    }
    return descend(mlp_loss, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params), data, 5000), data


TRANSFORMER = Transformer(vocab_size=16, context=16, width=8, num_layers=2, num_heads=2)
transformer_loss = next_token_loss(TRANSFORMER)


def make_transformer() -> tuple[Any, Any]:
    """128 sequences of 16 predictions from the source of `models.induction`; 944 weights."""
    source = induction.make_source(jax.random.key(0), vocab_size=16, num_triggers=4)
    tokens = induction.draw(jax.random.key(1), source, 128, 16)
    return descend(transformer_loss, TRANSFORMER.init_params(jax.random.key(2)), tokens, 3000), np.asarray(tokens)


def make_polygon(corners: int, spare: str) -> tuple[Any, Any]:
    """5000 inputs and the critical point of their population."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tms.polygon(corners, spare=spare)), np.asarray(tms.examples(jax.random.key(0), 5000))


MLP_LIKE = {"hidden": {"weight": 0, "bias": 0}, "output": {"weight": 0, "bias": 0}}
MODELS = {
    "MLP on digits": Model(mlp_loss, make_digits, lambda: (MLP_LIKE, (0, 0)), jaxllc.default_nbeta(1797), 100.0, 256, 20, 500),
    "attention-only transformer": Model(
        transformer_loss, make_transformer, lambda: (TRANSFORMER.init_params(jax.random.key(0)), 0), jaxllc.default_nbeta(128 * 16), 1000.0, 32, 60, 800
    ),
} | {
    f"superposition, {corners} corners{'' if corners == 6 else f', spare feature {spare}'}{'' if localization == 1 else f', γ = {localization:g}'}": Model(
        tms.squared_loss, partial(make_polygon, corners, spare), lambda: ({"weight": 0, "bias": 0}, 0), jaxllc.default_nbeta(5000), localization, 256, 40, 500,
        tms.polygon_llc(corners, spare=spare),
    )
    for localization in (1.0, 100.0)  # at the weaker localization chains leave the pentagons for weights of lower loss
    for corners, spare in ((5, "on"), (5, "dead"), (6, "dead"))
}  # fmt: skip


def reference(name: str, center: Any, data: Any) -> dict[str, float]:
    """The reference expectation under the posterior, from a process in float64."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.npz"
        leaves = {f"{part}/{i}": leaf for part, tree in zip(STORED, (center, data), strict=True) for i, leaf in enumerate(jax.tree.leaves(tree))}
        np.savez(path, **leaves)  # pyright: ignore[reportArgumentType]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.accuracy_models", name, str(path)],
            env=os.environ | {"JAX_ENABLE_X64": "1"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def run_reference(name: str, path: str) -> None:
    """The inside of `reference`: prints one line of JSON."""
    model = MODELS[name]
    with np.load(path) as stored:
        center, data = (
            jax.tree.unflatten(jax.tree.structure(like), [_wide(stored[f"{part}/{i}"]) for i in range(len(jax.tree.leaves(like)))])
            for part, like in zip(STORED, model.like(), strict=True)
        )
    posterior = jaxllc.LocalPosterior(model.loss_fn, center, model.nbeta, model.localization)
    sampler = jaxllc.HMC(warming_up(4 / curvature(posterior, jaxllc.InMemory.of(data), default_mesh(4)) / 16), model.num_integration_steps)

    def run(draws: int) -> jaxllc.Estimate:
        return jaxllc.estimate(
            model.loss_fn, center, data, key=jax.random.key(1), sampler=sampler, nbeta=model.nbeta, localization=model.localization, batch_size=None,
            num_chains=4, num_draws=draws, num_burn_in=WARM_UP + draws // 2, progress=False,
        )  # fmt: skip

    est = until_mixed(run, lambda est: est.rhat, model.num_draws)
    print(json.dumps({"llc": est.llc, "std_error": est.std_error, "rhat": est.rhat, "ess": est.ess}))


def _wide(leaf: np.ndarray) -> np.ndarray:
    return leaf.astype(float) if np.issubdtype(leaf.dtype, np.floating) else leaf


def measure(
    samplers: Mapping[str, Mapping[str, Any]], num_gradients: int, known: list[dict[str, Any]], keep: Callable[[], None], most: int | None = None
) -> None:
    """Add to `known` what is missing: for each model (`most` of them, the last ones first) the reference, then each of the samplers, at equal gradients."""
    for name, model in list(MODELS.items())[::-1][:most]:
        row = next((row for row in known if row["model"] == name), None)
        center, data = model.make()
        if row is None:
            row = {"model": name, "llc": model.llc, "nbeta": model.nbeta, "localization": model.localization}
            row |= {"reference": reference(name, center, data), "runs": []}
            known.append(row)
            keep()
        for sampler, options in samplers.items():
            if any(run["sampler"] == sampler for run in row["runs"]):
                continue
            options = dict(options)
            num_steps = num_gradients // options.pop("cost", 1)
            est = jaxllc.estimate(
                model.loss_fn, center, data, key=jax.random.key(0), nbeta=model.nbeta, localization=model.localization, batch_size=model.batch_size,
                num_burn_in=num_steps // 3, num_draws=num_steps - num_steps // 3, progress=False, **options,
            )  # fmt: skip
            found = {"llc": est.llc, "std_error": est.std_error, "ess": est.ess, "findings": [finding.code for finding in est.findings]}
            row["runs"].append({"sampler": sampler, **found})
            keep()
        print(f"{name}: done", flush=True)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All models and samplers, as Markdown."""
    lines = ["| model | λ | sampler | λ̂ | error to the reference | z | findings |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        own = row["reference"]
        first = f"{own['llc']:.3f} ± {own['std_error']:.3f} | R-hat {own['rhat']:.3f} | |"
        lines.append(f"| {row['model']} | {'' if row['llc'] is None else row['llc']} | reference (HMC, float64) | {first} |")
        for run in row["runs"]:
            z = (run["llc"] - own["llc"]) / np.hypot(run["std_error"], own["std_error"])
            found = f"{run['llc']:.3f} ± {run['std_error']:.3f} | {run['llc'] / own['llc'] - 1:+.1%} | {z:+.1f} | {', '.join(run['findings'])}"
            lines.append(f"| | | {run['sampler']} | {found} |")
    return "\n".join(lines)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    run_reference(*sys.argv[1:])
