"""Pilot runs: short chains that tell what an iteration costs, what a finite step adds, and how slowly the slowest quantity forgets."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllc._tree import is_real, named_leaves, split_objects, stack
from jaxllc._typing import Batch, Params
from jaxllc.diagnostics import is_well_above
from jaxllc.engine import NotFiniteError, sample
from jaxllc.error_bars import moments
from jaxllc.full_data import losses_and_gradient
from jaxllc.plan import Plan
from jaxllc.recording import Trace
from jaxllc.stream import Data, Stream
from jaxllc.timetable import Pace

POSITIONS = 512
"""Forward passes of one weight in a minibatch, about: enough that its gradient costs more than the noise of the step."""
PROBED_EXAMPLES, PROBED_OPERATIONS, COUNTED_EXAMPLES = 2048, 2e9, 8
"""Examples whose gradient is timed, at most; floating-point operations of it, about; examples whose operations are counted."""
NUM_TIMED = 5
NUM_BLOCKS = 3
"""Of a pilot run, or two of `LEAST_BLOCK` iterations; the first compiles."""
LEAST_BLOCK = 16
LEAST_EVALUATIONS = 4
"""Of a slow quantity along a chain, from which an autocorrelation time can be told."""
READ_ITERATIONS = 8
"""Whose batches are read to time a stream."""
LEAVES_BASIN = (
    "At some checkpoint the chains of the pilot know no more than weights that are all zero: λ̂ will say little but the loss at w*. A stronger localization "
    "stays in the basin, or a larger nbeta, such as n / ln n of the tokens where the loss is a mean over tokens."
)
"""What is said of a posterior that is not local."""


class Pilot(NamedTuple):
    """What a pilot run tells, of K points (checkpoints, or settings of one)."""

    llc: np.ndarray
    r"""`[K]`: $\hat\lambda$."""
    std_error: np.ndarray
    """`[K]`."""
    step_bias: np.ndarray
    r"""`[K]`: what the finite step and its batches' noise add, taken off `llc`."""
    acceptance_rate: np.ndarray
    """`[K]`: NaN for a sampler that accepts every step."""
    loss: np.ndarray
    r"""`[K]`: $L_n(w^*)$."""
    mean_loss: np.ndarray
    """`[K]`: over the chains."""
    autocorrelation: Mapping[str, np.ndarray]
    """Iterations in which a quantity forgets (its autocorrelation time: draws over effective draws), by its name, `[K]`."""
    seconds: float
    """Of an iteration of all points, without compilation."""
    compilation: float
    """Seconds until the first block had ended, less those of a block."""

    def points(self, settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each point as plain values: the settings that are given for it, and what came out."""
        lines = []
        for k, line in enumerate(settings):
            found = {"llc": self.llc[k], "std_error": self.std_error[k], "step_bias": self.step_bias[k], "acceptance_rate": self.acceptance_rate[k]}
            found["autocorrelation_time"] = np.fmax.reduce([times[k] for times in self.autocorrelation.values()])
            lines.append({**line, **{name: float(value) for name, value in found.items()}})
        return lines

    def leaves_basin(self, zeros: float | None, points: slice = slice(None)) -> bool:
        """Whether the mean loss at some point is no better than that of weights that are all zero, which is well above the loss at w*."""
        if zeros is None:
            return False
        lost = (self.mean_loss >= zeros) & is_well_above(zeros, self.loss)
        return bool(lost[points].any())

    def slowest(self) -> tuple[str, float]:
        """The quantity that forgets most slowly at any point, and its autocorrelation time in iterations."""
        times = {name: float(np.nanmax(values, initial=1.0)) for name, values in self.autocorrelation.items()}
        name = max(times, key=times.__getitem__)
        return name, times[name]


def operations_of_example(plan: Plan, params: Params) -> float:
    """Floating-point operations of the gradient of one example, as the compiler counts them; nothing is compiled."""
    posterior = plan.posterior(split_objects(params)[0])
    count = COUNTED_EXAMPLES if plan.loss_kind.by_example else plan.data.batch_size
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), plan.data.resident.arrays)
    lowered = jax.jit(lambda posterior, batch: posterior.loss_and_grad(posterior.position(), batch)).lower(posterior, batch)
    return max(float((lowered.cost_analysis() or {}).get("flops", 0.0)) / count, 1.0)


def suitable_batch_size(plan: Plan, params: Params) -> int:
    """Examples in which each weight is used about `POSITIONS` times: by the operations of the gradient of one example, six for each use."""
    if isinstance(plan.data, Stream):
        return plan.data.batch_size
    positions = max(operations_of_example(plan, params) / (6 * plan.facts["num_weights"]), 1)
    return int(np.clip(2 ** round(math.log2(POSITIONS / positions)), 4, min(256, plan.data.num_examples)))


def reading_seconds(data: Data, num_chains: int) -> float:
    """Seconds in which the batches of an iteration are read; 0 where the data lie on the devices."""
    if not isinstance(data, Stream):
        return 0.0
    windows = np.linspace(0, data.num_examples - 1, num_chains * READ_ITERATIONS).astype(np.int64).reshape(-1, num_chains).T
    began = time.perf_counter()
    data.read(windows)
    return (time.perf_counter() - began) / READ_ITERATIONS


def gradient_seconds(plan: Plan, params: Params) -> float:
    """Seconds of a gradient of all data for all chains: timed on one chain, and on as many examples as about `PROBED_OPERATIONS` allow."""
    posterior = plan.posterior(split_objects(params)[0])
    count = int(np.clip(PROBED_OPERATIONS / operations_of_example(plan, params), COUNTED_EXAMPLES, PROBED_EXAMPLES))
    count = min(plan.data.resident.num_examples, count) if plan.loss_kind.by_example else plan.data.batch_size
    batch = jax.tree.map(jnp.asarray, plan.data.resident.first(count))
    function = jax.jit(lambda posterior, batch: losses_and_gradient(posterior, posterior.position(), batch))
    losses, gradient = jax.block_until_ready(function(posterior, batch))
    _check_gradient(losses, gradient, batch)
    seconds = []
    for _ in range(NUM_TIMED):
        began = time.perf_counter()
        jax.block_until_ready(function(posterior, batch))
        seconds.append(time.perf_counter() - began)
    return min(seconds) * plan.data.num_examples / count * plan.settings.num_chains / plan.num_devices


def _check_gradient(losses: jax.Array, gradient: Params, batch: Batch) -> None:
    """Raise where the loss at w* has a value and its gradient has none: no chain could move."""
    bad = _not_finite(gradient)
    if not bad or not np.isfinite(np.asarray(losses, np.float32)).all():
        return
    data = _not_finite(batch)
    why = f"the data have values that are not finite: {', '.join(data[:6])}" if data else "look for functions without a derivative, such as sqrt or a norm at 0"
    raise NotFiniteError(0, f"the loss at w* is finite, but its gradient is not: {', '.join(bad[:6])}; {why}.")


def _not_finite(tree: Any) -> list[str]:
    """Names of the leaves of this process with values that are not finite; on the host, where that needs no compilation."""
    leaves = {name: leaf for name, leaf in named_leaves(split_objects(tree)[0]).items() if is_real(leaf) and getattr(leaf, "is_fully_addressable", True)}
    return [name for name, leaf in leaves.items() if not np.isfinite(np.asarray(leaf, np.float32)).all()]


def run_pilot(
    plan: Plan,
    centers: list[Params],
    *,
    factors: Any = None,
    localizations: Any = None,
    nbetas: Any = None,
    together: int | None = None,
    every: int | None = None,
) -> Pilot:
    """A run of the plan at K points.

    Args:
        plan: whose settings are those of the pilot.
        centers: weights, K of them.
        factors: of the step size at each point, `[K]`; None leaves it.
        localizations: at each point, `[K]`; None takes that of the settings.
        nbetas: at each point, `[K]`; None takes that of the settings.
        together: points that run in one program, one group after the other, a divisor of K; None for all.
        every: iterations from one evaluation of slow quantities to the next, which with `together` make the program that of a run; None for what is usual.
    """
    count, size = len(centers), together or len(centers)
    nbeta = np.broadcast_to(np.float32(plan.nbeta if nbetas is None else nbetas), count)
    localization = np.broadcast_to(np.float32(plan.settings.localization if localizations is None else localizations), count)
    factors, traces, timed = None if factors is None else np.asarray(factors, np.float32), [], []
    for group in (slice(start, start + size) for start in range(0, count, size)):
        stamps: list[tuple[float, int]] = [(time.perf_counter(), 0)]
        sampler = plan.sampler if factors is None else plan.sampler.with_step_factors(factors[group])
        posterior = plan.posterior(stack([split_objects(params)[0] for params in centers[group]]))
        posterior = dataclasses.replace(posterior, localization=localization[group], nbeta=nbeta[group])
        mesh = None if plan.mesh is not None and plan.mesh.shape.get("step", 1) > 1 else plan.mesh  # which need not divide the points
        pace = Pace(min(plan.sampler.block, max(LEAST_BLOCK, -(-plan.settings.num_iterations // NUM_BLOCKS))), every)
        traces.append(
            sample(
                plan.key, sampler, posterior, plan.data, stacked=True, mesh=mesh, dispersion=plan.settings.dispersion, block=pace,
                on_steps=lambda done, stamps=stamps: stamps.append((time.perf_counter(), done)), **plan.settings.counts(),
            )
        )  # fmt: skip
        timed.append(_seconds(stamps))
    seconds, compilation = np.sum([each[0] for each in timed]), timed[0][1]
    return _read(jax.tree.map(lambda *leaves: np.concatenate(leaves), *traces), plan, nbeta, float(seconds), compilation)


def _seconds(stamps: list[tuple[float, int]]) -> tuple[float, float]:
    """Of an iteration, and of what came before the first block ended beside its iterations, by the moments at which so many more were done."""
    first, last = stamps[1][0], stamps[-1][0]
    seconds = (last - first) / sum(done for _, done in stamps[2:])
    return seconds, max(first - stamps[0][0] - seconds * stamps[1][1], 0.0)


def _read(trace: Trace, plan: Plan, nbeta: np.ndarray, seconds: float, compilation: float) -> Pilot:
    settings = plan.settings
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # chains that diverged
        llc, error, _, ess = moments(nbeta[:, None, None] * trace.excess_loss - trace.step_bias)
        step_bias = trace.step_bias.mean((-2, -1))
        times = {"the loss": settings.num_chains * settings.num_draws * settings.thinning / ess}
        for name, values in (("the distance from w*", trace.squared_distance), ("the loss of a fixed batch", trace.probe_loss)):
            burn_in = round(values.shape[-1] * settings.num_burn_in / settings.num_iterations)
            drawn = settings.num_chains * (settings.num_iterations - settings.num_burn_in)
            times[name] = drawn / moments(values[..., burn_in:])[3] if values.shape[-1] - burn_in >= LEAST_EVALUATIONS else np.full(len(llc), np.nan)
    acceptance = np.full(len(llc), np.nan) if trace.acceptance_rate is None else trace.acceptance_rate.mean((-2, -1))
    mean_loss = trace.full_center_loss + trace.excess_loss.mean((-2, -1))
    return Pilot(llc, error, step_bias, acceptance, trace.full_center_loss, mean_loss, times, seconds, compilation)
