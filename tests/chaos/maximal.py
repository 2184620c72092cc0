"""Every public request with one of its fields at the largest legal value, made from the contracts.

A new field that repeats, nests or carries text is covered the day it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.generation.v1 import embedding_pb2, generation_pb2
from mlxmesh.model.v1 import model_pb2
from mlxmesh.telemetry.v1 import events_pb2, telemetry_pb2
from mlxmesh_gateway.forwarding.routes import public_routes
from mlxmesh_shared.rules.words import field_rules

MAX_REQUEST_BYTES = 15_500_000
"""Just below what the gateway takes as one message by default."""
TELEMETRY = telemetry_pb2.DESCRIPTOR.services_by_name["TelemetryService"]
_SERVED_BY_GATEWAY = ("GetTrace", "WatchEvents", "PublishEvents")
# They change the mesh for everybody; a neighbour's chats would fail for that reason alone.
_LEFT_OUT = (
    "DeleteModel",
    "UnloadModel",
    "SetAlias",
    "LoadModel",
    "WatchModels",
    "WatchRollout",
    "WatchExperiment",
)
_GENERATE: dict[str, Any] = {"model": "pocket", "prompt": "Hi", "max_tokens": 1}
_BASES: Mapping[str, Message] = {
    message.DESCRIPTOR.full_name: message
    for message in (
        generation_pb2.GenerateRequest(**_GENERATE),
        generation_pb2.CompleteRequest(generation=generation_pb2.GenerateRequest(**_GENERATE)),
        generation_pb2.AttachGenerationRequest(request_id="nobody"),
        generation_pb2.CancelGenerationRequest(request_id="nobody"),
        generation_pb2.GetGenerationRequest(request_id="nobody"),
        generation_pb2.CountTokensRequest(model="pocket", prompt="Hi"),
        embedding_pb2.EmbedRequest(model="pocket", inputs=[embedding_pb2.EmbedInput(text="Hi")]),
        embedding_pb2.RerankRequest(model="pocket", query="Hi", documents=["Hi"]),
        generation_pb2.ChatMessage(role=generation_pb2.ROLE_USER),
        model_pb2.PullModelRequest(repo_id="nobody/nothing"),
        model_pb2.RegisterModelRequest(name="nothing", directory="/nothing"),
        model_pb2.GetModelRequest(model="pocket"),
        telemetry_pb2.GetTraceRequest(request_id="nobody"),
        events_pb2.Event(event_id="0" * 32),
        engine_pb2.Submit(),
    )
}
_MAP_VALUE_LENGTH = 130
"""Building a map of more than 100,000 entries takes half a minute here."""
_ALIKE = {
    "Event": frozenset(
        field.name
        for field in events_pb2.Event.DESCRIPTOR.oneofs_by_name["payload"].fields
        if field.name not in ("model_pull_failed", "config_changed")
    )
}
"""All payloads of events are handled alike: one with a message and one with a map are enough."""


@dataclass(frozen=True)
class Request:
    """One request, built when it is asked for."""

    path: str
    """/package.Service/Method."""
    streams: bool
    """Whether the method streams its responses."""
    field: str
    """The field that is at its maximum, from the request on, such as chat.messages."""
    build: Callable[[], Message]

    def wire(self) -> bytes:
        """The serialized message: up to MAX_REQUEST_BYTES."""
        return self.build().SerializeToString()

    @property
    def name(self) -> str:
        """Method and field, for tables."""
        return f"{self.path.rpartition('/')[2]} {self.field}"


def maximal_requests() -> Iterator[Request]:
    """One for each field of a public method that repeats, nests or carries text or bytes."""
    for route in public_routes():
        if route.path.rpartition("/")[2] not in _LEFT_OUT:
            yield from _requests(route.path, route.request_class.DESCRIPTOR, route.streams)
    for method in TELEMETRY.methods:
        if method.name in _SERVED_BY_GATEWAY:
            path = f"/{TELEMETRY.full_name}/{method.name}"
            yield from _requests(path, method.input_type, bool(method.server_streaming))


def _requests(path: str, message: Any, streams: bool) -> Iterator[Request]:
    for steps in _fields(message, ()):
        field = ".".join(step.name for step in steps)
        yield Request(path, streams, field, partial(_filled, message, steps))


def _fields(
    message: Any, above: tuple[FieldDescriptor, ...]
) -> Iterator[tuple[FieldDescriptor, ...]]:
    """The paths to every field that can grow; no message type twice on one path."""
    for field in message.fields:
        if field_rules(field).unsupported or field.name in _ALIKE.get(message.name, ()):
            continue
        if field.is_repeated or _is_text(field):
            yield (*above, field)
        inner = field.message_type
        types = [message, *(step.containing_type for step in above)]
        if inner is not None and not _is_map(field) and inner not in types:
            yield from _fields(inner, (*above, field))


def _filled(message: Any, steps: tuple[FieldDescriptor, ...]) -> Message:
    """The base message with the last of the fields as large as is legal."""
    base = _base(message)
    field, *below = steps
    value: Any = getattr(base, field.name)
    if below:
        child = _filled(below[0].containing_type, tuple(below))
        if field.is_repeated:
            value.append(child)
        else:
            value.CopyFrom(child)
    elif _is_map(field):
        is_number = _map_part(field, "key").cpp_type in _NUMBERS
        item = _scalar(_map_part(field, "value"), _MAP_VALUE_LENGTH)
        for key in range(_max_items(field, _MAP_VALUE_LENGTH + 20)):
            value[key if is_number else str(key)] = item
    elif field.is_repeated:
        item = _item(field)
        value.extend([item] * _max_items(field, _size_bytes(item)))
    else:
        setattr(base, field.name, _scalar(field, _max_length(field)))
    return base


_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}


def _base(message: Any) -> Message:
    made = GetMessageClass(message)()
    if (known := _BASES.get(message.full_name)) is not None:
        made.CopyFrom(known)
    return made


def _item(field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        return _base(field.message_type)
    # Few long texts or many short ones, whichever the rules allow.
    return _scalar(field, _max_length(field) if field_rules(field).HasField("max_items") else 1)


def _size_bytes(item: Any) -> int:
    if isinstance(item, Message):
        return item.ByteSize() + 2
    return len(item) + 3 if isinstance(item, str | bytes) else 2


def _scalar(field: FieldDescriptor, length: int) -> Any:
    if field.cpp_type != FieldDescriptor.CPPTYPE_STRING:
        return 1.0 if field.cpp_type not in _NUMBERS else 1
    return b"x" * length if field.type == FieldDescriptor.TYPE_BYTES else "x" * length


def _max_items(field: FieldDescriptor, size_bytes: int) -> int:
    rules = field_rules(field)
    fitting = MAX_REQUEST_BYTES // size_bytes
    return min(fitting, rules.max_items) if rules.HasField("max_items") else fitting


def _max_length(field: FieldDescriptor) -> int:
    rules = field_rules(field)
    if rules.pattern:
        return 64
    return min(MAX_REQUEST_BYTES, rules.max_length or MAX_REQUEST_BYTES)


def _is_text(field: FieldDescriptor) -> bool:
    return field.cpp_type == FieldDescriptor.CPPTYPE_STRING


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _map_part(field: FieldDescriptor, name: str) -> FieldDescriptor:
    assert field.message_type is not None
    return field.message_type.fields_by_name[name]
