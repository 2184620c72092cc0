"""Generations that answer for an ensemble."""

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.outcome import Outcome
from mlxmesh_generation.domain.request import Event, GenerationRequest, LogprobOptions
from mlxmesh_generation.placement.sequence import (
    EngineSequence,
    Placer,
    SequenceRequest,
    SequenceSink,
)
from mlxmesh_generation.streams.entries import Running
from mlxmesh_generation.streams.generation import Generation
from mlxmesh_generation.streams.limits import GenerationLimits
from mlxmesh_generation.streams.outcomes import Record
from mlxmesh_generation.streams.preparation import Preparation, Prepared
from mlxmesh_generation.streams.telemetry import GenerationTelemetry
from mlxmesh_generation.streams.upstream_generation import UpstreamGeneration, no_text
from mlxmesh_generation.streams.upstream_preparation import PreparedUpstream
from mlxmesh_generation.streams.waiting import CancellableWait
from mlxmesh_shared.errors import Cancelled, EngineLost, MeshError
from mlxmesh_shared.events import Publish
from mlxmesh_shared.reference import ModelReference


class MemberEngines:
    """Satisfies Placer: nothing waits for an engine, until the member is the one that answers."""

    def __init__(self, engines: Placer) -> None:
        self.patient = False
        self._engines = engines

    def place(
        self,
        version: ModelVersion,
        request: SequenceRequest,
        sink: SequenceSink,
        *,
        avoid: Collection[str],
    ) -> EngineSequence:
        return self._engines.place(version, request, sink, avoid=avoid)

    async def wait_for_replica(self, version: ModelVersion) -> None:
        if not self.patient:
            raise EngineLost(f"the engine was lost, and no other one of {version} has room")
        await self._engines.wait_for_replica(version)


class GenerationMember:
    """Satisfies Member. Its events wait in its generation's buffer."""

    def __init__(
        self,
        prepared: Prepared | PreparedUpstream,
        preparation: Preparation,
        engines: MemberEngines,
        quota: ExitStack,
        record: Record,
    ) -> None:
        self._plan = prepared.plan
        self._preparation = preparation
        self._engines = engines
        self._quota = quota
        self._record = record
        self._waiting = CancellableWait()
        self._ended = asyncio.Event()
        self._generation: Running | None = None
        self._outcome: Outcome | None = None

    def open(self, generation: Running) -> None:
        """Call it before anything else."""
        self._generation = generation

    @property
    def version(self) -> int:
        return self._plan.version.version

    @property
    def generation(self) -> Running:
        assert self._generation is not None
        return self._generation

    async def start(self) -> None:
        try:
            if not self._preparation.connected(self._plan):
                await self._waiting.run(self._preparation.wait_connected(self._plan))
            if not self._ended.is_set():
                self.generation.start()
        except MeshError as error:
            self.generation.fail(error)
            raise

    async def next(self) -> Event:
        events = self.generation.events
        while (event := events.pop()) is None:
            await events.wait()
        return event

    async def wait_ended(self) -> None:
        await self._ended.wait()

    def commit(self) -> None:
        self._engines.patient = True

    def cancel(self) -> None:
        self.generation.cancel()
        self._waiting.cancel()

    def close(self, error: MeshError | None = None) -> None:
        self.generation.abort(error or Cancelled("the ensemble needs this answer no more"))
        self._waiting.cancel()

    def report(self, *, chosen: bool) -> None:
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            own_id = self._plan.request.request_id
            request_id = self._plan.request.answer_id if chosen else own_id
            self._record(replace(outcome, request_id=request_id))

    # Called by its generation.

    def on_outcome(self, outcome: Outcome) -> None:
        """Keeps it until it is known whether it is the chosen one's."""
        self._outcome = outcome

    def on_ended(self) -> None:
        self._quota.close()
        self._ended.set()


@dataclass(frozen=True, kw_only=True)
class GenerationMembers:
    """Satisfies Members with generations of this process, for one ensemble."""

    preparation: Preparation
    engines: Placer
    engine_wait_s: float
    limits: GenerationLimits
    telemetry: GenerationTelemetry
    publish: Publish
    on_backlog: Callable[[int], None]
    """Called with changes of the bytes that wait in all of them."""

    async def prepare(
        self, request: GenerationRequest, timeout_s: float | None
    ) -> GenerationMember:
        return await self._prepare(request, timeout_s)

    async def prepare_score(
        self, request: GenerationRequest, answer: str, timeout_s: float | None
    ) -> tuple[GenerationMember, int]:
        route, source, tokens = await self.preparation.scoring(request, answer, timeout_s)
        version = route.version
        scoring = replace(
            request,
            model=ModelReference(version.name, version.version),
            input=source,
            max_tokens=1,
            logprobs=LogprobOptions(prompt=True),
            adapter=route.adapter.name if route.adapter is not None else "",
        )
        return await self._prepare(scoring, timeout_s, judges=True), tokens

    async def _prepare(
        self, request: GenerationRequest, timeout_s: float | None, *, judges: bool = False
    ) -> GenerationMember:
        received_s = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(
                self.limits.holding(request.caller, request.message_bytes, flex=request.flex)
            )
            prepared = await self.preparation.prepare(request, None, received_s, timeout_s)
            if judges:  # it writes no answer that a shadow's could be compared with
                prepared = replace(prepared, plan=replace(prepared.plan, shadows=()))
            return self._member(prepared, stack.pop_all())

    def _member(self, prepared: Prepared | PreparedUpstream, quota: ExitStack) -> GenerationMember:
        engines = MemberEngines(self.engines)
        record = self.telemetry.record
        member = GenerationMember(prepared, self.preparation, engines, quota, record)
        if isinstance(prepared, PreparedUpstream):
            member.open(self._upstream(prepared, member))
            return member
        member.open(
            Generation(
                prepared.plan,
                observer=self.telemetry.begin(
                    prepared.plan, prepared.tokenizer.decode, record=member.on_outcome
                ),
                engines=engines,
                tokenizer=prepared.tokenizer,
                engine_wait_s=self.engine_wait_s,
                on_ended=member.on_ended,
                on_backlog=self.on_backlog,
                publish=self.publish,
            )
        )
        return member

    def _upstream(self, prepared: PreparedUpstream, member: GenerationMember) -> Running:
        return UpstreamGeneration(
            prepared.plan,
            connection=prepared.connection,
            body=prepared.body,
            observer=self.telemetry.begin(prepared.plan, no_text, record=member.on_outcome),
            on_ended=member.on_ended,
            on_backlog=self.on_backlog,
        )
