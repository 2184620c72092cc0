"""The generations of a response with MCP tools, as messages of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.door import HttpCalls, Write
from mlxmesh_gateway.openai.responses import convert
from mlxmesh_gateway.openai.responses.events import Ending, Event
from mlxmesh_gateway.openai.responses.ids import round_id
from mlxmesh_gateway.openai.responses.input import tool_result
from mlxmesh_gateway.openai.responses.objects import ResponseFacts
from mlxmesh_gateway.openai.responses.schema import ResponseRequest
from mlxmesh_gateway.openai.responses.tool_facts import LoopFacts
from mlxmesh_gateway.openai.responses.toolbox import as_arguments
from mlxmesh_gateway.openai.responses.tools.caller import Outcome, WantedCall
from mlxmesh_gateway.openai.responses.tools.convert import schema_of, shown_choice, shown_tool
from mlxmesh_gateway.openai.responses.tools.events import LoopEvents
from mlxmesh_gateway.openai.tool_schema import Function

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
_NO_CALLS = pb.ToolChoice(mode=pb.TOOL_MODE_NONE)
_AUTO = pb.ToolChoice(mode=pb.TOOL_MODE_AUTO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One generation of a response, not yet begun."""

    facts: ResponseFacts
    request: pb.GenerateRequest
    number: int = 0

    @property
    def request_id(self) -> str:
        """Of the generation, if it is retained."""
        return round_id(self.facts.id, self.number) if self.facts.store else ""

    @property
    def functions(self) -> Mapping[str, Function]:
        """What the model is shown, by name."""
        return functions_of(self.request)

    @property
    def drafts(self) -> bool:
        """Whether the model may call tools, which cannot be combined with the format asked for.

        Then it writes without the format; a text of it is no answer.
        """
        may_call = self.request.tools and self.request.tool_choice.mode != pb.TOOL_MODE_NONE
        return bool(may_call) and self.request.WhichOneof("constraint") is not None

    async def stream(self, calls: HttpCalls, loop: LoopFacts, write: Write) -> None:
        """Generates. Raises: MeshError."""
        request = pb.GenerateRequest()
        request.CopyFrom(self.request)
        if self.drafts:
            request.ClearField(request.WhichOneof("constraint") or "json_object")
        if self.request_id:
            request.request_id = self.request_id
            convert.keep(request, replace(self.facts, loop=loop))
        await calls.stream(GENERATE, request, write)

    def after(self, written: Written, outcomes: Sequence[Outcome], *, may_call: bool) -> Round:
        """The generation after the calls that this one asked for."""
        made = pb.GenerateRequest()
        made.CopyFrom(self.request)
        made.chat.messages.append(written.message())
        made.chat.messages.extend(tool_result(one.call.call_id, one.text) for one in outcomes)
        if not may_call:
            made.tool_choice.CopyFrom(_NO_CALLS)
        elif made.tool_choice.mode == pb.TOOL_MODE_REQUIRED:
            # What had to be called was called; to require it again would never end.
            made.tool_choice.CopyFrom(_AUTO)
        _use_up(made, written)
        return replace(self, request=made, number=self.number + 1)

    def answering(self, draft: Written) -> Round:
        """The generation of the answer in its format, in place of a text without it."""
        made = pb.GenerateRequest()
        made.CopyFrom(self.request)
        made.tool_choice.CopyFrom(_NO_CALLS)
        _use_up(made, draft)
        return replace(self, request=made, number=self.number + 1)

    def with_results(self, outcomes: Sequence[Outcome]) -> Round:
        """The same, with the results of calls that waited for their approval."""
        texts = {one.call.call_id: one.text for one in outcomes}
        made = pb.GenerateRequest()
        made.CopyFrom(self.request)
        for message in made.chat.messages:
            if message.role == pb.ROLE_TOOL and not message.content:
                message.content = texts.get(message.tool_call_id, "")
        return replace(self, request=made)


def _use_up(request: pb.GenerateRequest, written: Written) -> None:
    """max_output_tokens is of all generations together."""
    if request.HasField("max_tokens"):
        request.max_tokens = max(1, request.max_tokens - written.completion_tokens)


