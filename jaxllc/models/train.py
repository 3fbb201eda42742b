"""The smallest optax loop that saves Orbax checkpoints: of one run, or of several seeds at once in one program."""

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllc._tree import at_least_float32
from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.checkpoints import OrbaxCheckpoints
from jaxllc.models.seed_runs import SeedRuns, read_decay
from jaxllc.save_schedule import checkpoint_steps as checkpoint_steps

__all__ = ["Recipe", "SeedRuns", "checkpoint_steps", "seed_keys", "train", "train_seeds"]


@struct.dataclass
class Recipe:
    """How a model is trained: which loss is minimised, on which batches, by which optimiser.

    Args:
        loss_fn: as for `jaxllc.estimate`; its mean over the batch is minimised.
        draw_batch: `draw_batch(key, data) -> batch`, a pure function.
        data: what batches are drawn from, a pytree of arrays.
        optimizer: any optax transformation.
        average: decay of an exponential moving average of the weights, between 0 and 1, or None for no average. The average is saved beside the weights, in
            float32 at least, and is what training returns. SGD noise raises the loss of the weights themselves; the average lies closer to the minimum. At
            update t the decay is at most $t / (t + 9)$, so that the first weights are soon forgotten.

    Examples:
        >>> import optax
        >>> from jaxllc.models import train
        >>> recipe = train.Recipe(loss_fn, lambda key, data: data, data, optax.adam(1e-2), average=0.99)
        >>> sorted(recipe.init(params))
        ['average', 'decay', 'opt_state', 'params']
    """

    loss_fn: LossFn = struct.field(pytree_node=False)
    draw_batch: Callable[[Key, Batch], Batch] = struct.field(pytree_node=False)
    data: Batch
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
    average: float | None = struct.field(pytree_node=False, default=None)

    def init(self, params: Params) -> dict[str, Any]:
        """What is saved of the run at step 0, as a dictionary."""
        averaged = {} if self.average is None else {"average": jax.tree.map(at_least_float32, params), "decay": jnp.float32(self.average)}
        return {"params": params, "opt_state": self.optimizer.init(params)} | averaged

    def update(self, state: dict[str, Any], step: jax.Array, key: Key) -> dict[str, Any]:
        """The state after one update, on the batch of `fold_in(key, step)`."""
        batch = self.draw_batch(jax.random.fold_in(key, step), self.data)
        grad = jax.grad(lambda params: self.loss_fn(params, batch).mean())(state["params"])
        updates, opt_state = self.optimizer.update(grad, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        state = state | {"params": params, "opt_state": opt_state}
        if self.average is None:
            return state
        share = 1 - jnp.minimum(self.average, (step + 1) / (step + 10))
        return state | {"average": optax.incremental_update(jax.tree.map(at_least_float32, params), state["average"], share)}


def train(
    recipe: Recipe,
    params: Params,
    *,
    key: Key,
    steps: Sequence[int],
    directory: str | os.PathLike[str],
    on_step: Callable[[int], Any] | None = None,
) -> OrbaxCheckpoints:
    """Train, and save weights and optimiser state at the given steps; a second call continues after the last step that was saved.

    Args:
        recipe: loss, batches and optimiser.
        params: weights at step 0.
        key: the batch of step t uses `fold_in(key, t)`.
        steps: training steps to save; step t has the weights after t updates.
        directory: where Orbax's `CheckpointManager` writes.
        on_step: called with each step that has been saved.

    Returns:
        The saved weights by step, or their moving average if the recipe has one.

    Raises:
        ValueError: a decay `recipe.average` that does not lie between 0 and 1, or a directory that holds an average of another decay.

    Examples:
        >>> import optax
        >>> from jaxllc.models import train
        >>> recipe = train.Recipe(loss_fn, lambda key, data: data, data, optax.sgd(0.1))
        >>> start = jax.tree.map(jnp.zeros_like, params)
        >>> list(train.train(recipe, start, key=jax.random.key(0), steps=[10, 100], directory="run"))
        [10, 100]
    """
    _check_average(recipe)
    _save_along(recipe.init(params), partial(_advance, recipe, key=key), steps, directory, on_step)
    return OrbaxCheckpoints(directory, like=params, item="params" if recipe.average is None else "average")


def train_seeds(
    recipe: Recipe,
    init_params: Callable[[Key], Params],
    *,
    key: Key,
    seeds: Sequence[int],
    steps: Sequence[int],
    directory: str | os.PathLike[str],
    vmapped: bool | None = None,
    on_step: Callable[[int], Any] | None = None,
) -> SeedRuns:
    """Train several seeds in one program, spread over the devices; otherwise like `train`, to rounding.

    Seed s is the run `train(recipe, init_params(weights_key), key=batch_key, ...)` with `weights_key, batch_key = seed_keys(key, s)`, whichever seeds run
    beside it. All seeds share the data; each draws its own batches. A second call continues after the last step that was saved.

    Args:
        recipe: loss, batches and optimiser, and the decay of a moving average of the weights. If there is one, the runs that are returned hold the average;
            `SeedRuns(directory)` opens the weights themselves and `SeedRuns(directory, averaged=True)` the average.
        init_params: the weights at step 0 from a key.
        key: of the whole experiment.
        seeds: distinct numbers from 0 up. The number of devices used is the largest that divides their count.
        steps: training steps to save.
        directory: where Orbax's `CheckpointManager` writes.
        vmapped: whether a device advances its seeds together, by `vmap`, or one after the other, by `lax.map`. Default: together, except on CPUs, whose
            caches hold the activations of one seed only: one after the other took 25 to 33 % less time for a transformer of 14 000 weights.
        on_step: called with each step that has been saved.

    Raises:
        ValueError: no seeds or repeated ones, a decay that does not lie between 0 and 1, or a directory that holds other seeds or an average of another decay.

    Examples:
        >>> import optax
        >>> from jaxllc.models import train
        >>> recipe = train.Recipe(loss_fn, lambda key, data: data, data, optax.sgd(0.1))
        >>> start = lambda key: {"linear": jax.random.normal(key, (2,)), "square": jnp.zeros(2)}
        >>> list(train.train_seeds(recipe, start, key=jax.random.key(0), seeds=[0, 1], steps=[10, 100], directory="run"))
        ['seed_0', 'seed_1']
    """
    _check_average(recipe)
    _check_seeds(seeds, directory)
    keys = jax.vmap(partial(seed_keys, key))(jnp.asarray(seeds, np.uint32))
    params = jax.jit(jax.vmap(init_params))(keys[:, 0])
    state = jax.vmap(recipe.init)(params) | {"seeds": np.asarray(seeds, np.int32)}
    num_devices = max(count for count in range(1, jax.device_count() + 1) if len(seeds) % count == 0)
    mesh = Mesh(np.asarray(jax.devices()[:num_devices]), ("run",), axis_types=(AxisType.Auto,))
    state, recipe = jax.device_put(state, NamedSharding(mesh, P("run"))), jax.device_put(recipe, NamedSharding(mesh, P()))
    vmapped = jax.default_backend() != "cpu" if vmapped is None else vmapped
    _save_along(state, partial(_advance_seeds, recipe, keys=keys[:, 1], mesh=mesh, vmapped=vmapped), steps, directory, on_step)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
    return SeedRuns(directory, like=like, averaged=recipe.average is not None)


def seed_keys(key: Key, seed: int | jax.Array) -> Key:
    """The two keys of a seed, of its weights at step 0 and of its batches, `key[2]`.

    Examples:
        >>> from jaxllc.models.train import seed_keys
        >>> weights_key, batch_key = seed_keys(jax.random.key(0), seed=3)
        >>> weights_key.shape
        ()
    """
    return jax.random.split(jax.random.fold_in(key, seed))


def _check_average(recipe: Recipe) -> None:
    if recipe.average is not None and not 0 < recipe.average < 1:
        raise ValueError(f"average is the decay of a moving average and must lie between 0 and 1, got {recipe.average}.")


def _check_seeds(seeds: Sequence[int], directory: str | os.PathLike[str]) -> None:
    """Raise where seeds are no distinct numbers, or where the directory holds other seeds."""
    if not len(seeds) or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be distinct numbers from 0 up, at least one, got {list(seeds)}.")
    if not Path(directory).is_dir() or not any(Path(directory).iterdir()):
        return
    stored_seeds = SeedRuns(directory).seeds
    if stored_seeds != tuple(seeds):
        raise ValueError(f"{directory} holds the seeds {list(stored_seeds)}, not {list(seeds)}; pass those to continue, or another directory.")


def _save_along(
    state: Any, advance: Callable[[Any, int, int], Any], steps: Sequence[int], directory: str | os.PathLike[str], on_step: Callable[[int], Any] | None
) -> None:
    """Save the state at the given steps; where some are saved already, continue after the last of them. Raise where that has another average."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    with ocp.CheckpointManager(Path(directory).absolute()) as manager:
        last = manager.latest_step()
        if last is not None:
            stored_decay, decay = read_decay(directory, last), np.ravel(state["decay"])[0] if "decay" in state else None
            if stored_decay != decay:
                raise ValueError(f"{directory} was trained with average={stored_decay!s}, not {decay!s}; pass that to continue, or another directory.")
            state = manager.restore(last, args=ocp.args.StandardRestore(jax.tree.map(jnp.asarray, state)))
        step = last or 0
        for target in sorted(steps):
            if last is not None and target <= last:
                continue
            state = advance(state, step, target)
            step = target
            manager.save(step, args=ocp.args.StandardSave(state))
            if on_step is not None:
                on_step(step)


@jax.jit
def _advance(recipe: Recipe, state: Any, first: int, last: int, key: Key) -> Any:
    """The state after the updates `first` to `last - 1`; one program for any number of them."""
    return jax.lax.fori_loop(first, last, lambda step, state: recipe.update(state, step, key), state)


@partial(jax.jit, static_argnames=("mesh", "vmapped"))
def _advance_seeds(recipe: Recipe, state: Any, first: int, last: int, keys: Key, *, mesh: Mesh, vmapped: bool) -> Any:
    """The states of all seeds, stacked; no seed needs another, so each device runs its share alone."""

    def advance_share(recipe: Recipe, state: Any, first: int, last: int, keys: Key) -> Any:
        def advance(run: tuple[Any, Key]) -> Any:
            return _advance(recipe, run[0], first, last, run[1])

        return jax.vmap(advance)((state, keys)) if vmapped else jax.lax.map(advance, (state, keys))

    run = jax.shard_map(advance_share, mesh=mesh, in_specs=(P(), P("run"), P(), P(), P("run")), out_specs=P("run"), check_vma=False)
    return run(recipe, state, first, last, keys)
