"""Where the wall time of a whole trajectory goes: timers around the parts of `jaxllc.trajectory`, summed over one run."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any
from unittest import mock

import jax
import optax

import jaxllc
from benchmarks.cases import CASES, CHAINS, NBETA
from benchmarks.timing import row
from jaxllc import engine, estimator, pipeline, recording, results, store
from jaxllc.models.train import Recipe, train


class Timers:
    """Seconds by part. Parts must not be nested."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def around(self, part: str, function: Callable[..., Any], wait: bool = False) -> Callable[..., Any]:
        """The function, its time counted; `wait` for its results too."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            if wait:
                jax.block_until_ready(result)
            self.seconds[part] += time.perf_counter() - began
            return result

        return timed


class TimedMapping(Mapping[int, Any]):
    """Checkpoints, the time of whose reading is counted."""

    def __init__(self, of: Mapping[int, Any], timers: Timers) -> None:
        self._of, self._read = of, timers.around("restore", of.__getitem__)

    def __getitem__(self, step: int) -> Any:
        return self._read(step)

    def __iter__(self) -> Iterator[int]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)


def patched(timers: Timers) -> ExitStack:
    """A context in which the parts of a trajectory are timed.

    Chain-steps are what the host spends in handing blocks of steps to the devices and in waiting for them to end. All else counts as overhead,
    also where it is hidden behind a block that runs meanwhile.
    """
    fetch = recording.fetch

    def wait_and_fetch(array: Any) -> Any:
        timers.around("chain-steps", jax.block_until_ready)(array)
        return timers.around("fetch", fetch)(array)

    stack = ExitStack()
    for place, name, function in (
        (engine, "start_chains", timers.around("start: losses at w*, Gaussian cloud", engine.start_chains, wait=True)),
        (engine, "_block", timers.around("chain-steps", engine._block)),
        (recording, "fetch", wait_and_fetch),
        (estimator, "stack", timers.around("stack", estimator.stack, wait=True)),
        (pipeline, "checksum", timers.around("checksum", store.checksum)),
        (store.Store, "write", timers.around("write", store.Store.write)),
        (results, "to_tree", timers.around("assemble", results.to_tree)),
    ):
        stack.enter_context(mock.patch.object(place, name, function))
    return stack


def trajectory_overhead(quick: bool) -> dict[str, Any]:
    """The share of a trajectory's time that is not spent in chain-steps: 100 Orbax checkpoints, 8 chains, the default 1500 steps, into a store."""
    case = CASES["small"]()
    count, draws, burn_in = (20, 150, 100) if quick else (100, 1000, 500)
    data = jaxllc.InMemory.of(case.data, case.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(case.loss_fn, lambda key, arrays: jax.tree.map(lambda leaf: leaf[:64], arrays), case.data, optax.sgd(1e-6))
        checkpoints = train(recipe, case.params, key=jax.random.key(0), steps=list(range(count)), directory=f"{folder}/run")

        def run(name: str, run_of: Mapping[int, Any], num_draws: int, num_burn_in: int) -> float:
            began = time.perf_counter()
            jaxllc.trajectory(
                case.loss_fn, run_of, data, key=jax.random.key(0), sampler=jaxllc.SGLD(1e-6), nbeta=NBETA, num_chains=CHAINS, num_draws=num_draws,
                num_burn_in=num_burn_in, store=f"{folder}/{name}.zarr", progress=False,
            )  # fmt: skip
            return time.perf_counter() - began

        run("compiles", checkpoints, 250, 0)  # in blocks of 250 steps, as the default number of them is
        timers = Timers()
        with patched(timers):
            wall = run("timed", TimedMapping(checkpoints, timers), draws, burn_in)
    parts = dict(timers.seconds) | {"other": wall - sum(timers.seconds.values())}
    share = 1 - parts["chain-steps"] / wall
    return row(f"trajectory, {count} checkpoints: share of the time not in chain-steps", 0.05, share, at_most=True, wall_seconds=wall, seconds=parts)
