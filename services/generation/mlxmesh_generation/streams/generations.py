"""The generations that run or are kept in this process, by request id."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from mlxmesh_generation.placement.sequence import Placer
from mlxmesh_generation.request import (
    CountRequest,
    GenerationKey,
    GenerationRequest,
    Resumed,
)
from mlxmesh_generation.streams.generation import ENGINE_WAIT_S, Generation
from mlxmesh_generation.streams.limits import GenerationLimits, UnreadLimit, UnreadOutput
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.streams.preparation import Preparation
from mlxmesh_generation.streams.retention import Retention, RetentionLimits
from mlxmesh_generation.streams.telemetry import GenerationTelemetry
from mlxmesh_generation.streams.transcript import Listeners, Transcript
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_shared.errors import (
    Cancelled,
    GenerationExists,
    GenerationNotFound,
    MeshError,
    MessagesExpired,
    ReaderReplaced,
)
from mlxmesh_shared.events import Publish, discard_event

MAX_UNREAD_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Patience:
    """How long things may take that nobody is there to end."""

    engine_wait_s: float = ENGINE_WAIT_S
    detached_timeout_s: float = 60.0


@dataclass
class _Entry:
    """A request id in use; without a generation while that is prepared, and once it has ended."""

    key: GenerationKey
    caller: str
    digest: bytes | None
    resumed: bool = False
    place: ExitStack = field(default_factory=ExitStack)
    """Its place among those that are held; given back at its end."""
    generation: Generation | None = None
    transcript: Transcript | None = None
    cancelled: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the preparation is over, well or not."""
    unread: asyncio.TimerHandle | None = None

    @property
    def keeps(self) -> bool:
        return self.digest is not None


