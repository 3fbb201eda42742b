"""The smallest optax loop that leaves Orbax checkpoints."""

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.checkpoints import OrbaxCheckpoints


def checkpoint_steps(num_steps: int, num_log: int, num_linear: int, first: int = 1) -> list[int]:
    """`num_log` log- and `num_linear` linearly spaced steps from `first` to the last one, without repeats.

    Raises:
        ValueError: `first` is not between 1 and `num_steps`.
    """
    if not 1 <= first <= num_steps:
        raise ValueError(f"first must lie between 1 and num_steps {num_steps}, got {first}; save step 0 by adding it to the list.")
    return sorted({round(float(step)) for step in (*np.geomspace(first, num_steps, num_log), *np.linspace(first, num_steps, num_linear))})


def train(
    loss_fn: LossFn,
    params: Params,
    draw_batch: Callable[[Key, Batch], Batch],
    data: Batch,
    optimizer: optax.GradientTransformation,
    *,
    key: Key,
    steps: Sequence[int],
    directory: str | os.PathLike[str],
    on_step: Callable[[int], Any] | None = None,
) -> OrbaxCheckpoints:
    """Train, and save weights and optimiser state at the given steps; a second call goes on after the last step that was saved.

    Args:
        loss_fn: as for `jaxllc.estimate`; its mean is minimised.
        params: weights at step 0.
        draw_batch: a batch out of `data`, as a pure function of a key.
        data: what batches are drawn from, a pytree of arrays.
        optimizer: any optax transformation.
        key: batches of step t use `fold_in(key, t)`.
        steps: training steps to save, step t being the weights after t updates.
        directory: where the `CheckpointManager` writes.
        on_step: called with each step that has been saved.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    state = {"params": params, "opt_state": optimizer.init(params)}
    with ocp.CheckpointManager(Path(directory).absolute()) as manager:
        last = manager.latest_step()
        if last is not None:
            state = manager.restore(last, args=ocp.args.StandardRestore(jax.tree.map(jax.numpy.asarray, state)))
        step = last or 0
        for target in sorted(steps):
            if last is not None and target <= last:
                continue
            state = _advance(state, data, key, step, target, loss_fn=loss_fn, draw_batch=draw_batch, optimizer=optimizer)
            step = target
            manager.save(step, args=ocp.args.StandardSave(state))
            if on_step is not None:
                on_step(step)
    return OrbaxCheckpoints(directory, like=params, item="params")


@partial(jax.jit, static_argnames=("loss_fn", "draw_batch", "optimizer"))
def _advance(
    state: Any,
    data: Batch,
    key: Key,
    first: int,
    last: int,
    *,
    loss_fn: LossFn,
    draw_batch: Callable[[Key, Batch], Batch],
    optimizer: optax.GradientTransformation,
) -> Any:
    """The state after the updates `first` to `last - 1`."""

    def update(step: jax.Array, state: Any) -> Any:
        batch = draw_batch(jax.random.fold_in(key, step), data)
        grad = jax.grad(lambda params: loss_fn(params, batch).mean())(state["params"])
        updates, opt_state = optimizer.update(grad, state["opt_state"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}

    return jax.lax.fori_loop(first, last, update, state)
