"""What is kept of the evaluations of a probe along chains: running moments, in float64 on the host, so that no array grows with their number."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np


class Reduction(Protocol):
    """Moments of evaluations that come one after the other."""

    dims: ClassVar[dict[str, tuple[str, ...]]]
    """The axes of each result at one checkpoint: `chain`, `chain_other`, `values` (those of the probe) or `element` and `element_other` (its elements)."""

    def add(self, values: np.ndarray) -> None:
        """One evaluation of all chains, `[K, C, ...]`."""
        ...

    def results(self) -> dict[str, np.ndarray]:
        """The moments, by the ending of their name; `[K, ...]` with the axes of `dims`."""
        ...


class MeanAndVariance:
    """The mean of each element and its variance over the evaluations of a chain, by Welford's recursion (NaN variance for one evaluation)."""

    dims: ClassVar[dict[str, tuple[str, ...]]] = {"mean": ("chain", "values"), "variance": ("chain", "values")}

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, np.zeros(()), np.zeros(())

    def add(self, values: np.ndarray) -> None:
        """One evaluation."""
        self._count += 1
        before = values - self._mean
        self._mean = self._mean + before / self._count
        self._squares = self._squares + before * (values - self._mean)

    def results(self) -> dict[str, np.ndarray]:
        """Mean and variance, `[K, C, ...]`."""
        variance = self._squares / (self._count - 1) if self._count > 1 else np.full_like(self._mean, np.nan)
        return {"mean": self._mean, "variance": variance}


class MeanAndCovariance:
    """The mean, and the covariances of all pairs of elements over the evaluations of a chain (NaN for one evaluation)."""

    dims: ClassVar[dict[str, tuple[str, ...]]] = {"mean": ("chain", "values"), "covariance": ("chain", "element", "element_other")}

    def __init__(self) -> None:
        self._count, self._mean = 0, np.zeros(())
        self._products: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        """One evaluation, whose products are added in place: no second array of N × N."""
        from scipy.linalg.blas import dger  # pyright: ignore[reportAttributeAccessIssue]  # costs time: loaded where it is used

        self._count += 1
        before = (values - self._mean).astype(float)
        self._mean = self._mean + before / self._count
        flat = before.reshape(*before.shape[:2], -1)
        if self._products is None:
            self._products = np.zeros((*flat.shape, flat.shape[-1]))
        for place in np.ndindex(flat.shape[:2]):
            dger(1 - 1 / self._count, flat[place], flat[place], a=self._products[place].T, overwrite_a=True)

    def results(self) -> dict[str, np.ndarray]:
        """Mean `[K, C, ...]` and covariance `[K, C, N, N]` of N elements; no evaluation comes after it."""
        assert self._products is not None
        self._products /= max(self._count - 1, 1)
        if self._count < 2:
            self._products[:] = np.nan
        return {"mean": self._mean, "covariance": self._products}


class BetweenChains:
    """The covariances over elements of any two chains, the mean over evaluations; NaN for a chain that diverged."""

    dims: ClassVar[dict[str, tuple[str, ...]]] = {"between_chains": ("chain", "chain_other")}

    def __init__(self) -> None:
        self._count, self._sum = 0, np.zeros(())

    def add(self, values: np.ndarray) -> None:
        """One evaluation."""
        flat = values.reshape(*values.shape[:2], -1).astype(float)
        with np.errstate(invalid="ignore", over="ignore"):
            centered = flat - flat.mean(-1, keepdims=True)
            self._sum = self._sum + np.einsum("kcx,kdx->kcd", centered, centered) / max(flat.shape[-1] - 1, 1)
        self._count += 1

    def results(self) -> dict[str, np.ndarray]:
        """`[K, C, C]`."""
        return {"between_chains": self._sum / self._count}


REDUCTIONS: Mapping[str, type[Reduction]] = {"mean": MeanAndVariance, "covariance": MeanAndCovariance, "between_chains": BetweenChains}
"""The reductions by the name that `jaxllc.Probe` takes."""
