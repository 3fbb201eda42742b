"""Training runs as mappings from the step to the weights: checked, read once each, compared with what a store was made of."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllc._tree import is_real, leaves_with_roles, named_leaves, split_objects
from jaxllc._typing import Params
from jaxllc.checkpoints import format_steps
from jaxllc.layout import is_split
from jaxllc.results import Place
from jaxllc.store import UNKNOWN, checksum


def checkpoint_runs(checkpoints: Any) -> dict[str | None, Mapping[int, Params]]:
    """Training runs by name; one alone has the name None."""
    if not isinstance(checkpoints, Mapping):
        way = (
            "wrap a directory in jaxllc.OrbaxCheckpoints or SafetensorsCheckpoints"
            if isinstance(checkpoints, str | os.PathLike)
            else "use a dictionary from the step to the weights"
        )
        raise TypeError(f"checkpoints must be a mapping from the training step to the weights, got {type(checkpoints).__name__}; {way}.")
    if not checkpoints:
        raise ValueError(f"there are no checkpoints: {checkpoints!r} is empty.")
    if not all(isinstance(name, str) for name in checkpoints):
        return {None: checkpoints}
    for name, run in checkpoints.items():
        if not name:
            raise ValueError("a training run has an empty name; give it one, or pass its mapping alone.")
        if not isinstance(run, Mapping):
            raise TypeError(f"the training run {name!r} must be a mapping from the training step to the weights, got {type(run).__name__}.")
        if not run:
            raise ValueError(f"there are no checkpoints in the training run {name!r}: {run!r} is empty.")
    return dict(checkpoints)


def shared_steps(runs: Mapping[str | None, Mapping[int, Params]]) -> list[int]:
    """The steps of the checkpoints, which all runs must have."""
    for name, run in runs.items():
        wrong = [step for step in run if not isinstance(step, int | np.integer)]
        if wrong:
            raise ValueError(f"checkpoints{'' if name is None else f' of run {name!r}'} must be keyed by training step, an int; got {wrong[0]!r}.")
    union = {int(step) for run in runs.values() for step in run}
    for name, run in runs.items():
        if missing := sorted(union - {int(step) for step in run}):
            holder = next(other for other in runs if missing[0] in runs[other])
            raise ValueError(
                f"training runs must share their steps, and run {name!r} has no checkpoint at {format_steps(missing)} where run {holder!r} has one; "
                "leave these steps out of all runs, or follow each run by itself."
            )
    return sorted(union)


class Weights:
    """The weights at the places of several runs. Each is read once: what is looked at early is held until it is taken.

    Args:
        runs: by name, None for one alone.
    """

    def __init__(self, runs: Mapping[str | None, Mapping[int, Params]]) -> None:
        self._runs = runs
        self._held: dict[Place, Params] = {}
        self._first: tuple[Place, Any] | None = None

    def peek(self, place: Place) -> Params:
        """The weights at a place, which are held.

        Raises:
            ValueError: another structure, other shapes or dtypes than those of the first place that was read.
        """
        if place not in self._held:
            self._held[place] = self._read(place)
        return self._held[place]

    def take(self, place: Place) -> Params:
        """The weights at a place, which are held no more."""
        return self._held.pop(place) if place in self._held else self._read(place)

    def drop(self, place: Place) -> None:
        """Hold the weights at a place no more."""
        self._held.pop(place, None)

    def hold_only(self, places: Sequence[Place]) -> None:
        """Let go of the weights at all other places."""
        self._held = {place: params for place, params in self._held.items() if place in places}

    def some(self, places: Sequence[Place]) -> Mapping[Place, Params]:
        """The weights at some places, each read when it is asked for."""
        return _Some(self, places)

    def check(self, done: Mapping[Place, int], store: Any) -> None:
        """Raise where a stored place was computed from other weights: the store is of another run, or the checkpoint was replaced.

        A checkpoint that can no longer be read is passed over, since its numbers are there.

        Args:
            done: checksums of the weights at places that are stored.
            store: its path, for the error.
        """
        others: list[Place] = []
        for place, stored in done.items():
            try:
                params = self._held.pop(place) if place in self._held else self._runs[place.run][place.step]
            except Exception:  # a mapping may raise anything
                continue
            if stored != UNKNOWN and stored != checksum(split_objects(params)[0]):
                others.append(place)
        if others:
            listed = ", ".join(map(str, others[:6])) + (f" and {len(others) - 6} more" if len(others) > 6 else "")
            raise ValueError(
                f"the store {store} holds {listed} of other weights than the checkpoints do, of {len(done)} places that were compared; use another store=, or "
                "put the checkpoints back."
            )

    def readable(self, places: Sequence[Place], others: Sequence[Place] = ()) -> list[Place]:
        """Those of these places whose weights can be read and are finite; where there is none, the first such of the others.

        Raises:
            ValueError: none of all can be used.
        """
        found = [place for place in places if self.why_not(place) is None]
        for place in others if not found else ():
            if self.why_not(place) is None:
                return [place]
        if not found:
            raise ValueError(f"no checkpoint can be used; {places[0]}: {self.why_not(places[0])}")
        return found

    def why_not(self, place: Place) -> str | None:
        """Why the weights at a place cannot be used, which are held where they can."""
        try:
            return why_not_finite_weights(self.peek(place))
        except Exception as error:  # a mapping may raise anything
            return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"

    def _read(self, place: Place) -> Params:
        params = self._runs[place.run][place.step]
        arrays, objects = split_objects(params)
        leaves = named_leaves(arrays)
        model = jax.tree.structure(arrays), [np.shape(leaf) for leaf in leaves.values()], [_dtype(leaf) for leaf in leaves.values()], objects
        if self._first is None:
            self._first = place, model
        first, expected = self._first
        if model[:2] != expected[:2]:
            raise ValueError(f"the weights at {place} have another structure or other shapes than those at {first}; a run has one model.")
        if model[2] != expected[2]:
            other = next(f"{name} {new} instead of {old}" for name, new, old in zip(leaves, model[2], expected[2], strict=True) if new != old)
            raise ValueError(f"the weights at {place} have other dtypes than those at {first}: {other}; a run has one model.")
        if model[3] != expected[3]:
            names = ", ".join(leaf.name for leaf in leaves_with_roles(params) if leaf.role == "object")
            raise ValueError(
                f"the weights at {place} hold other functions or settings than those at {first}, in one of these leaves: {names}; restore the arrays of all "
                "checkpoints into one model."
            )
        return params


def _is_finite(values: Any) -> bool:
    """Split weights are looked at where they lie."""
    return bool(jnp.isfinite(values).all()) if is_split(values) else bool(np.isfinite(np.asarray(values, np.float32)).all())


def _dtype(leaf: Any) -> str:
    """As JAX has it."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.result_type(leaf)
    return str(dtype if jax.numpy.issubdtype(dtype, jax.dtypes.extended) else jax.dtypes.canonicalize_dtype(dtype))


class _Some(Mapping[Place, Params]):
    def __init__(self, weights: Weights, places: Sequence[Place]) -> None:
        self._weights, self._places = weights, dict.fromkeys(places)

    def __getitem__(self, place: Place) -> Params:
        return self._weights.peek(place)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def why_not_finite_weights(params: Params) -> str | None:
    """The names of weights that are not finite, as a message; None where all are."""
    bad = [leaf for leaf, values in named_leaves(split_objects(params)[0]).items() if is_real(values) and not _is_finite(values)]
    return f"these weights are not finite: {', '.join(bad[:6])}" if bad else None
