"""Training runs as mappings from the step to the weights: checked, read once each, compared with what a store was made of."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxllc._tree import leaves_with_roles, split_objects
from jaxllc._typing import Params
from jaxllc.checkpoints import format_steps
from jaxllc.results import Place
from jaxllc.store import UNKNOWN, checksum


def checkpoint_runs(checkpoints: Any) -> dict[str | None, Mapping[int, Params]]:
    """Training runs by name; one alone has the name None."""
    if not isinstance(checkpoints, Mapping):
        way = "wrap a directory in jaxllc.OrbaxCheckpoints" if isinstance(checkpoints, str | os.PathLike) else "use a dictionary from the step to the weights"
        raise TypeError(f"checkpoints must be a mapping from the training step to the weights, got {type(checkpoints).__name__}; {way}.")
    if not checkpoints:
        raise ValueError(f"there are no checkpoints: {checkpoints!r} is empty.")
    if not all(isinstance(name, str) for name in checkpoints):
        return {None: checkpoints}
    for name, run in checkpoints.items():
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
            ValueError: another structure or other shapes than those of the first place that was read.
        """
        if place not in self._held:
            self._held[place] = self._read(place)
        return self._held[place]

    def take(self, place: Place) -> Params:
        """The weights at a place, which are held no more."""
        return self._held.pop(place) if place in self._held else self._read(place)

    def hold_only(self, places: Sequence[Place]) -> None:
        """Let go of the weights at all other places."""
        self._held = {place: params for place, params in self._held.items() if place in places}

    def some(self, places: Sequence[Place]) -> Mapping[Place, Params]:
        """The weights at some places, each read when it is asked for."""
        return _Some(self, places)

    def check(self, places: Sequence[Place], done: Mapping[Place, int], store: Any) -> None:
        """Raise where the first or the last step of a run that is stored was computed from other weights: the store is of another run.

        Args:
            places: what is asked for.
            done: checksums of the weights at the places that are stored.
            store: its path, for the error.
        """
        for run in {place.run: None for place in done}:
            steps = [place.step for place in done if place.run == run]
            asked = [place for place in places if place.run == run]
            stored = sorted(place for place in asked if place in done)
            if asked and not stored:
                raise ValueError(
                    f"the store {store} holds none of the steps of these checkpoints but {format_steps(steps)}{'' if run is None else f' of run {run!r}'}, "
                    "so it is of another run; use another store=."
                )
            for place in dict.fromkeys((*stored[:1], *stored[-1:])):
                if done[place] not in (UNKNOWN, checksum(split_objects(self.peek(place))[0])):
                    raise ValueError(
                        f"the store {store} holds {place} of other weights than the checkpoints do ({format_steps(steps)} are stored); use another store=."
                    )

    def _read(self, place: Place) -> Params:
        params = self._runs[place.run][place.step]
        arrays, objects = split_objects(params)
        model = jax.tree.structure(arrays), [np.shape(leaf) for leaf in jax.tree.leaves(arrays)], objects
        if self._first is None:
            self._first = place, model
        first, expected = self._first
        if model[:2] != expected[:2]:
            raise ValueError(f"the weights at {place} have another structure or other shapes than those at {first}; a run has one model.")
        if model[2] != expected[2]:
            names = ", ".join(leaf.name for leaf in leaves_with_roles(params) if leaf.role == "object")
            raise ValueError(
                f"the weights at {place} hold other functions or settings than those at {first}, in one of these leaves: {names}; restore the arrays of all "
                "checkpoints into one model."
            )
        return params


class _Some(Mapping[Place, Params]):
    def __init__(self, weights: Weights, places: Sequence[Place]) -> None:
        self._weights, self._places = weights, dict.fromkeys(places)

    def __getitem__(self, place: Place) -> Params:
        return self._weights.peek(place)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
