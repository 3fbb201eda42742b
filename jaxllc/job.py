"""The work of a trajectory: settings found or checked, places shared with other processes, each written as it is done."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np

from jaxllc import results
from jaxllc._typing import Params
from jaxllc.calibrate import calibrated, calibrates, calibrating, few
from jaxllc.candidates import reaching
from jaxllc.engine import NotFiniteError
from jaxllc.estimate import stored_settings
from jaxllc.grouping import even_size, suitable_group_size, with_fitting_components
from jaxllc.layout import STEP
from jaxllc.pipeline import Outcome, handed_on, outcomes
from jaxllc.plan import DEFAULT_SAMPLER, Plan
from jaxllc.probes import Probe
from jaxllc.progress import Tally, announce, progress_bar
from jaxllc.reading import open_tree
from jaxllc.request import Request
from jaxllc.results import Name, Place
from jaxllc.runs import Weights
from jaxllc.settings import Overrides, Settings, as_count, override
from jaxllc.source import made_by
from jaxllc.store import Store, checksum
from jaxllc.writers import Part

if TYPE_CHECKING:
    import xarray

Found = TypeVar("Found")
GROUP_SIZE = "group_size"
"""The attribute that keeps how many checkpoints run in one program."""
PROBED = 5
"""Checkpoints of each run, evenly spread, whose curvature sets a default step size."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a trajectory is asked for."""

    request: Request
    weights: Weights
    places: list[Place]
    settings: Settings | None
    overrides: Overrides
    probes: Mapping[str, Probe]
    noted: Mapping[str, Any]
    """Attributes that the result has besides."""
    group_size: int | None
    strict: bool
    progress: bool

    def in_memory(self) -> "xarray.DataTree":
        """The result, whose arrays are kept."""
        plan, attributes = self._planned(None, 1)
        arrays: dict[Place, dict[Name, np.ndarray]] = {}
        failures: dict[Place, str] = {}

        def keep(found: list[Outcome]) -> None:
            for one in found:
                if one.failure:
                    failures[one.place] = one.failure
                else:
                    arrays[one.place] = one.arrays

        self._run(plan, self.places, lambda size: iter([self.places[i : i + size] for i in range(0, len(self.places), size)]), keep)
        if not arrays:
            place, why = next(iter(failures.items()))
            raise ValueError(f"no checkpoint could be used; {place}: {why}")
        _warn_of_failures(failures, self.places)
        return results.gathered(arrays, self.places, {**attributes, "failures": results.listed(failures)} if failures else attributes)

    def in_store(self, store: Store, *, stay: bool) -> "xarray.DataTree":
        """The result, which lies in a store.

        Args:
            store: of which this process is a writer.
            stay: until the other writers have ended.
        """
        index, count = store.members.writer.part
        done: dict[Place, int] = {}
        with store.laying_out(self.places) as stored:
            plan, attributes = self._planned(stored, count)
            if stored is not None:
                store.compare(self.places, attributes)
                done = store.done()
                mine = [place for place in self.places if place in done][index::count]
                self.weights.check({place: done[place] for place in mine}, store.location)
            store.lay_out(self.places, attributes)
        if others := store.made_by() - {made_by()}:
            warnings.warn(f"the store {store.location} holds places that were computed by {', '.join(sorted(others))}; this is {made_by()}.", stacklevel=4)
        pending = [place for place in self.places if place not in done]
        self.weights.hold_only(pending)

        def write(found: list[Outcome]) -> None:
            store.same_batches(plan.data.seen)
            for one in found:
                if one.failure:
                    store.fail(one.place, one.failure)
                else:
                    store.write(one.place, one.arrays, one.weights)

        self._run(plan, pending, lambda size: store.groups(pending, size, stay=stay), write, store.members.progressed, count)
        failed = store.failed()
        missing = [place for place in store.pending(self.places) if place not in failed]
        if stay and missing:
            warnings.warn(f"{len(missing)} places were not written by any process: {', '.join(map(str, missing[:6]))}; call again to go on.", stacklevel=4)
        _warn_of_failures({place: why for place, why in failed.items() if place in self.places}, self.places)
        store.wait_for_first()
        return open_tree(store.location, self.places)

    def _planned(self, stored: Mapping[str, Any] | None, processes: int) -> tuple[Plan, dict[str, Any]]:
        first = self.places[:1] if self.strict else self.weights.readable(self.places[:1], self.places)
        params = self.weights.peek(first[0])
        plan = self._plan(stored).with_probes(self.probes, params)
        size = self.group_size or (stored or {}).get(GROUP_SIZE) or suitable_group_size(plan, params, math.ceil(len(self.places) / processes))
        plan = with_fitting_components(plan.with_facts(**{GROUP_SIZE: size}), params)
        return plan, plan.attributes() | {"data_checksum": checksum(plan.data.resident.arrays), "verb": "trajectory", **self.noted}

    def _plan(self, stored: Mapping[str, Any] | None) -> Plan:
        """The plan of the settings, without probes: calibrated where they are open, unless a store was begun with what was found then."""
        request, settings, overrides = self.request, self.settings, self.overrides
        are_open = calibrates(request.data, settings, overrides)
        if are_open and stored is None:
            announce(calibrating(request.budget), self.progress)
            calibration, plan = self._finite(few(self.places), lambda some: calibrated(request, some))
            return reaching(plan.with_facts(calibration=calibration.to_dict()), self.probes)
        if are_open and stored is not None:
            request, settings = request.with_arrays(), stored_settings(stored)
            overrides = Overrides(**{name: value for name, value in overrides.items() if value is not None})  # pyright: ignore[reportArgumentType]
        settings = _with_stored_step_size(override(settings, overrides), stored)
        needs_step_size = (settings.sampler or DEFAULT_SAMPLER).needs_step_size
        plan = self._finite(_spread(self.places) if needs_step_size else self.places[:1], lambda some: request.plan(some, settings))
        return plan.with_facts(calibration=stored["calibration"]) if stored is not None and "calibration" in stored else plan

    def _finite(self, places: list[Place], look: Callable[[Mapping[Place, Params]], Found]) -> Found:
        """What is found at some places; those that cannot be used are passed over, unless they are to end the run."""
        some = places if self.strict else self.weights.readable(places, self.places)
        while True:
            try:
                return look(self.weights.some(some))
            except NotFiniteError as error:
                if self.strict or len(some) == 1:
                    raise
                some = [place for i, place in enumerate(some) if i != error.index]

    def _run(
        self,
        plan: Plan,
        pending: list[Place],
        groups_of: Callable[[int], Iterator[list[Place]]],
        keep: Callable[[list[Outcome]], None],
        progressed: Callable[[], None] = lambda: None,
        count: int = 1,
    ) -> None:
        """Sample this process's share of what is pending, and keep each group."""
        if not pending:
            return
        share = math.ceil(len(pending) / count)
        size = even_size(share, plan.facts[GROUP_SIZE], 1 if plan.mesh is None else plan.mesh.shape.get(STEP, 1))

        def checked(found: Iterator[list[Outcome]]) -> Iterator[list[Outcome]]:
            for group in found:
                yield group
                if self.strict and (failed := [one for one in group if one.failure]):
                    raise ValueError(f"{failed[0].place}: {failed[0].failure}")

        tally = Tally(share)

        def kept(found: list[Outcome]) -> None:
            keep(found)
            tally.add(len(found))

        with progress_bar(plan.settings.num_iterations * share, self.progress) as on_steps:

            def moved(steps: int) -> None:
                on_steps(steps)
                progressed()

            handed_on(checked(outcomes(plan, self.weights, groups_of(size), size, moved)), kept)


