"""One running ensemble: what its caller reads, cancels and resumes like a generation."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from mlxmesh_generation.domain.ensemble import Recipe
from mlxmesh_generation.domain.request import Delta, Event, Finished, FinishReason, Started
from mlxmesh_generation.ensembles.asking import Asking, Attempt
from mlxmesh_generation.ensembles.recipes import run_recipe
from mlxmesh_generation.ensembles.steps import with_steps
from mlxmesh_shared.errors import Cancelled, DeadlineExceeded, Internal, MeshError

_log = logging.getLogger(__name__)


class Events(Protocol):
    """The buffer that the caller reads."""

    @property
    def full(self) -> bool: ...
    def put(self, event: Event) -> None: ...
    def fail(self, error: MeshError) -> None: ...
    def drop(self, error: MeshError) -> None: ...


EventsT = TypeVar("EventsT", bound=Events)


class EnsembleRun(Generic[EventsT]):
    """Runs a recipe in a task. Nothing is emitted before one answer is chosen: then its Started,
    with the steps so far, and from there on the stream is that member's.
    """

    def __init__(
        self, recipe: Recipe, asking: Asking, events: EventsT, *, on_ended: Callable[[], None]
    ) -> None:
        self.events = events
        self._recipe = recipe
        self._asking = asking
        self._on_ended = on_ended
        self._task: asyncio.Task[None] | None = None
        self._chosen: Attempt | None = None
        self._ended = False

    def start(self) -> None:
        """Its errors reach the reader of the events."""
        self._task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        """Ends it with FinishReason.CANCELLED, if a model has begun to answer."""
        self._asking.cancel()

    def fail(self, error: MeshError) -> None:
        """Ends it with an error, after what was emitted so far."""
        if not self._ended:
            self.events.fail(error)
            self._end(error)

    def abort(self, error: MeshError) -> None:
        """Ends it with an error and discards what its reader has not read."""
        self.events.drop(error)
        if not self._ended:
            self._end(error)

    # Called by the recipe.

    def give(self, attempt: Attempt, events: Sequence[Event]) -> None:
        """Emits the events of an answer that has ended."""
        for event in events:
            self._put(attempt, event)

    async def pass_on(self, attempt: Attempt, events: Sequence[Event]) -> None:
        """Emits the first events of an answer, and each later one as it comes."""
        self._asking.close(but=attempt)
        self.give(attempt, events)
        while attempt.finished is None:
            self._put(attempt, await self._asking.more(attempt))
            if self.events.full:
                raise Cancelled("the reader fell too far behind; read faster or ask for less")

    async def _run(self) -> None:
        error: MeshError | None = None
        try:
            async with asyncio.timeout(self._left_s()):
                await run_recipe(self._recipe, self._asking, self)
        except TimeoutError:
            error = DeadlineExceeded("the deadline passed before the ensemble's answer was whole")
        except MeshError as failure:
            error = failure
        except Exception:  # noqa: BLE001 - logged; its reader must not wait for ever
            _log.exception("an ensemble failed")
            error = Internal("the ensemble failed; see the log of the generation service")
        if self._ended:
            return
        self._task = None  # it must not cancel itself
        if error is not None:
            self.events.fail(error)
        # Another error is that of a member, or no member's.
        self._end(error if isinstance(error, DeadlineExceeded) else None)

    def _end(self, error: MeshError | None) -> None:
        """error: of the members that still run."""
        self._ended = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._asking.close(error)
        self._asking.report(self._chosen)
        self._on_ended()

    def _put(self, attempt: Attempt, event: Event) -> None:
        """Emits an event of the chosen answer, as one of this stream."""
        asked = self._asking.request
        if isinstance(event, Started):
            self._chosen = attempt
            steps = self._asking.steps(attempt)
            event = replace(
                event, request_id=asked.request_id, ensemble=asked.model.name, steps=steps
            )
        elif isinstance(event, Delta) and asked.logprobs is None and event.logprobs:
            event = replace(event, logprobs=())
        elif isinstance(event, Finished):
            event = self._finished(attempt, event)
        self.events.put(event)

    def _finished(self, attempt: Attempt, event: Finished) -> Finished:
        if self._asking.cancelled:
            reason = FinishReason.CANCELLED
            event = replace(event, reason=reason, stop_text=None, stop_token_id=None)
        if event.total is None:
            return event
        return with_steps(event, self._asking.steps(attempt))

    def _left_s(self) -> float | None:
        deadline_s = self._asking.deadline_s
        return None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
