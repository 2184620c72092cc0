"""Converts between the Responses API's JSON and the contract's messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.constraints import set_format
from mlxmesh_gateway.openai.convert import generation_options
from mlxmesh_gateway.openai.logprobs import chat_logprobs
from mlxmesh_gateway.openai.reasoning import set_reasoning
from mlxmesh_gateway.openai.responses.approvals import Answer
from mlxmesh_gateway.openai.responses.events import Ending, Event, ResponseEvents
from mlxmesh_gateway.openai.responses.ids import ROUND
from mlxmesh_gateway.openai.responses.input import Messages, input_messages, with_results
from mlxmesh_gateway.openai.responses.objects import JsonObject, ResponseFacts, usage_object
from mlxmesh_gateway.openai.responses.schema import ResponseRequest, ResponseTool
from mlxmesh_gateway.openai.responses.settings import settings_of, tool_settings
from mlxmesh_gateway.openai.responses.toolbox import NO_TOOLS, Toolbox
from mlxmesh_gateway.openai.tool_schema import Function
from mlxmesh_gateway.openai.tools import check_type, set_tools
from mlxmesh_shared.errors import InvalidArgument, MeshError
from mlxmesh_shared.rpc.error_status import from_failure

Message = pb.GenerateResponse
"""One message of a generation's stream."""
Snapshot = pb.GetGenerationResponse | pb.CompleteResponse
"""A generation as far as it has come."""

_STATUSES = {
    pb.FINISH_REASON_LENGTH: ("incomplete", "max_output_tokens"),
    pb.FINISH_REASON_CANCELLED: ("cancelled", None),
}
_FACTS = TypeAdapter(ResponseFacts)
_LOGPROBS = "message.output_text.logprobs"

# Requests.


def generation(
    asked: ResponseRequest,
    facts: ResponseFacts,
    earlier: Messages,
    *,
    toolbox: Toolbox = NO_TOOLS,
    answers: Sequence[Answer] = (),
) -> pb.GenerateRequest:
    """The GenerateRequest, without what decides how long it is retained.

    earlier: the conversation before the input.
    answers: to requests for approvals in the conversation.
    Raises: InvalidArgument, FeatureNotSupported.
    """
    request = generation_options(asked)
    request.model = asked.model
    messages = [
        *_instructions(facts),
        *with_results(earlier, answers),
        *input_messages(asked.input, answers, toolbox),
    ]
    request.chat.CopyFrom(pb.ChatInput(messages=messages))
    if asked.max_output_tokens is not None:
        request.max_tokens = asked.max_output_tokens
    _set_format(request, asked)
    _set_logprobs(request, asked)
    if asked.reasoning is not None:
        set_reasoning(request, asked.reasoning)
    functions = [*client_functions(asked), *toolbox.functions]
    choice = toolbox.choice(asked.tool_choice)
    set_tools(request, functions, choice, parallel=asked.parallel_tool_calls)
    return request


def client_functions(asked: ResponseRequest) -> list[Function]:
    """The functions that the client calls itself. Raises: InvalidArgument, FeatureNotSupported."""
    return [
        _function(one, f"tools.{number}")
        for number, one in enumerate(asked.tools or ())
        if one.type != "mcp"
    ]


def ignored_includes(asked: ResponseRequest) -> list[str]:
    """The paths of what the response is to include and does not have."""
    return [f"include.{n}" for n, one in enumerate(asked.include or ()) if one != _LOGPROBS]


def format_facts(asked: ResponseRequest) -> JsonObject:
    """What the format of the text has beside its schema."""
    shown = None if asked.text is None else asked.text.format
    if shown is None or shown.type != "json_schema":
        return {}
    return {"name": shown.name or "", "description": shown.description, "strict": shown.strict}


def with_settings(facts: ResponseFacts, request: pb.GenerateRequest) -> ResponseFacts:
    """The facts with what the response repeats of its request."""
    settings = settings_of(request, facts.format)
    return replace(facts, settings=settings | tool_settings(settings, facts.loop))


def keep(request: pb.GenerateRequest, facts: ResponseFacts) -> None:
    """Has the request retained with the facts, for `facts_of`."""
    request.keep_request = True
    # The instructions are the first message of the request, and the settings are its fields.
    instructions = None if facts.instructions is None else ""
    own = replace(facts, instructions=instructions, settings={})
    request.client_data = _FACTS.dump_json(own).decode()


def facts_of(request: pb.GenerateRequest) -> ResponseFacts | None:
    """The facts of a retained request; None for one that is no response."""
    try:
        facts = _FACTS.validate_json(request.client_data)
    except ValidationError:
        return None
    own_id, _, _ = request.request_id.partition(ROUND)
    if facts.id != own_id or not request.chat.messages:
        return None
    facts = with_settings(facts, request)
    if facts.instructions is None:
        return facts
    return replace(facts, instructions=request.chat.messages[0].content)


