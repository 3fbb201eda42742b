r"""Gradient noise that the prior absorbs, read off the chains: what SGLD's `step_bias` counts too much.

Noise of covariance $S$ in the gradient of a batch's mean loss raises $U$ by $\frac{\epsilon}{8} n^2\beta^2\,\mathrm{tr}\,S$, all of which `step_bias` counts.
Along a direction of curvature $a = n\beta h + \gamma$ only the share $n\beta h / a$ of it is the loss's; $\gamma / a$ is the prior's.
With $C$ the covariance of the chains at one iteration, which obeys $\dot C = \epsilon\,(1 - \frac12 (aC + Ca))$ and becomes $1 / a$,

$$\text{counted too much} = \frac{\epsilon}{8} n^2\beta^2\,\Big(\gamma\,\mathrm{tr}\,SC + \frac1\epsilon \frac{d}{dt}\,\mathrm{tr}\,SC\Big).$$

The second term vanishes in equilibrium; it is what directions that are still on their way keep out of the loss. Nothing has to be evaluated for
$\mathrm{tr}\,SC$: a batch $B$ at position $x = w - w^*$ has the virial $g_B \cdot x$ and the paired loss $L_B(w) - L_B(w^*)$, and their covariance over batches
is $x^T S x$, so on average $\mathrm{tr}\,SC + m^T S m$ with $m$ the mean of $x$ over chains.

*Covariance over batches* at one position: batches are independent from draw to draw and positions are not, so that it is the covariance of the two series
of a chain less what their covariances at lags of one and two draws say of lag zero.

*Of the mean position*: draws of different chains whose batches overlap share noise and not the position, and their covariance is $m^T S m$ times the share.
It is fitted to all pairs of draws of different chains at once. That also takes off what the mean curvatures of examples add.
"""

from typing import NamedTuple

import numpy as np

MAX_BINS = 2**16
"""Of where batches begin; sixteen for the length of a batch are enough."""
MIN_PAIRS = 1000
"""Pairs of draws of overlapping batches that are looked for in batches that begin farther apart."""


class Law(NamedTuple):
    """What the chains sample, and how."""

    nbeta: float
    localization: float
    step_size: float | None
    r"""Mean $\epsilon$ over the draws; None leaves the second term out."""
    thinning: int
    """Iterations from one draw to the next."""


class Absorbed(NamedTuple):
    r"""What is counted too much, in units of $\hat\lambda$."""

    mean: float
    by_chain: np.ndarray
    """`[C]`, jackknife pseudo-values less their mean, whose spread tells the statistical error; zero for chains that diverged."""


def absorbed_along_chains(
    virial: np.ndarray,
    excess_loss: np.ndarray,
    window: np.ndarray,
    law: Law,
    *,
    num_examples: int,
    batch_size: int,
) -> Absorbed:
    r"""What `step_bias` counts too much at one checkpoint.

    Args:
        virial: `[C, T]`, `Info.virial` at the draws of chains that did not diverge.
        excess_loss: `[C, T]`, see `Trace`.
        window: `[C, T]`, where the draws' batches begin.
        law: what the chains sample.
        num_examples: $n$.
        batch_size: examples of a batch.
    """
    num_chains, num_draws = virial.shape
    half = num_draws // 2
    if num_chains < 2 or half < 4:
        return Absorbed(0.0, np.zeros(num_chains))
    parts = [_parts(virial[:, s], excess_loss[:, s], window[:, s], num_examples, batch_size) for s in (slice(half), slice(num_draws - half, None))]

    def value(chosen: np.ndarray) -> float:
        first, second = (float(of_positions[chosen].mean()) - _of_mean(pairs, weights, chosen) for of_positions, pairs, weights in parts)
        moving = 0.0 if law.step_size is None else (second - first) / (law.step_size * law.thinning * (num_draws - half))
        return law.nbeta * (law.localization * (first + second) / 2 + moving)

    everyone = np.ones(num_chains, bool)
    mean = value(everyone)
    if num_chains < 3:
        return Absorbed(mean, np.zeros(num_chains))
    without = np.array([value(np.arange(num_chains) != chain) for chain in range(num_chains)])
    return Absorbed(mean, (num_chains - 1) * (without.mean() - without))


def _of_mean(products: np.ndarray, weights: np.ndarray, chosen: np.ndarray) -> float:
    rows = np.ix_(chosen, chosen)
    pairs, weight = products[rows], weights[rows]
    weight = weight.sum() - np.trace(weight)
    return float((pairs.sum() - np.trace(pairs)) / weight) if weight > 0 else 0.0


def _parts(virial: np.ndarray, loss: np.ndarray, window: np.ndarray, num_examples: int, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of some draws: covariance over batches of each chain, `[C]`; products of all pairs of chains with overlapping batches, and their weights, `[C, C]`."""
    p, e = virial - virial.mean(), loss - loss.mean()

    def lagged(lag: int) -> np.ndarray:
        stop = p.shape[-1] - lag
        return ((p[:, :stop] * e[:, lag:]).mean(-1) + (p[:, lag:] * e[:, :stop]).mean(-1)) / 2

    of_positions = lagged(0) - (2 * lagged(1) - lagged(2))
    bins = int(min(np.ceil(16 * num_examples / batch_size), num_examples, MAX_BINS))
    kernel = _overlap(bins, num_examples, batch_size, MIN_PAIRS * num_examples / p.size**2)
    where = np.minimum(window.astype(np.int64) * bins // num_examples, bins - 1)

    def in_bins(values: np.ndarray) -> np.ndarray:
        return np.fft.rfft(np.stack([np.bincount(at, one, bins) for at, one in zip(where, values, strict=True)]))

    twice = np.full(bins // 2 + 1, 2.0)  # a real series has each frequency twice but the first, and the last of an even number
    twice[0] = twice[-1] = 1.0
    twice[-1] += bins % 2

    def pairs(a: np.ndarray, b: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return ((a.conj() * (np.fft.rfft(kernel).real * twice)) @ b.T).real / bins

    counts = in_bins(np.ones_like(p))
    return of_positions, pairs(in_bins(p), in_bins(e), kernel), pairs(counts, counts, kernel**2)


def _overlap(bins: int, num_examples: int, batch_size: int, needed: float) -> np.ndarray:
    """Covariance of the means of two batches, in units of the variance of one, by the distance of the bins in which they begin, `[bins]`.

    It is left out, zero, beyond an eighth of a batch, or the distance that is `needed` where that is more: where a data set holds few batches its own
    covariances are not those of random examples, but near one another they are.
    """
    width = num_examples / bins
    reach = int(min(np.ceil(max(needed, batch_size / 8) / width), np.ceil(batch_size / width), (bins - 1) // 2))
    within = (np.arange(8) + 0.5) / 8 if width > 1 else np.zeros(1)
    distance = np.abs(np.arange(reach + 1)[:, None, None] + within[:, None] - within) * width
    share = np.maximum(1 - distance / batch_size, 0) + np.maximum(1 - (num_examples - distance) / batch_size, 0)
    near = (share.mean((-2, -1)) - batch_size / num_examples) / (1 - batch_size / num_examples)
    kernel = np.zeros(bins)
    kernel[: reach + 1] = near
    kernel[bins - reach :] = near[1:][::-1]
    return kernel
