"""A generation whose engines are a test's words."""

import asyncio
import time
from collections.abc import Collection
from typing import Any

from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.engine.v1.engine_pb2 import Accepted, SequenceOutput, Submit
from mlxmesh.telemetry.v1.events_pb2 import GenerationResumed
from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.outcome import Outcome
from mlxmesh_generation.domain.request import (
    Delta,
    Event,
    Finished,
    GenerationRequest,
    LogprobOptions,
    PromptText,
    Resumed,
)
from mlxmesh_generation.domain.routing import Price
from mlxmesh_generation.parsers.parts import Reading
from mlxmesh_generation.placement import convert
from mlxmesh_generation.placement.sequence import (
    EngineConstraint,
    EngineSequence,
    SequenceRequest,
    SequenceSink,
)
from mlxmesh_generation.streams.generation import Generation
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.streams.running_output import RunningOutput
from mlxmesh_generation.streams.telemetry import GenerationTelemetry
from mlxmesh_generation.streams.transcript import Transcript
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_shared.errors import (
    EngineLost,
    MeshError,
    NoReplica,
    QueueFull,
)
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.rpc.error_status import to_failure

VERSION = ModelVersion("pocket", 1, "ab" * 32, 1024, 500, 1)
STOP = engine_pb2.ENGINE_FINISH_REASON_STOP
LENGTH = engine_pb2.ENGINE_FINISH_REASON_LENGTH
CANCELLED = engine_pb2.ENGINE_FINISH_REASON_CANCELLED


class Sequence:
    def __init__(self, engine_id: str) -> None:
        self.engine_id = engine_id
        self.cancelled = self.dropped = False

    def cancel(self) -> None:
        self.cancelled = True

    def drop(self) -> None:
        self.dropped = True


class Placements:
    """Satisfies Placer over a list of engine ids, in that order."""

    def __init__(self, *engine_ids: str) -> None:
        self.engine_ids = engine_ids
        self.expected = True
        self.max_places = 10_000
        self.submits: list[Submit] = []
        self.sinks: list[SequenceSink] = []
        self.shared: list[EngineSequence | None] = []
        self.sequences: list[Sequence] = []

    def place(
        self,
        version: ModelVersion,
        request: SequenceRequest,
        sink: SequenceSink,
        *,
        avoid: Collection[str],
    ) -> Sequence:
        free = [engine_id for engine_id in self.engine_ids if engine_id not in avoid]
        if not free:
            raise NoReplica("none")
        if len(self.sequences) >= self.max_places:
            raise QueueFull("full")
        self.submits.append(convert.submit(request, 0))
        self.sinks.append(sink)
        self.shared.append(request.shares_prefill_of)
        self.sequences.append(Sequence(free[0]))
        return self.sequences[-1]

    async def wait_for_replica(self, version: ModelVersion) -> None:
        if not self.expected:
            raise EngineLost("no longer loaded")
        await asyncio.sleep(0)


class Running:
    """A generation, its engines, and shorthands for what an engine says."""

    def __init__(
        self,
        tokenizer: ModelTokenizer,
        *,
        stop: tuple[str, ...] = (),
        engines: tuple[str, ...] = ("engine-1",),
        timeout_s: float | None = None,
        cancelled: bool = False,
        max_tokens: int | None = None,
        resumed: Resumed | None = None,
        engine_wait_s: float = 10,
        max_places: int = 10_000,
        n: int = 1,
        reading: Reading | None = None,
        logprobs: LogprobOptions | None = None,
        constraint: EngineConstraint | None = None,
        price: Price | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.engines = Placements(*engines)
        self.engines.max_places = max_places
        self.told: list[tuple[GenerationResumed, str]] = []
        self.outcomes: list[Outcome] = []
        self.ended = 0
        self.abort_error: MeshError | None = None
        received_s = time.monotonic()
        plan = Plan(
            request=GenerationRequest(
                "r",
                ModelReference("pocket"),
                PromptText("x"),
                max_tokens=max_tokens,
                stop=stop,
                n=n,
                logprobs=logprobs,
            ),
            version=VERSION,
            prompt_token_ids=(5, 6, 7),
            max_tokens=100,
            seed=42,
            received_s=received_s,
            deadline_s=None if timeout_s is None else received_s + timeout_s,
            constraint=constraint,
            reading=reading,
            price=price,
        )
        telemetry = GenerationTelemetry(record=self.outcomes.append)
        self.generation = Generation(
            plan,
            observer=telemetry.begin(plan, tokenizer.decode),
            engines=self.engines,
            tokenizer=tokenizer,
            resumed=resumed,
            engine_wait_s=engine_wait_s,
            on_ended=self._on_ended,
            on_backlog=self._on_backlog,
            publish=self._publish,
            clock_ms=lambda: 1234,
        )
        if cancelled:
            self.generation.cancel()
        self.generation.start()

    def _publish(self, payload: Any, correlation_id: str = "") -> None:
        self.told.append((payload, correlation_id))

    def _on_ended(self) -> None:
        self.ended += 1

    def _on_backlog(self, by_bytes: int) -> None:
        error, self.abort_error = self.abort_error, None
        if error is not None and by_bytes > 0:
            self.generation.abort(error)

    def abort_at_next_output(self, error: MeshError) -> None:
        """As the limit on unread output does."""
        self.abort_error = error

    @property
    def sequence(self) -> Sequence:
        return self.engines.sequences[-1]

    def sequence_of(self, index: int) -> Sequence:
        """The latest one of an output."""
        return self.engines.sequences[self._latest(index)]

    def submit_of(self, index: int) -> Submit:
        return self.engines.submits[self._latest(index)]

    def submits_of(self, index: int) -> int:
        """How often an output was submitted."""
        return sum(sink.index == index for sink in self._sinks)

    def lose(self, error: MeshError, *, index: int = 0) -> None:
        self._sinks[self._latest(index)].on_lost(error)

    def say(self, *, index: int = 0, **fields: object) -> None:
        message = SequenceOutput(**fields)  # pyright: ignore[reportArgumentType]
        self._sinks[self._latest(index)].on_output(convert.engine_output(message))

    def accept(self, *, index: int = 0) -> None:
        self.say(index=index, accepted=Accepted(cached_tokens=2))

    def tokens(self, text: str, *, index: int = 0, **fields: object) -> list[int]:
        token_ids = self.tokenizer.encode_rendered(text)
        self.say(index=index, token_ids=token_ids, **fields)
        return token_ids

    def fail(self, error: MeshError, *, index: int = 0) -> None:
        self.say(index=index, failure=to_failure(error))

    @property
    def _sinks(self) -> list[RunningOutput]:
        return [sink for sink in self.engines.sinks if isinstance(sink, RunningOutput)]

    def _latest(self, index: int) -> int:
        places = [place for place, sink in enumerate(self._sinks) if sink.index == index]
        return places[-1]

    async def events(self) -> list[Event]:
        seen: list[Event] = []
        await self.read_into(seen)
        return seen

    async def read_into(self, seen: list[Event]) -> None:
        async for _, event in Transcript(self.generation.events, keeps=False).read():
            seen.append(event)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def end_of(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


async def placed_again(running: Running, times: int = 1) -> None:
    async with asyncio.timeout(30):
        while len(running.engines.submits) <= times:
            await asyncio.sleep(0.005)
