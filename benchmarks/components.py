r"""Components beside devinterp 2.0.1: $\hat\lambda$ of heads, influence and susceptibilities of the same posteriors, and the cost of an iteration.

    python -m benchmarks.components [--quick] [--parts numbers speed alone]

It needs `make rivals`. The net is a small attention-only transformer, trained here; its weights go to PyTorch through a file, and its logits are checked.

*Numbers.* Same weights, data, $n\beta$, $\gamma$, step size, batch size, burn-in and spacing of draws; noise is Gaussian on both sides. What differs:

- devinterp's coefficient is a mean over burn-in too. What is compared is the mean after burn-in, from its own losses; what it gives itself stands beside it.
- It takes no step bias off. It is compared with $\hat\lambda$ + `step_bias`, which is the uncorrected mean.
- Its loss at $w^*$ is a mean over batches of the data, here over all of them; ours pairs each loss with that of the same examples at $w^*$. By default its
  chains share batches; here each has its own.
- Its batches go through the data in one order again and again, ours are windows at random. A chain has then stepped on all other batches since it last did on
  the next one, so the loss of that one is above that of all data: by $\frac{\epsilon}{4}(n\beta)^2 E|g_B - g|^2$ in $\hat\lambda$ where a round is
  short beside relaxation. So the losses of all data along the chains are compared too.
- Its covariances are about the common mean with $T - 1$; ours add the error of that mean back. Its sign is that of a loss kernel.
- Its susceptibility takes $\phi$ from the initial loss, which is that of the probe where the probe is all of the data, as here.
- Its errors are by leaving out one chain at a time; it gives none itself.

*Speed.* The marginal cost of an iteration of one chain, of 1, 8 and 32 components at 16 checkpoints. devinterp runs chains, components and checkpoints in
series, so a few of its calls are timed and multiplied. Costs are seconds of the processors, which other work on the machine disturbs least, and wall time.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import jaxllc
from benchmarks import component_nets as nets
from benchmarks import report_components
from benchmarks.cases import CASES as CASES  # importing it makes a device of each core
from benchmarks.component_numbers import coefficients, compared, speed_row
from benchmarks.report import load
from benchmarks.timing import PAUSE, ROOT, Worker, machine, save
from jaxllc import timetable

PYTHON = ROOT / ".rivals" / "devinterp2" / "bin" / "python"
SCRIPT = ROOT / "benchmarks" / "rivals" / "components_devinterp2.py"
CHAINS_OF = {
    False: {"epsilon": 1e-3, "nbeta": 100.0, "localization": 100.0, "batch_size": 16, "chains": 8, "draws": 64, "burn_in": 48, "every": 8},
    True: {"epsilon": 1e-3, "nbeta": 100.0, "localization": 100.0, "batch_size": 16, "chains": 4, "draws": 16, "burn_in": 16, "every": 8},
}
"""Of the comparison of numbers, by `quick`."""
COMPONENTS = ("all", "l0h1", "l1h0", "l1h2")
SAME_LOGITS = 1e-4
ITERATIONS = {1: (32, 128), 8: (8, 24), 32: (6, 12)}
"""Of components, and the iterations of the two runs whose difference is timed."""
THEIR_STEPS = (32, 160)
THEIR_COMPONENTS = {1: ("l0h1",), 8: ("l0h1", "l1h1"), 32: ("l0h1 query", "l0h1 output", "l1h1 query", "l1h1 output")}
"""Those that are timed; the others are taken to cost as much."""
JOB = {"chains": 4, "steps": 200}
"""devinterp's defaults for a call."""
PARTS = ("numbers", "speed")
ALONE = "alone"
"""The part that runs our jobs alone, on whatever device there is."""


def settings_of(chains: dict[str, Any]) -> jaxllc.Settings:
    """The same as devinterp's."""
    steps = chains["burn_in"] + chains["every"] * chains["draws"]
    return jaxllc.Settings(
        jaxllc.SGLD(chains["epsilon"], noise="gaussian"), chains["nbeta"], chains["localization"], chains["batch_size"], num_chains=chains["chains"],
        num_draws=steps - chains["burn_in"], num_burn_in=chains["burn_in"],
    )  # fmt: skip


def command(threads: int, file: Path, *rest: str) -> list[str]:
    """The command line of the rival's script.

    Raises:
        FileNotFoundError: its environment was not built.
    """
    if not PYTHON.exists():
        raise FileNotFoundError(f"there is no {PYTHON}; build the rivals' environments with `make rivals`.")
    return [str(PYTHON), str(SCRIPT), str(threads), str(file), *rest]


