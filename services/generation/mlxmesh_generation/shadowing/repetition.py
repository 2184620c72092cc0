"""Repeats one request at a shadow's version."""

import asyncio
import time
from array import array
from collections.abc import Sequence
from dataclasses import replace

from mlxmesh_generation.domain.outcome import Outcome, Status
from mlxmesh_generation.domain.request import GenerationRequest
from mlxmesh_generation.domain.routing import UNASSIGNED
from mlxmesh_generation.placement.spare import SpareEngines, SparePlacer
from mlxmesh_generation.shadowing.comparison import edit_distance, first_difference
from mlxmesh_generation.shadowing.pair import Answer, Pair
from mlxmesh_generation.shadowing.queue import Sampled
from mlxmesh_generation.streams.generation import Generation
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.streams.preparation import Preparation
from mlxmesh_generation.streams.telemetry import Decode, GenerationTelemetry
from mlxmesh_generation.streams.upstream_preparation import PreparedUpstream
from mlxmesh_shared.errors import (
    Cancelled,
    DeadlineExceeded,
    FeatureNotSupported,
    Internal,
    MeshError,
)
from mlxmesh_shared.reference import ModelReference

CALLER = "mlxmesh:shadow"
"""Whom engines count the shares of repetitions for."""
LOWEST_PRIORITY = -100
_MS = 1000


def repeated_request(sampled: Sampled) -> GenerationRequest:
    """The request at the shadow's version: the same input, options and seed, one output."""
    asked, shadow = sampled.request, sampled.shadow
    return replace(
        asked,
        request_id=f"{shadow.shadow_id}:{asked.request_id}",
        model=ModelReference(sampled.version.name, shadow.to_version),
        adapter="",
        sampling=replace(asked.sampling, seed=sampled.seed),
        priority=LOWEST_PRIORITY,
        n=1,
        logprobs=None,
        session_id="",
        labels=(),
        caller=CALLER,
        owner="",
        digest=None,
        detached=False,
        kept=b"",
    )


def answer_of(outcome: Outcome, token_ids: Sequence[int]) -> Answer:
    """The answer of a generation that completed."""
    tpot_ms = outcome.tpot_ms
    return Answer(
        array("I", token_ids),
        outcome.ttft_ms or 0.0,
        _MS / tpot_ms if tpot_ms else 0.0,
    )


class Repetitions:
    """Runs repetitions, as spare work of the engines."""

    def __init__(
        self,
        *,
        preparation: Preparation,
        engines: SpareEngines,
        telemetry: GenerationTelemetry,
        timeout_s: float,
    ) -> None:
        """telemetry: of repetitions only, so that they count in no metric of generations."""
        self._preparation = preparation
        self._engines = engines
        self._telemetry = telemetry
        self._timeout_s = timeout_s

    async def compare(self, sampled: Sampled) -> Pair:
        """Repeats a request and compares the answers.

        Raises: every error of request or mesh; Cancelled when it had to yield.
        """
        repeated, text = await self._repeat(sampled)
        end_ms = time.time_ns() // 1_000_000
        primary = sampled.answer
        # Long texts take milliseconds, for which no stream should wait.
        primary_text = await asyncio.to_thread(sampled.text_of, list(primary.token_ids))
        distance = await asyncio.to_thread(edit_distance, primary_text, text)
        return Pair(
            request_id=sampled.request.request_id,
            from_version=sampled.version.version,
            end_ms=end_ms,
            equal=primary_text == text,
            first_difference=first_difference(primary.token_ids, repeated.token_ids),
            edit_distance=distance,
            primary_tokens=len(primary.token_ids),
            shadow_tokens=len(repeated.token_ids),
            primary_ttft_ms=primary.ttft_ms,
            shadow_ttft_ms=repeated.ttft_ms,
            primary_tokens_per_second=primary.tokens_per_second,
            shadow_tokens_per_second=repeated.tokens_per_second,
        )

    async def _repeat(self, sampled: Sampled) -> tuple[Answer, str]:
        """The answer and its text."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._run(sampled)
        except TimeoutError:
            raise DeadlineExceeded("the repetition took too long") from None

    async def _run(self, sampled: Sampled) -> tuple[Answer, str]:
        prepared = await self._preparation.prepare(
            repeated_request(sampled), None, time.monotonic(), self._timeout_s
        )
        if isinstance(prepared, PreparedUpstream):
            raise FeatureNotSupported("an upstream repeats no requests: its host is never idle")
        ended: asyncio.Future[tuple[Outcome, Sequence[int]]]
        ended = asyncio.get_running_loop().create_future()

        def on_ended(
            _plan: Plan, outcome: Outcome, token_ids: Sequence[int], _decode: Decode
        ) -> None:
            if not ended.done():
                ended.set_result((outcome, token_ids))

        # A repetition is not repeated, and belongs to no arm.
        plan = replace(
            prepared.plan,
            shadows=(),
            assignment=UNASSIGNED,
            price=None,
            # Nothing is loaded for it.
            load_timeout_s=None,
            adapter=sampled.adapter,
            shadow_id=sampled.shadow.shadow_id,
        )
        tokenizer = prepared.tokenizer

        def make_way() -> None:
            generation.fail(Cancelled("it made way for other requests"))

        generation = Generation(
            plan,
            observer=self._telemetry.begin(plan, tokenizer.decode, on_ended),
            engines=SparePlacer(self._engines, make_way),
            tokenizer=tokenizer,
        )
        try:
            _start(generation)
            outcome, token_ids = await ended
        finally:
            generation.fail(Cancelled("the repetition was stopped"))
            self._engines.end_spare(make_way)
        if outcome.status is not Status.COMPLETED:
            raise generation.events.error or Internal("the repetition did not complete")
        answer = answer_of(outcome, token_ids)
        return answer, await asyncio.to_thread(tokenizer.decode, list(token_ids))


def _start(generation: Generation) -> None:
    try:
        generation.start()
    except MeshError as error:
        generation.fail(error)
        raise
