"""Every rule of every request: an illegal value is refused, and the refusal names the field.

The cases are made from the contracts, so a new field with a rule is tested the day it is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mlxmesh.common.v1.rules_pb2 import FieldRules
from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.generation.v1 import generation_pb2
from mlxmesh.model.v1 import model_pb2
from mlxmesh.runtime.v1 import runtime_pb2
from mlxmesh.telemetry.v1 import telemetry_pb2
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.rules.words import field_rules, oneof_rules

SERVICES = [
    service
    for module in (engine_pb2, generation_pb2, model_pb2, runtime_pb2, telemetry_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
VALIDATOR = Validator.for_services(*SERVICES)
INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
UNSIGNED = {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
NUMBERS = INTEGERS | UNSIGNED | FLOATS
MISSING_FEATURE = "of a feature that is not there"


@dataclass(frozen=True)
class Case:
    """One illegal value of one field."""

    message: type[Message]
    field: FieldDescriptor
    what: str
    value: Any

    def __str__(self) -> str:
        return f"{self.field.full_name.removeprefix('mlxmesh.')}: {self.what}"


def request_messages() -> list[Descriptor]:
    """Every message that can be part of a request."""
    found: dict[str, Descriptor] = {}

    def visit(message: Descriptor) -> None:
        if message.full_name in found or not message.full_name.startswith("mlxmesh."):
            return
        found[message.full_name] = message
        for field in message.fields:
            if field.message_type is not None:
                visit(field.message_type)

    for service in SERVICES:
        for method in service.methods:
            visit(method.input_type)
    return [each for each in found.values() if not each.GetOptions().map_entry]


def cases() -> Iterator[Case]:
    for message in request_messages():
        for field in message.fields:
            for what, value in illegal_values(field, field_rules(field)):
                yield Case(GetMessageClass(message), field, what, value)


def illegal_values(field: FieldDescriptor, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    if rules.unsupported:
        yield MISSING_FEATURE, some_value(field)
        return
    if is_map(field):
        [key] = some_keys(field, 1)
        value_field = map_entry(field)["value"]
        yield from ((what, {key: value}) for what, value in illegal_scalars(value_field, rules))
        if rules.HasField("key_pattern"):
            yield "a key off the pattern", {"../ etc\n": some_value(value_field)}
    elif field.is_repeated:
        yield from ((what, [value]) for what, value in illegal_scalars(field, rules))
    else:
        yield from illegal_scalars(field, rules)
    if rules.HasField("max_items"):
        yield "too many", too_many(field, rules.max_items + 1)


def illegal_scalars(field: FieldDescriptor, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    if field.cpp_type in FLOATS:
        yield from (("not a number", math.nan), ("infinite", math.inf))
    if field.cpp_type in NUMBERS:
        yield from illegal_numbers(field, rules)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if rules.HasField("max_length"):
            yield "too long", some_value(field, is_element=True) * (rules.max_length + 1)
        if rules.min_length:
            yield "empty", ""
        if rules.HasField("pattern"):
            yield "off the pattern", "../ etc\n"


def illegal_numbers(field: FieldDescriptor, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    step = 0.5 if field.cpp_type in FLOATS else 1
    lowest = 0 if field.cpp_type in UNSIGNED else -math.inf
    if rules.HasField("unsupported_above"):
        yield MISSING_FEATURE, int(rules.unsupported_above) + 1
    edges = {
        "too small": rules.gte - step if rules.HasField("gte") else None,
        "too large": rules.lte + step if rules.HasField("lte") else None,
        "at the lower edge": rules.gt if rules.HasField("gt") else None,
        "at the upper edge": rules.lt if rules.HasField("lt") else None,
    }
    for what, value in edges.items():
        is_absence = value == 0 and not field.has_presence
        if value is not None and value >= lowest and not is_absence:
            yield what, value if field.cpp_type in FLOATS else int(value)


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def map_entry(field: FieldDescriptor) -> Mapping[str, FieldDescriptor]:
    assert field.message_type is not None
    return field.message_type.fields_by_name


def some_keys(field: FieldDescriptor, count: int) -> list[Any]:
    is_text = map_entry(field)["key"].cpp_type == FieldDescriptor.CPPTYPE_STRING
    return [f"k{number}" if is_text else number for number in range(7, 7 + count)]


def some_value(field: FieldDescriptor, *, is_element: bool = False) -> Any:
    if is_map(field):
        return {"a": "b"}
    value: Any = 1
    if field.message_type is not None:
        value = GetMessageClass(field.message_type)()
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        value = b"x" if field.type == FieldDescriptor.TYPE_BYTES else "x"
    return [value] if field.is_repeated and not is_element else value


def too_many(field: FieldDescriptor, count: int) -> Any:
    if is_map(field):
        return dict.fromkeys(some_keys(field, count), some_value(map_entry(field)["value"]))
    return some_value(field) * count


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_an_illegal_value_is_refused_by_name(case: Case) -> None:
    message = case.message(**{case.field.name: case.value})
    with pytest.raises(InvalidArgument) as caught:
        VALIDATOR.check(message)
    assert caught.value.field.startswith(case.field.name)
    expected = FeatureNotSupported if case.what == MISSING_FEATURE else InvalidArgument
    assert type(caught.value) is expected


def is_needed(field: FieldDescriptor) -> bool:
    """Whether leaving the field out is illegal: required, or its zero is out of range."""
    rules = field_rules(field)
    return rules.required or (not field.has_presence and not field.is_repeated and rules.gte > 0)


def message_name(message: Descriptor) -> str:
    return message.name


NEEDY = {
    message: {field.name for field in message.fields if is_needed(field)}
    | {oneof.name for oneof in message.oneofs if oneof_rules(oneof).required}
    for message in request_messages()
}


@pytest.mark.parametrize(
    "message", [each for each, needed in NEEDY.items() if needed], ids=message_name
)
def test_an_empty_message_is_refused_by_what_it_needs(message: Descriptor) -> None:
    with pytest.raises(InvalidArgument) as caught:
        VALIDATOR.check(GetMessageClass(message)())
    assert caught.value.field in NEEDY[message]


def test_more_than_one_output_is_a_feature_that_is_not_there() -> None:
    n = generation_pb2.GenerateRequest.DESCRIPTOR.fields_by_name["n"]
    whats = {case.what: case.value for case in cases() if case.field is n}
    assert whats == {"too small": 0, MISSING_FEATURE: 2}


def test_there_are_cases_for_every_public_request() -> None:
    covered = {case.message.DESCRIPTOR.name for case in cases()}
    assert covered >= {
        "GenerateRequest", "Sampling", "ChatInput", "TokenInput", "CancelGenerationRequest",
        "CountTokensRequest", "PullModelRequest", "RegisterModelRequest", "GetModelRequest",
        "ListModelsRequest", "DeleteModelRequest", "LoadModelRequest", "UnloadModelRequest",
        "SetAliasRequest", "GetTokenizerRequest", "StartEngineRequest", "Submit",
        "ImportModelRequest", "WatchEventsRequest", "Event", "RelayRequest", "OpenStream",
        "StreamCredit",
    }  # fmt: skip
