"""Starts, finds and cancels the generations of this process.

The folders that `Generations.begin` passes, in the order of its calls:

1. streams: the entry of the same request, if there is one; quotas; a new entry.
2. placement: `CatalogueMirror.resolve`, `Replicas.expected`.
3. text: limits of the vocabulary, the tokenizer, the prompt's tokens, max_tokens.
4. streams (first return): the plan, telemetry, the generation and its transcript.
5. placement (second return): `Replicas.wait_connected`, then `Replicas.place`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_generation.domain.ensemble import Recipe
from mlxmesh_generation.domain.request import (
    CountRequest,
    GenerationKey,
    GenerationRequest,
    ReadUpTo,
    Resumed,
    Snapshot,
)
from mlxmesh_generation.ensembles.asking import Asking
from mlxmesh_generation.ensembles.failures import check_supported
from mlxmesh_generation.ensembles.run import EnsembleRun
from mlxmesh_generation.parsers.choose import OutputFormat
from mlxmesh_generation.placement.sequence import Placer
from mlxmesh_generation.streams.entries import Entry, EntryIndex, Running
from mlxmesh_generation.streams.generation import Generation
from mlxmesh_generation.streams.limits import GenerationLimits
from mlxmesh_generation.streams.members import GenerationMembers
from mlxmesh_generation.streams.preparation import Preparation, Prepared
from mlxmesh_generation.streams.recovery import ENGINE_WAIT_S
from mlxmesh_generation.streams.retention import RetentionLimits
from mlxmesh_generation.streams.stream import EventBuffer
from mlxmesh_generation.streams.telemetry import GenerationTelemetry
from mlxmesh_generation.streams.transcript import Transcript
from mlxmesh_generation.streams.upstream_generation import UpstreamGeneration, no_text
from mlxmesh_generation.streams.upstream_preparation import PreparedUpstream
from mlxmesh_shared.errors import (
    Cancelled,
    GenerationExists,
    GenerationNotFound,
    MeshError,
    MessagesExpired,
)
from mlxmesh_shared.events import Publish, discard_event
from mlxmesh_shared.reference import ModelReference

MAX_UNREAD_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Timeouts:
    engine_wait_s: float = ENGINE_WAIT_S
    """How long a generation without an engine and without a deadline waits for one."""
    detached_timeout_s: float = 60.0
    """How long a retained generation runs without a reader."""


class Generations:
    """An index of entries, which manage their generations."""

    def __init__(
        self,
        *,
        preparation: Preparation,
        engines: Placer,
        timeouts: Timeouts,
        limits: GenerationLimits,
        retained: RetentionLimits,
        max_unread_bytes: int = MAX_UNREAD_BYTES,
        telemetry: GenerationTelemetry | None = None,
        publish: Publish = discard_event,
    ) -> None:
        self._preparation = preparation
        self._engines = engines
        self._engine_wait_s = timeouts.engine_wait_s
        self._limits = limits
        self._telemetry = telemetry or GenerationTelemetry()
        self._publish = publish
        self._index = EntryIndex(
            retained=retained,
            max_unread_bytes=max_unread_bytes,
            detached_timeout_s=timeouts.detached_timeout_s,
        )

    async def begin(self, request: GenerationRequest, timeout_s: float | None) -> Transcript:
        """The messages of a new generation, or of the same request that began before.

        Raises: GenerationExists, TooManyRequests, and every error of request or mesh.
        """
        received_s = time.monotonic()
        known = await self._find_repeated(request)
        return known or await self._start(request, None, received_s, timeout_s)

    async def resume(
        self, request: GenerationRequest, resumed: Resumed, timeout_s: float | None
    ) -> Transcript:
        """The messages of a generation of another process, resumed here unless they are from here.

        Raises: as begin().
        """
        received_s = time.monotonic()
        entry = self._index.get(request.key)
        if entry is not None:
            transcript = entry.transcript
            if transcript is None:
                raise GenerationExists("this generation is being started here", field="request_id")
            # A stream that went on elsewhere meanwhile has other messages by the same numbers.
            if entry.retained and not transcript.failed and transcript.was_read_by(resumed):
                entry.takeover = resumed.takeover
                transcript.numbering.accept(resumed.numberings)
                return transcript
            entry.release()
        return await self._start(request, resumed, received_s, timeout_s)

    def find(
        self, key: GenerationKey, digest: bytes | None = None, reader: ReadUpTo | None = None
    ) -> Transcript:
        """The messages of a retained generation.

        digest: of the request that it must have; reader: what its messages must go on after.

        Raises: GenerationNotFound when the owner has none, or has one that goes on after other
        messages; GenerationExists when it has another.
        """
        self._index.retention.expire()
        entry = self._index.get(key)
        if entry is None or entry.transcript is None or not entry.retained:
            raise GenerationNotFound(
                "no generation with this request_id is retained here", field="request_id"
            )
        # A request that was resumed here has the model's version and the seed filled in.
        if digest is not None and not entry.resumed and entry.digest != digest:
            raise _exists()
        if reader and not entry.transcript.numbering.has(reader.numbering, reader.sequence):
            raise GenerationNotFound(
                "the last message that was received has its number from an instance that does not"
                " answer, or no longer has the generation; read it again from its beginning",
                field="numbering",
            )
        return entry.transcript

    async def snapshot(self, key: GenerationKey) -> Snapshot:
        """Raises: GenerationNotFound, MessagesExpired."""
        if (starting := self._index.get(key)) is not None:
            await starting.settled.wait()
        transcript, entry = self.find(key), self._index.get(key)
        assert entry is not None
        return Snapshot(
            entry.request,
            transcript.events(),
            transcript.error,
            numbering=transcript.numbering.own,
            takeover=entry.takeover,
            last_sequence=transcript.last_sequence,
        )

    def cancel(self, key: GenerationKey, *, forget: bool = False) -> None:
        """Raises: GenerationNotFound when the owner has no such running generation.

        forget: drops what is retained too, also of one that has ended.
        """
        self._index.retention.expire()
        entry = self._index.get(key)
        running = entry is not None and entry.cancel()
        if entry is not None and forget:
            entry.release(Cancelled("the generation was cancelled and dropped"))
        elif not running:
            raise GenerationNotFound(
                "no running generation has this request_id", field="request_id"
            )

    async def count(self, request: CountRequest) -> Sequence[int]:
        """The token ids of an input.

        Raises: TooManyRequests, and every error of request or mesh.
        """
        with self._limits.holding(request.caller, request.message_bytes):
            return await self._preparation.count(request)

    async def output_format(self, model: ModelReference) -> OutputFormat:
        """How the output of a model is read."""
        return await self._preparation.output_format(model)

    async def _find_repeated(self, request: GenerationRequest) -> Transcript | None:
        """The messages of an equal request that was sent before and has not failed."""
        self._index.retention.expire()
        while (entry := self._index.get(request.key)) is not None:
            _check_same(request, entry)
            if entry.transcript is None:
                await entry.settled.wait()
            elif entry.transcript.failed:
                entry.release()
            else:
                return entry.transcript
        return None

    async def _start(
        self,
        request: GenerationRequest,
        resumed: Resumed | None,
        received_s: float,
        timeout_s: float | None,
    ) -> Transcript:
        entry = self._index.add(request, resumed=resumed is not None)
        entry.takeover = resumed.takeover if resumed else 0
        try:
            entry.acquire(
                self._limits.holding(request.caller, request.message_bytes, flex=request.flex)
            )
            recipe = await self._preparation.recipe(request.model)
            if recipe is not None:
                deadline_s = None if timeout_s is None else received_s + timeout_s
                entry.open(self._ensemble(entry, request, recipe, deadline_s), None)
                return entry.start()
            prepared = await self._preparation.prepare(request, resumed, received_s, timeout_s)
            generation = self._generation(entry, prepared, resumed)
            entry.open(generation, resumed)
            if resumed is None and not self._preparation.connected(prepared.plan):
                waiting = self._preparation.wait_connected(prepared.plan)
                await entry.waiting.run(waiting)
            return entry.start()
        except MeshError as error:
            entry.release(error)  # such as a load that failed, which its outcome tells
            raise
        except BaseException:
            entry.release(Cancelled("it was not started"))
            raise
        finally:
            entry.settled.set()

    def _ensemble(
        self, entry: Entry, request: GenerationRequest, recipe: Recipe, deadline_s: float | None
    ) -> Running:
        """Raises: FeatureNotSupported."""
        check_supported(request, recipe)
        members = GenerationMembers(
            preparation=self._preparation,
            engines=self._engines,
            engine_wait_s=self._engine_wait_s,
            limits=self._limits,
            telemetry=self._telemetry,
            publish=self._publish,
            on_backlog=entry.on_backlog,
        )
        events = EventBuffer(entry.on_backlog, outputs=request.n)
        asking = Asking(request, members, deadline_s)
        return EnsembleRun(recipe, asking, events, on_ended=entry.on_ended)

    def _generation(
        self, entry: Entry, prepared: Prepared | PreparedUpstream, resumed: Resumed | None
    ) -> Running:
        if isinstance(prepared, PreparedUpstream):
            return UpstreamGeneration(
                prepared.plan,
                connection=prepared.connection,
                body=prepared.body,
                observer=self._telemetry.begin(prepared.plan, no_text),
                has_started=resumed is not None,
                on_ended=entry.on_ended,
                on_backlog=entry.on_backlog,
            )
        return Generation(
            prepared.plan,
            observer=self._telemetry.begin(prepared.plan, prepared.tokenizer.decode),
            engines=self._engines,
            tokenizer=prepared.tokenizer,
            resumed=resumed,
            engine_wait_s=self._engine_wait_s,
            on_ended=entry.on_ended,
            on_backlog=entry.on_backlog,
            publish=self._publish,
        )


def _check_same(request: GenerationRequest, entry: Entry) -> None:
    """Raises: MessagesExpired, GenerationExists when the request cannot share the entry."""
    if entry.resumed and entry.retained:
        raise MessagesExpired(
            "the first messages of this generation are not here: it was resumed here; attach to it"
        )
    if request.digest is None or entry.digest != request.digest:
        raise _exists()


def _exists() -> GenerationExists:
    return GenerationExists(
        "another generation has this request_id; choose a new one", field="request_id"
    )
