r"""Error bars and convergence of draws.

R-hat and ESS are those of Vehtari et al. (arXiv:1903.08008), by ArviZ. The standard error is that of the mean, the larger of two: by the autocorrelation of the
chains (ArviZ), and by the spread of their means. The noise of minibatches is loud and short, flat directions are quiet and long, and a chain's autocorrelation
does not show what is quiet, while independent chains differ by it.
Chains that are not finite count as diverged and are left out of everything else.
"""

import numpy as np


def finite_chains(draws: np.ndarray) -> np.ndarray:
    """Which chains are finite throughout, `[..., chain]`."""
    return np.asarray(np.isfinite(draws).all(-1))


def moments(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, its standard error, R-hat and ESS of each place of `[..., chain, draw]`, over its finite chains; NaN where there are too few draws or chains."""
    from arviz_stats.base import array_stats  # pyright: ignore[reportPrivateImportUsage]  # costs a second: loaded when there is a result to judge

    shape = draws.shape[:-2]
    draws = draws.reshape(-1, *draws.shape[-2:])
    good = finite_chains(draws)
    result = np.full((4, len(draws)), np.nan)
    # Places with the same number of finite chains go through ArviZ together.
    for count in set(good.sum(-1)) - {0}:
        places = np.flatnonzero(good.sum(-1) == count)
        chains = np.stack([draws[place][good[place]] for place in places])
        result[0, places] = chains.mean((-2, -1))
        if chains.shape[-1] >= 4:
            result[1, places] = array_stats.mcse(chains, method="mean")
            result[3, places] = array_stats.ess(chains, method="mean")
            if count > 1:
                result[1, places] = np.fmax(result[1, places], mean_and_error(chains.mean(-1))[1])
                with np.errstate(invalid="ignore", divide="ignore"):  # chains that stand still
                    result[2, places] = array_stats.rhat(chains, method="rank")
    mean, error, rhat, ess = result.reshape(4, *shape)
    return mean, error, rhat, ess


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over what is finite along the last axis, chains or runs, and its standard error (NaN for one, whose spread is unknown)."""
    good = np.isfinite(values)
    count = good.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(good, values, 0).sum(-1) / count
        squares = np.where(good, values - mean[..., None], 0) ** 2
        return mean, np.sqrt(squares.sum(-1) / (count - 1) / count)
