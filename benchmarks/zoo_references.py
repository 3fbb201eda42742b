"""References of the zoo by problem, nbeta and localization, kept as lines of results/calibration_references.jsonl; what is missing is made."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import whitened_hmc, zoo
from benchmarks.report import RESULTS

PATH = RESULTS / "calibration_references.jsonl"
WIDE = 200_000
"""Chains run in float64 where weights times examples are at most so many."""
ACCELERATED_CHAINS = 64
DIGITS = 6
"""To which nbeta and localization are compared."""
SAME_LOSS = 1e-4
"""Share by which the loss at w* may differ from that of the reference: weights trained anew are other weights."""


def lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line at once, so that a run that is stopped goes on from there."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def default_setting(made: zoo.Made) -> dict[str, float]:
    r"""$n\beta = n / \ln n$ and $\gamma = 1$."""
    n = len(jax.tree.leaves(made[2])[0])
    return {"nbeta": n / float(np.log(n)), "localization": 1.0}


def known(name: str, nbeta: float, localization: float, path: Path = PATH) -> dict[str, Any] | None:
    """The last reference of a problem with these settings; None where there is none."""
    wanted = _key(name, nbeta, localization)
    return next((line for line in reversed(lines(path)) if _key(line["problem"], line["nbeta"], line["localization"]) == wanted), None)


def reference(name: str, nbeta: float, localization: float, path: Path = PATH) -> dict[str, Any]:
    """The reference of a problem with these settings, made where there is none for its weights."""
    made = zoo.make(name)
    loss = float(jax.jit(lambda params, data: made[0](params, data).mean())(made[1], made[2]))
    line = known(name, nbeta, localization, path)
    if line is None or abs(line["loss"] - loss) > SAME_LOSS * abs(loss):
        line = {"problem": name, "nbeta": nbeta, "localization": localization, "loss": loss, **compute(name, made, nbeta, localization)}
        append(path, line)
    return line


def compute(name: str, made: zoo.Made, nbeta: float, localization: float) -> dict[str, Any]:
    """The known value, or that of long chains, as a line without its settings."""
    problem = zoo.PROBLEMS[name]
    if problem.known is not None:
        began = time.perf_counter()
        return {**problem.known(made, nbeta, localization), "seconds": round(time.perf_counter() - began, 1)}
    return {"by": "chains", **chains(made, nbeta, localization, problem.length)}


def chains(made: zoo.Made, nbeta: float, localization: float, length: whitened_hmc.Length) -> dict[str, Any]:
    """Long chains, in float64 where there are few weights; more of them, all at once, on an accelerator."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        length = dataclasses.replace(length, chains=ACCELERATED_CHAINS, together=True)
    loss_fn, params, data = made
    wide = sum(leaf.size for leaf in jax.tree.leaves(params)) * len(jax.tree.leaves(data)[0]) <= WIDE
    with jax.enable_x64(wide):
        params, data = (jax.tree.map(lambda leaf: _in_precision(leaf, wide), tree) for tree in (params, data))
        return whitened_hmc.sample(loss_fn, params, data, nbeta, localization, length) | {"device": device.device_kind}


def _in_precision(leaf: Any, wide: bool) -> jax.Array:
    leaf = np.asarray(leaf)
    return jnp.asarray(leaf, jnp.float64 if wide else jnp.float32) if np.issubdtype(leaf.dtype, np.floating) else jnp.asarray(leaf)


def _key(name: str, nbeta: float, localization: float) -> tuple[str, str, str]:
    return name, f"{nbeta:.{DIGITS}g}", f"{localization:.{DIGITS}g}"
