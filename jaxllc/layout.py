"""Weights that are split over devices: the axes of a mesh that they lie on, beside those of chains and checkpoints.

Along these axes the compiler divides the work, as it does for the loss by itself, and `inner` keeps what each device knows of a sum, so that sampling
communicates no more than the gradient.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllc._tree import named_leaves
from jaxllc._typing import Params

CHAIN, STEP = "chain", "step"
"""The axes of chains and of checkpoints."""
FOLDS = 8
"""Parts of an array that are added to one another before its sum is taken on a CPU."""
LEAST_FOLDED = 2**12
"""Elements of an array from which that is worth its start."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the leaves of a model lie on a mesh."""

    mesh: Mesh
    """That of the weights, as they came."""
    axes: tuple[str, ...]
    """Of the mesh, those over which some leaf is split."""
    specs: tuple[P, ...]
    """One a leaf, in JAX's order."""

    def place(self, tree: Params, mesh: Mesh, *leading: str | None) -> Params:
        """The weights on a mesh that has the axes.

        Args:
            tree: the weights, with further axes before their own.
            mesh: where they shall lie.
            leading: the axes of the mesh over which the further ones are split.
        """
        shardings = [NamedSharding(mesh, P(*leading, *spec)) for spec in self.specs]
        return jax.device_put(tree, jax.tree.structure(tree).unflatten(shardings))


def is_split(leaf: Any) -> bool:
    """Whether an array, or what stands for one, is split over the axes of a mesh."""
    sharding = getattr(leaf, "sharding", None)
    return isinstance(sharding, NamedSharding) and any(axis is not None for axis in sharding.spec)


def layout_of(params: Params, leading: int = 0) -> Layout | None:
    """How weights lie on a mesh; None where no leaf is split.

    Args:
        params: arrays, or what stands for them.
        leading: axes of each leaf that are not its own.

    Raises:
        ValueError: leaves on different meshes, or an axis that is named like those of chains and checkpoints.
    """
    split = {name: leaf.sharding for name, leaf in named_leaves(params).items() if is_split(leaf)}
    specs = tuple(P(*leaf.sharding.spec[leading:]) if is_split(leaf) else P() for leaf in jax.tree.leaves(params))
    axes = {axis for spec in specs for axis in _axes(spec)}
    if not axes:
        return None
    (first, sharding), *others = split.items()
    for name, other in others:
        if (other.mesh.axis_names, other.mesh.devices.tolist()) != (sharding.mesh.axis_names, sharding.mesh.devices.tolist()):
            raise ValueError(f"the weights {name!r} and {first!r} lie on different meshes; place all weights on one.")
    if taken := axes & {CHAIN, STEP}:
        raise ValueError(f"weights are split over the mesh axis {min(taken)!r}, which is that of {'chains' if CHAIN in taken else 'checkpoints'}; rename it.")
    return Layout(sharding.mesh, tuple(axis for axis in sharding.mesh.axis_names if axis in axes), specs)


def inner(a: Params, b: Params, layout: Layout | None = None) -> jax.Array:
    """The sum of the products of two trees, `float[]`; where they are split, what each device adds to it, an axis for each of `layout.axes`.

    Args:
        a: leaves of one dtype each.
        b: leaves like those of `a`.
        layout: of these leaves.
    """
    left, right = jax.tree.leaves(a), jax.tree.leaves(b)
    if layout is None:
        return _sum_of_products(left, right)
    sizes = jax.sharding.get_abstract_mesh().shape
    devices = math.prod(sizes[axis] for axis in layout.axes)
    shares = [math.prod(sizes[axis] for axis in _axes(spec)) / devices for spec in layout.specs]

    def here(left: list[jax.Array], right: list[jax.Array]) -> jax.Array:
        products = [_sum_of_products([x], [y]) * jnp.asarray(share, x.dtype) for x, y, share in zip(left, right, shares, strict=True)]
        return jnp.reshape(_total(products), (1,) * len(layout.axes))

    specs = list(layout.specs)
    return jax.shard_map(here, in_specs=(specs, specs), out_specs=P(*layout.axes), axis_names=set(layout.axes), check_vma=False)(left, right)


def _sum_of_products(left: list[jax.Array], right: list[jax.Array]) -> jax.Array:
    """The sum of the products of arrays of the same shapes, `float[]`.

    XLA's sums over whole arrays run on a CPU at a number or two a cycle. There each array is cut into `FOLDS` parts that are added to one another first, in
    one loop that uses whole vectors.
    """
    return _products(left, right) if is_cut() else jax.lax.platform_dependent(left, right, cpu=_folded, default=_products)


def _products(left: list[jax.Array], right: list[jax.Array]) -> jax.Array:
    return jnp.asarray(_total([jnp.vdot(*pair) for pair in zip(left, right, strict=True)]))


def _folded(left: list[jax.Array], right: list[jax.Array]) -> jax.Array:
    short = []
    for x, y in zip(left, right, strict=True):
        size = x.size // FOLDS if x.size >= LEAST_FOLDED else 0
        parts = [slice(i * size, (i + 1) * size) for i in range(FOLDS)] if size else []
        x, y = x.reshape(-1), y.reshape(-1)
        short += [functools.reduce(jnp.add, [x[part] * y[part] for part in parts])] if parts else []
        short += [x[FOLDS * size :] * y[FOLDS * size :]] if FOLDS * size < x.size else []
    return jnp.concatenate([part.astype(left[0].dtype) for part in short or left]).sum()


def stack_sums(values: list[jax.Array], layout: Layout | None) -> jax.Array:
    """Numbers in one array, `[number]`; where some may be the sums of each device (see `inner`), any other stands at the first device, and zeros elsewhere."""
    if layout is None:
        return jnp.stack(values)
    sizes = jax.sharding.get_abstract_mesh().shape
    shape = tuple(sizes[axis] for axis in layout.axes)
    index = [jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(len(shape))]
    first = jnp.asarray(sum(index)) == 0
    return jnp.stack([value if value.ndim else jnp.where(first, value, jnp.zeros_like(value)) for value in values])


def num_shards() -> int:
    """Into how many parts the program that is being traced may be cut by the compiler: devices along the axes of the weights."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(size for size, kind in zip(mesh.axis_sizes, mesh.axis_types, strict=True) if kind == AxisType.Auto)


def is_cut() -> bool:
    """Whether the program that is being traced has axes of weights, along which the compiler cuts it."""
    return AxisType.Auto in jax.sharding.get_abstract_mesh().axis_types


def _axes(spec: P) -> tuple[str, ...]:
    """The axes that a leaf is split over."""
    return tuple(axis for entry in spec if entry is not None for axis in (entry if isinstance(entry, tuple) else (entry,)))


def _total(products: list[jax.Array]) -> Any:
    return sum(product.astype(products[0].dtype) for product in products)
