"""The smallest optax loop that leaves Orbax checkpoints: of one run, or of several seeds at once in one program."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllc._tree import at_least_float32
from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.checkpoints import ItemNotFoundError, OrbaxCheckpoints, format_steps


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
    state = {"params": params, "opt_state": optimizer.init(params)}
    advance = partial(_advance, data=data, key=key, loss_fn=loss_fn, draw_batch=draw_batch, optimizer=optimizer)
    _save_along(state, advance, steps, directory, on_step)
    return OrbaxCheckpoints(directory, like=params, item="params")


def train_seeds(
    loss_fn: LossFn,
    init_params: Callable[[Key], Params],
    draw_batch: Callable[[Key, Batch], Batch],
    data: Batch,
    optimizer: optax.GradientTransformation,
    *,
    key: Key,
    seeds: Sequence[int],
    steps: Sequence[int],
    directory: str | os.PathLike[str],
    average: float | None = None,
    vmapped: bool | None = None,
    on_step: Callable[[int], Any] | None = None,
) -> "SeedRuns":
    """Train several seeds in one program, spread over the devices; otherwise like `train`, to rounding.

    Seed s is the run `train(loss_fn, init_params(weights), ..., key=batches)` with `weights, batches = seed_keys(key, s)`, whatever
    other seeds run beside it. All seeds share `data`; each draws its own batches. A second call goes on after the last step that was saved.

    Args:
        init_params: fresh weights from a key.
        key: of the whole experiment.
        seeds: which seeds, distinct numbers that are not negative; the greatest number of devices that divides their count is used.
        average: decay of an exponential moving average of the weights along training, saved as well, in float32 at least, and given back in place of the
            weights themselves; `SeedRuns(directory, averaged=True)` opens it again. It lies nearer to the floor of the valley that the optimiser's noise
            bounces about in. In the first updates t the decay is smaller, $t / (t + 9)$, so that the first weights are soon forgotten.
        vmapped: whether a device advances its seeds together, by `vmap`, or in turn, by `lax.map`, in the same program. Default: together, but in turn
            on CPUs, whose caches hold the activations of one seed: there a transformer of 14 000 weights took a quarter to a third less time so.

    Raises:
        ValueError: no seeds or repeated ones, a decay that does not lie between 0 and 1; or the directory holds other seeds, or an average of another decay,
            or one where none is to be kept, or none where one is.
    """
    if average is not None and not 0 < average < 1:
        raise ValueError(f"average is the decay of a moving average and must lie between 0 and 1, got {average}.")
    if not len(seeds) or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be distinct numbers from 0 up, at least one, got {list(seeds)}.")
    if Path(directory).is_dir() and any(Path(directory).iterdir()):
        there = SeedRuns(directory)
        if there.seeds != tuple(seeds):
            raise ValueError(f"{directory} holds the seeds {list(there.seeds)}, not {list(seeds)}; pass those to go on, or another directory.")
        if there.decay != (None if average is None else np.float32(average)):
            raise ValueError(f"{directory} was trained with average={there.decay!s}, not {average}; pass that to go on, or another directory.")
    keys = jax.vmap(partial(seed_keys, key))(jnp.asarray(seeds, np.uint32))
    params = jax.jit(jax.vmap(init_params))(keys[:, 0])
    state = {"params": params, "opt_state": jax.vmap(optimizer.init)(params), "seeds": np.asarray(seeds, np.int32)}
    if average is not None:
        state |= {"average": jax.tree.map(at_least_float32, params), "decay": np.full(len(seeds), average, np.float32)}
    count = max(size for size in range(1, jax.device_count() + 1) if len(seeds) % size == 0)
    mesh = Mesh(np.asarray(jax.devices()[:count]), ("run",), axis_types=(AxisType.Auto,))
    state, data = jax.device_put(state, NamedSharding(mesh, P("run"))), jax.device_put(data, NamedSharding(mesh, P()))
    vmapped = jax.default_backend() != "cpu" if vmapped is None else vmapped
    advance = partial(
        _advance_seeds, data=data, keys=keys[:, 1], loss_fn=loss_fn, draw_batch=draw_batch, optimizer=optimizer, decay=average, mesh=mesh, vmapped=vmapped
    )
    _save_along(state, advance, steps, directory, on_step)
    return SeedRuns(directory, like=jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params), averaged=average is not None)


def seed_keys(key: Key, seed: int | jax.Array) -> Key:
    """The two keys of a seed, of its first weights and of its batches, `key[2]`."""
    return jax.random.split(jax.random.fold_in(key, seed))


class SeedRuns(Mapping[str, Mapping[int, Params]]):
    """The runs that `train_seeds` left, `seed_0`, ..., each a lazy mapping from the step to its weights.

    On disk all seeds of a step share one Orbax checkpoint, stacked on a leading axis: saving costs the time of a file, not of its bytes.
    A run reads that checkpoint and takes its row. The mapping can be pickled; arrays are read when they are asked for.

    Args:
        directory: where `train_seeds` wrote.
        like: a pytree with the structure, shapes and dtypes of the weights of one seed. None gives nested dictionaries as they are on disk.
        averaged: whether to give the moving average of the weights, or the weights themselves.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds no finished checkpoint, or none of `train_seeds`, or an average is asked for and none was kept.
    """

    def __init__(self, directory: str | os.PathLike[str], like: Params | None = None, *, averaged: bool = False) -> None:
        marks = OrbaxCheckpoints(directory, item="seeds")
        self.seeds: tuple[int, ...] = tuple(np.asarray(marks[min(marks)]).tolist())
        self.decay = _decay(directory, min(marks))
        """Of the moving average of the weights; None where training kept none."""
        if averaged and self.decay is None:
            raise ValueError(f"{directory} holds no moving average of the weights; train with average=..., or leave averaged out.")
        stacked = None if like is None else jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((len(self.seeds), *np.shape(leaf)), leaf.dtype), like)
        self.stacked = OrbaxCheckpoints(directory, like=stacked, item="average" if averaged else "params")
        """The checkpoints with all seeds in them, in the order of `seeds`."""

    def __getitem__(self, run: str) -> Mapping[int, Params]:
        """The checkpoints of one seed.

        Raises:
            KeyError: no such run.
        """
        names = list(self)
        if run not in names:
            raise KeyError(f"no run {run!r} in {self.stacked.directory}; it holds {', '.join(names)}.")
        return _Row(self.stacked, names.index(run))

    def __iter__(self) -> Iterator[str]:
        return (f"seed_{seed}" for seed in self.seeds)

    def __len__(self) -> int:
        return len(self.seeds)

    def __repr__(self) -> str:
        which = "averaged weights of " if self.stacked.item == "average" else ""
        return f"SeedRuns({str(self.stacked.directory)!r}: {which}{', '.join(self)}; steps {format_steps(self.stacked)})"


def _decay(directory: str | os.PathLike[str], step: int) -> np.float32 | None:
    try:
        return np.float32(OrbaxCheckpoints(directory, item="decay")[step][0])
    except ItemNotFoundError:
        return None


class _Row(Mapping[int, Params]):
    """One row of stacked checkpoints."""

    def __init__(self, stacked: Mapping[int, Params], index: int) -> None:
        self.stacked, self.index = stacked, index

    def __getitem__(self, step: int) -> Params:
        return jax.tree.map(lambda leaf: leaf[self.index], self.stacked[step])

    def __iter__(self) -> Iterator[int]:
        return iter(self.stacked)

    def __len__(self) -> int:
        return len(self.stacked)


def _save_along(
    state: Any, advance: Callable[[Any, int, int], Any], steps: Sequence[int], directory: str | os.PathLike[str], on_step: Callable[[int], Any] | None
) -> None:
    """Save the state at the steps; where some are saved, go on from the last of them."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    with ocp.CheckpointManager(Path(directory).absolute()) as manager:
        last = manager.latest_step()
        if last is not None:
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


