"""The cost of a chain-step, compared with its bare gradient and with other packages.

    python -m benchmarks.throughput [--quick] [--rivals] [--parts small medium ...]

Each figure is the marginal cost of a step (the slope between a run and a quarter of it), without compilation and other fixed costs of a call.
Ratios are medians of the ratios within interleaved turns. `--rivals` needs `make rivals`; each rival runs in the number of processes and threads that makes it
fastest, found by a short trial. Our noise is Rademacher unless a line says Gaussian; that of the rivals is Gaussian.
`--parts` measures some parts again and keeps the others; each part records its machine, commit and date.
"""

import argparse
import sys
from typing import Any

import jax

import jaxllc
from benchmarks.cases import CASES, NUM_EXAMPLES, Case, SharedBatches, bare_gradients, blackjax_loop, chain_step, gradient_outside_of_a_loop
from benchmarks.compilation import compilation_rows
from benchmarks.overhead import trajectory_overhead
from benchmarks.report import goals, load
from benchmarks.timing import Rival, Worker, cheapest, costs, faster, interleaved, machine, save, slope
from jaxllc.convolutions import by_products
from jaxllc.samplers.precondition import RMSProp

ARRANGEMENTS = ((1, 1), (1, 2), (2, 1))
"""Processes and threads that rivals are tried in."""

GOALS = {"small": 1.5, "medium": 1.15, "transformer": 1.15}
"""Nets beside their gradient, and how many times its cost a chain-step may cost."""
SMALL_BATCHES = ("batches of 64", "batches of 16")
SAMPLERS = {
    "SGLD": lambda: jaxllc.SGLD(1e-6),
    "SGLD, RMSProp": lambda: jaxllc.SGLD(1e-6, preconditioner=RMSProp()),
    "SGHMC": lambda: jaxllc.SGHMC(1e-6),
    "SGLD, control variate": lambda: jaxllc.SGLD(1e-6, gradient=jaxllc.ControlVariate()),
}
"""Of which a step on small batches is compared with its gradient, the last with two."""
PARTS = (*GOALS, "wide", *SMALL_BATCHES, "convolutions", "devices", "trajectory", "compilation")


def rivals_of(case: Case, target: float) -> dict[str, tuple[Rival, float]]:
    """By name, with the goal."""
    if case.name == "transformer":
        size = ("256", "64", "64", "2", "4", "512", str(case.batch_size))
        rival = Rival("devinterp2", "devinterp2.py", *size, arrangements=ARRANGEMENTS[1:], target=target, least=256)
        return {"devinterp 2.0.1, no observables": (rival, 3)}
    small = case.num_weights < 1000
    size = (case.name, str(NUM_EXAMPLES), str(case.batch_size))
    slices = Rival("devinterp1", "devinterp1.py", *size, "slices", arrangements=ARRANGEMENTS, target=target)
    found = {"devinterp 1.3.2, batches sliced once": (slices, 15.0 if small else 5.0)}
    if small:
        found["devinterp 1.3.2, stock DataLoader"] = (Rival("devinterp1", "devinterp1.py", *size, "stock", arrangements=ARRANGEMENTS, target=target), 100.0)
    canonical = Rival("canonical", "canonical.py", *size, arrangements=ARRANGEMENTS, target=target)
    return found | {"canonical-interp 0.2.7, one batch for all chains": (canonical, 5.0 if small else 3.0)}


