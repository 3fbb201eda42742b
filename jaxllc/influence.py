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
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxllc import diagnostics, estimator, results
from jaxllc.covariance import centred, finite, of_draws, pairs
from jaxllc.diagnostics import Finding
from jaxllc.series import Result, Series

if TYPE_CHECKING:
    import xarray


LEAST_RELIABILITY = 0.5
"""Share of the mean square of the values that is no Monte-Carlo noise, below which there is a finding."""


@dataclasses.dataclass(frozen=True)
class Covariances:
    """Values with their errors, of each checkpoint and component. Made by `influence`, `loss_kernel` and `susceptibilities`.

    Examples:
        >>> losses = jaxllc.Probe(loss_fn, jax.tree.map(lambda rows: rows[:20], data), every=10)
        >>> options = {"components": {"linear": "linear", "all": None}, "probes": {"losses": losses}, "sampler": jaxllc.SGLD(1e-3)}
        >>> est = jaxllc.estimate(loss_fn, params, data, key=jax.random.key(0), **options)
        >>> kernel = jaxllc.loss_kernel(est, "losses").sel(component="all")
        >>> kernel.plot()[0].figure.savefig("kernel.png")
    """

    data: "xarray.Dataset"
    """`value` and `std_error` over `run`, `step` and `component`, as the result has them, and over `element` and `element_other` or those of the probe; over
    the former alone `reliability`, the share of the mean square of the values, but for an element with itself, that is no Monte-Carlo noise, and `findings`."""

    @property
    def value(self) -> np.ndarray:
        """The values."""
        return np.asarray(self.data["value"].values)

    @property
    def std_error(self) -> np.ndarray:
        """Their standard errors; NaN for one chain."""
        return np.asarray(self.data["std_error"].values)

    @property
    def reliability(self) -> np.ndarray:
        """The share of the mean square of the values that is no Monte-Carlo noise, of each checkpoint and component; at most 1."""
        return np.asarray(self.data["reliability"].values)

    @property
    def findings(self) -> list[tuple[Finding, ...]]:
        """Of each checkpoint and component in order: those of its chains, and "noise" where the values are hardly known."""
        return list(np.ravel(self.data["findings"].values))

    def sel(self, **labels: Any) -> "Covariances":
        """Those of some checkpoints or components, as `xarray.Dataset.sel` takes them: `step=1000, component="0.1"`."""
        return Covariances(self.data.sel(**labels))

    def plot(self, labels: Sequence[Any] | None = None) -> Any:
        """The matrix of one checkpoint, its elements in clusters; of susceptibilities a map of the elements in two dimensions. Gives the matplotlib axes.

        Args:
            labels: of the elements, for ticks where they are at most 40, or for colours.

        Raises:
            ValueError: several checkpoints, of which `sel` takes one; or labels of another number.
        """
        from jaxllc.plots_of_covariances import plot_influence, plot_susceptibilities

        data = self.data.drop_vars("findings").squeeze([axis for axis in (results.RUN, results.STEP) if self.data.sizes.get(axis) == 1])
        if set(data.dims) & {results.RUN, results.STEP}:
            raise ValueError("these are several checkpoints; take one, as x.sel(step=1000).plot().")
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

    Examples:
        >>> losses = jaxllc.Probe(loss_fn, jax.tree.map(lambda rows: rows[:20], data), every=10)
        >>> est = jaxllc.estimate(loss_fn, params, data, sampler=jaxllc.SGLD(1e-3), probes={"losses": losses}, key=jax.random.key(0))
        >>> jaxllc.influence(est, "losses").value.shape
        (20, 20)
    """
    return _matrix(result, examples, observables or examples, correlation, sign=-1.0)


def loss_kernel(result: Result, examples: str, *, correlation: bool = False) -> Covariances:
    r"""The covariance of the losses of any two examples, $\mathrm{Cov}(\ell_i, \ell_j)$, or their correlation. Raises what `influence` raises.

    Examples:
        >>> losses = jaxllc.Probe(loss_fn, jax.tree.map(lambda rows: rows[:20], data), every=10)
        >>> est = jaxllc.estimate(loss_fn, params, data, sampler=jaxllc.SGLD(1e-3), probes={"losses": losses}, key=jax.random.key(0))
        >>> jaxllc.loss_kernel(est, "losses", correlation=True).value.diagonal().round(3).tolist()[:3]
        [1.0, 1.0, 1.0]
    """
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

    Examples:
        >>> losses = jaxllc.Probe(loss_fn, jax.tree.map(lambda rows: rows[:20], data), every=10)
        >>> options = {"components": {"linear": "linear", "all": None}, "probes": {"losses": losses}, "sampler": jaxllc.SGLD(1e-3)}
        >>> est = jaxllc.estimate(loss_fn, params, data, key=jax.random.key(0), **options)
        >>> jaxllc.susceptibilities(est, "losses", whole="all").value.shape
        (2, 20)
    """
    series = Series.of(result, examples)
    at_center = series.at_center()
    names, members = _groups(groups, series.size)
    value, error = np.full((2, series.lines, len(names)), np.nan)
    for i, draws in enumerate(series.draws()):
        beside = draws if whole is None else series.one(series.line_of(i, whole))
        good = finite(draws, beside)
        draws, beside = draws[good], beside[good]
        if not len(draws):
            continue
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
    covariance, by_chain = of_draws(centred(phi[..., None]), centred(off)).covariance(slice(None))
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
    if not left.has_moments and left.times() != right.times():
        raise ValueError(f"the probes {rows!r} and {columns!r} are evaluated at other iterations of the chains; give them the same every=.")
    for i, pair in enumerate(pairs(left, right)):
        if pair is None:
            continue
        for part in pair.stretches():
            whole, by_chain = pair.correlation(part) if correlation else pair.covariance(part)
            value[i, part] = sign * whole
            if len(by_chain) > 1:
                error[i, part] = by_chain.std(0, ddof=1) / np.sqrt(len(by_chain))
    shape, dims, coords = left.place()
    return _result(result, left, (value, error), (*shape, left.size, right.size), (*dims, "element", "element_other"), coords, of_itself=rows == columns)


