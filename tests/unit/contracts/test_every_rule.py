"""Every rule of every request: an illegal value is refused, and the refusal names the field.

The cases are made from the contracts, so a new field with a rule is tested the day it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mlxmesh.access.v1 import access_pb2, policy_pb2
from mlxmesh.artifact.v1 import transfer_pb2
from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.generation.v1 import generation_pb2
from mlxmesh.model.v1 import model_pb2
from mlxmesh.runtime.v1 import runtime_pb2
from mlxmesh.telemetry.v1 import telemetry_pb2
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.rules.words import field_rules, oneof_rules
from tests.illegal_values import MISSING_FEATURE, illegal_values

MODULES = (
    access_pb2,
    engine_pb2,
    generation_pb2,
    model_pb2,
    policy_pb2,
    runtime_pb2,
    telemetry_pb2,
    transfer_pb2,
)
SERVICES = [
    service for module in MODULES for service in module.DESCRIPTOR.services_by_name.values()
]
VALIDATOR = Validator.for_services(*SERVICES)


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