@partial(jax.jit, static_argnames=("loss_fn", "draw_batch", "optimizer", "decay"))
def _advance(
    state: Any,
    first: int,
    last: int,
    data: Batch,
    key: Key,
    *,
    loss_fn: LossFn,
    draw_batch: Callable[[Key, Batch], Batch],
    optimizer: optax.GradientTransformation,
    decay: float | None = None,
) -> Any:
    """The state after the updates `first` to `last - 1`; one program for any number of them."""

    def update(step: jax.Array, state: Any) -> Any:
        batch = draw_batch(jax.random.fold_in(key, step), data)
        grad = jax.grad(lambda params: loss_fn(params, batch).mean())(state["params"])
        updates, opt_state = optimizer.update(grad, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        state = state | {"params": params, "opt_state": opt_state}
        if decay is None:
            return state
        share = 1 - jnp.minimum(decay, (step + 1) / (step + 10))
        return state | {"average": optax.incremental_update(jax.tree.map(at_least_float32, params), state["average"], share)}

    return jax.lax.fori_loop(first, last, update, state)


@partial(jax.jit, static_argnames=("loss_fn", "draw_batch", "optimizer", "decay", "mesh", "vmapped"))
def _advance_seeds(state: Any, first: int, last: int, data: Batch, keys: Key, *, mesh: Mesh, vmapped: bool, **parts: Any) -> Any:
    """The states of all seeds, stacked; no seed needs another, so each device runs its share alone."""

    def share(state: Any, first: int, last: int, data: Batch, keys: Key) -> Any:
        def advance(run: tuple[Any, Key]) -> Any:
            return _advance(run[0], first, last, data, run[1], **parts)

        return jax.vmap(advance)((state, keys)) if vmapped else jax.lax.map(advance, (state, keys))

    run = jax.shard_map(share, mesh=mesh, in_specs=(P("run"), P(), P(), P(), P("run")), out_specs=P("run"), check_vma=False)
    return run(state, first, last, data, keys)
