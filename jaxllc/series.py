"""The evaluations of a probe along the chains, one line of the result after the other."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from jaxllc import results
from jaxllc.error_bars import finite_chains
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
    def of(cls, result: Result, name: str, *, moments: bool = False) -> "Series":
        """The probe of a result (see `checked`)."""
        return cls(with_steps(result.data), name).checked(moments=moments)

    def checked(self, *, moments: bool = False) -> "Series":
        """The same.

        Args:
            moments: whether means and covariances will do.

        Raises:
            KeyError: there is no such probe.
            ValueError: it was reduced, or not evaluated along the chains.
        """
        name, probes = self.name, self.tree.attrs.get(results.PROBES, {})
        if name not in probes:
            raise KeyError(f"no probe {name!r}; this result has {', '.join(map(repr, probes)) or 'none'}. Pass probes={{{name!r}: Probe(fn, data, every=10)}}.")
        whole = probes[name].get("evaluations") and not probes[name].get("reduce")
        if not (whole or (moments and self.has_moments)):
            also = ', or with reduce="covariance" for a matrix of its own elements' if moments else ""
            raise ValueError(f"the probe {name!r} is not kept along the chains; pass Probe(fn, data, every=10) without reduce{also}.")
        return self

    @property
    def has_moments(self) -> bool:
        """Whether means and covariances are what was kept."""
        return self.tree.attrs[results.PROBES][self.name].get("reduce") == "covariance"

    def moments(self, line: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Mean and covariance of each chain, `[C, N]` and `[C, N, N]`, and of how many evaluations."""
        index = self._at(line)
        mean, covariance = (np.asarray(self.tree[f"{results.ALONG_CHAINS}/{self.name}_{ending}"][index].values, float) for ending in ("mean", "covariance"))
        mean = np.where(self._good(line)[:, None], mean.reshape(len(mean), -1), np.nan)
        return mean, covariance, len(self.tree.attrs[results.PROBES][self.name]["evaluations"])

    def times(self) -> list[int]:
        """The iterations after which it was evaluated."""
        return list(self.tree.attrs[results.PROBES][self.name]["evaluations"])

    @property
    def array(self) -> Any:
        """Of all lines; the means of each chain where these are what was kept."""
        return self.tree[f"{results.ALONG_CHAINS}/{self.name}{'_mean' if self.has_moments else ''}"]

    @property
    def line_dims(self) -> tuple[str, ...]:
        """Axes of checkpoints and components."""
        return results.line_axes(self.array.dims)

    @property
    def own_dims(self) -> tuple[str, ...]:
        """Axes of the probe itself."""
        return tuple(self.array.dims[len(self.line_dims) + 2 - self.has_moments :])

    @property
    def own_shape(self) -> tuple[int, ...]:
        """Their lengths."""
        return self.array.shape[len(self.line_dims) + 2 - self.has_moments :]

    @property
    def size(self) -> int:
        """Elements of the probe."""
        return int(np.prod(self.own_shape))

    @property
    def lines(self) -> int:
        """Checkpoints times components."""
        return int(np.prod(self.array.shape[: len(self.line_dims)]))

    def one(self, line: int) -> np.ndarray:
        """The evaluations of one line, `[C, T, N]`; NaN in chains that diverged."""
        values = np.asarray(self.array[self._at(line)].values)
        return np.where(self._good(line)[:, None, None], values.reshape(*values.shape[:2], -1), np.nan)

    def _good(self, line: int) -> np.ndarray:
        """Which chains did not diverge, `[C]`: in the draws of the coefficient the others are NaN."""
        return finite_chains(np.asarray(self.tree["/".join(results.LLC)][self._at(line)].values))

    def _at(self, line: int) -> tuple[int, ...]:
        """Where a line stands."""
        return tuple(int(i) for i in np.unravel_index(line, self.array.shape[: len(self.line_dims)]))

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
