r"""Deep linear nets whose *local* learning coefficient is known, and their data, for the accuracy benchmark.

A net is certified when a rigorous lower and a rigorous upper bound of its local coefficient both equal Aoyagi's global one (`jaxllc.theory`). Its layers are
built so that the set of equivalent weights is largest there: as a chain of maps the net is a sum of intervals, chosen so that the codimension of its stratum is
smallest. The published recipe (arXiv:2507.21449) reduces each layer's rank with probability one half and labels nets by the global coefficient, which can lie
below the local one.

All nets of one shape share inputs and noise, up to random signs of the noise's columns, and so run in one program.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllc.models import linear
from jaxllc.theory import deep_linear_bounds, deep_linear_llc

CLASSES = {
    "1K": [(6, 8, 8, 9, 21), (7, 9, 10, 14), (11, 18, 24), (20, 16, 12, 8), (14, 14, 14, 14),
        (5, 8, 12, 16, 20), (24, 20, 10), (10, 12, 16, 20), (16, 16, 16), (30, 18, 8)],
    "10K": [(40, 50, 60), (60, 50, 40, 30), (30, 40, 50, 60), (50, 50, 50, 50),
        (60, 70, 80), (80, 60, 40, 20), (20, 30, 40, 50, 60), (70, 65, 60), (50, 45, 40, 35, 30), (25, 50, 75)],
    "100K": [(150, 200, 250), (180, 180, 180, 180), (250, 200, 150), (120, 160, 200, 240),
        (200, 220, 240), (240, 200, 160, 120), (100, 130, 160, 190, 220), (230, 220, 210), (170, 160, 150, 140, 130), (100, 200, 300)],
    "1M": [(600, 700, 800), (580, 580, 580, 580)],
}  # fmt: skip
"""Shapes by the rough number of weights."""


class Nets(NamedTuple):
    """K nets of one shape with their data."""

    widths: tuple[int, ...]
    centers: dict[int, Any]
    """By number from one: `layers`, the true weights; `product` and `signs`, which stay fixed and make each net its own regression."""
    arrays: tuple[np.ndarray, np.ndarray]
    """Inputs `[n, d_0]` and unit noise `[n, d_N]`."""
    llc: np.ndarray
    """The learning coefficient, `[K]`, as labelled: Aoyagi's."""
    lower: np.ndarray
    upper: np.ndarray
    """Rigorous bounds of the local coefficient, `[K]`."""


def make(widths: tuple[int, ...], num_nets: int, num_examples: int, *, certified: bool = True, seed: int = 0) -> Nets:
    """Nets of one shape: half of them of full rank, the others of random rank."""
    rng = np.random.default_rng([seed, *widths])
    centers, labels = {}, []
    for k in range(num_nets):
        if certified:
            layers = certified_layers(rng, widths, min(widths)) if k % 2 == 0 else None
            while layers is None:  # of some ranks no certified point is found soon: another is drawn
                layers = certified_layers(rng, widths, int(rng.integers(1, min(widths))))
        else:
            layers = published_recipe(rng, widths)
        weights = [np.asarray(layer, np.float32) for layer in layers]
        ranks = partial_ranks(weights)
        labels.append((deep_linear_llc(widths, ranks[0][-1]).value, *deep_linear_bounds(widths, ranks)))
        centers[k + 1] = {"layers": weights, "product": np.linalg.multi_dot(weights), "signs": rng.choice([-1.0, 1.0], widths[-1]).astype(np.float32)}
    inputs = rng.normal(size=(num_examples, widths[0])).astype(np.float32)
    noise = rng.normal(size=(num_examples, widths[-1])).astype(np.float32)
    llc, lower, upper = np.asarray(labels, float).T
    return Nets(tuple(widths), centers, (inputs, noise), llc, lower, upper)


