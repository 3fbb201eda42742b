"""The engine's own programs, compiled for TPUs that need not be there: whether they fit, and what they communicate.

    python -m benchmarks.pods [--quick]

It needs libtpu, `pip install 'jaxllc[pods]'` in an environment of its own, since JAX there looks for a TPU by default. The compiler of libtpu compiles for a
topology that is only described. It says what a program holds on each chip, and its text which collectives it has. Weights are never made.
Compared are the two programs of `jaxllc.sample`, the start and the block of iterations, with the losses and the gradient by themselves.
"""

import argparse
import importlib.metadata
import math
import os
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu would ask the network what TPU this is
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU is used, which one process alone could

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxllc
from benchmarks.cases import language_model
from benchmarks.decoder import Decoder
from benchmarks.report import pods, pods_hours
from benchmarks.timing import save
from jaxllc import engine, placement, starts
from jaxllc.layout import layout_of
from jaxllc.placement import batched, on_devices
from jaxllc.starts import Inputs, Program, Start
from jaxllc.timetable import timetable

TOPOLOGIES = {8: "v5e:2x4", 256: "v5e:16x16"}
"""By the number of chips."""
MEMORY = 16 * 2**30
"""Bytes of a v5e chip, as https://cloud.google.com/tpu/docs/v5e has it."""
PEAK = 197e12
"""Its floating-point operations a second in bfloat16, from the same page."""
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
ITERATIONS = 1500
"""Of a chain: 500 of burn-in and 1000 draws."""
UTILISATION = 0.4
"""Of the peak that is assumed for chip-hours."""