def theirs(folder: Path, file: Path) -> dict[str, np.ndarray]:
    """What devinterp finds of each component, from two processes of one thread."""
    options: dict[str, Any] = dict(stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    running = [subprocess.Popen(command(1, file, "sample", str(folder), *COMPONENTS[i::2]), **options) for i in range(2)]
    for process in running:
        _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(f"devinterp ended with exit status {process.returncode}:\n{said[-2000:]}")
    subprocess.run(command(2, file, "reduce", str(folder), *COMPONENTS), check=True, capture_output=True)
    with np.load(folder / "found.npz") as found:
        return dict(found)


def ours(params: Any, tokens: np.ndarray, chains: dict[str, Any]) -> jaxllc.Estimate:
    """The estimate of the same components, with the losses of all tokens and of all sequences along the chains."""
    probes = {name: jaxllc.Probe(fn, tokens, every=chains["every"]) for name, fn in (("tokens", nets.TOKEN_LOSSES), ("sequences", nets.LOSS))}
    options: dict[str, Any] = dict(components=nets.selected(COMPONENTS), probes=probes, key=jax.random.key(0), progress=False)
    return jaxllc.estimate(nets.LOSS, params, tokens, settings_of(chains), **options)


def numbers(net: nets.Net, quick: bool) -> dict[str, Any]:
    """The lines on coefficients, loss kernels and susceptibilities."""
    chains = CHAINS_OF[quick]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.npz"
        nets.write(file, net.last, net.tokens, chains)
        found = theirs(Path(folder), file)
    logits = np.asarray(nets.MODEL.apply({"params": net.last}, jnp.asarray(net.tokens[:4, :-1], jnp.int32)))
    apart = float(np.abs(logits - found["logits"]).max())
    if not apart < SAME_LOGITS:
        raise RuntimeError(f"the logits of the two packages differ by {apart}.")
    return {"chains": chains, "logits_apart": apart, **lines_of(ours(net.last, net.tokens, chains), found)}


def lines_of(est: jaxllc.Estimate, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the two have found, side by side."""
    kernel, response = jaxllc.loss_kernel(est, "sequences").data, jaxllc.susceptibilities(est, "tokens", whole="all").data
    llcs, matrices = [], []
    for name in COMPONENTS:
        one = est.component(name)
        mine = {"llc": one.llc, "std_error": one.std_error, "step_bias": one.step_bias, "on_all": float(one.llc_of("sequences")["llc"])}
        llcs.append(coefficients(name, mine, found[f"{name}/llc"], found[f"{name}/llc_on_all"], float(found[f"{name}/llc_theirs"])))
        for what, data in (("kernel", kernel), ("response", response)):
            if f"{name}/{what}" in found:
                value, error = (data[kind].sel(component=name).values for kind in ("value", "std_error"))
                matrices.append({"what": what, "component": name} | compared(value, error, found[f"{name}/{what}"], found[f"{name}/{what}_error"]))
    return {"coefficients": llcs, "matrices": matrices}


def names_of(count: int) -> list[str]:
    """A head, all heads, or all parts of heads."""
    return {1: ["l0h1"], 8: nets.heads(), 32: nets.parts()}[count]


def both_clocks(run: Callable[[], Any]) -> np.ndarray:
    """Wall seconds and processor seconds of a call."""
    began = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return np.array([time.perf_counter() - began[0], time.process_time() - began[1]])


def our_run(net: nets.Net, count: int) -> Callable[[int], np.ndarray]:
    """Both clocks for so many iterations of one chain of each component at each of sixteen checkpoints, divided by the chains."""
    settings = settings_of(CHAINS_OF[False]).replace(sampler=jaxllc.SGLD(1e-3), num_chains=1, num_burn_in=0)
    options: dict[str, Any] = dict(components=nets.selected(names_of(count)), key=jax.random.key(0), progress=False, group_size=len(net.checkpoints))

    def run(num_steps: int) -> np.ndarray:
        call = lambda: jaxllc.trajectory(nets.LOSS, net.checkpoints, net.tokens, settings.replace(num_draws=num_steps), **options)  # noqa: E731
        return both_clocks(call) / count / len(net.checkpoints)

    return run


def gradient_run(net: nets.Net) -> Callable[[int], np.ndarray]:
    """Both clocks for so many bare gradients of all weights, on one device."""
    batch = jnp.asarray(net.tokens[: CHAINS_OF[False]["batch_size"]])

    @jax.jit
    def loop(params: Any, count: jax.Array) -> Any:
        move = lambda _, p: jax.tree.map(lambda w, g: w - 1e-6 * g, p, jax.grad(lambda q: nets.LOSS(q, batch).mean())(p))  # noqa: E731
        return jax.lax.fori_loop(0, count, move, params)

    return lambda num_steps: both_clocks(lambda: loop(net.last, num_steps))


def their_run(worker: Worker, component: str) -> Callable[[int], np.ndarray]:
    """Both clocks for so many steps of one chain of devinterp."""

    def run(num_steps: int) -> np.ndarray:
        worker.ask(f"{num_steps} {component}")
        return np.asarray(worker.answer())

    return run


def line_of(run: Callable[[int], np.ndarray], few: int, many: int) -> dict[str, list[float]]:
    """What a step costs, and a call beside its steps, on both clocks, from a short run and a longer one."""
    short, long = run(few), run(many)
    step = (long - short) / (many - few)
    return {"step": step.tolist(), "call": (short - few * step).tolist()}


def turns_of(net: nets.Net, worker: Worker, counts: Sequence[int], repeats: int) -> dict[str, Any]:
    """Interleaved turns of all runs, and the first calls of ours, which compile."""
    runs = {str(count): (our_run(net, count), *ITERATIONS[count]) for count in counts}
    runs |= {name: (their_run(worker, name), *THEIR_STEPS) for name in dict.fromkeys(name for count in counts for name in THEIR_COMPONENTS[count])}
    runs["gradient"] = (gradient_run(net), 50, 200)
    found: dict[str, list[Any]] = {name: [] for name in runs}
    first = {}
    with mock.patch.multiple(timetable, SLOW_EVALUATIONS=0.5, MOST_EVERY=10**6):  # once a chain, not at each iteration of so short a run
        for name, (run, few, many) in runs.items():
            first[name] = run(few).tolist()
            run(many)
        for _ in range(repeats):
            for name, each in runs.items():
                time.sleep(PAUSE)
                found[name].append(line_of(*each))
    return {"turns": found, "first": {str(count): first[str(count)] for count in counts}}


def speed(net: nets.Net, quick: bool) -> dict[str, Any]:
    """The rows of the costs, with the turns they come from."""
    counts = (1, 8) if quick else (1, 8, 32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.npz"
        nets.write(file, net.last, net.tokens, CHAINS_OF[False])
        worker = Worker(command(1, file, "time"), OMP_NUM_THREADS="1")
        found = turns_of(net, worker, counts, 1 if quick else 3)
        worker.close()
    rows = [speed_row(found, count, THEIR_COMPONENTS[count], checkpoints=len(net.checkpoints), job=JOB, chains=worker.about["chains"]) for count in counts]
    return {"rows": rows, "rival": worker.about, "job": JOB, **found}


def alone(net: nets.Net, quick: bool) -> dict[str, Any]:
    """Seconds of our whole job of the most components: of the first call, which compiles, and of two more."""
    count = 8 if quick else 32
    settings = settings_of(CHAINS_OF[False]).replace(num_chains=JOB["chains"], num_burn_in=0, num_draws=JOB["steps"])
    options: dict[str, Any] = dict(components=nets.selected(names_of(count)), progress=False, group_size=len(net.checkpoints))
    seconds = []
    for key in range(3):
        began = time.perf_counter()
        jaxllc.trajectory(nets.LOSS, net.checkpoints, net.tokens, settings, key=jax.random.key(key), **options)
        seconds.append(time.perf_counter() - began)
    return {"device": jax.devices()[0].device_kind, "components": count, "checkpoints": len(net.checkpoints), "job": JOB, "seconds": seconds}


def main() -> None:
    """Compare, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.components", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short chains, one turn, and no 32 components")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=(*PARTS, ALONE), help="what to measure anew")
    options = parser.parse_args()
    parts = load("components")["parts"] if {*options.parts} != {*PARTS} and not options.quick else {}
    net = nets.trained()
    for part in options.parts:
        parts[part] = {"numbers": numbers, "speed": speed, ALONE: alone}[part](net, options.quick) | {"machine": machine()}
    print(save("components", {"parts": parts}, options.quick))
    for text in report_components.tables(parts).values():
        print(text)


if __name__ == "__main__":
    main()
