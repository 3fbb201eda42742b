r"""Covariances of losses along the chains: Bayesian influence functions, loss kernels and susceptibilities, each with its error.

*Influence* of an example on an observable (Kreer et al., arXiv:2509.26544): $\mathrm{BIF}(z_i, \phi) = -\mathrm{Cov}(\ell_i(w), \phi(w))$ under the local
posterior, which is how the mean of $\phi$ answers to a weight on $\ell_i$.

*Loss kernel* (Adam et al., arXiv:2509.26537): $\mathrm{Cov}(\ell_i, \ell_j)$, or the correlation.

*Susceptibility* of a component $C$ to a shift of the data towards $x$ (Baker et al., arXiv:2504.18274): $\chi = -\mathrm{Cov}_C(\phi, \ell_x - L)$ with
$\phi = L(w) - L(w^*)$, in the posterior where the weights of the component move. With the posterior of all weights beside it, means of $\ell_x - L$ are
taken there, as that paper does: $\chi = -E_C[\phi\,(\ell_x - L)] + E_C[\phi]\, E[\ell_x - L]$.

What is read is a `jaxllc.Probe` along the chains, of shape `[N]` or `[sequence, token]`. The covariance is that of all chains together, about their common
mean; the error of that mean is added back, by the spread of the chains' means, so that it is unbiased where chains are stationary and independent. Errors are
by the spread of what each chain gives. Nothing of N × N is held but the results, which come in stretches of rows.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxllc import diagnostics, estimator, results
from jaxllc.diagnostics import Finding
from jaxllc.series import Result, Series

if TYPE_CHECKING:
    import xarray


STRETCH_BYTES = 2**26
"""Of what each chain gives for a stretch of rows."""
LEAST_RELIABILITY = 0.5
"""Share of the mean square of the values that is no Monte-Carlo noise, below which there is a finding."""


@dataclasses.dataclass(frozen=True)
class Covariances:
    """Values with their errors, of each checkpoint and component. Made by `influence`, `loss_kernel` and `susceptibilities`."""

    data: "xarray.Dataset"
    """`value` and `std_error` over `run`, `step` and `component`, as the result has them, and over `element` and `element_other` or those of the probe."""
    reliability: np.ndarray
    """The share of the mean square of the values, but for the diagonal, that is no Monte-Carlo noise, of each checkpoint and component; at most 1."""
    findings: list[tuple[Finding, ...]]
    """Of each checkpoint and component in order: those of its chains, and "noise" where the values are hardly known."""

    @property
    def value(self) -> np.ndarray:
        """The values."""
        return np.asarray(self.data["value"].values)

    @property
    def std_error(self) -> np.ndarray:
        """Their standard errors; NaN for one chain."""
        return np.asarray(self.data["std_error"].values)

    def plot(self, labels: Sequence[Any] | None = None) -> Any:
        """The matrix of one checkpoint, its elements in clusters; of susceptibilities a map of the elements in two dimensions. Gives the matplotlib axes.

        Args:
            labels: of the elements, for colours and ticks.

        Raises:
            ValueError: several checkpoints, of which `data.isel` takes one.
        """
        from jaxllc.plots_of_covariances import plot_influence, plot_susceptibilities

        data = self.data.squeeze([axis for axis in (results.RUN, results.STEP) if self.data.sizes.get(axis) == 1])
        if set(data.dims) & {results.RUN, results.STEP}:
            raise ValueError("these are several checkpoints; take one by dataclasses.replace(x, data=x.data.sel(step=[...])).")
        return plot_influence(data, labels) if "element_other" in data.dims else plot_susceptibilities(data, labels)


def influence(result: Result, examples: str, observables: str | None = None, *, correlation: bool = False) -> Covariances:
    r"""The influence of each example on each observable, $-\mathrm{Cov}(\ell_i, \phi_j)$, or minus their correlation.

    Args:
        result: with probes along the chains, kept whole, or one with `reduce="covariance"`, whose N × N numbers a chain are then all that is kept.
        examples: the probe of the examples' losses.
        observables: the probe of the observables; default the same.
        correlation: of the correlation, which does not grow with the losses.

    Raises:
        KeyError: no such probe along the chains.
        ValueError: a probe that was reduced in another way.
    """
    return _matrix(result, examples, observables or examples, correlation, sign=-1.0)


def loss_kernel(result: Result, examples: str, *, correlation: bool = False) -> Covariances:
    r"""The covariance of the losses of any two examples, $\mathrm{Cov}(\ell_i, \ell_j)$, or their correlation. Raises what `influence` raises."""
    return _matrix(result, examples, examples, correlation, sign=1.0)


def susceptibilities(result: Result, examples: str, *, whole: str | None = None, groups: Sequence[Any] | None = None) -> Covariances:
    r"""The susceptibility $\chi$ of each component to each example, or to each group of examples.

    Args:
        result: with a probe along the chains and at the checkpoint, kept whole.
        examples: that probe, of the losses of examples or tokens that stand for the data: their mean is $L$.
        whole: the component of all weights, whose posterior has the means of $\ell_x - L$; None takes those of each component itself.
        groups: a label for each element of the probe, flattened: $\ell_x$ is then the mean over the elements of a label, an axis `group`.

    Raises:
        KeyError: no such probe along the chains, or no component `whole`.
        ValueError: a probe that was reduced or is not evaluated at the checkpoint, or labels of another number.
    """
    series = Series.of(result, examples)
    at_center = series.at_center()
    names, members = _groups(groups, series.size)
    value, error = np.full((2, series.lines, len(names)), np.nan)
    for i, draws in enumerate(series.draws()):
        beside = draws if whole is None else series.one(series.line_of(i, whole))
        finite = _finite(draws, beside)
        draws, beside = draws[finite], beside[finite]
        mean = draws.mean(-1)
        phi = mean - at_center[i].mean()
        off = np.stack([draws[..., one].mean(-1) for one in members], -1) - mean[..., None]
        about = None if whole is None else np.stack([beside[..., one].mean((1, 2)) for one in members], -1) - beside.mean((1, 2))[:, None]
        value[i], error[i] = _susceptibility(phi, off, about)
    shape, dims, coords = series.place()
    last = {"group": np.asarray(names)} if groups is not None else {}
    own = ("group",) if groups is not None else series.own_dims
    own_shape = (len(names),) if groups is not None else series.own_shape
    return _result(result, series, (value, error), (*shape, *own_shape), (*dims, *own), coords | last)


def _susceptibility(phi: np.ndarray, off: np.ndarray, about: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    r"""$\chi$ and its error, `[G]`.

    Args:
        phi: `[C, T]`.
        off: $\ell_x - L$, `[C, T, G]`.
        about: its means in the posterior of all weights, by chain, `[C, G]`.
    """
    covariance, by_chain = _of_draws(_centred(phi[..., None]), _centred(off)).covariance(slice(None))
    covariance, by_chain = covariance[0], by_chain[:, 0]
    if about is not None:
        shift = off.mean((0, 1)) - about.mean(0)
        each = off.mean(1) - about
        covariance = covariance + phi.mean() * shift
        by_chain = by_chain + phi.mean(1)[:, None] * shift + phi.mean() * (each - shift)
    return -covariance, by_chain.std(0, ddof=1) / np.sqrt(len(phi)) if len(phi) > 1 else np.full(off.shape[-1], np.nan)


def _groups(groups: Sequence[Any] | None, size: int) -> tuple[list[Any], list[np.ndarray]]:
    """The names of groups, and the elements of each; every element by itself where there are none."""
    if groups is None:
        return list(range(size)), [np.array([i]) for i in range(size)]
    labels = np.asarray(groups).reshape(-1)
    if len(labels) != size:
        raise ValueError(f"groups has {len(labels)} labels, and the probe {size} elements; give one for each.")
    names = list(dict.fromkeys(labels.tolist()))
    return names, [np.flatnonzero(labels == name) for name in names]


def _matrix(result: Result, rows: str, columns: str, correlation: bool, *, sign: float) -> Covariances:
    left, right = Series.of(result, rows, moments=rows == columns), Series.of(result, columns, moments=rows == columns)
    value, error = np.full((2, left.lines, left.size, right.size), np.nan, np.float32)
    for i, pair in enumerate(_pairs(left, right)):
        for part in pair.stretches():
            whole, by_chain = pair.correlation(part) if correlation else pair.covariance(part)
            value[i, part] = sign * whole
            if len(by_chain) > 1:
                error[i, part] = by_chain.std(0, ddof=1) / np.sqrt(len(by_chain))
    shape, dims, coords = left.place()
    return _result(result, left, (value, error), (*shape, left.size, right.size), (*dims, "element", "element_other"), coords)


class _Pair(NamedTuple):
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


def _pairs(left: Series, right: Series) -> Iterator[_Pair]:
    """The two quantities of each line, of chains that did not diverge."""
    for line in range(left.lines):
        if left.has_moments:
            yield _of_moments(*left.moments(line))
            continue
        x, y = left.one(line), right.one(line)
        finite = _finite(x, y)
        yield _of_draws(_centred(x[finite]), _centred(y[finite]))


def _of_draws(x: np.ndarray, y: np.ndarray) -> _Pair:
    """Of `[C, T, N]` and `[C, T, M]`."""
    return _Pair(lambda part: np.matmul(np.swapaxes(x[..., part], 1, 2), y) / x.shape[1], (x.mean(1), y.mean(1)), ((x**2).mean(1), (y**2).mean(1)))


def _of_moments(mean: np.ndarray, covariance: np.ndarray, count: int) -> _Pair:
    """Of the mean and covariance of each chain over so many evaluations, `[C, N]` and `[C, N, N]`."""
    finite = np.isfinite(mean).all(1)
    mean, covariance = mean[finite], covariance[finite]
    off, share = mean - mean.mean(0), (count - 1) / count
    squares = share * np.diagonal(covariance, axis1=1, axis2=2) + off**2
    return _Pair(lambda part: share * covariance[:, part] + off[:, part, None] * off[:, None, :], (off, off), (squares, squares))


def _finite(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which chains did not diverge, `[C]`."""
    return np.asarray(np.isfinite(x).all((1, 2)) & np.isfinite(y).all((1, 2)))