class Case(NamedTuple):
    """A model with its data, and how it is laid out."""

    name: str
    loss_fn: Callable[..., jax.Array]
    shapes: Any
    """`ShapeDtypeStruct`s of the weights."""
    specs: Any
    """Their `PartitionSpec`s, by name; None where each chip holds them whole."""
    batch: tuple[int, int]
    """Sequences of a batch, and their length."""
    work: dict[int, tuple[int, int]]
    """Checkpoints and chains, by the number of chips."""
    shards: int = 1
    """Chips over which one copy of the weights is split."""

    @property
    def num_weights(self) -> int:
        """Of the model."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.shapes))


def decoder(name: str, model: Decoder, batch: tuple[int, int], work: dict[int, tuple[int, int]], shards: int = 1) -> Case:
    """A decoder, whose weights are saved in float32 where a chip holds them whole, and in bfloat16 where they are split."""
    shapes = {leaf: jax.ShapeDtypeStruct(shape, jnp.bfloat16 if shards > 1 else jnp.float32) for leaf, shape in model.shapes().items()}
    return Case(name, model.loss_fn(), shapes, model.specs() if shards > 1 else None, batch, work, shards)


def small_transformer() -> Case:
    """The transformer of the other benchmarks."""
    case = language_model()
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), case.params)
    return Case("70 000 weights", case.loss_fn, shapes, None, (case.batch_size, 65), {8: (8, 32), 256: (64, 32)})


def cases() -> list[Case]:
    """What is compiled."""
    return [
        small_transformer(),
        decoder("100 M weights", Decoder(width=768, hidden=2048, num_layers=7, num_heads=12), (4, 1025), {8: (1, 8), 256: (32, 8)}),
        decoder("7 B weights", Decoder(width=4096, hidden=11_008, num_layers=32, num_heads=32), (4, 1025), {8: (1, 1), 256: (4, 8)}, shards=8),
    ]


def mesh_of(case: Case, chips: int) -> Mesh:
    """Chains are spread over the chips first, as `jaxllc.placement.default_mesh` does, beside the axis of the weights."""
    from jax.experimental import topologies  # it asks for libtpu

    devices = np.asarray(topologies.get_topology_desc(TOPOLOGIES[chips], "tpu").devices).reshape(-1, case.shards)
    chains = math.gcd(case.work[chips][1], len(devices))
    return Mesh(devices.reshape(-1, chains, case.shards), ("step", "chain", "model"), axis_types=(AxisType.Auto,) * 3)


def inputs_of(case: Case, mesh: Mesh, num_checkpoints: int) -> Inputs:
    """What the programs read, as shapes on a mesh."""

    def array(shape: tuple[int, ...], dtype: Any, *spec: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))

    specs = case.specs or jax.tree.map(lambda _: P(), case.shapes)
    center = jax.tree.map(lambda leaf, spec: array((num_checkpoints, *leaf.shape), leaf.dtype, "step", *spec), case.shapes, specs)
    number = array((num_checkpoints,), jnp.float32, "step")
    posterior = jaxllc.LocalPosterior(case.loss_fn, center, number, number, layout=layout_of(center, leading=1) if case.specs else None)
    size, length = case.batch
    data = jaxllc.InMemory(array((4096 + size - 1, length), jnp.int32), 4096, size)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Inputs(array((), key.dtype), jaxllc.SGLD(number), posterior, data, array((), jnp.float32))


def compiled(case: Case, chips: int) -> dict[str, Any]:
    """What the compiler says of the programs of one case; `weights_bytes` are those of w* on a chip, of which the caller has a copy too."""
    num_checkpoints, num_chains = case.work[chips]
    mesh = mesh_of(case, chips)
    if not case.specs:
        mesh = Mesh(mesh.devices[..., 0], ("step", "chain"), axis_types=(AxisType.Auto,) * 2)
    inputs = inputs_of(case, mesh, num_checkpoints)
    itemsize = max(leaf.dtype.itemsize for leaf in jax.tree.leaves(case.shapes))
    found: dict[str, Any] = {
        "case": case.name,
        "num_weights": case.num_weights,
        "weights_bytes": num_checkpoints // mesh.shape["step"] * case.num_weights * itemsize / case.shards,
        "chips": chips,
        "mesh": dict(mesh.shape),
        "checkpoints": num_checkpoints,
        "chains": num_chains,
    }
    program = Program(mesh, num_chains, starts.kind_of(inputs.sampler), disperses=False)
    plan = timetable({}, 500, ITERATIONS, longest=inputs.sampler.block, full_batch=False)
    # The rule for vmap widths looks at the machine that compiles, a CPU.
    with mock.patch.object(placement, "CACHE_BYTES", int(placement.MEMORY_SHARE * MEMORY)):
        begun, found["start"] = timed(starts.start_chains.lower(inputs, program=program))
        start = as_inputs(jax.eval_shape(lambda inputs: starts.start_chains(inputs, program=program), inputs), begun.output_shardings)
        at = 0, plan.block // plan.every
        block = engine._block.lower(inputs, start.state, start.losses.by_example, None, at, program=program, num_steps=plan.room, every=plan.every)
        found["block"] = timed(block)[1]
    found["losses"], found["gradient"] = (timed(lowered)[1] for lowered in bare(inputs, start, mesh))
    return found


def as_inputs(shapes: Any, shardings: Any) -> Start:
    """What one program gives, as the other takes it."""
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings)


def timed(lowered: Any) -> tuple[Any, dict[str, Any]]:
    """A program, and what is said of it."""
    began = time.perf_counter()
    program = lowered.compile()
    seconds, sizes, text = time.perf_counter() - began, program.memory_analysis(), program.as_text()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes - sizes.alias_size_in_bytes
    return program, {"seconds": seconds, "bytes": held, "temporary_bytes": sizes.temp_size_in_bytes, "collectives": collectives(text)}


def collectives(text: str) -> dict[str, int]:
    """How many of each kind a program has."""
    return {name: count for name in COLLECTIVES if (count := len(re.findall(rf" {name}(?:-start)?\(", text)))}


def bare(inputs: Inputs, start: Start, mesh: Mesh) -> tuple[Any, Any]:
    """The losses of one batch at all chains, and the losses with the gradient."""
    posterior, (size, *rest) = inputs.posterior, (inputs.data.batch_size, *inputs.data.arrays.shape[1:])
    batch = jax.ShapeDtypeStruct((size, *rest), jnp.int32, sharding=NamedSharding(mesh, P()))
    chains = P("chain", "step")
    shardings = jax.tree.map(lambda leaf: leaf.sharding, start.state.position)

    def at_all(function: Callable[..., Any]) -> Callable[..., Any]:
        def here(position: Any, posterior: Any, batch: Any) -> Any:
            def group(position: Any) -> Any:
                return batched(lambda position, posterior: function(posterior, position, batch), 1 << 30, position, posterior)

            return batched(group, 1 << 30, position)

        return on_devices(here, mesh, in_specs=(chains, P("step"), P()), out_specs=chains)

    losses = jax.jit(at_all(jaxllc.LocalPosterior.losses))
    gradient = jax.jit(at_all(jaxllc.LocalPosterior.loss_and_grad), out_shardings=(None, shardings))
    return tuple(program.lower(start.state.position, posterior, batch) for program in (losses, gradient))  # type: ignore[return-value]


def chip_hours(num_weights: int, tokens: int, num_checkpoints: int = 1000, num_chains: int = 8) -> float:
    """Of a trajectory: six operations a weight and token for an iteration, at the share of the peak that is assumed."""
    return num_checkpoints * num_chains * ITERATIONS * 6.0 * num_weights * tokens / (UTILISATION * PEAK) / 3600


def main() -> None:
    """Compile, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pods", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest model alone")
    options = parser.parse_args()
    rows = []
    for case in cases()[:1] if options.quick else cases():
        for chips in TOPOLOGIES:
            rows.append(compiled(case, chips))
            print(pods(rows[-1:]), flush=True)
    tokens = 4096
    hours = [{"num_weights": count, "tokens": tokens, "chip_hours": chip_hours(count, tokens)} for count in (10**6, 10**8, 7 * 10**9)]
    assumed = {"memory_bytes": MEMORY, "utilisation": UTILISATION, "peak": PEAK, "iterations": ITERATIONS}
    result = {"rows": rows, "hours": hours, "libtpu": importlib.metadata.version("libtpu"), **assumed}
    print(pods(rows), pods_hours(hours), sep="\n\n")
    print(save("pods", result, options.quick))


if __name__ == "__main__":
    main()
