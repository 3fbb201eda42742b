"""A batch run as one value: the configuration file of `jaxllc run`, read and checked.

    loss = "regression:loss"         # of the module regression.py beside this file, or of any that can be imported
    data = "regression:data"         # a function without arguments that gives the data
    checkpoints = "run/checkpoints"  # a directory of Orbax, or a function without arguments that gives {step: weights}
    store = "llc.zarr"

    [settings]                       # as `Settings.to_dict` gives them
    nbeta = 300.0
    sampler = { name = "SGLD", step_size = 1e-5 }

`RunConfig` and docs/batch.md tell of every name.
"""

import dataclasses
import math
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import jax

from jaxllc._plain import from_plain, load_function
from jaxllc.checkpoints import OrbaxCheckpoints
from jaxllc.settings import Settings

LEFT_OPEN = {"nbeta", "localization", "num_chains"}
"""Settings that a calibration takes as given; a table of no others leaves the rest to it."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The arguments of `jaxllc.trajectory` as a configuration file names them.

    A name is `module:function`, and a path is relative to the folder of the file.

    Args:
        loss: the name of the loss function.
        data: the name of a function that gives the data.
        checkpoints: the name of a function that gives them, or a directory of Orbax; or a table of such, one for each training run.
        store: the path of the result.
        key: a seed.
        params: the name of a function that gives weights like those in the directories (see `OrbaxCheckpoints`, `like`).
        item: where the weights are in them.
        probes: the name of a function that gives them.
        free: a pattern of paths of weights, a list of them, or `{function = name}` of a predicate.
        components: the name of a function that gives them, in the place of `free`.
        reference_loss: see `jaxllc.trajectory`.
        group_size: see `jaxllc.trajectory`.
        settings: a table as `Settings.to_dict` gives it. None calibrates, and so does one without other fields than nbeta, localization and num_chains.
        folder: where modules are looked for first.

    Raises:
        ValueError: a value of another kind, or a field that is not known.
    """

    loss: str
    data: str
    checkpoints: str | Mapping[str, str]
    store: str
    key: int = 0
    params: str | None = None
    item: str | None = None
    probes: str | None = None
    free: str | list[str] | Mapping[str, str] | None = None
    components: str | None = None
    reference_loss: float | None = None
    group_size: int | None = None
    settings: Mapping[str, Any] | None = None
    folder: Path = Path()

    def __post_init__(self) -> None:
        for name, (kinds, words) in _KINDS.items():
            value = getattr(self, name)
            if (value is not None or name in _REQUIRED) and (not isinstance(value, kinds) or isinstance(value, bool)):
                raise ValueError(f"{name} must be {words}, got {value!r}.")
        for run, source in self._sources().items():
            if not isinstance(source, str):
                raise ValueError(
                    f"checkpoints of {run!r} must be {_KINDS['checkpoints'][1].removesuffix(', or a table of such by training run')}, got {source!r}."
                )
        if not 0 <= self.key < 2**32:
            raise ValueError(f"key must be a seed from 0 to 2**32 - 1, got {self.key}.")
        if self.reference_loss is not None and not math.isfinite(self.reference_loss):
            raise ValueError(f"reference_loss must be finite, got {self.reference_loss}.")
        for name in ("loss", "data", "params", "probes", "components"):
            if (value := getattr(self, name)) is not None and not _is_name(value):
                raise ValueError(f"{name} = {value!r} is no 'module:function'.")
        for name in ("params", "item"):
            if getattr(self, name) is not None and all(map(_is_name, self._sources().values())):
                raise ValueError(f"{name} says how to read a directory of checkpoints, and checkpoints = {self.checkpoints!r} is none; leave it out.")

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], folder: Path) -> Self:
        """The configuration of a table.

        Raises:
            ValueError: a name that is not known or missing, or a value of another kind.
        """
        if unknown := [name for name in table if name not in _KINDS]:
            raise ValueError(f"a run has no {unknown[0]!r}; it has {', '.join(_KINDS)}.")
        if missing := [name for name in _REQUIRED if name not in table]:
            raise ValueError(f"a run needs {missing[0]}, {_KINDS[missing[0]][1]}; it has {', '.join(table) or 'nothing'}.")
        return cls(**table, folder=folder)

    @classmethod
    def from_toml(cls, path: Path, changes: Iterable[str] = ()) -> Self:
        """The configuration of a file.

        Args:
            path: of the file.
            changes: assignments in its place, such as `settings.nbeta=300`, whose values are TOML too.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file, or a change, is no TOML, or whatever `from_dict` raises.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no configuration {path}.")
        try:
            table = tomllib.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is no TOML document: {error}.") from error
        for change in changes:
            _assign(table, change)
        try:
            return cls.from_dict(table, path.absolute().parent)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}{' as changed' if changes else ''}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Its fields as plain values; those that are None are left out."""
        return {name: value for name in _KINDS if (value := getattr(self, name)) is not None}

    def at(self, path: str) -> str:
        """A path of the file from anywhere; addresses such as `gs://bucket/run` stay as they are."""
        return path if "://" in path else str(self.folder / path)

    def with_store(self, path: str) -> Self:
        """The same with the result elsewhere; the path is that of the caller."""
        return dataclasses.replace(self, store=path if "://" in path else str(Path(path).absolute()))

    @property
    def calibrates(self) -> bool:
        """Whether settings are left open."""
        return set(self.settings or ()) <= LEFT_OPEN

    def arguments(self) -> dict[str, Any]:
        """The arguments of `jaxllc.trajectory`, with every function found, and called where it only gives a value; modules may then be loaded from the folder.

        Raises:
            ValueError: a function is not found or fails; or whatever reading the directory of checkpoints raises.
        """
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        runs = {run: self._checkpoints(source) for run, source in self._sources().items()}
        settings = self.settings or {}
        return {
            "loss_fn": self._found("loss", self.loss),
            "checkpoints": runs if isinstance(self.checkpoints, Mapping) else runs[""],
            "data": self._made("data", self.data),
            "key": jax.random.key(self.key),
            "free": _free(self.free),
            "components": self.components and self._made("components", self.components),
            "probes": self.probes and self._made("probes", self.probes),
            "reference_loss": self.reference_loss,
            "group_size": self.group_size,
            "store": self.at(self.store),
            "config": self.to_dict(),
            **(settings if self.calibrates else {"settings": Settings.from_dict(settings)}),
        }

    def _sources(self) -> Mapping[str, str]:
        """Where the checkpoints of each training run come from; one alone has no name."""
        return self.checkpoints if isinstance(self.checkpoints, Mapping) else {"": self.checkpoints}

    def _checkpoints(self, source: str) -> Any:
        if _is_name(source):
            return self._made("checkpoints", source)
        return OrbaxCheckpoints(self.at(source), like=self.params and self._made("params", self.params), item=self.item)

    def _found(self, field: str, name: str) -> Any:
        """The function of a name."""
        try:
            value = load_function(name)
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from error
        except (Exception, SystemExit) as error:
            raise ValueError(f"{field} = {name!r}: its module cannot be imported ({type(error).__name__}: {error}).") from error
        if not callable(value):
            raise ValueError(f"{field} = {name!r} is a {type(value).__name__}, no function.")
        return value

    def _made(self, field: str, name: str) -> Any:
        """What the function of a name gives."""
        function = self._found(field, name)
        try:
            return function()
        except (Exception, SystemExit) as error:
            raise ValueError(f"{field} = {name!r}: the function, called without arguments, failed ({type(error).__name__}: {error}).") from error


