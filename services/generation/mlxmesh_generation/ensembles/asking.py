"""The answers that one ensemble asks for, each an attempt, in the order in which they began."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mlxmesh_generation.domain.ensemble import Step
from mlxmesh_generation.domain.request import (
    Event,
    Finished,
    GenerationRequest,
    LogprobOptions,
    PrefillProgress,
    PromptLogprobs,
    SamplingOptions,
    Started,
)
from mlxmesh_generation.ensembles.answer import Answer, answer_of, mean
from mlxmesh_generation.ensembles.member import Member, Members
from mlxmesh_generation.ensembles.steps import with_usage
from mlxmesh_shared.errors import DeadlineExceeded, MeshError
from mlxmesh_shared.reference import ModelReference

MAX_ID_LENGTH = 128
JUDGE = "JUDGE"
_SEED_BITS = 53
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(eq=False)
class Attempt:
    """One answer, or one score, that was asked for."""

    reference: ModelReference
    place: int
    sample: int = 0
    member: Member | None = None
    started: Started | None = None
    finished: Finished | None = None
    """Its last end."""
    error: MeshError | None = None
    reason: str = ""
    score: float | None = None

    def note(self, event: Event) -> None:
        """Keeps what its step reports of an event."""
        if isinstance(event, Started):
            self.started = event
        elif isinstance(event, Finished) and event.total is not None:
            self.finished = event

    def step(self, *, chosen: bool) -> Step:
        """What it came to so far."""
        name, version = self.reference.name, self.member.version if self.member else 0
        step = Step(name, version, chosen, "" if chosen else self.reason, self.score)
        if chosen:
            return step  # its usage is known at its end
        if self.finished is not None:
            return with_usage(step, self.finished)
        if self.started is not None:
            prompt, cached = self.started.prompt_tokens, self.started.cached_tokens
            return replace(step, prompt_tokens=prompt, cached_tokens=cached)
        return step


@dataclass(eq=False)
class Asking:
    """Asks members for answers to one request."""

    request: GenerationRequest
    members: Members
    deadline_s: float | None
    """In time.monotonic()."""
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    cancelled: bool = False
    _seed: int = field(default_factory=lambda: random.getrandbits(_SEED_BITS))

    def add(self, reference: ModelReference, sample: int = 0) -> Attempt:
        """A new attempt, which nothing has begun yet."""
        attempt = Attempt(reference, len(self.attempts), sample)
        self.attempts.append(attempt)
        return attempt

    async def hold(self, attempt: Attempt, *, logprobs: bool = False) -> Answer:
        """The whole answer. Raises: the error of its generation."""
        member = await self._begin(attempt, logprobs=logprobs)
        await member.wait_ended()
        events = [await self._next(attempt, member)]
        while attempt.finished is None:
            events.append(await self._next(attempt, member))
        return answer_of(events)

    async def first_output(self, attempt: Attempt, *, patient: bool) -> list[Event]:
        """The events up to its first output. Raises: the error of its generation."""
        member = await self._begin(attempt, patient=patient)
        events: list[Event] = []
        while True:
            event = await self._next(attempt, member)
            if not isinstance(event, PrefillProgress):
                events.append(event)
            if not isinstance(event, Started | PrefillProgress):
                member.commit()
                return events

    async def begin(self, attempt: Attempt) -> list[Event]:
        """Its first event, of one that answers whatever happens."""
        member = await self._begin(attempt, patient=True)
        return [await self._next(attempt, member)]

    async def more(self, attempt: Attempt) -> Event:
        """The next event of an attempt that was begun."""
        assert attempt.member is not None
        return await self._next(attempt, attempt.member)

    async def score(self, judge: ModelReference, answer: Answer) -> float | None:
        """The mean log-probability that a judge gives to an answer; None for an empty one.

        Raises: the error of the judge's generation.
        """
        attempt = self.add(judge)
        attempt.reason = JUDGE
        request = replace(
            self._request(attempt),
            sampling=SamplingOptions(),
            stop=(),
            stop_token_ids=(),
            ignore_eos=False,
            constraint=None,
        )
        try:
            member, tokens = await self.members.prepare_score(request, answer.text, self._left_s())
            await self._start(attempt, member)
            logprobs: list[float] = []
            while attempt.finished is None:
                event = await self._next(attempt, member)
                if isinstance(event, PromptLogprobs):
                    scored = (token.logprob for token in event.tokens)
                    logprobs += (logprob for logprob in scored if logprob is not None)
        except MeshError as error:
            attempt.reason = error.reason
            raise
        attempt.score = mean(logprobs[-tokens:]) if tokens else None
        return attempt.score

    def steps(self, chosen: Attempt) -> tuple[Step, ...]:
        """All steps so far."""
        return tuple(each.step(chosen=each is chosen) for each in self.attempts)

    def cancel(self) -> None:
        """Ends what runs with FinishReason.CANCELLED, and at once what is begun later."""
        self.cancelled = True
        for attempt in self.attempts:
            if attempt.member is not None:
                attempt.member.cancel()

    def close(self, error: MeshError | None = None, *, but: Attempt | None = None) -> None:
        """Ends every member at once."""
        for attempt in self.attempts:
            if attempt.member is not None and attempt is not but:
                attempt.member.close(error)

    def report(self, chosen: Attempt | None) -> None:
        """Records how each member ended; call it after close()."""
        for attempt in self.attempts:
            if attempt.member is not None:
                attempt.member.report(chosen=attempt is chosen)

    async def _begin(
        self, attempt: Attempt, *, patient: bool = False, logprobs: bool = False
    ) -> Member:
        request = self._request(attempt)
        if logprobs and request.logprobs is None:
            request = replace(request, logprobs=LogprobOptions())
        member = await self.members.prepare(request, self._left_s())
        if patient:
            member.commit()
        return await self._start(attempt, member)

    async def _start(self, attempt: Attempt, member: Member) -> Member:
        attempt.member = member
        if self.cancelled:
            member.cancel()
        await member.start()
        return member

    def _request(self, attempt: Attempt) -> GenerationRequest:
        suffix = f".{attempt.place + 1}"
        request, sampling = self.request, self.request.sampling
        seed = self._seed if sampling.seed is None else sampling.seed
        if attempt.sample:
            seed = (seed + attempt.sample * _GOLDEN) % 2**64
        return replace(
            request,
            request_id=request.request_id[: MAX_ID_LENGTH - len(suffix)] + suffix,
            answers_for=request.request_id,
            model=attempt.reference,
            sampling=replace(sampling, seed=seed),
            # Those are the whole ensemble's.
            message_bytes=0,
            digest=None,
            detached=False,
            kept=b"",
        )

    async def _next(self, attempt: Attempt, member: Member) -> Event:
        event = await member.next()
        attempt.note(event)
        return event

    def _left_s(self) -> float | None:
        if self.deadline_s is None:
            return None
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline passed before the ensemble had an answer")
        return left_s


def output_of(events: Sequence[Event]) -> list[Event]:
    """The events that follow Started."""
    return [event for event in events if not isinstance(event, Started)]
