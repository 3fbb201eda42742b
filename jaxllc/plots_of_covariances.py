"""Pictures of covariances: a matrix whose elements lie in clusters, and susceptibilities in two dimensions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxllc.plots import PALETTE

if TYPE_CHECKING:
    import xarray


def plot_influence(data: "xarray.Dataset", labels: Sequence[Any] | None = None) -> "np.ndarray[Any, Any]":
    """The matrix of each component, rows and columns in the order of a hierarchical clustering of the first one's; values within two errors are faint.

    Args:
        data: `value` and `std_error` over `element` and `element_other`, and perhaps `component`.
        labels: of the elements of a square matrix, else of its rows, for ticks where they are at most 40.

    Raises:
        ValueError: labels of another number.
    """
    import matplotlib.pyplot as plt

    parts = [data.isel(component=i) for i in range(data.sizes["component"])] if "component" in data.dims else [data]
    _check(labels, data.sizes["element"])
    square = data.sizes["element"] == data.sizes["element_other"]
    order = _clustered(parts[0]["value"].values)
    others = order if square else _clustered(parts[0]["value"].values.T)
    columns = min(len(parts), 4)
    rows, side = -(-len(parts) // columns), min(4.5, 14 / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(side * columns + 0.8, side * rows), squeeze=False, layout="constrained")
    axes = axes.reshape(1, -1)
    for axis in axes[0, len(parts) :]:
        axis.set_axis_off()
    largest = np.nanquantile(np.abs(data["value"].values), 0.99)
    image = None
    for axis, part in zip(axes[0], parts, strict=False):
        value, error = (part[name].values[order][:, others] for name in ("value", "std_error"))
        known = np.nan_to_num(np.clip(np.abs(value) / np.where(error > 0, 2 * error, np.inf), 0.15, 1), nan=0.15) if np.isfinite(error).any() else 1.0
        image = axis.imshow(value, cmap="RdBu_r", vmin=-largest, vmax=largest, alpha=known, interpolation="nearest")
        if "component" in part.coords:
            axis.set_title(str(part["component"].values), fontsize="medium")
        for ticks, names, own in ((axis.set_yticks, order, labels), (axis.set_xticks, others, labels if square else None)):
            _tick(ticks, names, own)
        axis.set_xlabel("example, in clusters")
    axes[0, 0].set_ylabel("example, in clusters")
    assert image is not None
    figure.colorbar(image, ax=axes[0].tolist(), label="value; faint within two standard errors", shrink=0.8)
    return axes[0, : len(parts)]


def plot_susceptibilities(data: "xarray.Dataset", labels: Sequence[Any] | None = None) -> Any:
    """Each element by its susceptibilities of all components: their two leading principal components, or by UMAP where it is installed.

    Args:
        data: `value` over `component` and the axes of the elements.
        labels: of the elements, flattened, for colours.

    Raises:
        ValueError: fewer than two components, or labels of another number.
    """
    import matplotlib.pyplot as plt

    if data.sizes.get("component", 1) < 2:
        raise ValueError("a map needs the susceptibilities of two components at least; pass components= when they are estimated.")
    value = data["value"].transpose("component", ...).values.reshape(data.sizes["component"], -1).T
    points, names = two_dimensions(value)
    _check(labels, len(points))
    colors = np.full(len(points), "all") if labels is None else np.asarray(labels).reshape(-1).astype(str)
    _, axis = plt.subplots(figsize=(6, 4.6), layout="constrained")
    for i, label in enumerate(dict.fromkeys(colors.tolist())):
        here = points[colors == label]
        axis.plot(here[:, 0], here[:, 1], "o", ms=3, alpha=0.6, mew=0, color=PALETTE[i % len(PALETTE)], label=label)
    axis.set_xlabel(names[0])
    axis.set_ylabel(names[1])
    axis.spines[["top", "right"]].set_visible(False)
    if labels is not None:
        axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return axis


def two_dimensions(vectors: np.ndarray, method: str | None = None) -> tuple[np.ndarray, tuple[str, str]]:
    """Vectors `[N, D]` in two dimensions, `[N, 2]`, and the names of these.

    Args:
        vectors: of one scale each: every column is divided by its standard deviation.
        method: "pca" or "umap"; default UMAP where it is installed.
    """
    scaled = vectors - vectors.mean(0)
    scaled = scaled / np.maximum(scaled.std(0), 1e-12)
    if method != "pca":
        try:
            from umap import UMAP  # pyright: ignore[reportMissingImports]

            return np.asarray(UMAP(random_state=0).fit_transform(scaled)), ("UMAP 1", "UMAP 2")
        except ImportError:
            if method == "umap":
                raise
    left, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    shares = sizes**2 / np.sum(sizes**2)
    return left[:, :2] * sizes[:2], (f"first principal component, {shares[0]:.0%}", f"second, {shares[1]:.0%}")


def _clustered(matrix: np.ndarray) -> np.ndarray:
    """The order of the rows in a hierarchical clustering of them (average linkage of their correlations)."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import pdist

    if len(matrix) < 3:
        return np.arange(len(matrix))
    matrix = np.nan_to_num(matrix)  # of what does not vary
    scaled = matrix - matrix.mean(1, keepdims=True)
    scaled = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    return np.asarray(leaves_list(linkage(pdist(scaled), "average")))


def _check(labels: Sequence[Any] | None, size: int) -> None:
    if labels is not None and np.size(np.asarray(labels)) != size:
        raise ValueError(f"there are {np.size(np.asarray(labels))} labels for {size} elements; give one for each.")


def _tick(ticks: Any, order: np.ndarray, labels: Sequence[Any] | None) -> None:
    """A tick for each element where they are few."""
    if len(order) <= 40 and labels is not None:
        ticks(range(len(order)), [str(labels[i]) for i in order], fontsize=6, rotation=90 if ticks.__name__ == "set_xticks" else 0)
    else:
        ticks([])