def certified_layers(rng: np.random.Generator, widths: tuple[int, ...], rank: int) -> list[np.ndarray] | None:
    """Layers of a given product rank at which the bounds meet: orthogonal maps between the intervals of `open_stratum`, scaled to keep variance.

    None where twenty random strata all have a codimension above twice the coefficient.
    """
    for _ in range(20):
        intervals = open_stratum(rng, widths, rank)
        ranks = [[sum(a <= i and j <= b for a, b in intervals) for j in range(i + 1, len(widths))] for i in range(len(widths) - 1)]
        if deep_linear_bounds(widths, ranks)[1] == deep_linear_llc(widths, rank).value:
            break
    else:
        return None
    bases = [np.linalg.qr(rng.normal(size=(width, width)))[0] for width in widths]
    layers = []
    for i, (rows, columns) in enumerate(pairwise(widths)):
        here, there = ([k for k, (a, b) in enumerate(intervals) if a <= node <= b] for node in (i, i + 1))
        through = np.asarray([[k == m for m in there] for k in here], float)
        layers.append(bases[i] @ through @ bases[i + 1].T * max(1.0, columns / rows) ** 0.5)
    return layers


def open_stratum(rng: np.random.Generator, widths: tuple[int, ...], rank: int) -> list[tuple[int, int]]:
    """Intervals of nodes, one for each dimension that is passed on from the first to the last of them, of a stratum as large as its rank allows.

    Joining [a, b] and [b + 1, c] enlarges a stratum, and so does turning [a, b] and [c, d] with a < c <= b + 1, b < d into [a, d] and [c, b]. From separate
    nodes it goes on at random until neither is possible without raising the rank of the product.
    """
    last = len(widths) - 1
    count = {(a, b): 0 for a in range(last + 1) for b in range(a, last + 1)}
    count |= {(node, node): width - rank for node, width in enumerate(widths)}
    while True:
        there = [interval for interval, number in count.items() if number]
        moves = [(x, y) for x in there for y in there if x[0] < y[0] <= x[1] + 1 and x[1] < y[1] and (x[0], y[1]) != (0, last)]
        if not moves:
            return [(0, last)] * rank + [interval for interval, number in count.items() for _ in range(number)]
        (a, b), (c, d) = moves[rng.integers(len(moves))]
        times = int(rng.integers(1, min(count[a, b], count[c, d]) + 1))
        for interval, change in (((a, b), -times), ((c, d), -times), ((a, d), times), ((c, b), times)):
            if interval[0] <= interval[1]:
                count[interval] += change


def published_recipe(rng: np.random.Generator, widths: tuple[int, ...]) -> list[np.ndarray]:
    """Xavier-normal layers, each with probability one half cut to a rank drawn evenly below its full one."""
    layers = []
    for rows, columns in pairwise(widths):
        layer = rng.normal(size=(rows, columns)) * (2 / (rows + columns)) ** 0.5
        if rng.random() < 0.5:
            left, values, right = np.linalg.svd(layer, full_matrices=False)
            values[int(rng.integers(0, min(rows, columns))) :] = 0
            layer = left * values @ right
        layers.append(layer)
    return layers


def partial_ranks(layers: list[np.ndarray]) -> list[list[int]]:
    """The rank of each product of consecutive layers: row i, the products that begin with layer i."""
    ranks = []
    for i in range(len(layers)):
        product, row = None, []
        for layer in layers[i:]:
            product = layer.astype(float) if product is None else product @ layer
            row.append(int(np.linalg.matrix_rank(product, tol=1e-4 * max(np.linalg.norm(product, 2), 1e-9))) if np.any(product) else 0)
        ranks.append(row)
    return ranks


def loss(params: dict[str, Any], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    r"""$\frac12 \lVert f(x) - f^*(x) - e \rVert^2$ for each row: nats under unit output noise, up to a constant."""
    inputs_BxD, noise_BxD = batch
    targets_BxD = inputs_BxD @ params["product"] + noise_BxD * params["signs"][None]
    return linear.squared_loss(params["layers"], (inputs_BxD, targets_BxD))


def moments(arrays: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """All that the mean loss knows of the data but for a constant: the second moments of `inputs`, and theirs with the noise, `cross`, in float64."""
    inputs, noise = (array.astype(float) for array in arrays)
    return {"inputs": inputs.T @ inputs / len(inputs), "cross": inputs.T @ noise / len(inputs)}