def conversation(request: pb.GenerateRequest, facts: ResponseFacts) -> Messages:
    """The messages of a retained request without its instructions."""
    return request.chat.messages[0 if facts.instructions is None else 1 :]


def with_output(messages: Messages, snapshot: Snapshot) -> Messages:
    """A conversation that goes on after a response."""
    output = pb.ChatMessage(
        role=pb.ROLE_ASSISTANT,
        content=snapshot.text,
        reasoning_text=snapshot.reasoning_text,
        tool_calls=snapshot.tool_calls,
    )
    return [*messages, output]


def _instructions(facts: ResponseFacts) -> Messages:
    if facts.instructions is None:
        return ()
    return [pb.ChatMessage(role=pb.ROLE_SYSTEM, content=facts.instructions)]


def _set_format(request: pb.GenerateRequest, asked: ResponseRequest) -> None:
    shown = None if asked.text is None else asked.text.format
    if shown is not None:
        set_format(
            request,
            shown.type,
            shown.schema_,
            field="text.format",
            schema_field="text.format.schema",
        )


def _set_logprobs(request: pb.GenerateRequest, asked: ResponseRequest) -> None:
    if asked.top_logprobs or _LOGPROBS in (asked.include or ()):
        request.logprobs.top = asked.top_logprobs or 0
        request.logprobs.SetInParent()


def _function(tool: ResponseTool, field: str) -> Function:
    check_type(tool.type, field)
    if tool.name is None:
        raise InvalidArgument(f"{field}.name is required", field=f"{field}.name")
    return Function(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        strict=tool.strict,
    )


# Responses.


def attached_message(encoded: bytes) -> pb.GenerateResponse:
    """One message of a resumed stream."""
    return pb.AttachGenerationResponse.FromString(encoded).message


def feed(events: ResponseEvents, message: pb.GenerateResponse) -> list[Event]:
    """The events of one message of a generation's stream."""
    if message.HasField("delta"):
        return delta_events(events, message.delta)
    if message.HasField("started"):
        return events.started(created_s(message.started))
    if message.HasField("finished"):
        return events.finished(ending_of(message.finished))
    return events.working()


def delta_events(events: ResponseEvents, delta: pb.Delta | Snapshot) -> list[Event]:
    """The events of new output, in the order that models write it in."""
    found: list[Event] = []
    calls = list(delta.tool_calls)
    # What continues a call comes before reasoning, which would end it.
    while calls and not calls[0].name:
        found += _call(events, calls.pop(0))
    if delta.reasoning_text:
        found += events.reasoning(delta.reasoning_text)
    found += events.text(delta.text, chat_logprobs(delta.logprobs) if delta.logprobs else ())
    for call in calls:
        found += _call(events, call)
    return found


def _call(events: ResponseEvents, call: pb.ToolCall) -> list[Event]:
    return events.call(call.index, call_id=call.id, name=call.name, arguments=call.arguments)


def as_response(facts: ResponseFacts, snapshot: Snapshot) -> JsonObject:
    """The response that the stream of the same generation has come to."""
    events = ResponseEvents(facts)
    if snapshot.HasField("started"):
        events.started(created_s(snapshot.started))
    if snapshot.token_ids or _is_prefilling(snapshot):
        delta_events(events, snapshot)
    if snapshot.HasField("finished"):
        events.finished(ending_of(snapshot.finished))
    error = failure(snapshot)
    if error is not None:
        events.failed(error)
    return events.response


def _is_prefilling(snapshot: Snapshot) -> bool:
    return isinstance(snapshot, pb.GetGenerationResponse) and snapshot.HasField("prefill_progress")


def failure(snapshot: Snapshot) -> MeshError | None:
    """Why a generation failed."""
    if isinstance(snapshot, pb.GetGenerationResponse) and snapshot.HasField("failure"):
        return from_failure(snapshot.failure)
    return None


def runs(snapshot: pb.GetGenerationResponse) -> bool:
    """Whether a generation has not ended."""
    return not (snapshot.HasField("finished") or snapshot.HasField("failure"))


def created_s(started: pb.Started) -> float:
    """When an engine accepted a generation, as Unix time."""
    return float(started.create_time.seconds)


def ending_of(finished: pb.Finished) -> Ending:
    """How a generation ended."""
    status, reason = _STATUSES.get(finished.finish_reason, ("completed", None))
    usage = finished.usage
    return Ending(
        status=status,
        incomplete_reason=reason,
        usage=usage_object(
            input_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        ),
    )
