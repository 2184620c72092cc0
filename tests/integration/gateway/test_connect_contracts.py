"""Every public method by the Connect protocol: its messages survive JSON, its rules hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, cast

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mlxmesh_gateway.connect.json_messages import from_json, to_json
from mlxmesh_gateway.connect.methods import ConnectMethod, connect_methods
from mlxmesh_gateway.forwarding.routes import public_routes
from mlxmesh_shared.rules.words import field_rules
from tests.fakes.connect_edge import AnyDoor, serving_connect
from tests.illegal_values import illegal_values, is_map, map_entry

METHODS = connect_methods(public_routes())
MAX_DEPTH = 4


def full(cls: type[Message], depth: int = 0) -> Any:
    """A message with a value in every field; of a oneof, in the last one."""
    message = cls()
    for field in cast("Descriptor", cls.DESCRIPTOR).fields:
        _fill(message, field, depth)
    return message


def _fill(message: Any, field: FieldDescriptor, depth: int) -> None:
    if is_map(field):
        key, value = map_entry(field)["key"], map_entry(field)["value"]
        entries = getattr(message, field.name)
        if value.message_type is None:
            entries[_scalar(key)] = _scalar(value)
        elif depth < MAX_DEPTH:
            entries[_scalar(key)].CopyFrom(_inner(value, depth))
    elif field.message_type is None:
        value = _scalar(field)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    elif depth < MAX_DEPTH:
        if field.is_repeated:
            getattr(message, field.name).append(_inner(field, depth))
        else:
            getattr(message, field.name).CopyFrom(_inner(field, depth))


def _inner(field: FieldDescriptor, depth: int) -> Any:
    assert field.message_type is not None
    cls = GetMessageClass(field.message_type)
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return cls(seconds=1_800_000_000, nanos=5)  # type: ignore[call-arg]
    if field.message_type.full_name.startswith("google.protobuf."):
        return cls()
    return full(cls, depth + 1)


def _scalar(field: FieldDescriptor) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return b"\0\xff" if field.type == FieldDescriptor.TYPE_BYTES else 'é"\n\u2028<'
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            return field.enum_type.values[-1].number
        case FieldDescriptor.CPPTYPE_INT64:
            return -(2**63)
        case FieldDescriptor.CPPTYPE_UINT64:
            return 2**64 - 1
        case _:
            return 7


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.path)
def test_messages_survive_json(method: ConnectMethod) -> None:
    for cls in (method.request_class, method.response_class):
        message = full(cls)
        text = to_json(message)
        assert "\n" not in text
        again, unknown = from_json(cls, json.loads(text))
        assert (again, unknown) == (message, [])


async def test_every_method_is_served_in_each_shape() -> None:
    door = AnyDoor()
    async with serving_connect(door) as edge:
        for method in METHODS.values():
            request = full(method.request_class)
            door.responses = [full(method.response_class)]
            body = MessageToDict(request)
            headers = {"accept": "text/event-stream"} if method.streams else {}
            answer = await edge.client.post(method.path, json=body, headers=headers)
            assert answer.status_code == 200, (method.path, answer.text)
            assert door.request == request, method.path
            text = answer.text
            if method.streams:
                text = next(line[6:] for line in text.split("\n") if line.startswith("data: "))
            assert from_json(method.response_class, json.loads(text))[0] == door.responses[0]
            query = {"message": json.dumps(body)}
            got = await edge.client.get(method.path, params=query, headers=headers)
            assert got.status_code == (200 if method.reads else 405), method.path


def test_only_what_reads_may_be_called_by_get() -> None:
    reads = {method.descriptor.name for method in METHODS.values() if method.reads}
    assert reads.isdisjoint(
        {"Generate", "Complete", "SignIn", "PullModel", "VerifyArtifacts", "SubmitJob"}
    )
    changing = tuple(
        (
            "Add Append Begin Call Cancel Complete Create Delete Embed Finish Generate Import Load "
            "Prune Pull Refresh Register Remove Report Rerank Retry Revoke Set Sign Start Stop "
            "Submit Unload Update Verify Pause Promote Resume Abort"
        ).split()
    )
    assert not [name for name in reads if name.startswith(changing)]
    others = {method.descriptor.name for method in METHODS.values()} - reads
    assert not [name for name in others if not name.startswith(changing)]


def cases() -> Iterator[tuple[ConnectMethod, FieldDescriptor, str, Any]]:
    """Of each request's own fields; those of the messages in it are in the contracts' own test."""
    for method in METHODS.values():
        for field in method.descriptor.input_type.fields:
            for what, value in illegal_values(field, field_rules(field)):
                yield method, field, what, value


async def test_every_illegal_value_is_refused_by_name() -> None:
    seen = 0
    async with serving_connect(AnyDoor(checks=True), max_body_bytes=2**25) as edge:
        for method, field, what, value in cases():
            body = MessageToDict(method.request_class(**{field.name: value}))
            if not body or _is_not_finite(value):
                continue
            headers = {"accept": "text/event-stream"} if method.streams else {}
            answer = await edge.client.post(method.path, json=body, headers=headers)
            error = answer.json()
            where = (method.path, field.name, what)
            assert (answer.status_code, error["code"]) == (400, "invalid_argument"), where
            violations = [v for one in error["details"] for v in _violations(one)]
            assert violations, where
            assert violations[0].startswith(field.name), where
            seen += 1
    assert seen > 150


def _violations(detail: dict[str, Any]) -> list[str]:
    return [one["field"] for one in detail["debug"].get("fieldViolations", ())]


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
