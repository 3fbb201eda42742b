"""The places of a trajectory, group after group: the next one is read and the last one written while the present one is sampled."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jaxllc._tree import split_objects
from jaxllc._typing import Params
from jaxllc.engine import NotFiniteError
from jaxllc.estimator import estimate_group
from jaxllc.plan import Plan
from jaxllc.probes import at_checkpoints
from jaxllc.results import PROBES, Name, Place
from jaxllc.runs import Weights
from jaxllc.store import checksum

_LOG = logging.getLogger("jaxllc")


class Outcome(NamedTuple):
    """What came of a place."""

    place: Place
    arrays: dict[Name, np.ndarray]
    """Of the result; empty where it failed."""
    weights: int
    """Their checksum."""
    failure: str = ""
    """Why there are no arrays."""


def outcomes(plan: Plan, weights: Weights, groups: Iterator[Sequence[Place]], size: int, on_steps: Callable[[int], Any]) -> Iterator[list[Outcome]]:
    """What comes of each group of places; while one is sampled, the next one is read.

    Args:
        plan: how to sample.
        weights: at the places.
        groups: of places, asked for one ahead.
        size: places that the program is compiled for.
        on_steps: called with iterations done, of all places of a group together.
    """
    with ThreadPoolExecutor(1, "jaxllc-read") as reader:
        ahead: Future[Any] = reader.submit(_read, weights, groups)
        while (group := ahead.result()) is not None:
            ahead = reader.submit(_read, weights, groups)
            began = time.perf_counter()
            found = list(_sampled(plan, group[0], group[1], size, on_steps))
            yield found
            _LOG.debug("%s: %.1f s", ", ".join(str(one.place) for one in found), time.perf_counter() - began)


def handed_on(found: Iterator[list[Outcome]], write: Callable[[list[Outcome]], None]) -> None:
    """Write each group while the next one is sampled; what is whole is written also where sampling ends with an error."""
    with ThreadPoolExecutor(1, "jaxllc-write") as writer:
        last: Future[None] | None = None
        try:
            for group in found:
                if last is not None:
                    last.result()
                last = writer.submit(write, group)
        finally:
            if last is not None:
                last.result()


def _read(weights: Weights, groups: Iterator[Sequence[Place]]) -> tuple[dict[Place, Params], dict[Place, str]] | None:
    """The weights of the next group, and why those of some places cannot be used; None where there is no group left."""
    group = next(groups, None)
    if group is None:
        return None
    checkpoints, failures = {}, {}
    for place in group:
        why = weights.why_not(place)
        if why is None:
            checkpoints[place] = weights.take(place)
        else:
            failures[place] = why
            weights.drop(place)
    return checkpoints, failures


def _sampled(plan: Plan, checkpoints: dict[Place, Params], failures: dict[Place, str], size: int, on_steps: Callable[[int], Any]) -> Iterator[Outcome]:
    """The outcomes of a group, which is filled up to the size that was compiled for."""
    yield from (Outcome(place, {}, 0, why) for place, why in failures.items())
    while checkpoints:
        *_, last = checkpoints
        count = len(checkpoints)
        padded: dict[Any, Params] = {**checkpoints, **{f"{last} again, {i}": checkpoints[last] for i in range(size - count)}}
        try:
            values = estimate_group(plan, padded, lambda done, count=count: on_steps(done * count))
        except NotFiniteError as error:
            bad = list(padded)[error.index]
            bad = bad if bad in checkpoints else last
            del checkpoints[bad]
            yield Outcome(bad, {}, 0, str(error))
            continue
        arrays = [split_objects(params)[0] for params in padded.values()]
        values |= {(PROBES, name): array for name, array in at_checkpoints(plan.probes, arrays).items()}
        for i, place in enumerate(checkpoints):
            yield Outcome(place, {name: array[i] for name, array in values.items()}, checksum(arrays[i]))
        return
