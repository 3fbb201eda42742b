"""Traces of units of each sampler on a problem, ours and other packages', and what an iteration of each costs."""

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxllc
from benchmarks.precision_problems import Problem, store
from benchmarks.timing import ROOT, Rival, Worker, interleaved, marginal, seconds

BLOCK = 20
"""Iterations over which a trace is averaged."""
CHAINS = 8
"""Of a timed run of ours and of a JAX user's loop."""
OURS, HAMILTONIAN, LOOP = "jaxllc, SGLD", "jaxllc, AdaptiveHMC", "a JAX user's loop"


class Package(NamedTuple):
    """Another package: where it lives and how it runs fastest."""

    environment: str
    script: str
    arrangements: tuple[tuple[int, int], ...]
    """Processes and threads that are tried for the cost of an iteration."""
    least: int
    """Iterations of a timed run at least: some calls have large fixed costs."""


PACKAGES = {
    "devinterp 1.3.2": Package("devinterp1", "precision_devinterp1.py", ((2, 1), (1, 2)), 64),
    "devinterp 2.0.1": Package("devinterp2", "precision_devinterp2.py", ((2, 1), (1, 2)), 512),
    "canonical-interp 0.2.7": Package("canonical", "precision_canonical.py", ((2, 1), (1, 2)), 128),
}


def our_chains(problem: Problem, params: Any, step_size: float, units: int, steps: int, key: int = 0) -> np.ndarray:
    r"""Chains of our SGLD from w*: block means of $\hat\lambda$ with the step bias taken off, `[chain, block]`; the last correction is that of whole chains."""
    est = jaxllc.estimate(
        problem.loss_fn, params, problem.data, sampler=jaxllc.SGLD(step_size), batch_size=problem.batch_size, num_chains=units, num_draws=steps, num_burn_in=0,
        key=jax.random.key(key), progress=False, **problem.options,
    )  # fmt: skip
    return blocks_of(est, BLOCK)


def blocks_of(est: jaxllc.Estimate, block: int) -> np.ndarray:
    """Block means of an estimate's own draws, `[chain, block]`."""
    draws = np.asarray(est.data["posterior"]["llc"].values, float) + float(np.asarray(est.data["constant_data"]["llc_correction"]))
    return blocked(draws, block)


def blocked(draws: np.ndarray, block: int) -> np.ndarray:
    """Means over blocks of the last axis."""
    count = draws.shape[-1] // block
    return draws[..., : count * block].reshape(*draws.shape[:-1], count, block).mean(-1)


