"""What a run records of its blocks of iterations, on the host: losses at the draws, and the evaluations of probes, whole or reduced."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllc.placement import fetch
from jaxllc.probes import Probe
from jaxllc.reductions import REDUCTIONS, Reduction

MAX_REPEATED = 0.9
"""Share of a chain's draws that may have the loss of the draw before; on minibatches none has."""


class Trace(NamedTuple):
    """What a run leaves, as numpy arrays: K checkpoints, C chains, T draws; without K where one posterior was given. Losses in nats per example.

    Examples:
        >>> posterior, batches = jaxllc.LocalPosterior(loss_fn, params, nbeta=145.0), jaxllc.InMemory.of(data, batch_size=256)
        >>> trace = jaxllc.sample(jax.random.key(0), jaxllc.SGLD(1e-3), posterior, batches, num_chains=8, num_draws=500)
        >>> round(145.0 * float((trace.excess_loss - trace.step_bias / 145.0).mean()))  # λ̂
        2
    """

    excess_loss: np.ndarray
    r"""`[K, C, T]`: mean over the draw's batch of the loss at the draw minus the loss of the same example at $w^*$."""
    center_loss: np.ndarray
    r"""`[K, C, T]`: mean loss of the same batch at $w^*$; their sum is the loss at the draw."""
    step_bias: np.ndarray
    r"""`[K, C, T]`: `Info.step_bias`, of which the mean counts: what the finite step and noisy gradients add to $n\beta\, E[L_n]$."""
    full_center_loss: np.ndarray
    r"""`[K]`: $L_n(w^*)$, over all examples, or of a stream over the batches of the draws."""
    gaussian_excess: np.ndarray
    r"""`[K, C]`: mean excess loss of $N(w^*, 1/\gamma)$, the prior alone; inf or NaN where $\gamma = 0$."""
    rounding_excess: np.ndarray
    """`[K]`: excess loss by the rounding of weights to the model's own dtype; 0 where that has 32 bits or more."""
    share_moved: np.ndarray
    """`[K, C]`: share of the free weights that are not where they began; 1 unless losses repeat, where alone it is looked at."""
    acceptance_rate: np.ndarray | None = None
    """`[K, C, T]`: probabilities with which proposals were accepted; None for a sampler that accepts every step."""
    squared_distance: np.ndarray = np.zeros(0)
    r"""`[K, C, W]`: $\lVert w - w^* \rVert^2$ over the free weights, before each of W iterations, from the first of burn-in on (`probes.Timetable.every`)."""
    probe_loss: np.ndarray = np.zeros(0)
    """`[K, C, W]`: there, the mean excess loss over w* of one batch that is always the same; of all examples where batches hold them all."""
    virial: np.ndarray | None = None
    """`[K, C, T]`: `Info.virial` of a sampler that gives it."""
    window: np.ndarray | None = None
    """`[K, C, T]`: where the draw's batch begins in the data, beside `virial`."""
    probes: dict[str, np.ndarray] = {}  # noqa: RUF012 - of a NamedTuple, whose defaults are not changed
    """`[K, C, W, ...]` of each probe that is kept whole, at its W evaluations; of one that is reduced `<name>_mean` and so on (see `jaxllc.reductions`)."""
    full_center_loss_error: np.ndarray | None = None
    """`[K]`: the standard error of `full_center_loss` of a stream; None where that is over all examples."""


class Block(NamedTuple):
    """What a block of iterations gives, on the devices; its arrays have room for more iterations and evaluations, which are zero."""

    iterations: range
    running: jax.Array
    """`[3 to 6, K, C, iteration]`: excess loss, loss at the centre, step bias; if any, the acceptance rate; if any, virial and start of the batch.

    Where weights are split over devices, it has further axes that are to be added up (see `jaxllc.layout.stack_sums`)."""
    slow: jax.Array
    """`[2, K, C, evaluation]`: squared distance from w*, and the excess loss of one fixed batch; with such further axes too."""
    probes: Mapping[str, jax.Array]
    """`[C, K, ...]` of those that are evaluated at its end."""


