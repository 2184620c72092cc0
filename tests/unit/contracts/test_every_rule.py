"""Every rule of every request: an illegal value is refused, and the refusal names the field.

The cases are made from the contracts, so a new field with a rule is tested the day it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.rules.words import field_rules, oneof_rules
from tests.illegal_values import MISSING_FEATURE, illegal_values

PROTOS = Path(__file__).resolve().parents[3] / "protos"
MODULES = [
    import_module(".".join(path.relative_to(PROTOS).with_suffix("").parts) + "_pb2")
    for path in sorted((PROTOS / "mlxmesh").rglob("*.proto"))
]
SERVICES = [
    service
    for module in MODULES
    if module.DESCRIPTOR.package.startswith("mlxmesh.")
    for service in module.DESCRIPTOR.services_by_name.values()
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


def cases_of(message: Descriptor) -> Iterator[Case]:
    for field in message.fields:
        for what, value in illegal_values(field, field_rules(field)):
            yield Case(GetMessageClass(message), field, what, value)


def refusal_of(case: Case) -> InvalidArgument | None:
    message = case.message(**{case.field.name: case.value})
    try:
        VALIDATOR.check(message)
    except InvalidArgument as error:
        return error
    return None


def message_name(message: Descriptor) -> str:
    return message.full_name.removeprefix("mlxmesh.")


@pytest.mark.parametrize("message", request_messages(), ids=message_name)
def test_illegal_values_are_refused_by_name(message: Descriptor) -> None:
    for case in cases_of(message):
        refusal = refusal_of(case)
        assert refusal is not None, f"{case} was accepted"
        assert refusal.field.startswith(case.field.name), str(case)
        expected = FeatureNotSupported if case.what == MISSING_FEATURE else InvalidArgument
        assert type(refusal) is expected, str(case)


def is_needed(field: FieldDescriptor) -> bool:
    """Whether leaving the field out is illegal: required, or its zero is out of range."""
    rules = field_rules(field)
    if rules.required or rules.min_items:
        return True
    return not field.has_presence and not field.is_repeated and rules.gte > 0


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
    covered = {each.name for each in request_messages() if any(cases_of(each))}
    assert covered >= {
        "GenerateRequest", "Sampling", "ChatInput", "TokenInput", "CancelGenerationRequest",
        "CountTokensRequest", "PullModelRequest", "RegisterModelRequest", "GetModelRequest",
        "ListModelsRequest", "DeleteModelRequest", "LoadModelRequest", "UnloadModelRequest",
        "SetAliasRequest", "GetTokenizerRequest", "StartEngineRequest", "Submit",
        "ImportModelRequest", "WatchEventsRequest", "Event", "RelayRequest", "OpenStream",
        "StreamCredit", "CreateInvitationRequest", "JoinRequest", "RenewCertificatesRequest",
        "RemoveHostRequest", "ReadFileRequest", "HostRankRequest", "ModelFiles", "Join",
        "EngineProfile",
    }  # fmt: skip