def _result(
    result: Result,
    series: Series,
    found: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, ...],
    dims: tuple[str, ...],
    coords: dict[str, np.ndarray],
    of_itself: bool = False,
) -> Covariances:
    """The values of all lines, with the findings of their chains."""
    import xarray as xr

    value, error = found
    reliability = np.array([_reliability(one, of, of_itself) for one, of in zip(value, error, strict=True)])
    of_chains = diagnostics.findings(estimator.summary(series.tree), results.attributes(series.tree))
    findings = np.empty(len(reliability), object)
    findings[:] = [(*some, *_noise(share, bool((one == 0).all()))) for some, share, one in zip(of_chains, reliability, value, strict=True)]
    lines = series.line_dims, series.array.shape[: len(series.line_dims)]
    data = xr.Dataset({"value": (dims, value.reshape(shape)), "std_error": (dims, error.reshape(shape))}, coords)
    data = data.assign({name: (lines[0], array.reshape(lines[1])) for name, array in (("reliability", reliability), ("findings", findings))})
    if "step" not in result.data["posterior/llc"].dims:
        data = data.squeeze(results.STEP, drop=True)
    return Covariances(data)


def _reliability(value: np.ndarray, error: np.ndarray, of_itself: bool) -> float:
    """One less the mean square of the errors over that of the values, row by row for memory's sake; NaN where no error is known."""
    values = errors = 0.0
    for i, (row, of) in enumerate(zip(np.atleast_2d(value), np.atleast_2d(error), strict=True)):
        known = np.isfinite(row) & np.isfinite(of)
        if of_itself:  # what an example has to do with itself
            known[i] = False
        values += float((row[known].astype(float) ** 2).sum())
        errors += float((of[known].astype(float) ** 2).sum())
    return 1 - errors / values if values > 0 else np.nan


def _noise(share: float, nothing: bool) -> Iterator[Finding]:
    """The finding that values are noise, if they are; where `nothing` varies along the chains, that is what is known."""
    if nothing or share >= LEAST_RELIABILITY:
        return
    known = "their error is unknown" if np.isnan(share) else f"{max(share, 0):.0%} of their mean square is no Monte-Carlo noise"
    times = f", about {np.ceil((1 - share) / share):.0f} times as many," if share > 0 else ""
    yield Finding("noise", f"the values are hardly known: {known}; use more chains or draws{times} or fewer and larger groups of examples")