class Generations:
    """Starts generations, and knows those that run and those whose messages are kept.

    A generation whose caller chose its request_id goes on for a while without a reader, and its
    messages are kept; any other ends when its reader leaves.
    """

    def __init__(
        self,
        *,
        preparation: Preparation,
        engines: Placer,
        patience: Patience,
        limits: GenerationLimits,
        retained: RetentionLimits,
        max_unread_bytes: int = MAX_UNREAD_BYTES,
        telemetry: GenerationTelemetry | None = None,
        publish: Publish = discard_event,
    ) -> None:
        self._preparation = preparation
        self._engines = engines
        self._patience = patience
        self._limits = limits
        self._telemetry = telemetry or GenerationTelemetry()
        self._publish = publish
        self._retention = Retention(retained, forget=self._forget)
        self._unread = UnreadLimit(max_unread_bytes)
        self._entries: dict[GenerationKey, _Entry] = {}

    async def begin(self, request: GenerationRequest, timeout_s: float | None) -> Transcript:
        """A started generation's messages, or those of the same request begun before.

        Raises: GenerationExists, TooManyRequests, and whatever is wrong with request or mesh.
        """
        received_s = time.monotonic()
        known = await self._repeated(request)
        return known or await self._start(request, None, received_s, timeout_s)

    async def resume(
        self, request: GenerationRequest, resumed: Resumed, timeout_s: float | None
    ) -> Transcript:
        """The messages of a generation that goes on here; of the one here, if it still is.

        Raises: as begin().
        """
        received_s = time.monotonic()
        known = self._entries.get(request.key)
        if known is not None and known.transcript is not None:
            if known.keeps and not known.transcript.failed:
                return known.transcript
            self._give_up(known)
        elif known is not None:
            raise GenerationExists("this generation is being started here", field="request_id")
        return await self._start(request, resumed, received_s, timeout_s)

    def find(self, key: GenerationKey) -> Transcript:
        """Raises: GenerationNotFound when the owner has no such generation whose messages are
        kept.
        """
        self._retention.expire()
        entry = self._entries.get(key)
        if entry is None or entry.transcript is None or not entry.keeps:
            raise GenerationNotFound(
                "no generation with this request_id is kept here", field="request_id"
            )
        return entry.transcript

    def cancel(self, key: GenerationKey) -> None:
        """Raises: GenerationNotFound when the owner has no such generation that runs."""
        entry = self._entries.get(key)
        if entry is None or (entry.transcript is not None and entry.transcript.ended):
            raise GenerationNotFound(
                "no running generation has this request_id", field="request_id"
            )
        entry.cancelled = True
        if entry.generation is not None:
            entry.generation.cancel()

    async def count(self, request: CountRequest) -> Sequence[int]:
        """The token ids that an input comes to.

        Raises: TooManyRequests, and whatever is wrong with request or mesh.
        """
        with self._limits.holding(request.caller, request.message_bytes):
            return await self._preparation.count(request)

    async def _repeated(self, request: GenerationRequest) -> Transcript | None:
        """The messages of the same request, when it was made before and has not failed."""
        self._retention.expire()
        while (entry := self._entries.get(request.key)) is not None:
            if entry.resumed and entry.keeps:
                raise MessagesExpired(
                    "this generation went on here after its beginning; attach to it instead"
                )
            if request.digest is None or entry.digest != request.digest:
                raise GenerationExists(
                    "another generation has this request_id; choose a new one", field="request_id"
                )
            if entry.transcript is None:
                await entry.settled.wait()
            elif entry.transcript.failed:
                self._give_up(entry)
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
        entry = _Entry(request.key, request.caller, request.digest, resumed=resumed is not None)
        self._entries[entry.key] = entry
        try:
            entry.place.enter_context(self._limits.holding(request.caller, request.message_bytes))
            plan, tokenizer = await self._preparation.prepare(
                request, resumed, received_s, timeout_s
            )
            transcript = self._begun(entry, plan, tokenizer, resumed)
        except BaseException:
            self._give_up(entry)
            raise
        finally:
            entry.settled.set()
        return transcript

    def _begun(
        self, entry: _Entry, plan: Plan, tokenizer: ModelTokenizer, resumed: Resumed | None
    ) -> Transcript:
        unread = UnreadOutput(entry.caller, lambda: self._on_too_much_unread(entry))
        generation = entry.generation = Generation(
            plan,
            watched=self._telemetry.begin(plan, tokenizer.decode),
            engines=self._engines,
            detokenizer=tokenizer.detokenizer(),
            resumed=resumed,
            engine_wait_s=self._patience.engine_wait_s,
            on_ended=lambda: self._on_ended(entry),
            on_waiting=lambda by_bytes: self._unread.changed(unread, by_bytes),
            publish=self._publish,
        )
        transcript = entry.transcript = Transcript(
            generation.events,
            keeps=entry.keeps,
            after_sequence=resumed.after_sequence if resumed else 0,
            listeners=self._listeners(entry),
        )
        if entry.keeps:
            self._retention.add(entry.key, transcript, entry.caller)
        if entry.cancelled:
            generation.cancel()
        try:
            generation.start()
        except MeshError as error:
            generation.fail(error)
            raise
        return transcript

    def _listeners(self, entry: _Entry) -> Listeners:
        return Listeners(
            on_read=lambda: self._on_read(entry),
            on_left=lambda: self._on_left(entry),
            on_kept=lambda size_bytes: self._retention.grew(entry.key, size_bytes),
        )

    def _on_ended(self, entry: _Entry) -> None:
        # With the generation goes its prompt, which may be much larger than what is kept.
        entry.generation = None
        entry.place.close()
        self._retention.note_end(entry.key)

    def _on_read(self, entry: _Entry) -> None:
        if entry.unread is not None:
            entry.unread.cancel()

    def _on_left(self, entry: _Entry) -> None:
        if not entry.keeps or self._entries.get(entry.key) is not entry:
            self._give_up(entry)
        elif entry.transcript is not None and not entry.transcript.ended:
            loop = asyncio.get_running_loop()
            entry.unread = loop.call_later(
                self._patience.detached_timeout_s, self._on_unread, entry
            )

    def _on_unread(self, entry: _Entry) -> None:
        if entry.generation is not None:
            entry.generation.fail(Cancelled("nobody read it any more, so it was cancelled"))

    def _on_too_much_unread(self, entry: _Entry) -> None:
        error = Cancelled("too much output waits for readers here; read faster or ask for less")
        if entry.generation is not None:
            entry.generation.give_up(error)
        elif entry.transcript is not None:
            entry.transcript.drop_unread(error)

    def _give_up(self, entry: _Entry) -> None:
        """Ends what is left of it; its request_id is free again."""
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
            self._retention.remove(entry.key)
        if entry.unread is not None:
            entry.unread.cancel()
        error = ReaderReplaced("this generation goes on for another reader")
        if entry.generation is not None:
            entry.generation.fail(error)
        if entry.transcript is not None:
            entry.transcript.drop_unread(error)
        entry.place.close()

    def _forget(self, key: GenerationKey) -> None:
        entry = self._entries.pop(key, None)
        # Who reads it now may read on; what is left is dropped when it leaves.
        if entry is not None and entry.transcript is not None and not entry.transcript.is_read:
            entry.transcript.drop_unread(GenerationNotFound("it is kept no longer"))
