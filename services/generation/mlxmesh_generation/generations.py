"""The generations that run or are kept in this process, by request id."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from mlxmesh_generation import prompts
from mlxmesh_generation.catalogue import ModelVersion
from mlxmesh_generation.generation import ENGINE_WAIT_S, Generation
from mlxmesh_generation.limits import GenerationLimits
from mlxmesh_generation.mirror import CatalogueMirror
from mlxmesh_generation.plan import Plan
from mlxmesh_generation.replicas import Replicas
from mlxmesh_generation.request import GenerationRequest, PromptInput, Resumed
from mlxmesh_generation.retention import Retention, RetentionLimits
from mlxmesh_generation.telemetry import GenerationTelemetry
from mlxmesh_generation.tokenizer import ModelTokenizer
from mlxmesh_generation.tokenizers import Tokenizers
from mlxmesh_generation.transcript import Listeners, Transcript
from mlxmesh_shared.errors import (
    Cancelled,
    GenerationExists,
    GenerationNotFound,
    MeshError,
    ModelNotLoaded,
    ReaderReplaced,
    SequenceGone,
)
from mlxmesh_shared.events import Publish, unheard
from mlxmesh_shared.reference import ModelReference

# An engine that was just loaded, or is being started again, may be connected within this time.
REPLICA_WAIT_S = 2.0
# Survives JSON, in which many clients keep numbers as doubles.
_SEED_BITS = 53


@dataclass(frozen=True)
class Patience:
    """How long things may take that nobody is there to end."""

    engine_wait_s: float = ENGINE_WAIT_S
    unread_s: float = 60.0


@dataclass
class _Entry:
    """A request id in use; without a generation while that is prepared, and once it has ended."""

    request_id: str
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
        catalogue: CatalogueMirror,
        tokenizers: Tokenizers,
        replicas: Replicas,
        patience: Patience,
        limits: GenerationLimits,
        retained: RetentionLimits,
        telemetry: GenerationTelemetry | None = None,
        publish: Publish = unheard,
    ) -> None:
        self._catalogue = catalogue
        self._tokenizers = tokenizers
        self._replicas = replicas
        self._patience = patience
        self._limits = limits
        self._telemetry = telemetry or GenerationTelemetry()
        self._publish = publish
        self._retention = Retention(retained, forget=self._forget)
        self._entries: dict[str, _Entry] = {}

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
        known = self._entries.get(request.request_id)
        if known is not None and known.transcript is not None:
            if known.keeps and not known.transcript.failed:
                return known.transcript
            self._give_up(known)
        elif known is not None:
            raise GenerationExists("this generation is being started here", field="request_id")
        return await self._start(request, resumed, received_s, timeout_s)

    def find(self, request_id: str) -> Transcript:
        """Raises: GenerationNotFound when no generation whose messages are kept has the id."""
        self._retention.expire()
        entry = self._entries.get(request_id)
        if entry is None or entry.transcript is None or not entry.keeps:
            raise GenerationNotFound(
                "no generation with this request_id is kept here", field="request_id"
            )
        return entry.transcript

    def cancel(self, request_id: str) -> None:
        """Raises: GenerationNotFound when no running generation has the id."""
        entry = self._entries.get(request_id)
        if entry is None or (entry.transcript is not None and entry.transcript.ended):
            raise GenerationNotFound(
                "no running generation has this request_id", field="request_id"
            )
        entry.cancelled = True
        if entry.generation is not None:
            entry.generation.cancel()

    async def count(self, model: ModelReference, source: PromptInput) -> Sequence[int]:
        """The token ids that an input comes to."""
        version = await self._catalogue.resolve(model)
        return await prompts.token_ids(source, await self._tokenizers.get(version))

    async def _repeated(self, request: GenerationRequest) -> Transcript | None:
        """The messages of the same request, when it was made before and has not failed."""
        self._retention.expire()
        while (entry := self._entries.get(request.request_id)) is not None:
            if entry.resumed and entry.keeps:
                raise SequenceGone(
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
        entry = _Entry(request.request_id, request.digest, resumed=resumed is not None)
        self._entries[entry.request_id] = entry
        try:
            entry.place.enter_context(self._limits.holding(request))
            plan, tokenizer = await self._prepare(request, resumed, received_s, timeout_s)
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
        generation = entry.generation = Generation(
            plan,
            watched=self._telemetry.begin(plan, tokenizer.decode),
            engines=self._replicas,
            detokenizer=tokenizer.detokenizer(),
            resumed=resumed,
            engine_wait_s=self._patience.engine_wait_s,
            on_ended=lambda: self._on_ended(entry),
            publish=self._publish,
        )
        transcript = entry.transcript = Transcript(
            generation.events,
            keeps=entry.keeps,
            after_sequence=resumed.after_sequence if resumed else 0,
            listeners=self._listeners(entry),
        )
        if entry.keeps:
            self._retention.add(entry.request_id, transcript)
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
            on_kept=lambda size_bytes: self._retention.grew(entry.request_id, size_bytes),
        )

    def _on_ended(self, entry: _Entry) -> None:
        # With the generation goes its prompt, which may be much larger than what is kept.
        entry.generation = None
        entry.place.close()
        self._retention.note_end(entry.request_id)

    def _on_read(self, entry: _Entry) -> None:
        if entry.unread is not None:
            entry.unread.cancel()

    def _on_left(self, entry: _Entry) -> None:
        if not entry.keeps:
            self._give_up(entry)
        elif entry.transcript is not None and not entry.transcript.ended:
            loop = asyncio.get_running_loop()
            entry.unread = loop.call_later(self._patience.unread_s, self._on_unread, entry)

    def _on_unread(self, entry: _Entry) -> None:
        if entry.generation is not None:
            entry.generation.fail(Cancelled("nobody read it any more, so it was cancelled"))

    def _give_up(self, entry: _Entry) -> None:
        """Ends what is left of it; its request_id is free again."""
        if self._entries.get(entry.request_id) is entry:
            del self._entries[entry.request_id]
            self._retention.remove(entry.request_id)
        if entry.unread is not None:
            entry.unread.cancel()
        if entry.generation is not None:
            entry.generation.fail(ReaderReplaced("this generation goes on for another reader"))
        entry.place.close()

    def _forget(self, request_id: str) -> None:
        self._entries.pop(request_id, None)

    async def _prepare(
        self,
        request: GenerationRequest,
        resumed: Resumed | None,
        received_s: float,
        timeout_s: float | None,
    ) -> tuple[Plan, ModelTokenizer]:
        version = await self._catalogue.resolve(request.model)
        self._check_loaded(version)
        prompts.check_vocabulary(request, version)
        tokenizer = await self._tokenizers.get(version)
        plan = await self._plan(request, version, tokenizer, received_s, timeout_s)
        if resumed is not None:
            prompts.check_resumed(resumed, request, version, plan.max_tokens)
        else:
            wait_s = REPLICA_WAIT_S if timeout_s is None else min(REPLICA_WAIT_S, timeout_s / 2)
            await self._replicas.wait_connected(version, wait_s)
        return plan, tokenizer

    async def _plan(
        self,
        request: GenerationRequest,
        version: ModelVersion,
        tokenizer: ModelTokenizer,
        received_s: float,
        timeout_s: float | None,
    ) -> Plan:
        token_ids = await prompts.token_ids(request.input, tokenizer)
        has_seed = request.sampling.HasField("seed")
        return Plan(
            request=request,
            version=version,
            prompt_token_ids=token_ids,
            max_tokens=prompts.max_tokens(request, version, len(token_ids)),
            seed=request.sampling.seed if has_seed else random.getrandbits(_SEED_BITS),
            received_s=received_s,
            deadline_s=None if timeout_s is None else received_s + timeout_s,
        )

    def _check_loaded(self, version: ModelVersion) -> None:
        if not self._replicas.expected(version):
            raise ModelNotLoaded(
                f"model {version} is registered but not loaded; run `mlxmesh load {version}`",
                field="model",
            )
