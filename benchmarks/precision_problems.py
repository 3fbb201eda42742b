"""The posteriors on which the time to a given error is measured, each with its reference, and the files by which they go to other packages."""

import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxllc
from benchmarks import deep_linear_nets, gibbs, precision_reference, zoo, zoo_nets, zoo_references
from benchmarks.accuracy import BATCH_SIZE, posterior_setting
from benchmarks.time_to_error import Reference
from jaxllc import demo
from jaxllc.models import text
from jaxllc.models.train import Recipe, train
from jaxllc.models.transformer import Transformer, next_token_loss
from jaxllc.placement import default_mesh
from jaxllc.stepsize import curvature

NUM_EXAMPLES = 20_000
WIDTHS = {"net-1K": (14, 14, 14, 14), "net-10K": (50, 50, 50, 50)}
SWEEPS = {"net-1K": 8000, "net-10K": 2000}
"""Gibbs sweeps of the references of the deep linear nets; more are made where R-hat asks for it."""
WINDOWS = 512
"""Of text, for the transformer: a quarter of the demo's, so that a reference on all of them is affordable."""
DEMO_LOCALIZATION = 2400.0
STAGES = tuple(sorted({round(step) for step in np.geomspace(20, 4000, 30)}))
"""Training steps of the checkpoints between which changes are measured."""


class Problem(NamedTuple):
    """One posterior with what it takes to sample it."""

    name: str
    label: str
    """For tables."""
    loss_fn: Callable[[Any, Any], jax.Array]
    params: Any
    data: Any
    nbeta: float
    localization: float
    batch_size: int
    steps: int
    """Iterations of the longest unit."""
    free: Any = None

    @property
    def setting(self) -> dict[str, float]:
        """Which posterior is meant."""
        return {"nbeta": self.nbeta, "localization": self.localization}

    @property
    def options(self) -> dict[str, Any]:
        """For `jaxllc.estimate` and `jaxllc.calibrate`."""
        return {**self.setting, **({} if self.free is None else {"free": self.free})}

    def limit(self) -> float:
        """The largest stable step size at w*."""
        free = () if self.free is None else (self.free,)
        posterior = jaxllc.LocalPosterior(self.loss_fn, self.params, self.nbeta, self.localization, *free)
        return 4 / curvature(posterior, jaxllc.InMemory.of(self.data, self.batch_size), default_mesh(8))


def _net(name: str, steps: int) -> Problem:
    widths = WIDTHS[name]
    made = deep_linear_nets.make(widths, 1, NUM_EXAMPLES)
    setting, label = posterior_setting(widths, NUM_EXAMPLES), f"deep linear net {'-'.join(map(str, widths))}"
    return Problem(
        name, label, deep_linear_nets.loss, made.centers[1], made.arrays, **setting, batch_size=BATCH_SIZE, steps=steps, free=jaxllc.Paths("layers/*")
    )


def _mlp() -> Problem:
    loss_fn, params, data = zoo.make("mlp-4000")
    return Problem("mlp", "digits MLP", loss_fn, params, data, **zoo_references.default_setting((loss_fn, params, data)), batch_size=BATCH_SIZE, steps=12_000)


def _transformer() -> Problem:
    model = Transformer(text.VOCAB_SIZE, demo.CONTEXT)
    (params, tokens), loss_fn = demo_net(), next_token_loss(model)
    return Problem("transformer", "the demo's transformer", loss_fn, params, tokens, demo.NBETA, DEMO_LOCALIZATION, batch_size=16, steps=2400)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "net-1K": functools.partial(_net, "net-1K", 6000),
    "net-10K": functools.partial(_net, "net-10K", 4000),
    "mlp": _mlp,
    "transformer": _transformer,
}


@functools.cache
def make(name: str) -> Problem:
    """A problem by name; the same arrays and functions each time."""
    return PROBLEMS[name]()


