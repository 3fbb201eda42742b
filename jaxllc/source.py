"""Where numbers come from, so that runs can be compared: the software, and the text of a function with what it closes over."""

import functools
import hashlib
import importlib.metadata
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

DEPTH = 4
"""Functions and objects within each other that are looked at."""


def fingerprint(function: Callable[..., Any]) -> str:
    """Hexadecimal digits that differ where the text of a function does, its defaults, what it closes over, or the public attributes of an object that is
    called or whose method it is; globals are not looked at.
    """
    digest = hashlib.blake2b(digest_size=8)
    _add(digest, function, DEPTH)
    return digest.hexdigest()


@functools.cache
def made_by() -> str:
    """The software and the kind of device that numbers are computed by here."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jaxllc", "jax", "jaxlib"))
    return f"{packages}, on {jax.local_devices()[0].device_kind}"


def _add(digest: Any, value: Any, depth: int) -> None:
    if isinstance(value, np.ndarray | jax.Array):
        if not jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
            digest.update(np.ascontiguousarray(value).tobytes())
    elif value is None or isinstance(value, str | bytes | int | float | complex):
        digest.update(repr(value).encode())
    elif isinstance(value, dict):
        for name, item in value.items():
            _add(digest, (name, item), depth)
    elif isinstance(value, list | tuple):
        for item in value:
            _add(digest, item, depth)
    elif depth == 0:
        return
    elif isinstance(value, functools.partial):
        _add(digest, (value.func, value.args, value.keywords), depth - 1)
    elif inspect.ismethod(value):
        _add(digest, (value.__func__, value.__self__), depth)
    elif inspect.isfunction(value):
        try:
            digest.update(inspect.getsource(value.__code__).encode())  # that of a wrapper, not of what it wraps
        except (OSError, TypeError):  # typed at a prompt
            digest.update(value.__code__.co_code)
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        _add(digest, (value.__defaults__, cells), depth - 1)
    elif hasattr(value, "__wrapped__"):  # of jax.jit
        _add(digest, value.__wrapped__, depth)
    elif not isinstance(value, type) and hasattr(value, "__dict__"):  # private names hold counters and identities
        _add(digest, (type(value).__call__ if callable(value) else None, {k: v for k, v in vars(value).items() if not k.startswith("_")}), depth - 1)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
