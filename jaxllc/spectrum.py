r"""A symmetric matrix by its leading eigenpairs, and functions of it applied to trees of weights.

$A \approx \sum_j a_j v_j v_j^\top + m\,(I - \sum_j v_j v_j^\top)$, with one number $m$ for all that is not led.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxllc._typing import Key, Params

DENSE = 256
"""Up to so many weights all eigenpairs are found, by as many products."""
NUM_ITERATIONS = 2
"""Of subspace iteration, each a product for every vector."""
AT_ONCE = 8
"""Products that are made together."""


class Spectrum(NamedTuple):
    """Leading eigenpairs of a symmetric matrix over trees of weights."""

    values: jax.Array
    """`[rank]`, ascending in absolute value."""
    vectors: Params
    """`[rank, ...]` like the weights, orthonormal."""

    def apply(self, function: Callable[[jax.Array], jax.Array], rest: jax.Array, tree: Params) -> Params:
        """`function(A) @ tree`, where A has the value `rest` for whatever is not led."""
        leaves, structure = jax.tree.flatten(tree)
        vectors, along = jax.tree.leaves(self.vectors), self._along(tree)
        if self.values.size == sum(leaf.size for leaf in leaves):  # nothing is left, and a difference that should vanish would be of rounding
            weights = function(self.values) * along
            moved = [jnp.tensordot(weights.astype(v.dtype), v, axes=1) for v in vectors]
        else:
            at_rest = function(rest)
            weights = (function(self.values) - at_rest) * along
            moved = [at_rest.astype(x.dtype) * x + jnp.tensordot(weights.astype(v.dtype), v, axes=1) for v, x in zip(vectors, leaves, strict=True)]
        return structure.unflatten(moved)

    def square(self, rest: jax.Array, tree: Params) -> jax.Array:
        """`tree @ A @ tree` of a positive A, which is not negative by rounding either."""
        along = jnp.square(self._along(tree))
        leaves = jax.tree.leaves(tree)
        left = jnp.asarray(sum(jnp.vdot(leaf, leaf).astype(along.dtype) for leaf in leaves)) - along.sum()
        led = self.values.size == sum(leaf.size for leaf in leaves)
        return jnp.vdot(self.values, along) + (0 if led else rest * jnp.maximum(left, 0))

    def _along(self, tree: Params) -> jax.Array:
        """The components along the eigenvectors, `[rank]`."""
        pairs = zip(jax.tree.leaves(self.vectors), jax.tree.leaves(tree), strict=True)
        return jnp.asarray(sum(jnp.tensordot(v, x, axes=x.ndim) for v, x in pairs))


def leading_spectrum(product: Callable[[Params], Params], like: Params, rank: int, key: Key) -> Spectrum:
    """The leading eigenpairs of a symmetric matrix: all of them up to `DENSE` weights, otherwise `rank` by subspace iteration.

    Subspace iteration (Halko, Martinsson & Tropp, arXiv:0909.4061) approaches eigenvalues from inside; the last ones are the least certain.

    Args:
        product: the matrix times a tree of weights.
        like: the weights.
        rank: eigenpairs that are kept where there are many weights.
        key: of the random vectors that the iteration begins with.
    """
    flat, unravel = ravel_pytree(like)
    size = flat.size

    def images(rows: jax.Array) -> jax.Array:
        return jax.lax.map(lambda row: ravel_pytree(product(unravel(row)))[0], rows, batch_size=AT_ONCE)

    if size <= DENSE:
        basis = jnp.eye(size, dtype=flat.dtype)
    else:
        basis = jnp.linalg.qr(jax.random.normal(key, (size, rank), flat.dtype))[0].T
        for _ in range(NUM_ITERATIONS):
            basis = jnp.linalg.qr(images(basis).T)[0].T
    inside = basis @ images(basis).T
    values, rotation = jnp.linalg.eigh((inside + inside.T) / 2)
    order = jnp.argsort(jnp.abs(values))
    vectors = rotation[:, order].T @ basis
    return Spectrum(values[order], jax.vmap(unravel)(vectors))