def demo_net() -> tuple[Any, np.ndarray]:
    """The weights after the demo's training and the windows, of results/zoo/demo.npz; made where the file is not there.

    The windows are kept too, since the standard library of another Python is another text.
    """
    path = zoo_nets.WEIGHTS / "demo.npz"
    model = Transformer(text.VOCAB_SIZE, demo.CONTEXT)
    weights_key, train_key, _ = jax.random.split(jax.random.key(0), 3)
    params = model.init_params(weights_key)
    structure, count = jax.tree.structure(params), demo.FULL.num_steps
    if not path.exists():
        optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, count))
        corpus = text.standard_library().train
        recipe = Recipe(next_token_loss(model), demo.draw_windows, jnp.asarray(corpus), optimizer)  # pyright: ignore[reportCallIssue]
        with tempfile.TemporaryDirectory() as folder:
            last = train(recipe, params, key=train_key, steps=[count], directory=Path(folder) / "checkpoints")[count]
        leaves: dict[str, Any] = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(last))}
        np.savez_compressed(path, tokens=text.windows(corpus, demo.NUM_SEQUENCES, demo.CONTEXT + 1)[:WINDOWS].astype(np.uint8), **leaves)
    with np.load(path) as stored:
        params = jax.tree.unflatten(structure, [jnp.asarray(stored[str(i)]) for i in range(structure.num_leaves)])
        return params, stored["tokens"].astype(np.int32)


def checkpoints() -> tuple[Problem, dict[int, Any]]:
    """The digits MLP, and its weights at thirty steps of training."""
    problem = make("mlp")
    init = functools.partial(zoo_nets.dense, (64, 32, 10), jax.random.key(0))
    return problem, dict(zip(STAGES, zoo_nets.trained("mlp-30", problem.loss_fn, init, problem.data, STAGES, batch_size=256), strict=True))


def reference(name: str) -> Reference:
    """The known value: Gibbs sampling for nets, the zoo's long chains for the MLP, and chains of our own for the transformer, all on all data.

    Raises:
        ValueError: there are no chains of the transformer.
    """
    if name in SWEEPS:
        problem = make(name)
        made = deep_linear_nets.make(WIDTHS[name], 1, NUM_EXAMPLES)
        found = gibbs.values(made, {problem.nbeta: 1.0}, problem.localization, SWEEPS[name])
        return Reference(float(found["llc"][0]), float(found["std_error"][0]))
    if name == "mlp":
        problem = make(name)
        line = zoo_references.known("mlp-4000", problem.nbeta, problem.localization)
        assert line is not None
        return Reference(line["llc"], line["std_error"])
    return precision_reference.value()


def store(problem: Problem, params: Any, path: Path, step_size: float) -> None:
    """A problem at some weights, for the scripts of `rivals/`: weights, inputs, targets and settings. The step size is that of timed runs."""
    about = {"kind": problem.name.split("-")[0], **problem.setting, "batch_size": problem.batch_size, "step_size": step_size}
    arrays: dict[str, Any]
    if about["kind"] == "net":
        x, noise = problem.data
        arrays = {f"layer{i}": layer for i, layer in enumerate(params["layers"])} | {"x": x, "y": x @ params["product"] + noise * params["signs"]}
    elif about["kind"] == "mlp":
        x, y = problem.data
        arrays = {f"{name}{i}": layer[name] for i, layer in enumerate(params) for name in ("w", "b")} | {"x": x, "y": y}
    else:
        tokens = np.asarray(problem.data, np.int64)
        named: Mapping[str, Any] = _flat(params)
        arrays = {**named, "x": tokens[:, :-1], "y": tokens[:, 1:], "tokens": tokens}
    np.savez(path, settings=json.dumps(about), **jax.tree.map(np.asarray, arrays))


def _flat(params: Any) -> dict[str, Any]:
    from jaxllc import _tree

    return dict(_tree.named_leaves(params))
