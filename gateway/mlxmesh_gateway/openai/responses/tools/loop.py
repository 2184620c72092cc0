"""The rounds of a response with MCP tools: generate, call what the model asked for, go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from mlxmesh_gateway.http.door import HttpCalls
from mlxmesh_gateway.http.edge import ToolLimits
from mlxmesh_gateway.openai.responses.approvals import Answer
from mlxmesh_gateway.openai.responses.events import Ending, Event
from mlxmesh_gateway.openai.responses.objects import JsonObject
from mlxmesh_gateway.openai.responses.tool_facts import MAX_TOOL_CALLS, NOT_CALLED, LoopFacts
from mlxmesh_gateway.openai.responses.toolbox import as_arguments
from mlxmesh_gateway.openai.responses.tools.caller import Outcome, ToolCaller, WantedCall
from mlxmesh_gateway.openai.responses.tools.convert_rounds import Round, Written
from mlxmesh_gateway.openai.responses.tools.events import LoopEvents
from mlxmesh_gateway.openai.together import all_of

Emit = Callable[[Sequence[Event]], Awaitable[None]]


class ToolLoop:
    """Runs one response."""

    def __init__(
        self,
        calls: HttpCalls,
        first: Round,
        loop: LoopFacts,
        answers: Sequence[Answer],
        limits: ToolLimits,
    ) -> None:
        """calls: end with the response's deadline."""
        self._calls = calls
        self._round = first
        self._answers = answers
        self._limits = limits
        self._left = min(loop.max_tool_calls or limits.tool_calls, MAX_TOOL_CALLS)
        self._loop = loop
        self._asking_id = first.facts.id
        self._begun = False
        self._writing = asyncio.Lock()
        self.events = LoopEvents(first.facts)

    @property
    def request_id(self) -> str:
        """Of the generation that runs."""
        return self._round.request_id

    async def run(self, emit: Emit) -> None:
        """Writes all events. Raises: MeshError; events may have been written before."""
        if approved := [one for one in self._answers if one.approve]:
            await self._begin(emit)
            await self._call_approved(approved, emit)
        while True:
            written = await self._generate(emit)
            if not await self._call(written, emit):
                return

    async def _begin(self, emit: Emit) -> None:
        if self._begun:
            return
        self._begun = True
        started = self.events.started(self._loop.created_s)
        await emit([*started, *self.events.listed(self._loop.listings, self._round.functions)])

    async def _generate(self, emit: Emit) -> Written:
        if self._round.drafts:
            return await self._generate_draft(emit)
        written = Written(self._loop, self._round.request)

        async def write(message: bytes) -> None:
            await self._begin(emit)
            await emit(written.read(self.events, message))

        await self._round.stream(self._calls, self._loop, write)
        self._asking_id = written.request_id
        return written

    async def _generate_draft(self, emit: Emit) -> Written:
        """A generation whose text would lack the format; shown only if it calls something."""
        messages: list[bytes] = []

        async def write(message: bytes) -> None:
            await self._begin(emit)
            messages.append(message)

        await self._round.stream(self._calls, self._loop, write)
        draft = Written(self._loop, self._round.request)
        unseen = LoopEvents(self._round.facts)
        for message in messages:
            draft.read(unseen, message)
        self._asking_id = draft.request_id
        if draft.ending.status == "completed" and not draft.asks:
            self._loop = self._loop.with_usage(draft.ending.usage)
            self._round = self._round.answering(draft)
            return await self._generate(emit)
        written = Written(self._loop, self._round.request)
        for message in messages:
            await emit(written.read(self.events, message))
        return written

    async def _call(self, written: Written, emit: Emit) -> bool:
        """Makes the calls that the model asked for; whether the model is to go on."""
        ending = written.ending
        if not written.calls or ending.status != "completed":
            for call in written.calls:
                await emit(self._cut_short(call))
            await self._finish(ending, emit)
            return False
        await emit(self.events.generation_ended())
        if written.needs_client:
            for call in written.calls:
                arguments = as_arguments(call.arguments) or "{}"
                _, events = self.events.approval_asked(
                    label=call.label, name=call.name, arguments=arguments
                )
                await emit(events)
            await self._finish(ending, emit)
            return False
        self._loop = self._loop.with_usage(ending.usage)
        outcomes = await self._make(written.calls, emit)
        self._round = self._round.after(written, outcomes, may_call=self._left > 0)
        self._loop = self._loop.with_errors(_errors(outcomes))
        return True

    async def _finish(self, ending: Ending, emit: Emit) -> None:
        whole = self._loop.with_usage(ending.usage).usage or ending.usage
        await emit(self.events.finished(replace(ending, usage=whole)))

    def _cut_short(self, call: WantedCall) -> list[Event]:
        return self.events.call_cut_short(
            label=call.label, name=call.name, arguments=call.arguments
        )

    async def _call_approved(self, approved: Sequence[Answer], emit: Emit) -> None:
        wanted = [
            WantedCall(
                call_id=one.call.call_id,
                label=one.call.label,
                name=one.call.name,
                arguments=one.call.arguments,
                approval_request_id=one.call.request_id,
            )
            for one in approved
        ]
        outcomes = await self._make(wanted, emit)
        self._round = self._round.with_results(outcomes)
        pairs = tuple((one.call.call_id, one.call.request_id) for one in approved)
        self._loop = replace(self._loop.with_errors(_errors(outcomes)), approved=pairs)

    async def _make(self, wanted: Sequence[WantedCall], emit: Emit) -> list[Outcome]:
        """The results of calls in their order, all made at once."""
        allowed = wanted[: self._left]
        self._left -= len(allowed)
        caller = ToolCaller(
            self._calls, self._asking_id, max_characters=self._limits.result_characters
        )
        made = await all_of(self._make_one(caller, one, emit) for one in allowed)
        refused = [Outcome(call=one, text=NOT_CALLED) for one in wanted[len(allowed) :]]
        return [*made, *refused]

    async def _make_one(self, caller: ToolCaller, wanted: WantedCall, emit: Emit) -> Outcome:
        async with self._writing:
            item, events = self.events.call_begun(
                label=wanted.label,
                name=wanted.name,
                arguments=wanted.arguments,
                approval_request_id=wanted.approval_request_id,
            )
            await emit(events)
        outcome = await caller.call(wanted)
        async with self._writing:
            output = None if outcome.error else outcome.text
            await emit(self.events.call_ended(item, output=output, error=outcome.error))
        return outcome


def _errors(outcomes: Sequence[Outcome]) -> dict[str, JsonObject]:
    return {one.call.call_id: one.error for one in outcomes if one.error is not None}