def _warn_of_failures(failures: Mapping[Place, str], places: Sequence[Place]) -> None:
    """Where more places have no numbers than have some: the first checkpoint, which the others are compared with, may be the odd one."""
    if 2 * len(failures) > len(places):
        place, why = next(iter(failures.items()))
        warnings.warn(f"{len(failures)} of {len(places)} checkpoints have no numbers (see Trajectory.failures); {place}: {why}", stacklevel=5)


def checked_part(part: Part | None, store: Any) -> Part:
    """The part of this process: as it was given, or that of `jax.distributed`."""
    if part is None:
        part = jax.process_index(), jax.process_count()
    if not isinstance(part, Sequence) or len(part) != 2:
        raise ValueError(f"part must be (index, count), such as (2, 8), got {part!r}.")
    index, count = (as_count(name, value) if value else 0 for name, value in zip(("part[0]", "part[1]"), part, strict=True))
    if not 0 <= index < count:
        raise ValueError(f"part must be (index, count) with 0 <= index < count, got {part!r}.")
    if count > 1 and store is None:
        raise ValueError(f"{count} processes share the checkpoints through a store; pass store=, a path that all of them see.")
    return index, count


def _spread(places: list[Place]) -> list[Place]:
    """Those at `PROBED` steps, evenly spread, of every run."""
    steps = sorted({place.step for place in places})
    chosen = {steps[round(i)] for i in np.linspace(0, len(steps) - 1, PROBED)}
    return [place for place in places if place.step in chosen]


def _with_stored_step_size(settings: Settings, stored: Mapping[str, Any] | None) -> Settings:
    """The settings with the default step size that a store was begun with, which more checkpoints must not change."""
    sampler = settings.sampler or DEFAULT_SAMPLER
    if not (sampler.needs_step_size and stored and "default_step_size" in stored):
        return settings
    return settings.replace(sampler=sampler.with_default_step_size(stored["default_step_size"], settings.num_burn_in))