_REQUIRED = ("loss", "data", "checkpoints", "store")
_KINDS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "loss": (str, "the name 'module:function' of the loss function"),
    "data": (str, "the name 'module:function' of a function that gives the data"),
    "checkpoints": ((str, Mapping), "a directory of Orbax, the name 'module:function' of a function that gives them, or a table of such by training run"),
    "store": (str, "the path of the result"),
    "key": (int, "a seed, a whole number"),
    "params": (str, "the name 'module:function' of a function that gives weights like those in the directory"),
    "item": (str, "where the weights are in a checkpoint"),
    "probes": (str, "the name 'module:function' of a function that gives the probes"),
    "free": ((str, list, Mapping), "a pattern of paths, a list of them, or {function = 'module:function'}"),
    "components": (str, "the name 'module:function' of a function that gives the components"),
    "reference_loss": ((int, float), "a number"),
    "group_size": (int, "a whole number"),
    "settings": (Mapping, "a table, as Settings.to_dict gives it"),
}
"""What each name in a configuration must be, and how that is said."""


def _is_name(text: Any) -> bool:
    """Whether a text is `module:function` rather than a path."""
    return isinstance(text, str) and re.fullmatch(r"[\w.]+:[\w.]+", text) is not None


def _free(free: Any) -> Any:
    return list(free) if isinstance(free, list) else from_plain(free)


def _assign(table: dict[str, Any], change: str) -> None:
    """Carry out one `a.b=value` in a table."""
    name, _, value = change.partition("=")
    try:
        place, new = tomllib.loads(f"{name} = 0"), tomllib.loads(f"value = {value}")["value"]
    except ValueError as error:
        way = "write a name, dots between tables, and a value as in TOML, with text in quotes: --set 'settings.nbeta=300' --set 'store=\"llc.zarr\"'"
        raise ValueError(f"the change {change!r} cannot be read ({error}); {way}.") from error
    while isinstance(inner := next(iter(place.values())), dict):
        table = table.setdefault(next(iter(place)), {})
        if not isinstance(table, dict):
            raise ValueError(f"the change {change!r} names a field of {next(iter(place))!r}, which is {table!r} and no table.")
        place = inner
    table[next(iter(place))] = new
