"""Members of ensembles whose events are a test's words."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mlxmesh_generation.domain.request import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptLogprobs,
    Started,
    Timings,
    TokenLogprob,
    TotalUsage,
)
from mlxmesh_generation.streams.stream import EventBuffer
from mlxmesh_shared.errors import Cancelled, MeshError, ModelNotLoaded


@dataclass
class Script:
    """What one model does."""

    text: str = "answer"
    texts: Sequence[str] = ()
    """By sample, instead of `text`."""
    logprob: float = -0.5
    reason: FinishReason = FinishReason.STOP
    stop_text: str | None = None
    refuses: MeshError | None = None
    """Raised while it is prepared."""
    fails_at_start: MeshError | None = None
    fails_after: int | None = None
    """Fails with `error` after so many words."""
    error: MeshError = field(default_factory=lambda: ModelNotLoaded("gone"))
    hangs_before: int | None = None
    """Waits for ever before this event: 0 is Started, 1 the first word."""
    prepares: asyncio.Event | None = None
    """What its preparation waits for."""
    cost: float = 0.25
    scores: Callable[[str], float | None] = lambda text: -float(len(text))
    """As a judge."""


class ScriptedMember:
    """Satisfies Member; its events are there at once."""

    def __init__(
        self, request: GenerationRequest, script: Script, *, sample: int, answer: str | None
    ) -> None:
        self.request = request
        self.model, self.version = request.model.name, request.model.version or 1
        self.committed = self.cancelled = self.closed = self.started = False
        self.closed_with: MeshError | None = None
        self.reported_as_chosen: bool | None = None
        self._script, self._sample, self._answer = script, sample, answer
        self._events = EventBuffer()
        self._ended = asyncio.Event()

    async def start(self) -> None:
        self.started = True
        script = self._script
        if script.fails_at_start is not None:
            self._events.fail(script.fails_at_start)
            raise script.fails_at_start
        if self.cancelled:
            self._put(self._begin(), self._end(FinishReason.CANCELLED, 0))
            return
        events = self._judged() if self._answer is not None else self._answered()
        hangs = len(events) if script.hangs_before is None else script.hangs_before
        self._put(*events[:hangs])

    async def next(self) -> Event:
        while (event := self._events.pop()) is None:
            await self._events.wait()
        return event

    async def wait_ended(self) -> None:
        await self._ended.wait()

    def commit(self) -> None:
        self.committed = True

    def cancel(self) -> None:
        self.cancelled = True
        if self.started and not self._ended.is_set():
            self._put(self._begin(), self._end(FinishReason.CANCELLED, 0))

    def close(self, error: MeshError | None = None) -> None:
        if not self._ended.is_set():
            self.closed_with = error or Cancelled("closed")
        self.closed = True
        self._events.drop(error or Cancelled("closed"))
        self._ended.set()

    def report(self, *, chosen: bool) -> None:
        assert self.closed
        assert self.reported_as_chosen is None
        self.reported_as_chosen = chosen

    def _put(self, *events: Event) -> None:
        for event in events:
            self._events.put(event)
            if isinstance(event, Finished):
                self._ended.set()

    def _begin(self) -> Started:
        seed = self.request.sampling.seed or 0
        return Started(self.request.request_id, self.model, self.version, "e", 7, 2, seed)

    def _answered(self) -> list[Event]:
        script = self._script
        text = script.texts[self._sample] if script.texts else script.text
        words = text.split(" ")
        scored = self.request.logprobs is not None
        deltas: list[Event] = [
            Delta(
                (" " if place else "") + word,
                (place,),
                logprobs=(TokenLogprob(place, script.logprob, b""),) if scored else (),
            )
            for place, word in enumerate(words)
        ]
        if script.fails_after is not None:
            self._events.fail(script.error)
            self._ended.set()
            return [self._begin(), *deltas[: script.fails_after]]
        return [self._begin(), *deltas, self._end(script.reason, len(words))]

    def _judged(self) -> list[Event]:
        assert self._answer is not None
        score = self._script.scores(self._answer)
        first = TokenLogprob(1, None, b"")
        prompt = [first, TokenLogprob(2, -50.0, b"")]
        prompt += [TokenLogprob(3, score, b"")] * len(self._answer.split())
        return [self._begin(), PromptLogprobs(tuple(prompt)), self._end(FinishReason.LENGTH, 1)]

    def _end(self, reason: FinishReason, tokens: int) -> Finished:
        cancelled = reason is FinishReason.CANCELLED
        return Finished(
            reason,
            prompt_tokens=7,
            cached_tokens=2,
            completion_tokens=tokens,
            stop_text=None if cancelled else self._script.stop_text,
            timings=Timings(1, 2, 3),
            total=TotalUsage(tokens, 0, 2, device_ms=5),
            cost=self._script.cost,
        )


class ScriptedMembers:
    """Satisfies Members by the models' names."""

    def __init__(self, **scripts: Script) -> None:
        self.scripts = scripts
        self.prepared: list[ScriptedMember] = []
        self._samples: dict[str, int] = {}

    async def prepare(self, request: GenerationRequest, timeout_s: float | None) -> ScriptedMember:
        return await self._prepare(request, None)

    async def prepare_score(
        self, request: GenerationRequest, answer: str, timeout_s: float | None
    ) -> tuple[ScriptedMember, int]:
        return await self._prepare(request, answer), len(answer.split())

    async def _prepare(self, request: GenerationRequest, answer: str | None) -> ScriptedMember:
        name = request.model.name
        script = self.scripts[name]
        sample = self._samples.get(name, 0)
        self._samples[name] = sample + 1
        if script.prepares is not None:
            await script.prepares.wait()
        if script.refuses is not None:
            raise script.refuses
        member = ScriptedMember(request, script, sample=sample, answer=answer)
        self.prepared.append(member)
        return member