def _loop(problem: Problem) -> Callable[..., jax.Array]:
    """A JAX user's own loop, as in `cases.blackjax_loop`: blackjax.sgld, rows at random, a scan under vmap; the loss of the batch at each iteration."""
    import blackjax

    nbeta, localization = problem.nbeta, problem.localization

    def chain(key: jax.Array, center: Any, data: Any, step_size: jax.Array, num_steps: int) -> jax.Array:
        moving, fixed = (center["layers"], {k: v for k, v in center.items() if k != "layers"}) if problem.free is not None else (center, None)
        whole = (lambda w: {"layers": w, **fixed}) if fixed is not None else (lambda w: w)

        def log_density(w: Any, batch: Any) -> jax.Array:
            distance = sum(jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(w), jax.tree.leaves(moving), strict=True))
            return -nbeta * problem.loss_fn(whole(w), batch).mean() - localization / 2 * distance

        sgld = blackjax.sgld(jax.grad(log_density))

        def step(w: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            batch_key, noise_key = jax.random.split(key)
            rows = jax.random.randint(batch_key, (problem.batch_size,), 0, len(jax.tree.leaves(data)[0]))
            batch = jax.tree.map(lambda leaf: leaf[rows], data)
            loss = problem.loss_fn(whole(w), batch).mean()
            return sgld.step(noise_key, w, batch, step_size / 2), loss  # pyright: ignore[reportCallIssue]

        return jax.lax.scan(step, moving, jax.random.split(key, num_steps))[1]

    return jax.jit(jax.vmap(chain, in_axes=(0, None, None, None, None)), static_argnums=4)


def loop_chains(problem: Problem, params: Any, step_size: float, units: int, steps: int, key: int = 0) -> np.ndarray:
    """Chains of that loop: nbeta times the loss of the batch less that of all data at w*, block means."""
    params, data = _on_one_device(params, problem.data)
    losses = _loop(problem)(jax.random.split(jax.random.key(key), units), params, data, jnp.float32(step_size), steps)
    at_center = float(jax.jit(lambda p, d: problem.loss_fn(p, d).mean())(params, data))
    return blocked(problem.nbeta * (np.asarray(losses, float) - at_center), BLOCK)


def _on_one_device(params: Any, data: Any) -> tuple[Any, Any]:
    return jax.device_put(jax.tree.map(jnp.asarray, (params, data)), jax.devices()[0])


class Theirs:
    """A package at work on a problem, in two processes of one thread, or one of two where it shares batches between chains."""

    def __init__(self, name: str, problem: Problem, limit: float, weights: Sequence[Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._files = [str(Path(self._folder.name) / f"{i}.npz") for i in range(len(weights))]
        for file, params in zip(self._files, weights, strict=True):
            store(problem, params, Path(file), limit / 64)
        package = PACKAGES[name]
        command = [str(ROOT / ".rivals" / package.environment / "bin" / "python"), str(ROOT / "benchmarks" / "rivals" / package.script), "1", self._files[0]]
        if not Path(command[0]).exists():
            raise FileNotFoundError(f"there is no {command[0]}; build the rivals' environments with `make rivals`.")
        self._workers = [Worker(command, OMP_NUM_THREADS="1") for _ in range(2)]

    def chains(self, index: int, step_size: float, units: int, steps: int) -> np.ndarray:
        """Block means of each unit, `[unit, block]`, at the weights of this index; the same seeds each time."""

        def ask(i: int) -> np.ndarray:
            out = Path(self._folder.name) / f"out{i}.npy"
            asked = {"file": self._files[index], "step_size": step_size, "seeds": list(range(i, units, 2)), "steps": steps, "block": BLOCK, "out": str(out)}
            self._workers[i].ask(json.dumps(asked))
            self._workers[i].answer()
            return np.load(out)

        with ThreadPoolExecutor(2) as pool:
            return np.concatenate(list(pool.map(ask, range(2))))

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()
        self._folder.cleanup()


def step_costs(problem: Problem, limit: float, rivals: Sequence[str], quick: bool) -> dict[str, dict[str, Any]]:
    """Seconds of an iteration of one unit by sampler, with all cores at work, in interleaved turns; other packages in their fastest arrangement."""
    target, repeats = (0.3, 1) if quick else (1.0, 3)
    runs: dict[str, Callable[[], float]] = {}
    about: dict[str, dict[str, Any]] = {OURS: {}, LOOP: {}}
    step_size = limit / 64

    def ours(num_steps: int) -> float:
        return seconds(lambda: our_run(problem, step_size, num_steps)) / CHAINS

    loop, (params, data), keys = _loop(problem), _on_one_device(problem.params, problem.data), jax.random.split(jax.random.key(0), CHAINS)

    def theirs(num_steps: int) -> float:
        return seconds(lambda: loop(keys, params, data, jnp.float32(step_size), num_steps)) / CHAINS

    for name, run in ((OURS, ours), (LOOP, theirs)):
        steps = sized(run, target)
        runs[name] = lambda run=run, steps=steps: marginal(run, steps)
    opened = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problem.npz"
        store(problem, problem.params, file, step_size)
        for name in rivals:
            package = PACKAGES[name]
            rival = Rival(
                package.environment, package.script, str(file), arrangements=package.arrangements[: 1 if quick else None], target=target, least=package.least
            )
            opened.append(rival)
            about[name] = rival.about
            runs[name] = lambda rival=rival: marginal(rival, rival.num_steps)
        found = interleaved(runs, repeats)
        for rival in opened:
            rival.close()
    return {name: {"seconds": statistics.median(turns), "turns": turns, **about[name]} for name, turns in found.items()}


def sized(run: Callable[[int], float], target: float) -> int:
    """Iterations of a timed run of about so many seconds; each number of them is compiled before it is timed."""
    run(64)
    steps = max(256, 4 * round(target / CHAINS / (run(64) / 64) / 4))
    for count in (steps, steps // 4):
        run(count)
    return steps


def our_run(problem: Problem, step_size: float, num_steps: int) -> Any:
    """Eight chains of the engine, without what a call of `estimate` costs once."""
    free = () if problem.free is None else (problem.free,)
    posterior = jaxllc.LocalPosterior(problem.loss_fn, problem.params, problem.nbeta, problem.localization, *free)
    data = jaxllc.InMemory.of(problem.data, problem.batch_size)
    return jaxllc.sample(jax.random.key(0), jaxllc.SGLD(step_size), posterior, data, num_chains=CHAINS, num_draws=num_steps).excess_loss


def hamiltonian_chains(problem: Problem, settings: jaxllc.Settings, units: int, draws: int) -> np.ndarray:
    """Draws of our Hamiltonian chains after burn-in, `[chain, draw]`, with settings that a calibration chose."""
    longer = settings.replace(num_chains=units, num_draws=draws, thinning=1)
    return blocks_of(jaxllc.estimate(problem.loss_fn, problem.params, problem.data, longer, key=jax.random.key(7), progress=False, **_free(problem)), 1)


def hamiltonian_cost(problem: Problem, settings: jaxllc.Settings, quick: bool) -> float:
    """Seconds of an iteration of one of eight Hamiltonian chains after burn-in."""

    def run(draws: int) -> float:
        lengths = settings.replace(num_chains=CHAINS, num_draws=draws)
        return seconds(
            lambda: jaxllc.estimate(problem.loss_fn, problem.params, problem.data, lengths, key=jax.random.key(0), progress=False, **_free(problem)).llc
        )

    few, many = (16, 32) if quick else (16, 80)
    run(few)
    return (run(many) - run(few)) / (many - few) / CHAINS


def _free(problem: Problem) -> dict[str, Any]:
    return {} if problem.free is None else {"free": problem.free}