def _centred(draws: np.ndarray) -> np.ndarray:
    """`[C, T, N]` about the mean of all chains, in float64."""
    return draws.astype(float) - draws.mean((0, 1), dtype=float)


def _of_mean(x: np.ndarray, y: np.ndarray) -> np.ndarray | float:
    """The covariance of the errors of two means over chains, by the chains' own means, `[C, N]` and `[C, M]`."""
    return x.T @ y / (len(x) * (len(x) - 1)) if len(x) > 1 else 0.0


def _result(
    result: Result,
    series: Series,
    found: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, ...],
    dims: tuple[str, ...],
    coords: dict[str, np.ndarray],
) -> Covariances:
    """The values of all lines, with the findings of their chains."""
    import xarray as xr

    value, error = found
    reliability = np.array([_reliability(one, of) for one, of in zip(value, error, strict=True)])
    of_chains = diagnostics.findings(estimator.summary(series.tree), results.attributes(series.tree))
    findings = [(*some, *_noise(share)) for some, share in zip(of_chains, reliability, strict=True)]
    data = xr.Dataset({"value": (dims, value.reshape(shape)), "std_error": (dims, error.reshape(shape))}, coords)
    if "step" not in result.data["posterior/llc"].dims:
        data = data.squeeze(results.STEP, drop=True)
    return Covariances(data, reliability, findings)


def _reliability(value: np.ndarray, error: np.ndarray) -> float:
    """One less the mean square of the errors over that of the values, row by row for memory's sake; NaN where no error is known."""
    square = value.ndim == 2 and value.shape[0] == value.shape[1] > 1
    values = errors = 0.0
    for i, (row, of) in enumerate(zip(np.atleast_2d(value), np.atleast_2d(error), strict=True)):
        known = np.isfinite(row) & np.isfinite(of)
        if square:  # what an example has to do with itself
            known[i] = False
        values += float((row[known].astype(float) ** 2).sum())
        errors += float((of[known].astype(float) ** 2).sum())
    return 1 - errors / values if values > 0 else np.nan


def _noise(share: float) -> Iterator[Finding]:
    if not share >= LEAST_RELIABILITY:
        known = "their error is unknown" if np.isnan(share) else f"{max(share, 0):.0%} of their mean square is no Monte-Carlo noise"
        times = f", about {np.ceil((1 - share) / share):.0f} times as many," if share > 0 else ""
        yield Finding("noise", f"the values are hardly known: {known}; use more chains or draws{times} or fewer and larger groups of examples")
