"""Converts between the Responses API's JSON and the contract's messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.convert import chat_message, generation_options
from mlxmesh_gateway.openai.responses.events import Ending, Event, ResponseEvents
from mlxmesh_gateway.openai.responses.objects import (
    JsonObject,
    ResponseFacts,
    input_message,
    usage_object,
)
from mlxmesh_gateway.openai.responses.schema import Item, ResponseRequest
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument, MeshError
from mlxmesh_shared.rpc.error_status import from_failure

Messages = Sequence[pb.ChatMessage]
Snapshot = pb.GetGenerationResponse | pb.CompleteResponse
"""A generation as far as it has come."""

_ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}
_STATUSES = {
    pb.FINISH_REASON_LENGTH: ("incomplete", "max_output_tokens"),
    pb.FINISH_REASON_CANCELLED: ("cancelled", None),
}
_FIELDS = {"chat": "input", "max_tokens": "max_output_tokens"}
"""Fields of the contract by other names here."""
_FACTS = TypeAdapter(ResponseFacts)
_LOGPROBS = "message.output_text.logprobs"

# Requests.


def generation(
    asked: ResponseRequest, facts: ResponseFacts, earlier: Messages
) -> pb.GenerateRequest:
    """The GenerateRequest, without what decides how long it is retained.

    earlier: the conversation before the input. Raises: InvalidArgument, FeatureNotSupported.
    """
    if _LOGPROBS in (asked.include or ()):
        raise FeatureNotSupported(f"include: {_LOGPROBS} is not supported", field="include")
    request = generation_options(asked)
    request.model = asked.model
    messages = [*_instructions(facts), *earlier, *_input(asked.input)]
    request.chat.CopyFrom(pb.ChatInput(messages=messages))
    if asked.max_output_tokens is not None:
        request.max_tokens = asked.max_output_tokens
    return request


def keep(request: pb.GenerateRequest, facts: ResponseFacts) -> None:
    """Has the request retained with the facts, for `facts_of`."""
    request.keep_request = True
    # The instructions are the first message of the request.
    own = replace(facts, instructions=None if facts.instructions is None else "")
    request.client_data = _FACTS.dump_json(own).decode()


def facts_of(request: pb.GenerateRequest) -> ResponseFacts | None:
    """The facts of a retained request; None for one that is no response."""
    try:
        facts = _FACTS.validate_json(request.client_data)
    except ValidationError:
        return None
    if facts.id != request.request_id or not request.chat.messages:
        return None
    if facts.instructions is None:
        return facts
    return replace(facts, instructions=request.chat.messages[0].content)


def conversation(request: pb.GenerateRequest, facts: ResponseFacts) -> Messages:
    """The messages of a retained request without its instructions."""
    return request.chat.messages[0 if facts.instructions is None else 1 :]


def with_output(messages: Messages, text: str) -> Messages:
    """A conversation that goes on after a response."""
    return [*messages, pb.ChatMessage(role=pb.ROLE_ASSISTANT, content=text)]


def input_items(messages: Messages, response_id: str) -> list[JsonObject]:
    """A conversation as items, oldest first."""
    short_id = response_id.removeprefix("resp_")
    return [
        input_message(f"msg_{short_id}_{number}", _ROLES.get(one.role, "user"), one.content)
        for number, one in enumerate(messages)
    ]


def renamed(error: MeshError) -> MeshError:
    """The error with the name that its field has here."""
    first = error.field.removeprefix("generation.").split(".")[0].split("[")[0]
    name = _FIELDS.get(first)
    if name is not None:
        error.message = f"{name}{error.message.removeprefix(error.field)}"
        error.field = name
    return error


def _instructions(facts: ResponseFacts) -> Messages:
    if facts.instructions is None:
        return ()
    return [pb.ChatMessage(role=pb.ROLE_SYSTEM, content=facts.instructions)]


def _input(items: Sequence[Item]) -> Messages:
    return [_message(one, f"input.{number}") for number, one in enumerate(items)]


def _message(item: Item, field: str) -> pb.ChatMessage:
    if item.type not in (None, "message"):
        raise FeatureNotSupported(
            f"{field}.type is not supported: only messages are", field=f"{field}.type"
        )
    if item.role is None:
        raise InvalidArgument(f"{field}.role is required", field=f"{field}.role")
    return chat_message(item.role, item.content, field)


# Responses.


def feed(events: ResponseEvents, message: bytes) -> list[Event]:
    """The events of one encoded message of a generation's stream."""
    return _fed(events, pb.GenerateResponse.FromString(message))


def feed_attached(events: ResponseEvents, message: bytes) -> list[Event]:
    """The events of one encoded message of a resumed stream."""
    return _fed(events, pb.AttachGenerationResponse.FromString(message).message)


def _fed(events: ResponseEvents, message: pb.GenerateResponse) -> list[Event]:
    if message.HasField("delta"):
        return events.text(message.delta.text)
    if message.HasField("started"):
        return events.started(_created_s(message.started))
    if message.HasField("finished"):
        return events.finished(_ending(message.finished))
    return events.working()


def as_response(facts: ResponseFacts, snapshot: Snapshot) -> JsonObject:
    """The response that the stream of the same generation has come to."""
    events = ResponseEvents(facts)
    if snapshot.HasField("started"):
        events.started(_created_s(snapshot.started))
    if snapshot.token_ids or _is_prefilling(snapshot):
        events.text(snapshot.text)
    if snapshot.HasField("finished"):
        events.finished(_ending(snapshot.finished))
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


def _created_s(started: pb.Started) -> float:
    return float(started.create_time.seconds)


def _ending(finished: pb.Finished) -> Ending:
    status, reason = _STATUSES.get(finished.finish_reason, ("completed", None))
    usage = finished.usage
    return Ending(
        status=status,
        incomplete_reason=reason,
        usage=usage_object(
            input_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
        ),
    )
