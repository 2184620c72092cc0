"""One generation that an upstream runs: its answer in, events out.

Its pieces have no token ids, so it cannot be resumed by another process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from mlxmesh_generation.domain.request import (
    Chat,
    Delta,
    Finished,
    FinishReason,
    Started,
    Timings,
)
from mlxmesh_generation.streams import events
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.streams.stream import EventBuffer
from mlxmesh_generation.streams.telemetry import GenerationObserver
from mlxmesh_generation.upstream.answer import AnswerReader, Usage
from mlxmesh_generation.upstream.upstreams import Connection
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    Internal,
    MeshError,
    UpstreamUnavailable,
)

_log = logging.getLogger(__name__)

UPSTREAM_ENGINE = "upstream"
"""Stands for the engine's id in Started."""
RETRY_WITHIN_S = 2.0
"""A call that failed so soon is repeated once: its connection may have been closed meanwhile."""


class UpstreamGeneration:
    """Satisfies Running: one request to an upstream, in a task of its own."""

    def __init__(
        self,
        plan: Plan,
        *,
        connection: Connection,
        body: Mapping[str, Any],
        observer: GenerationObserver,
        has_started: bool = False,
        on_ended: Callable[[], None] = lambda: None,
        on_backlog: Callable[[int], None] = lambda _: None,
    ) -> None:
        """has_started: whether its reader has the first event already."""
        self.events = EventBuffer(on_backlog, outputs=plan.request.n)
        self._plan = plan
        self._connection = connection
        self._body = body
        self._observer = observer
        self._call = observer.of_output()
        self._has_started = has_started
        self._on_ended = on_ended
        self._reader = self._new_reader()
        self._ends: dict[int, Finished] = {}
        self._task: asyncio.Task[None] | None = None
        self._waited_s = 0.0
        self._cancelled = False
        self._ended = False

    def start(self) -> None:
        """Raises: UpstreamUnavailable while it is given a pause; QueueFull; DeadlineExceeded."""
        if self._cancelled:
            self._finish_cancelled()
            return
        self._left_s()
        self._connection.check(flex=self._plan.request.flex)
        self._task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        """Ends it with FinishReason.CANCELLED; closes the connection at once."""
        self._cancelled = True
        if self._task is not None and not self._ended:
            self._task.cancel()
            self._finish_cancelled()

    def fail(self, error: MeshError) -> None:
        """Ends it with an error, after the text so far."""
        if not self._ended:
            self.events.fail(error)
            self._end_with(error)

    def abort(self, error: MeshError) -> None:
        """Ends it with an error and discards the output that its reader has not read."""
        self.events.drop(error)
        if not self._ended:
            self._end_with(error)

    # Its task.

    async def _run(self) -> None:
        began_s, flex = time.monotonic(), self._plan.request.flex
        try:
            place = self._connection.places.holding(flex=flex)
            async with asyncio.timeout(self._left_s()), place:
                self._waited_s = time.monotonic() - began_s
                await self._ask_twice()
        except MeshError as error:
            self.fail(error)
        except TimeoutError:
            self.fail(DeadlineExceeded(f"the upstream of {self._plan.version} was too slow"))
        except Exception:  # noqa: BLE001 - its reader must get an end
            _log.exception("a generation of the upstream of %s failed", self._plan.version)
            self.fail(Internal("the upstream's answer could not be processed"))

    async def _ask_twice(self) -> None:
        began_s = time.monotonic()
        try:
            await self._ask()
        except UpstreamUnavailable as error:
            late = time.monotonic() - began_s > RETRY_WITHIN_S
            if self._has_started or late or error.retry_delay_s is not None:
                raise
            await self._ask()

    async def _ask(self) -> None:
        permit = self._connection.breaker.admit()
        self._call.start_attempt()  # what others run gets no trace of ours
        self._call.placed(UPSTREAM_ENGINE)
        try:
            async with self._called() as chunks:
                permit.answered()
                self._put_started()
                await self._read(chunks)
        except MeshError as error:
            permit.ended_by(error)
            self._call.engine_failed(error)
            raise
        finally:
            permit.drop()
            self._call.ended()
        self._finish()

    def _called(self) -> AbstractAsyncContextManager[AsyncIterator[Mapping[str, Any]]]:
        client, left_s = self._connection.client, self._left_s()
        if isinstance(self._plan.request.input, Chat):
            return client.chat(self._body, left_s)
        return client.completion(self._body, left_s)

    async def _read(self, chunks: AsyncIterator[Mapping[str, Any]]) -> None:
        try:
            async for chunk in chunks:
                for piece in self._reader.feed(chunk):
                    self._put(piece)
        except UpstreamUnavailable:
            # Some never say that their stream ends.
            if not self._reader.complete:
                raise
        if not self._reader.complete:
            raise UpstreamUnavailable(
                f"the upstream of {self._plan.version} ended its answer before the end"
            )

    def _put(self, piece: Delta | int) -> None:
        if isinstance(piece, Delta):
            self._observer.first_token()
            self.events.put(piece)
        elif len(self._ends) < self._plan.request.n - 1:
            # The last one has the usage, which comes later.
            self.events.put(self._note_end(piece))

    def _put_started(self) -> None:
        if self._has_started:
            return
        self._has_started = True
        started = Started(
            request_id=self._plan.request.request_id,
            model=self._plan.version.name,
            model_version=self._plan.version.version,
            engine_id=UPSTREAM_ENGINE,
            prompt_tokens=0,
            cached_tokens=0,
            seed=self._plan.seed,
            created_ms=time.time_ns() // 1_000_000,
            assignment=self._plan.assignment,
        )
        self.events.put(started)

    # Its end.

    def _finish(self) -> None:
        """Ends the outputs that have no end yet, of which the last has the usage of all."""
        left = [index for index in range(self._plan.request.n) if index not in self._ends]
        for index in left[:-1]:
            self.events.put(self._note_end(index))
        counted = self._usage()
        self._observer.prompt_counted(counted.prompt_tokens)
        plan = replace(self._plan, prompt_token_ids=range(counted.prompt_tokens))
        others = sum(end.completion_tokens for end in self._ends.values())
        last = self._note_end(left[-1])
        last = replace(
            last,
            completion_tokens=max(0, counted.completion_tokens - others),
            reasoning_tokens=counted.reasoning_tokens,
        )
        self._ends[last.index] = last
        for index, end in self._ends.items():
            self._ends[index] = replace(
                end,
                prompt_tokens=counted.prompt_tokens,
                cached_tokens=counted.cached_tokens,
            )
        last = events.with_total(plan, self._ends[last.index], self._ends)
        self._ends[last.index] = last
        self._ended = True
        ends = [self._ends[index] for index in sorted(self._ends)]
        self._observer.finished(ends, [range(end.completion_tokens) for end in ends])
        self.events.put(last)
        self._on_ended()

    def _finish_cancelled(self) -> None:
        self._put_started()
        for output in self._reader.outputs:
            output.reason = output.reason or FinishReason.CANCELLED
        self._finish()

    def _note_end(self, index: int) -> Finished:
        output, counted = self._reader.outputs[index], self._usage()
        assert output.reason is not None
        end = self._ends[index] = Finished(
            reason=output.reason,
            prompt_tokens=counted.prompt_tokens,
            cached_tokens=counted.cached_tokens,
            completion_tokens=output.pieces,
            timings=Timings(queue_ms=self._waited_s * 1000),
            index=index,
            calls_valid=output.calls_valid,
        )
        return end

    def _usage(self) -> Usage:
        """As the upstream counted; without that, a token for each piece."""
        pieces = sum(output.pieces for output in self._reader.outputs)
        return self._reader.usage or Usage(prompt_tokens=0, completion_tokens=pieces)

    def _end_with(self, error: MeshError) -> None:
        self._ended = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._observer.prompt_counted(self._usage().prompt_tokens)
        pieces: Sequence[Sequence[int]] = [range(each.pieces) for each in self._reader.outputs]
        self._observer.failed(error, pieces, 0)
        self._on_ended()

    def _left_s(self) -> float | None:
        """Raises: DeadlineExceeded."""
        if self._plan.deadline_s is None:
            return None
        left_s = self._plan.deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline passed before the upstream was asked")
        return left_s

    def _new_reader(self) -> AnswerReader:
        request = self._plan.request
        return AnswerReader(str(self._plan.version), request.answer_id, request.n)


def no_text(_token_ids: Sequence[int]) -> str:
    """What its tokens say: they have no ids."""
    return ""