class Written:
    """What one generation has written."""

    def __init__(self, loop: LoopFacts, request: pb.GenerateRequest) -> None:
        """request: what it was asked for."""
        self.request_id = ""
        self._loop = loop
        messages = request.chat.messages
        self._taken = {call.id for message in messages for call in message.tool_calls}
        self._may_call = request.tool_choice.mode != pb.TOOL_MODE_NONE
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[pb.ToolCall] = []
        self._finished = pb.Finished()
        self._indexes: list[int] = []

    def read(self, events: LoopEvents, message: bytes) -> list[Event]:
        """The events of one message; calls of MCP tools have none yet."""
        read = pb.GenerateResponse.FromString(message)
        if read.HasField("started"):
            self.request_id = read.started.request_id
            return []
        if read.HasField("finished"):
            self._finished = read.finished
            return []
        return self.add(events, read.delta)

    def add(self, events: LoopEvents, delta: pb.Delta | pb.GetGenerationResponse) -> list[Event]:
        """The events of new output."""
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning_text)
        pieces = [self._named(one) for one in delta.tool_calls]
        for piece in pieces:
            self._add_call(piece)
        shown = pb.Delta(
            text=delta.text,
            reasoning_text=delta.reasoning_text,
            logprobs=delta.logprobs,
            tool_calls=[one for one in pieces if not self._is_of_tool(one.index)],
        )
        return convert.delta_events(events, shown)

    def end(self, finished: pb.Finished) -> None:
        """Sets how it ended."""
        self._finished = finished

    @property
    def ending(self) -> Ending:
        """How it ended."""
        return convert.ending_of(self._finished)

    @property
    def completion_tokens(self) -> int:
        """All that it has written."""
        return self._finished.usage.completion_tokens

    @property
    def calls(self) -> list[WantedCall]:
        """The calls of MCP tools; none of a model that was told to make none."""
        wanted: list[WantedCall] = []
        if not self._may_call:
            return wanted
        for call in self._calls:
            found = self._loop.tool_of(call.name)
            if found is not None:
                label, tool = found
                made = WantedCall(
                    call_id=call.id, label=label, name=tool.name, arguments=call.arguments
                )
                wanted.append(made)
        return wanted

    @property
    def asks(self) -> bool:
        """Whether it calls anything."""
        return bool(self._calls) and self._may_call

    @property
    def needs_client(self) -> bool:
        """Whether the client has to do something before the model can go on."""
        tools = [self._loop.tool_of(one.name) for one in self._calls]
        return any(found is None or found[1].asks for found in tools)

    def message(self) -> pb.ChatMessage:
        """The message of the model, whose arguments are JSON objects."""
        made = pb.ChatMessage(
            role=pb.ROLE_ASSISTANT,
            content="".join(self._text),
            reasoning_text="".join(self._reasoning),
            tool_calls=self._calls,
        )
        for call in made.tool_calls:
            call.arguments = as_arguments(call.arguments) or "{}"
        return made

    def _named(self, piece: pb.ToolCall) -> pb.ToolCall:
        """With an id that no earlier call has; other servers may begin again with each response."""
        if not piece.name or (piece.id and piece.id not in self._taken):
            return piece
        made = pb.ToolCall()
        made.CopyFrom(piece)
        made.id = f"{piece.id[:100] or 'call'}_{len(self._taken)}_{piece.index}"
        return made

    def _add_call(self, piece: pb.ToolCall) -> None:
        if piece.index in self._indexes:
            number = self._indexes.index(piece.index)
            self._calls[number].arguments += piece.arguments
        else:
            self._indexes.append(piece.index)
            self._calls.append(piece)

    def _is_of_tool(self, index: int) -> bool:
        call = self._calls[self._indexes.index(index)]
        return self._loop.tool_of(call.name) is not None


def functions_of(request: pb.GenerateRequest) -> Mapping[str, Function]:
    """What the model is shown, by name."""
    return {
        tool.name: Function(
            name=tool.name,
            description=tool.description or None,
            parameters=schema_of(tool.parameters_json_schema),
        )
        for tool in request.tools
    }


def first_round(
    asked: ResponseRequest, facts: ResponseFacts, loop: LoopFacts, request: pb.GenerateRequest
) -> Round:
    """The first generation of a response, whose facts hold what its loop begins with."""
    own = replace(
        loop,
        shown=tuple(shown_tool(one) for one in asked.tools or () if one.type == "mcp"),
        choice=shown_choice(asked.tool_choice),
        max_tool_calls=asked.max_tool_calls,
        inputs=len(convert.conversation(request, facts)),
    )
    shown = convert.with_settings(replace(facts, loop=own), request)
    return Round(facts=shown, request=request)
