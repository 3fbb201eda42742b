"""The evaluations of a probe along the chains, one line of the result after the other."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from jaxllc import results
from jaxllc.views import with_steps

if TYPE_CHECKING:
    import xarray


class Result(Protocol):
    """An `Estimate` or a `Trajectory`."""

    @property
    def data(self) -> "xarray.DataTree":
        """All draws."""
        ...


class Series(NamedTuple):
    """The evaluations of a probe along the chains."""

    tree: Any
    name: str

    @classmethod
    def of(cls, result: Result, name: str) -> "Series":
        """The probe of a result (see `checked`)."""
        return cls(with_steps(result.data), name).checked()

    def checked(self) -> "Series":
        """The same.

        Raises:
            KeyError: there is no such probe.
            ValueError: it was reduced, or not evaluated along the chains.
        """
        name, probes = self.name, self.tree.attrs.get(results.PROBES, {})
        along = [probe for probe, description in probes.items() if description.get("evaluations") and not description.get("reduce")]
        if name not in probes:
            raise KeyError(f"no probe {name!r}; this result has {', '.join(map(repr, probes)) or 'none'}. Pass probes={{{name!r}: Probe(fn, data, every=10)}}.")
        if name not in along:
            raise ValueError(f"the probe {name!r} is not kept along the chains; pass Probe(fn, data, every=10) without reduce.")
        return self

    @property
    def array(self) -> Any:
        """Of all lines."""
        return self.tree[f"{results.ALONG_CHAINS}/{self.name}"]

    @property
    def line_dims(self) -> tuple[str, ...]:
        """Axes of checkpoints and components."""
        return results.line_axes(self.array.dims)

    @property
    def own_dims(self) -> tuple[str, ...]:
        """Axes of the probe itself."""
        return tuple(self.array.dims[len(self.line_dims) + 2 :])

    @property
    def own_shape(self) -> tuple[int, ...]:
        """Their lengths."""
        return self.array.shape[len(self.line_dims) + 2 :]

    @property
    def size(self) -> int:
        """Elements of the probe."""
        return int(np.prod(self.own_shape))

    @property
    def lines(self) -> int:
        """Checkpoints times components."""
        return int(np.prod(self.array.shape[: len(self.line_dims)]))

    def one(self, line: int) -> np.ndarray:
        """The evaluations of one line, `[C, T, N]`, those of finite chains."""
        shape = self.array.shape
        index = np.unravel_index(line, shape[: len(self.line_dims)])
        return np.asarray(self.array[tuple(int(i) for i in index)].values).reshape(*shape[len(self.line_dims) : len(self.line_dims) + 2], -1)

    def draws(self) -> Iterator[np.ndarray]:
        """The evaluations of each line."""
        return (self.one(line) for line in range(self.lines))

    def at_center(self) -> np.ndarray:
        """The probe at the checkpoints, `[lines, N]`."""
        if not self.tree.attrs[results.PROBES][self.name]["at_checkpoint"]:
            raise ValueError(f"the probe {self.name!r} is not evaluated at the checkpoint; leave out at_checkpoint=False.")
        values = np.asarray(self.tree[f"{results.PROBES}/{self.name}"].values).reshape(-1, self.size)
        return np.repeat(values, self.lines // len(values), 0)

    def line_of(self, line: int, component: str) -> int:
        """The line of a component at the same checkpoint."""
        names = [str(name) for name in self.tree.coords[results.COMPONENT].values] if results.COMPONENT in self.array.dims else []
        if component not in names:
            raise KeyError(f"no component {component!r}; this result has {', '.join(map(repr, names)) or 'none'}.")
        return line // len(names) * len(names) + names.index(component)

    def place(self) -> tuple[tuple[int, ...], tuple[str, ...], dict[str, np.ndarray]]:
        """Shape, axes and coordinates of the lines."""
        dims = self.line_dims
        return self.array.shape[: len(dims)], dims, {axis: self.tree.coords[axis].values for axis in dims if axis in self.tree.coords}