class Recording:
    """Draws and evaluations so far.

    Args:
        shape: K, C, T.
        draws: the iterations whose positions are draws.
        dtype: of the losses.
        probes: what is evaluated along the chains.
        every: iterations from one evaluation of the slow quantities to the next.
    """

    def __init__(self, shape: tuple[int, int, int], draws: range, dtype: Any, probes: Mapping[str, Probe], every: int) -> None:
        self._shape, self._dtype = shape, dtype
        self.draws: range = draws
        self._running: np.ndarray | None = None
        self._slow: list[np.ndarray] = []
        self._num_slow, self._every = len(range(0, draws[-1] + 1, every)), every
        self._whole: dict[str, list[np.ndarray]] = {name: [] for name, probe in probes.items() if probe.reduce is None}
        self._reduced: dict[str, Reduction] = {name: REDUCTIONS[probe.reduce]() for name, probe in probes.items() if probe.reduce is not None}

    def add(self, block: Block, on_steps: Callable[[int], Any] | None) -> None:
        """Fetch a block, of which the last iterations may lie beyond the last draw."""
        running, steps, draws = _total(block.running), block.iterations, self.draws
        if self._running is None:
            self._running = np.empty((len(running), *self._shape), self._dtype)
        first, stop = (min(max(-(-(step - draws.start) // draws.step), 0), len(draws)) for step in (steps.start, steps.stop))
        if first < stop:
            mine = draws[first:stop]
            self._running[..., first:stop] = running[..., mine[0] - steps.start : mine[-1] - steps.start + 1 : mine.step]
        self._slow.append(_total(block.slow)[..., : len(steps) // self._every])
        for name, values in block.probes.items():
            by_checkpoint = np.swapaxes(fetch(values), 0, 1)
            if name in self._whole:
                self._whole[name].append(by_checkpoint)
            else:
                self._reduced[name].add(by_checkpoint)
        if on_steps is not None:
            on_steps(min(steps.stop, draws[-1] + 1) - steps.start)

    def repeats(self) -> bool:
        """Whether some chain has nearly everywhere the loss of the draw before."""
        assert self._running is not None
        return bool(repeating(self._running[0]).any())

    def trace(self, full_center_loss: np.ndarray, gaussian_excess: np.ndarray, rounding_excess: np.ndarray, share_moved: np.ndarray) -> Trace:
        """All that was recorded, beside the full-data quantities."""
        assert self._running is not None
        excess, center, bias = self._running[:3]
        acceptance = self._running[3] if len(self._running) in (4, 6) else None
        virial, window = self._running[-2:] if len(self._running) > 4 else (None, None)
        probes = {name: np.stack(values, 2) for name, values in self._whole.items()}
        probes |= {f"{name}_{ending}": array for name, reduction in self._reduced.items() for ending, array in reduction.results().items()}
        distance, probe_loss = np.concatenate(self._slow, -1)[..., : self._num_slow].astype(np.float32)
        return Trace(
            excess, center, bias, full_center_loss, gaussian_excess, rounding_excess, share_moved, acceptance, distance, probe_loss, virial, window, probes
        )


def with_center_loss_seen(trace: Trace) -> Trace:
    r"""The trace of K checkpoints with $L_n(w^*)$ from the batches of the draws: they begin at random, each by itself, so their means are independent."""
    by_batch = trace.center_loss.reshape(len(trace.center_loss), -1).astype(float)
    count, mean = by_batch.shape[-1], by_batch.mean(-1)
    error = by_batch.std(-1, ddof=1) / np.sqrt(count) if count > 1 else np.full(len(by_batch), np.nan)
    return trace._replace(full_center_loss=mean.astype(trace.center_loss.dtype), full_center_loss_error=error.astype(trace.center_loss.dtype))


def _total(sums: jax.Array) -> np.ndarray:
    """On the host, with the sums of single devices (see `jaxllc.layout.inner`), if any, added up: the axes after the fourth."""
    values = fetch(sums)
    return values if values.ndim == 4 else values.sum(tuple(range(4, values.ndim)))


def repeating(draws: np.ndarray) -> np.ndarray:
    """Which chains of `[..., chain, draw]` have nearly everywhere the value of the draw before, `[..., chain]`; not those with values that are not finite."""
    repeated = draws[..., 1:] == draws[..., :-1]
    return np.isfinite(draws).all(-1) & (repeated.sum(-1) > MAX_REPEATED * repeated.shape[-1])
