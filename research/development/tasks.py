"""What is trained and followed: a model, its loss and data, the batches it learns from and the probes that tell what its heads do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxllc
from jaxllc.models.train import Recipe, SeedRuns, train_seeds
from jaxllc.models.transformer import Transformer


class Task(NamedTuple):
    """A model, its data and its probes."""

    model: Transformer
    loss_fn: Callable[[Any, Any], jax.Array]
    draw_batch: Callable[[Any, Any], Any]
    source: Any
    """What batches are drawn from."""
    data: jax.Array
    """The examples of the posterior."""
    probes: dict[str, Any]
    optimizer: optax.GradientTransformation
    average: float
    """Decay of the moving average of the weights."""


def train(task: Task, seeds: Sequence[int], steps: Sequence[int], folder: Path, key: int = 4) -> SeedRuns:
    """All seeds in one program; gives the averages. A folder that holds other seeds is refused."""
    recipe = Recipe(task.loss_fn, task.draw_batch, task.source, task.optimizer, average=task.average)
    return train_seeds(recipe, task.model.init_params, key=jax.random.key(key), seeds=seeds, steps=steps, directory=folder)


def themselves(task: Task, folder: Path) -> SeedRuns:
    """The weights themselves of seeds that were trained, in the place of their averages."""
    return SeedRuns(folder, like=jax.eval_shape(task.model.init_params, jax.random.key(0)))


def follow(task: Task, runs: Any, store: Path, settings: jaxllc.Settings, *, components: Mapping[str, Any] | None = None) -> jaxllc.Trajectory:
    """λ̂ and the scores at all checkpoints of all runs."""
    return jaxllc.trajectory(
        task.loss_fn, runs, task.data, settings, key=jax.random.key(3), probes=task.probes, components=components, store=store,
        reference_loss=float(np.log(task.model.vocab_size)), progress=False,
    )  # fmt: skip


def window_steps(steps: Sequence[int], start: float, end: float) -> list[int]:
    """The checkpoints within a window and the nearest on either side of it."""
    inside = np.searchsorted(steps, start, "right") - 1, np.searchsorted(steps, end, "left")
    return list(steps[max(int(inside[0]), 0) : int(inside[1]) + 1])
