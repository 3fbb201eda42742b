"""Passes over the weights that an iteration makes beside its gradient, counted in the text of the compiled programs.

    python -m benchmarks.passes [--tpu | --gpu]

The loop over iterations is found in the program of a block of one chain, and in it every array of the size of a layer that an instruction reads or writes
between memory and itself: what is fused within one instruction counts once. Compared is the same loop around the bare gradient and its step. Counts are in
copies of the weights: the limit for SGLD is one more read, of w*, as noise is a bit a weight. With `--tpu` programs are compiled ahead of time for one v5e
chip, which needs libtpu (`pip install 'jaxllc[pods]'` in an environment of its own) and no TPU. With `--gpu` they are compiled for the GPU of this machine,
without command buffers, which would hide what a loop runs.
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

if "--gpu" in sys.argv:  # before JAX is loaded
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="
else:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

import jaxllc
from benchmarks.report import RESULTS, passes
from benchmarks.timing import save
from jaxllc import engine, starts
from jaxllc.models import linear
from jaxllc.samplers.precondition import RMSProp
from jaxllc.starts import Inputs, Program
from jaxllc.timetable import timetable

WIDTHS, BATCH = (104, 104, 104, 104), 64
"""All layers are of one size, which no array of activations has."""
ITERATIONS = 2048
SAMPLERS: dict[str, Callable[[], Any]] = {
    "SGLD": lambda: jaxllc.SGLD(1e-6),
    "SGLD, RMSProp": lambda: jaxllc.SGLD(1e-6, preconditioner=RMSProp()),
    "SGLD, control variate": lambda: jaxllc.SGLD(1e-6, gradient=jaxllc.ControlVariate()),
    "SGHMC": lambda: jaxllc.SGHMC(1e-6),
}
_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\w+\[([\d,]*)\]")
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "after-all", "copy-done", "opt-barrier", "conditional", "call"}
"""Instructions that move nothing, or whose own bodies count."""


class Passes(NamedTuple):
    """Copies of the weights that a loop reads and writes for each of its iterations."""

    read: float
    written: float


def count(text: str, size: int, layers: int) -> Passes:
    """Of the innermost loop with most arrays of `size` elements in a program: those that an iteration reads and writes, over the number of layers."""
    loops = set(re.findall(r"body=%?([\w.\-]+)", text))
    bodies = [body for body in re.split(r"\n(?=\S.*\{\n)", text) if re.match(r"%?([\w.\-]+)", body.lstrip())[1] in loops]  # type: ignore[index]
    return max((_of(body, size, layers) for body in bodies if " while(" not in body), key=sum)


def _of(body: str, size: int, layers: int) -> Passes:
    sizes: dict[str, int] = {}
    read = written = 0
    for line in body.splitlines():
        if (found := _LINE.match(line)) is None:
            continue
        name, shape, kind, rest = found.groups()
        sizes[name] = sum(math.prod(int(n) for n in each.split(",") if n) == size for each in _ARRAY.findall(shape)) if kind != "while" else 0
        if kind in _FREE:
            sizes[name] = min(sizes[name], 1)
            continue
        operands = set(re.findall(r"%([\w.\-]+)", rest.split("calls=")[0].split("metadata=")[0].split("to_apply=")[0]))
        read += sum(sizes.get(operand, 0) for operand in operands)
        written += sizes[name]
    return Passes(read / layers, written / layers)


def device(platform: str) -> Any:
    """What is compiled for."""
    if platform != "tpu":
        return jax.devices(platform)[0]
    from jax.experimental import topologies  # it asks for libtpu

    return np.asarray(topologies.get_topology_desc("v5e:2x4", "tpu").devices).reshape(-1)[0]


def text_of(sampler: Any, on: Any) -> str:
    """The compiled program of a block of one chain."""
    params = linear.teacher(jax.random.key(0), WIDTHS)
    data = jaxllc.InMemory.of(linear.examples(jax.random.key(1), params, 1000), BATCH)
    mesh = Mesh(np.asarray([[on]]), ("step", "chain"), axis_types=(AxisType.Auto,) * 2)
    number = jnp.ones(1)
    posterior = jaxllc.LocalPosterior(linear.squared_loss, jax.tree.map(lambda leaf: leaf[None], params), number, number)
    inputs = Inputs(jax.random.key(0), jax.tree.map(lambda _: number, sampler), posterior, data, jnp.zeros(()))
    program = Program(mesh, 1, starts.kind_of(sampler), disperses=False)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), inputs)
    start = jax.eval_shape(lambda inputs: starts.start_chains(inputs, program=program), shapes)
    shapes = shapes._replace(posterior=shapes.posterior.replace(center_grad=start.center_grad, center_hessian=start.center_hessian))
    plan = timetable({}, 0, ITERATIONS, longest=sampler.block)
    at = (0, plan.block // plan.every)
    size = {"num_steps": plan.room, "every": plan.every}
    block = engine._block.lower(shapes, start.state, start.losses.by_example, None, at, program=program, **size)
    return block.compile().as_text() or ""


def bare_text(on: Any, gradients: int) -> str:
    """A loop over the gradient and a step along it alone, on windows that move; with two gradients the second one is at w*, as a control variate has it."""
    params = linear.teacher(jax.random.key(0), WIDTHS)
    data = jaxllc.InMemory.of(linear.examples(jax.random.key(1), params, 1000), BATCH)

    def run(params: Any, center: Any, data: Any) -> Any:
        def step(params: Any, t: jax.Array) -> tuple[Any, jax.Array]:
            batch = data.batch(37 * t % 1000)
            loss, grad = jax.value_and_grad(lambda p: linear.squared_loss(p, batch).mean())(params)
            there = [jax.grad(lambda p: linear.squared_loss(p, batch).mean())(center)] * (gradients - 1)
            return jax.tree.map(lambda w, *g: w - 1e-6 * sum(g), params, grad, *there), loss

        return jax.lax.scan(step, params, jnp.arange(ITERATIONS, dtype=jnp.int32))

    sharding = jax.sharding.SingleDeviceSharding(on)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), (params, params, data))
    return jax.jit(run).lower(*shapes).compile().as_text() or ""


def main() -> None:
    """Compile, count, print, keep; what another call found for the other platform stays."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tpu", action="store_const", const="tpu", dest="platform", default="cpu", help="for one TPU v5e chip instead of this CPU")
    parser.add_argument("--gpu", action="store_const", const="gpu", dest="platform", help="for the GPU of this machine")
    options = parser.parse_args()
    on, size, layers = device(options.platform), WIDTHS[0] ** 2, len(WIDTHS) - 1
    rows = []
    for name, make in SAMPLERS.items():
        ours, bare = count(text_of(make(), on), size, layers), count(bare_text(on, 2 if "variate" in name else 1), size, layers)
        rows.append({"sampler": name, "ours": ours._asdict(), "bare": bare._asdict()})
    path = RESULTS / "passes.json"
    known = json.loads(path.read_text())["platforms"] if path.exists() else {}
    names = {"cpu": "CPU", "tpu": "TPU v5e", "gpu": getattr(on, "device_kind", "GPU")}
    platforms = known | {names[options.platform]: rows}
    print(passes(platforms))
    print(save("passes", {"platforms": platforms}, quick=False))


if __name__ == "__main__":
    main()
