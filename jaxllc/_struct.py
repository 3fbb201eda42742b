"""Dataclasses that are pytrees, with the words of `flax.struct`; that module loads all of flax, which sampling does not need."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

Class = TypeVar("Class", bound=type)


def field(*, pytree_node: bool = True, **options: Any) -> Any:
    """A field of a `dataclass`; one with `pytree_node=False` is static: part of the structure, and compared and hashed as a whole."""
    return dataclasses.field(metadata={"pytree_node": pytree_node, "static": not pytree_node}, **options)


@dataclass_transform(field_specifiers=(field,))  # as flax has it, so that classes of either may inherit from each other
def dataclass(cls: Class) -> Class:
    """A frozen dataclass that is a pytree of its fields but for the static ones, and has `replace(**changes)`."""
    made = dataclasses.dataclass(frozen=True)(cls)
    jax.tree_util.register_dataclass(made)
    made.replace = _replace  # pyright: ignore[reportAttributeAccessIssue]
    return made


def _replace(self: Any, **changes: Any) -> Any:
    """The same with other values of some fields."""
    return dataclasses.replace(self, **changes)
