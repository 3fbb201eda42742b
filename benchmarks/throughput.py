"""What a chain-step costs, beside its bare gradient and beside what a user would take instead.

    python -m benchmarks.throughput [--quick] [--rivals]

Each figure is the marginal cost of a step (the slope between a run and a quarter of it), so neither compilation nor what a call costs once is in it.
Ratios are medians of the ratios within each of the interleaved turns. `--rivals` needs `make rivals`.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

jax.config.update("jax_num_cpu_devices", int(os.environ.get("DEVICES", os.cpu_count() or 1)))

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import jaxllc  # noqa: E402
from benchmarks.timing import Rival, interleaved, marginal, ratios, save, seconds  # noqa: E402
from jaxllc.engine import default_mesh, sample  # noqa: E402
from jaxllc.models import linear  # noqa: E402
from jaxllc.models.transformer import Transformer, next_token_loss  # noqa: E402

CHAINS = 8
NUM_EXAMPLES = 10_000


class Case(NamedTuple):
    """One model with its data."""

    name: str
    loss_fn: Callable[..., jax.Array]
    params: Any
    data: Any
    batch_size: int
    num_steps: int
    """of a timed run: about two seconds."""

    @property
    def num_weights(self) -> int:
        """Of the model."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def deep_linear(widths: tuple[int, ...], batch_size: int, num_steps: int) -> Case:
    """A deep linear net of full rank on 10 000 examples."""
    params = linear.teacher(jax.random.key(0), widths)
    data = linear.examples(jax.random.key(1), params, NUM_EXAMPLES)
    return Case("-".join(map(str, widths)), linear.squared_loss, params, data, batch_size, num_steps)


def language_model(num_steps: int) -> Case:
    """Two attention-only layers of 70 000 weights on 512 random sequences of 64 tokens."""
    model = Transformer(256, 64, width=64, num_layers=2, num_heads=4)
    tokens = np.random.default_rng(0).integers(0, 256, (512, 65))
    return Case("transformer", next_token_loss(model), model.init_params(jax.random.key(0)), tokens, 16, num_steps)


SMALL = functools.partial(deep_linear, (10, 20, 20, 10), 500)
MEDIUM = functools.partial(deep_linear, (100, 100, 100, 100), 500)
WIDE = functools.partial(deep_linear, (100, 100, 100, 100, 100), 64)


def chain_step(case: Case, noise: str = "rademacher", *, shared_batch: bool = False) -> Callable[[int], float]:
    """Seconds of `num_steps` steps of one chain out of eight, through `jaxllc.sample`; `shared_batch`: all of them on one and the same batch."""
    data = jaxllc.InMemory.of(jax.tree.map(lambda leaf: leaf[: case.batch_size], case.data) if shared_batch else case.data, case.batch_size)
    posterior = jaxllc.LocalPosterior(case.loss_fn, case.params, 1000.0, 1.0)
    sampler = jaxllc.SGLD(1e-6, noise=noise)

    def run(num_steps: int) -> float:
        return seconds(lambda: sample(jax.random.key(0), sampler, posterior, data, num_chains=CHAINS, num_draws=num_steps).excess_loss) / CHAINS

    return run


def bare_gradient(case: Case, side_by_side: bool) -> Callable[[int], float]:
    """The same of `value_and_grad` alone: one fixed batch a chain, weights that really change, chains sharded alike and vmapped or looped over."""
    mesh = default_mesh(CHAINS)
    batches = jax.tree.map(lambda leaf: jnp.asarray(leaf)[: CHAINS * case.batch_size].reshape(CHAINS, case.batch_size, *leaf.shape[1:]), case.data)
    stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (CHAINS, *leaf.shape)), case.params)

    def chain(params: Any, batch: Any, num_steps: int) -> tuple[Any, jax.Array]:
        def step(params: Any, _: None) -> tuple[Any, jax.Array]:
            loss, grad = jax.value_and_grad(lambda p: case.loss_fn(p, batch).mean())(params)
            return jax.tree.map(lambda w, g: w - 1e-6 * g, params, grad), loss

        return jax.lax.scan(step, params, None, length=num_steps)

    @functools.partial(jax.jit, static_argnums=2)
    def program(stacked: Any, batches: Any, num_steps: int) -> Any:
        def device(stacked: Any, batches: Any) -> Any:
            def each(params: Any, batch: Any) -> tuple[Any, jax.Array]:
                return chain(params, batch, num_steps)

            return jax.vmap(each)(stacked, batches) if side_by_side else jax.lax.map(lambda pair: each(*pair), (stacked, batches))

        return jax.shard_map(device, mesh=mesh, in_specs=P("chain"), out_specs=P("chain"), check_vma=False)(stacked, batches)

    return lambda num_steps: seconds(lambda: program(stacked, batches, num_steps)) / CHAINS


