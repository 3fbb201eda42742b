"""The covariance of two quantities along chains, and what each chain gives of it, in stretches of rows."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxllc.series import Series

STRETCH_BYTES = 2**26
"""Of what each chain gives for a stretch of rows."""


class Pair(NamedTuple):
    """Two quantities along the chains of one line, about the means of all chains."""

    products: Callable[[slice], np.ndarray]
    """Mean products of some of the first with all of the second, of each chain, `[C, n, M]`."""
    means: tuple[np.ndarray, np.ndarray]
    """Of each chain, `[C, N]` and `[C, M]`."""
    squares: tuple[np.ndarray, np.ndarray]
    """Mean squares of each chain, `[C, N]` and `[C, M]`."""

    def stretches(self) -> Iterator[slice]:
        """Rows that are done at once."""
        chains, columns = self.means[1].shape
        size = max(STRETCH_BYTES // max(8 * chains * columns, 1), 1)
        return (slice(start, start + size) for start in range(0, self.means[0].shape[-1], size))

    def covariance(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """The covariance of some rows with all columns, `[n, M]`, and what each chain gives, `[C, n, M]`."""
        by_chain = self.products(part)
        return by_chain.mean(0) + _of_mean(self.means[0][:, part], self.means[1]), by_chain

    def correlation(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """The correlation, and to first order what each chain gives."""
        covariance, by_chain = self.covariance(part)
        (scale, moved), (other_scale, other_moved) = (self._scale(which) for which in (0, 1))
        product = scale[part, None] * other_scale[None, :]
        correlation = covariance / product
        return correlation, by_chain / product - correlation * (moved[:, part, None] + other_moved[:, None, :])

    def _scale(self, which: int) -> tuple[np.ndarray, np.ndarray]:
        """Standard deviations, `[N]`, and half of each chain's variance over that of all, `[C, N]`; NaN of what does not vary."""
        squares, means = self.squares[which], self.means[which]
        variance = squares.mean(0) + ((means**2).sum(0) / (len(means) * (len(means) - 1)) if len(means) > 1 else 0.0)
        variance = np.where(variance > 0, variance, np.nan)
        return np.sqrt(variance), squares / variance / 2


def pairs(left: Series, right: Series) -> Iterator[Pair | None]:
    """The two quantities of each line, of chains that did not diverge; None where all did."""
    for line in range(left.lines):
        if left.has_moments:
            mean, covariance, count = left.moments(line)
            good = np.isfinite(mean).all(1)
            yield of_moments(mean[good], covariance[good], count) if good.any() else None
        else:
            x, y = left.one(line), right.one(line)
            good = finite(x, y)
            yield of_draws(centred(x[good]), centred(y[good])) if good.any() else None


def of_draws(x: np.ndarray, y: np.ndarray) -> Pair:
    """Of `[C, T, N]` and `[C, T, M]`."""
    return Pair(lambda part: np.matmul(np.swapaxes(x[..., part], 1, 2), y) / x.shape[1], (x.mean(1), y.mean(1)), ((x**2).mean(1), (y**2).mean(1)))


def of_moments(mean: np.ndarray, covariance: np.ndarray, count: int) -> Pair:
    """Of the mean and covariance of each chain over so many evaluations, `[C, N]` and `[C, N, N]`."""
    off, share = mean - mean.mean(0), (count - 1) / count
    squares = share * np.diagonal(covariance, axis1=1, axis2=2) + off**2
    return Pair(lambda part: share * covariance[:, part] + off[:, part, None] * off[:, None, :], (off, off), (squares, squares))


def finite(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which chains did not diverge, `[C]`."""
    return np.asarray(np.isfinite(x).all((1, 2)) & np.isfinite(y).all((1, 2)))


def centred(draws: np.ndarray) -> np.ndarray:
    """`[C, T, N]` about the mean of all chains, in float64."""
    return draws.astype(float) - draws.mean((0, 1), dtype=float)


def _of_mean(x: np.ndarray, y: np.ndarray) -> np.ndarray | float:
    """The covariance of the errors of two means over chains, by the chains' own means, `[C, N]` and `[C, M]`."""
    return x.T @ y / (len(x) * (len(x) - 1)) if len(x) > 1 else 0.0
