"""A response with MCP tools, from its last generation: the others are in its conversation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.responses import convert
from mlxmesh_gateway.openai.responses.approvals import Pending
from mlxmesh_gateway.openai.responses.events import Ending
from mlxmesh_gateway.openai.responses.input import Messages
from mlxmesh_gateway.openai.responses.objects import JsonObject, ResponseFacts
from mlxmesh_gateway.openai.responses.tool_facts import NOT_CALLED, LoopFacts
from mlxmesh_gateway.openai.responses.toolbox import as_arguments
from mlxmesh_gateway.openai.responses.tools.convert_rounds import Written, functions_of
from mlxmesh_gateway.openai.responses.tools.events import LoopEvents
from mlxmesh_gateway.openai.tool_schema import Function
from mlxmesh_shared.errors import ServiceUnavailable


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a response has come to."""

    response: JsonObject
    output: pb.ChatMessage
    """The last message of the model."""
    runs: bool
    """Whether it may still go on."""
    pending: dict[str, Pending] = field(default_factory=dict[str, Pending])
    """Calls that wait for an approval, by the ids of the requests."""


def replayed(facts: ResponseFacts, snapshot: pb.GetGenerationResponse) -> Replayed:
    """The response whose last generation, as far as known, this is."""
    assert facts.loop is not None
    replay = _Replay(facts, facts.loop)
    messages = convert.conversation(snapshot.generation, facts)
    replay.begin(functions_of(snapshot.generation), messages)
    for message in messages[facts.loop.inputs :]:
        if message.role == pb.ROLE_ASSISTANT:
            replay.add_round(message)
    return replay.end(snapshot)


class _Replay:
    def __init__(self, facts: ResponseFacts, loop: LoopFacts) -> None:
        self._loop = loop
        self._events = LoopEvents(facts)
        self._results: dict[str, str] = {}
        self._pending: dict[str, Pending] = {}

    def begin(self, functions: Mapping[str, Function], messages: Messages) -> None:
        """What comes before the first generation."""
        self._events.started(self._loop.created_s)
        self._events.listed(self._loop.listings, functions)
        self._results = {
            one.tool_call_id: one.content for one in messages if one.role == pb.ROLE_TOOL
        }
        approved = dict(self._loop.approved)
        for message in messages[: self._loop.inputs]:
            for call in message.tool_calls:
                if call.id in approved:
                    self._add_call(call, approved[call.id])

    def add_round(self, message: pb.ChatMessage) -> None:
        """A generation, and the calls after it."""
        written = Written(self._loop, pb.GenerateRequest())
        calls = list(message.tool_calls)
        for number, call in enumerate(calls):
            call.index = number
        delta = pb.Delta(
            text=message.content, reasoning_text=message.reasoning_text, tool_calls=calls
        )
        written.add(self._events, delta)
        self._events.generation_ended()
        for call in calls:
            self._add_call(call, None)

    def end(self, snapshot: pb.GetGenerationResponse) -> Replayed:
        """The last generation."""
        written = Written(self._loop, snapshot.generation)
        written.add(self._events, snapshot)
        runs = False
        if (error := convert.failure(snapshot)) is not None:
            self._events.failed(error)
        elif not snapshot.HasField("finished"):
            runs = True
        else:
            written.end(snapshot.finished)
            runs = self._ended(written)
        return Replayed(self._events.response, written.message(), runs, self._pending)

    def _ended(self, written: Written) -> bool:
        """Whether the gateway may still call what the last generation asked for."""
        ending = written.ending
        calls = written.calls
        if ending.status != "completed":
            for call in calls:
                self._events.call_cut_short(
                    label=call.label, name=call.name, arguments=call.arguments
                )
        elif calls and not written.needs_client:
            return self._calling(written)
        elif calls:
            self._events.generation_ended()
            self._ask(written)
        self._finish(ending)
        return False

    def _calling(self, written: Written) -> bool:
        self._events.generation_ended()
        for call in written.calls:
            self._events.call_begun(label=call.label, name=call.name, arguments=call.arguments)
        if time.time() < self._loop.until_s:
            return True
        self._events.failed(
            ServiceUnavailable(
                "the gateway that called tools for this response is gone; send the request again"
            )
        )
        return False

    def _ask(self, written: Written) -> None:
        for call in written.calls:
            arguments = as_arguments(call.arguments) or "{}"
            own_id, _ = self._events.approval_asked(
                label=call.label, name=call.name, arguments=arguments
            )
            self._pending[own_id] = Pending(
                request_id=own_id,
                call_id=call.call_id,
                label=call.label,
                name=call.name,
                arguments=arguments,
            )

    def _finish(self, ending: Ending) -> None:
        usage = self._loop.with_usage(ending.usage).usage or ending.usage
        self._events.finished(replace(ending, usage=usage))

    def _add_call(self, call: pb.ToolCall, approval_request_id: str | None) -> None:
        found = self._loop.tool_of(call.name)
        text = self._results.get(call.id, "")
        error = self._loop.errors.get(call.id)
        if found is None or (text == NOT_CALLED and error is None):
            return
        label, tool = found
        item, _ = self._events.call_begun(
            label=label,
            name=tool.name,
            arguments=call.arguments or "{}",
            approval_request_id=approval_request_id,
        )
        self._events.call_ended(item, output=None if error else text, error=error)
