"""Objects as plain values, and back: what JSON, TOML and a store can keep.

An object is a table with the name of its class and its fields, `{"name": "SGLD", "step_size": 1e-05}`, where a field that is None is left out. A
function is its place, `{"function": "module:name"}`, and an array its values and dtype, `{"array": [1.0, 2.0], "dtype": "float32"}`.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import jax
import numpy as np


class Plain:
    """A dataclass that can be written as a plain table. Its fields may be numbers, text, arrays, named functions, and other such objects.

    Examples:
        >>> jaxllc.RMSProp().to_dict()
        {'name': 'RMSProp', 'decay': 0.999, 'eps': 0.1}
        >>> jaxllc.Plain.from_dict({"name": "RMSProp", "decay": 0.99})
        RMSProp(decay=0.99, eps=0.1)
    """

    _classes: ClassVar[dict[str, type["Plain"]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Plain._classes[_class_name(cls)] = cls

    def to_dict(self) -> dict[str, Any]:
        """The name of the class, and the fields that are not None.

        Raises:
            ValueError: a field holds something that cannot be written as a plain value.
        """
        fields = {name: to_plain(value, f"{type(self).__name__}.{name}") for name, value in vars(self).items() if value is not None}
        return {"name": _class_name(type(self)), **fields}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """The object of a table; fields without a default that it lacks are None.

        Raises:
            ValueError: no such class, or a field that it has not.
        """
        if "name" not in table:
            raise ValueError(f"{dict(table)!r} has no 'name'; {_choices(cls)}.")
        name = table["name"]
        known = _find_class(str(name))
        if not issubclass(known, cls):
            raise ValueError(f"{name!r} is no {cls.__name__}; {_choices(cls)}.")
        return known._from_fields({field: from_plain(value) for field, value in table.items() if field != "name"})  # type: ignore[return-value]

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> "Plain":
        parameters = inspect.signature(cls).parameters
        if unknown := sorted(set(fields) - set(parameters)):
            raise ValueError(f"{cls.__name__} has no field {unknown[0]!r}; it has {', '.join(parameters) or 'none'}.")
        missing = {name: None for name, parameter in parameters.items() if parameter.default is parameter.empty and name not in fields}
        return cls(**missing, **fields)


def to_plain(value: Any, place: str) -> Any:
    """A value as numbers, text, lists and tables.

    Args:
        value: what is to be written.
        place: where it stands, for the error.

    Raises:
        ValueError: it cannot be written.
    """
    if isinstance(value, Plain):
        return value.to_dict()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.number) or (isinstance(value, np.ndarray | jax.Array) and value.ndim == 0):
        number = np.asarray(value).item()
        return number if isinstance(number, bool | int) else float(number)
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return {"array": array.tolist(), "dtype": str(array.dtype)}
    if isinstance(value, list | tuple):
        return [to_plain(item, f"{place}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        items = [(to_plain(name, place), to_plain(item, f"{place}[{name!r}]")) for name, item in value.items()]
        return dict(items) if all(isinstance(name, str) for name, _ in items) else {"items": [list(pair) for pair in items]}
    if callable(value):
        return {"function": function_name(value, place)}
    raise ValueError(f"{place} = {value!r} cannot be written as a plain value; make its class a dataclass that derives from jaxllc.Plain.")


def from_plain(value: Any) -> Any:
    """What `to_plain` wrote."""
    if isinstance(value, list):
        return tuple(from_plain(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"function"}:
        return load_function(value["function"])
    if set(value) == {"array", "dtype"}:
        return np.asarray(value["array"], value["dtype"])
    if set(value) == {"items"}:
        return {from_plain(name): from_plain(item) for name, item in value["items"]}
    if "name" in value:
        return Plain.from_dict(value)
    return {name: from_plain(item) for name, item in value.items()}


def function_name(function: Callable[..., Any], place: str) -> str:
    """`module:name` of a function, which must lead back to it.

    Raises:
        ValueError: a lambda, a closure or another object that cannot be found by a name.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module and name and _resolve(module, name) is function:
        return f"{module}:{name}"
    known_as = [known for known, value in vars(sys.modules.get(str(module), object)).items() if value is function]
    if known_as:  # made by another function, as the integrators of BlackJAX are
        return f"{module}:{known_as[0]}"
    way = ", or write it as jaxllc.NamedSchedule('optax:cosine_decay_schedule', init_value=1e-5, decay_steps=1000)" if "schedule" in place.lower() else ""
    raise ValueError(
        f"{place} = {name or function!r} cannot be written down, since no module has it under a name; define it with `def` at the top of a module{way}."
    )


def load_function(place: str) -> Any:
    """The object at `module:name`.

    Raises:
        ValueError: there is none.
    """
    module, _, name = str(place).partition(":")
    try:
        importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{place!r} names no module that can be imported ({error}); write it as 'module:name'.") from error
    if (value := _resolve(module, name)) is None:
        raise ValueError(f"the module {module!r} has no {name!r}; write it as 'module:name'.")
    return value


def _resolve(module: str, name: str) -> Any:
    try:
        value = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError):
        return None
    return value


def _class_name(cls: type) -> str:
    return cls.__name__ if cls.__module__.partition(".")[0] == "jaxllc" else f"{cls.__module__}:{cls.__qualname__}"


def _find_class(name: str) -> type[Plain]:
    if name not in Plain._classes and ":" in name:
        load_function(name)  # which registers it
    if name not in Plain._classes:
        raise ValueError(f"no class is called {name!r}; {_choices(Plain)}, or 'module:name' for one of your own.")
    return Plain._classes[name]


def _choices(cls: type[Plain]) -> str:
    ours = {name: known for name, known in Plain._classes.items() if ":" not in name}
    concrete = [name for name, known in ours.items() if issubclass(known, cls) and not any(sub in ours.values() for sub in known.__subclasses__())]
    return f"the choices are {', '.join(sorted(concrete))}"