def blackjax_loop(case: Case) -> Callable[[int], float]:
    """The same of what a JAX user would write: blackjax.sgld, Gaussian noise, rows at random, a scan under vmap on JAX's one default CPU device."""
    import blackjax

    data = jax.tree.map(jnp.asarray, case.data)
    num_examples = jax.tree.leaves(data)[0].shape[0]
    center = jax.device_put(case.params, jax.devices()[0])

    def log_density(params: Any, batch: Any) -> jax.Array:
        pull = sum(jnp.sum((w - c) ** 2) for w, c in zip(jax.tree.leaves(params), jax.tree.leaves(center), strict=True))
        return -1000.0 * case.loss_fn(params, batch).mean() - 0.5 * pull

    sgld = blackjax.sgld(jax.grad(log_density))

    def chain(key: jax.Array, data: Any, num_steps: int) -> jax.Array:
        def step(params: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            batch_key, noise_key = jax.random.split(key)
            rows = jax.random.randint(batch_key, (case.batch_size,), 0, num_examples)
            batch = jax.tree.map(lambda leaf: leaf[rows], data)
            loss = case.loss_fn(params, batch).mean()
            return sgld.step(noise_key, params, batch, 5e-7), loss  # pyright: ignore[reportCallIssue]

        return jax.lax.scan(step, center, jax.random.split(key, num_steps))[1]

    program = jax.jit(jax.vmap(chain, in_axes=(0, None, None)), static_argnums=2)
    keys = jax.random.split(jax.random.key(0), CHAINS)
    return lambda num_steps: seconds(lambda: program(keys, data, num_steps)) / CHAINS


def compile_seconds(case: Case) -> float:
    """Seconds from nothing to the first draws, less those of a second call: tracing and compilation of one estimate."""
    jax.clear_caches()
    run = chain_step(case)
    first = run(64) * CHAINS
    return first - run(64) * CHAINS


def slope(run: Callable[[int], float], num_steps: int) -> Callable[[], float]:
    """The marginal microseconds of a step; the programs are compiled here."""
    run(num_steps), run(num_steps // 4)
    return lambda: 1e6 * marginal(run, num_steps)


def devices_ratio(quick: bool, repeats: int) -> list[dict[str, Any]]:
    """Chain-steps a second with one and with two devices, each in a process of its own, in turns."""
    rows = []
    for name in ("SMALL", "MEDIUM"):
        runs: dict[str, Callable[[], float]] = {str(devices): functools.partial(_in_a_process, name, devices, quick) for devices in (1, 2)}
        found = interleaved(runs, repeats)
        rows.append(row(f"2 devices against 1, {name.lower()} net", found, "2", "1", 1.8))
    return rows


def _in_a_process(case: str, devices: int, quick: bool) -> float:
    steps = 400 if quick else (4000 if case == "SMALL" else 800)
    code = f"from benchmarks import throughput as t; print(t.slope(t.chain_step(t.{case}({steps})), {steps})())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"DEVICES": str(devices)})
    return float(done.stdout)


def trajectory_overhead(quick: bool, repeats: int) -> dict[str, Any]:
    """The share of a trajectory's time that is not spent in chain-steps: 100 Orbax checkpoints, 8 chains, the default 1500 steps, into a store.

    Chain-steps are timed by the same groups through `jaxllc.sample` on weights in memory, without losses at the centre and the control.
    """
    from jaxllc.models.train import train

    case = SMALL(0)
    count, draws, burn_in = (20, 200, 100) if quick else (100, 1000, 500)
    data = jaxllc.InMemory.of(case.data, case.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        import optax

        checkpoints = train(
            case.loss_fn,
            case.params,
            lambda key, arrays: jax.tree.map(lambda leaf: leaf[:64], arrays),
            case.data,
            optax.sgd(1e-6),
            key=jax.random.key(0),
            steps=list(range(count)),
            directory=f"{folder}/run",
        )
        weights = jax.tree.map(lambda *leaves: np.stack(leaves), *[checkpoints[step] for step in checkpoints])
        posterior = jaxllc.LocalPosterior(case.loss_fn, weights, 1000.0, 1.0)
        turn = 0

        def whole() -> float:
            nonlocal turn
            turn += 1
            began = time.perf_counter()
            jaxllc.trajectory(
                case.loss_fn, checkpoints, data, key=jax.random.key(0), sampler=jaxllc.SGLD(1e-6), nbeta=1000.0, num_chains=CHAINS, num_draws=draws,
                num_burn_in=burn_in, store=f"{folder}/{turn}.zarr", progress=False, group_size=count,
            )  # fmt: skip
            return time.perf_counter() - began

        def steps_only() -> float:
            def run(num_steps: int) -> float:
                return seconds(
                    lambda: sample(jax.random.key(0), jaxllc.SGLD(1e-6), posterior, data, num_chains=CHAINS, num_draws=num_steps, stacked=True).excess_loss
                )

            return marginal(run, draws + burn_in) * (draws + burn_in)

        whole(), steps_only()
        found = interleaved({"whole": whole, "steps": steps_only}, repeats)
    share = statistics.median(1 - steps / total for steps, total in zip(found["steps"], found["whole"], strict=True))
    return {"what": f"trajectory, {count} checkpoints: share not in chain-steps", "goal": 0.05, "measured": share, "at_most": True, "seconds": found}


def row(what: str, found: dict[str, list[float]], ours: str, other: str, goal: float, at_most: bool = False) -> dict[str, Any]:
    """One line of the table: ours against another; how many times faster, or (`at_most`) how many times the cost."""
    ratio = ratios(found[ours], found[other]) if at_most else ratios(found[other], found[ours])
    return {
        "what": what, "goal": goal, "measured": ratio, "at_most": at_most,
        "ours_us": statistics.median(found[ours]), "other_us": statistics.median(found[other]), "us": found,
    }  # fmt: skip


def measure(quick: bool, with_rivals: bool) -> list[dict[str, Any]]:
    """All lines of the table."""
    repeats = 2 if quick else 5
    scale = 8 if quick else 1
    rows: list[dict[str, Any]] = []
    for case, goal, side_by_side in ((SMALL(6000 // scale), 1.5, True), (MEDIUM(800 // scale), 1.15, True), (language_model(96 // min(scale, 4)), 1.15, False)):
        runs = {"jaxllc": slope(chain_step(case), case.num_steps)}
        for name, wide in (("gradient, vmapped", True), ("gradient, one by one", False)):
            runs[name] = slope(bare_gradient(case, wide), case.num_steps)
        rivals: dict[str, tuple[Rival, float]] = {}
        size = f"{NUM_EXAMPLES} {case.batch_size}".split()
        if with_rivals and case.name == "transformer":
            rivals["devinterp 2.0.1, no observables"] = (Rival("devinterp2", "devinterp2.py", *["256", "64", "64", "2", "4", "512", "16"]), 3)
        elif with_rivals:
            small = case.num_weights < 1000
            rivals["devinterp 1.3.2, batches sliced once"] = (Rival("devinterp1", "devinterp1.py", case.name, *size, "slices"), 15 if small else 5)
            if small:
                rivals["devinterp 1.3.2, stock DataLoader"] = (Rival("devinterp1", "devinterp1.py", case.name, *size, "stock"), 100)
            runs["jaxllc, one batch for all chains"] = slope(chain_step(case, shared_batch=True), case.num_steps)
            rivals["canonical-interp 0.2.7, one batch for all chains"] = (Rival("canonical", "canonical.py", case.name, *size), 5 if small else 3)
        for name, (rival, _) in rivals.items():
            runs[name] = slope(rival, max(40, case.num_steps // (20 if "stock" in name else 4)))
        found = interleaved(runs, repeats)
        for rival, _ in rivals.values():
            rival.close()
        label = f"{case.name} ({case.num_weights:,} weights, batch {case.batch_size})"
        best = min(("gradient, vmapped", "gradient, one by one"), key=lambda name: statistics.median(found[name]))
        alike = "gradient, vmapped" if side_by_side else "gradient, one by one"
        rows.append(row(f"{label}: chain-step ÷ {alike}", found, "jaxllc", alike, goal, at_most=True))
        if best != alike:
            rows.append(row(f"{label}: chain-step ÷ {best} (the faster)", found, "jaxllc", best, goal, at_most=True))
        for name, (_, goal) in rivals.items():
            rows.append(row(f"{label}: {name}", found, "jaxllc", name, goal))
            if "one batch for all chains" in name:
                rows.append(row(f"{label}: the same, our chains on one batch too", found, "jaxllc, one batch for all chains", name, goal))

    case = WIDE(3000 // scale)
    runs = {
        "jaxllc": slope(chain_step(case), case.num_steps),
        "jaxllc, Gaussian": slope(chain_step(case, "gaussian"), case.num_steps),
        "blackjax": slope(blackjax_loop(case), case.num_steps // 4),
    }
    found = interleaved(runs, repeats)
    label = f"{case.name} ({case.num_weights:,} weights, batch {case.batch_size})"
    rows.append(row(f"{label}: blackjax.sgld, scan under vmap", found, "jaxllc", "blackjax", 3))
    rows.append(row(f"{label}: the same, our noise Gaussian too", found, "jaxllc, Gaussian", "blackjax", 3))
    rows += devices_ratio(quick, repeats)
    rows.append(trajectory_overhead(quick, repeats))
    for case in (SMALL(64), MEDIUM(64), language_model(64)):
        rows.append({"what": f"{case.name}: compilation, seconds", "goal": 5.0, "measured": compile_seconds(case), "at_most": True})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The lines for a reader, as Markdown."""
    lines = ["| what | goal | measured | | µs a chain-step, ours · other |", "|---|---|---|---|---|"]
    for line in rows:
        sign, met = ("≤", line["measured"] <= line["goal"]) if line["at_most"] else ("≥", line["measured"] >= line["goal"])
        costs = f"{line['ours_us']:.1f} · {line['other_us']:.1f}" if "ours_us" in line else ""
        lines.append(f"| {line['what']} | {sign} {line['goal']:g} | {line['measured']:.3g} | {'met' if met else 'missed'} | {costs} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short turns instead of five")
    parser.add_argument("--rivals", action="store_true", help="the rivals too")
    options = parser.parse_args()
    rows = measure(options.quick, options.rivals)
    print(table(rows))
    print(save("throughput", {"rows": rows}, options.quick))


if __name__ == "__main__":
    main()