def beside(case: Case, goal: float, repeats: int, scale: int, with_rivals: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of one net, and its raw turns."""
    case = case.cut(scale)
    gradients = bare_gradients(case)
    loops = {"jaxllc": chain_step(case)} | gradients
    rivals = rivals_of(case, 1.2 / scale) if with_rivals else {}
    shared = any("one batch for all chains" in name for name in rivals) and case.name == "10-20-20-10"
    if rivals:
        loops["jaxllc, Gaussian"] = chain_step(case, "gaussian")
    if shared:
        loops["jaxllc, Gaussian, shared batches"] = chain_step(case, "gaussian", SharedBatches)
    runs = {name: slope(run, case.num_steps) for name, run in loops.items()} | {name: slope(rival, rival.num_steps) for name, (rival, _) in rivals.items()}
    found = interleaved(runs, repeats)
    for rival, _ in rivals.values():
        rival.close()

    best = cheapest({name: found[name] for name in gradients})
    rows = [costs(f"{case.label}: chain-step ÷ the fastest bare gradient ({best.removeprefix('gradient, ')})", found, "jaxllc", best, goal)]
    for name, (_, rival_goal) in rivals.items():
        rows.append(faster(f"{case.label}: {name}", found, "jaxllc", name, rival_goal))
        rows.append(faster(f"{case.label}: {name}; our noise Gaussian too", found, "jaxllc, Gaussian", name, rival_goal))
        if shared and "one batch for all chains" in name:
            what = f"{case.label}: canonical-interp 0.2.7; ours Gaussian, one batch for the chains of a device"
            rows.append(faster(what, found, "jaxllc, Gaussian, shared batches", name, rival_goal))
    return rows, {"us": found, "rivals": {name: rival.about for name, (rival, _) in rivals.items()}}


def beside_blackjax(case: Case, repeats: int, scale: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the loop of a JAX user."""
    case = case.cut(scale)
    runs = {
        "jaxllc": slope(chain_step(case), case.num_steps),
        "jaxllc, Gaussian": slope(chain_step(case, "gaussian"), case.num_steps),
        "blackjax": slope(blackjax_loop(case), case.num_steps // 4),
    }
    found = interleaved(runs, repeats)
    what = f"{case.label}: blackjax.sgld, scan under vmap"
    rows = [faster(what, found, "jaxllc", "blackjax", 3), faster(f"{what}; our noise Gaussian too", found, "jaxllc, Gaussian", "blackjax", 3)]
    return rows, {"us": found}


def beside_convolutions(case: Case, repeats: int, scale: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The row of a convolutional net: its gradient as products in all ways, and as convolutions in a loop and outside of one."""
    case = case.cut(scale)
    products = bare_gradients(case._replace(loss_fn=by_products(jax.jit(case.loss_fn))))
    gradients = {f"{name}, products": slope(run, case.num_steps) for name, run in products.items()}
    gradients["gradient, outside of a loop"] = slope(gradient_outside_of_a_loop(case), case.num_steps)
    gradients["gradient, one by one, moving windows"] = slope(bare_gradients(case)["gradient, one by one, moving windows"], 8)  # which is slow
    found = interleaved({"jaxllc": slope(chain_step(case), case.num_steps)} | gradients, repeats)
    best = cheapest({name: found[name] for name in gradients})
    what = f"{case.label}: chain-step ÷ the fastest bare gradient ({best.removeprefix('gradient, ')})"
    rows = [costs(what, found, "jaxllc", best, 1.15)]
    for where in ("outside of a loop", "one by one, moving windows"):
        rows.append(faster(f"{case.label}: the gradient of its convolutions, {where}", found, "jaxllc", f"gradient, {where}", 1.0))
    return rows, {"us": found}


def beside_gradients(case: Case, repeats: int, scale: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of small batches: several samplers beside the fastest bare gradient, and a control variate beside two of them."""
    case = case.cut(scale)
    gradients = bare_gradients(case)
    loops = {name: chain_step(case, sampler=make()) for name, make in SAMPLERS.items()} | gradients
    found = interleaved({name: slope(run, case.num_steps) for name, run in loops.items()}, repeats)
    best = cheapest({name: found[name] for name in gradients})
    found["two gradients"] = [2 * cost for cost in found[best]]
    what = f"the fastest bare gradient ({best.removeprefix('gradient, ')})"
    rows = []
    for name in SAMPLERS:
        twice = name.endswith("control variate")
        rows.append(costs(f"{case.label}, {name}: chain-step ÷ {'twice ' * twice}{what}", found, name, "two gradients" if twice else best, 1.15))
    return rows, {"us": found}


def devices_ratio(name: str, repeats: int, scale: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Chain-steps a second with one and with two devices, each in a process of its own, in turns."""
    num_steps = CASES[name]().cut(scale).num_steps
    workers = {str(devices): Worker([sys.executable, "-m", "benchmarks.worker", name], DEVICES=str(devices)) for devices in (1, 2)}
    found = interleaved({devices: slope(worker, num_steps) for devices, worker in workers.items()}, repeats)
    for worker in workers.values():
        worker.close()
    return [faster(f"2 devices against 1, {name} net", found, "2", "1", 1.8)], {"us": found}


def measure(part: str, quick: bool, with_rivals: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a part of the table, and its raw turns by net."""
    repeats, scale = (2, 4) if quick else (5, 1)
    if part in GOALS:
        rows, raw = beside(CASES[part](), GOALS[part], repeats, scale, with_rivals)
        return rows, {part: raw}
    if part == "wide":
        rows, raw = beside_blackjax(CASES[part](), repeats, scale)
        return rows, {part: raw}
    if part in SMALL_BATCHES:
        rows, raw = beside_gradients(CASES[part](), repeats, scale)
        return rows, {part: raw}
    if part == "convolutions":
        rows, raw = beside_convolutions(CASES["cnn"](), repeats, scale)
        return rows, {"cnn": raw}
    if part == "devices":
        found = {f"{name}, devices": devices_ratio(name, repeats, scale) for name in ("small", "medium")}
        return [row for rows, _ in found.values() for row in rows], {name: raw for name, (_, raw) in found.items()}
    if part == "trajectory":
        return [trajectory_overhead(quick)], {}
    return compilation_rows(list(GOALS), 1 if quick else 5), {}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short turns instead of five")
    parser.add_argument("--rivals", action="store_true", help="the rivals too")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what to measure anew")
    options = parser.parse_args()
    known = load("throughput")["parts"] if {*options.parts} != {*PARTS} and not options.quick else {}
    for part in options.parts:
        rows, raw = measure(part, options.quick, options.rivals)
        known[part] = {"rows": rows, "turns": raw, "machine": machine()}
    parts = {part: known[part] for part in PARTS if part in known}
    turns = {name: raw for part in parts.values() for name, raw in part["turns"].items()}
    result = {"parts": parts, "rows": [row for part in parts.values() for row in part["rows"]], "turns": turns}
    print(goals(result["rows"]))
    print(save("throughput", result, options.quick))


if __name__ == "__main__":
    main()
