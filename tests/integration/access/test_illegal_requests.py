"""Every illegal value of every field of both services, sent over gRPC, is refused by its path."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.access.v1 import access_pb2, policy_pb2
from mlxmesh_shared.errors import InvalidArgument, MeshError
from mlxmesh_shared.rules.words import field_rules
from tests.illegal_values import illegal_values
from tests.integration.access.conftest import PASSWORD, Service

NOW = Timestamp(seconds=1_800_000_000)
BEFORE_1970 = Timestamp(seconds=-1)
USER: dict[str, Any] = {"subject": {"user": "ada"}}
AMOUNTS = {"requests": 1, "device_s": 0.5}
# A legal request of each method.
LEGAL: dict[str, dict[str, Any]] = {
    "CreateUser": {"name": "new", "password": PASSWORD, "team": "t", "kind": 1, "role": 1},
    "SignUp": {"name": "new", "password": PASSWORD},
    "GetUser": {"name": "ada"},
    "ListUsers": {"page_size": 1},
    "UpdateUser": {"name": "ada", "state": 2, "role": 1, "team": "t", "password": PASSWORD},
    "DeleteUser": {"name": "ada"},
    "CreateKey": {"name": "k", "user": "ada", "role": 1, "models": ["qwen*"], "expires": NOW},
    "ListKeys": {"user": "ada", "page_size": 1},
    "RevokeKey": {"key_id": "k_1"},
    "SetQuota": {
        **USER,
        "limits": {
            "requests_per_minute": 1,
            "tokens_per_minute": 1,
            "tokens_per_day": 1,
            "concurrent_generations": 1,
            "tokens_per_month": 1,
        },
    },
    "ListQuotas": {**USER, "page_size": 1},
    "DeleteQuota": USER,
    "QueryUsage": {"from": NOW, "to": NOW, "group_by": [1], "user": "a", "key_id": "k"},
    "ListAuditEntries": {"actor": "user:ada", "page_size": 1},
    "SignIn": {"name": "ada", "password": PASSWORD},
    "RefreshSession": {"refresh_token": "x"},
    "SignOut": {"refresh_token": "x"},
    "GetSignInOptions": {},
    "BeginOidcSignIn": {"redirect_uri": "http://127.0.0.1/"},
    "CompleteOidcSignIn": {"state": "x", "code": "x"},
    "WatchPolicies": {},
    "GetRevision": {},
    "LeaseQuotas": {
        "gateway_id": "g",
        "slices": [{**USER, "limit": 1, "spent": 1, "wanted": 1}],
    },
    "ReportUsage": {
        "batch_id": "b",
        "records": [{"principal": "user:ada", "hour": NOW, "amounts": AMOUNTS, "last_used": NOW}],
    },
    "RecordAuditEntries": {
        "batch_id": "b",
        "entries": [{"time": NOW, "actor": "user:ada", "action": "tools.called", "target": "a.b"}],
    },
}
# What the written rules do not say, but the comments of the contract do.
UNWRITTEN: list[tuple[str, dict[str, Any], str]] = [
    ("CreateUser", {"password": "short"}, "password"),
    ("CreateUser", {"password": ""}, "password"),
    ("CreateUser", {"kind": access_pb2.USER_KIND_SERVICE_ACCOUNT}, "password"),
    ("UpdateUser", {"state": access_pb2.USER_STATE_PENDING}, "state"),
    ("UpdateUser", {"state": access_pb2.USER_STATE_UNSPECIFIED}, "state"),
    ("UpdateUser", {"role": access_pb2.ACCESS_ROLE_UNSPECIFIED}, "role"),
    ("CreateKey", {"expires": Timestamp(seconds=1)}, "expires"),
    ("CreateKey", {"expires": BEFORE_1970}, "expires"),
    ("CreateKey", {"expires": Timestamp(seconds=2**60)}, "expires"),
    ("CreateKey", {"expires": Timestamp(seconds=1_800_000_000, nanos=-1)}, "expires"),
    ("CreateKey", {"user": ""}, "user"),
    ("SetQuota", {"limits": {}}, "limits"),
    ("SetQuota", {"subject": {"user": ""}}, "subject"),
    ("ListQuotas", {"subject": {}}, "subject.subject"),
    ("QueryUsage", {"group_by": [0]}, "group_by[0]"),
    ("QueryUsage", {"from": BEFORE_1970}, "from"),
    ("QueryUsage", {"to": BEFORE_1970}, "to"),
    ("QueryUsage", {"to": Timestamp(seconds=1_700_000_000)}, "from"),
    ("LeaseQuotas", {"slices": [{"subject": {"team": ""}, "limit": 1}]}, "slices[0].subject"),
    (
        "ReportUsage",
        {"records": [{"hour": BEFORE_1970, "amounts": AMOUNTS}]},
        "records[0].hour",
    ),
    (
        "ReportUsage",
        {"records": [{"hour": NOW, "last_used": BEFORE_1970, "amounts": AMOUNTS}]},
        "records[0].last_used",
    ),
]
PAGED = {name for name in LEGAL if name.startswith("List")} | {"QueryUsage"}
FORGED_TOKENS = [
    "x",
    "bm90aGluZw==",
    *(
        base64.b64encode(json.dumps(content).encode()).decode()
        for content in (["after", 1, 1, 1], ["after", 2**70], ["after", "\0"], ["after", [1]], {})
    ),
    "W" * 256,
]


@dataclass(frozen=True)
class Case:
    """A request with one illegal value."""

    method: str
    request: Message
    field: str
    what: str

    def __str__(self) -> str:
        return f"{self.method}.{self.field}: {self.what}"


def request_of(method: str, **changes: Any) -> Message:
    module = policy_pb2 if hasattr(policy_pb2, f"{method}Request") else access_pb2
    return getattr(module, f"{method}Request")(**{**LEGAL[method], **changes})


def cases() -> Iterator[Case]:
    for method in LEGAL:
        for path, field in fields_of(request_of(method)):
            for what, value in violations(field):
                request = request_of(method)
                set_field(owner_of(request, path), field, value)
                yield Case(method, request, join(path, field.name), what)
    for method, changes, name in UNWRITTEN:
        yield Case(method, request_of(method, **changes), name, f"unwritten {changes!r}")
    for method in sorted(PAGED):
        for token in FORGED_TOKENS:
            yield Case(method, request_of(method, page_token=token), "page_token", token[:20])


Path = tuple[tuple[str, int | None], ...]


def fields_of(message: Message, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field of a message and of those that are set in it, with the way to its owner."""
    for field in message.DESCRIPTOR.fields:
        yield path, field
        if field.message_type is None or not field.message_type.full_name.startswith("mlxmesh."):
            continue
        if field.is_repeated:
            for index, each in enumerate(getattr(message, field.name)):
                yield from fields_of(each, (*path, (field.name, index)))
        elif message.HasField(field.name):
            yield from fields_of(getattr(message, field.name), (*path, (field.name, None)))


def violations(field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    rules = field_rules(field)
    yield from illegal_values(field, rules)
    if rules.required:
        yield "missing", None
    if field.enum_type is not None:
        yield "unknown", [99] if field.is_repeated else 99


def owner_of(message: Message, path: Path) -> Message:
    for name, index in path:
        value = getattr(message, name)
        message = value if index is None else value[index]
    return message


def set_field(owner: Message, field: FieldDescriptor, value: Any) -> None:
    owner.ClearField(field.name)
    if value is not None:
        owner.MergeFrom(type(owner)(**{field.name: value}))


def join(path: Path, name: str) -> str:
    parts = [each if index is None else f"{each}[{index}]" for each, index in path]
    return ".".join((*parts, name))


def test_every_method_has_a_legal_request() -> None:
    methods = {
        method.name
        for module in (access_pb2, policy_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == set(LEGAL)


async def test_illegal_values_are_refused_by_their_path(sqlite_service: Service) -> None:
    """In one test, because a service for each of the hundreds of cases would be slow."""
    await sqlite_service.add_users("ada")
    wrong: dict[str, str] = {}
    for case in cases():
        try:
            await send(sqlite_service, case)
            wrong[str(case)] = "was accepted"
        except InvalidArgument as error:
            if PASSWORD in error.message:
                wrong[str(case)] = "repeats a password"
            if error.field != case.field and not error.field.startswith(f"{case.field}["):
                wrong[str(case)] = f"was refused for {error.field}"
        except MeshError as error:
            wrong[str(case)] = f"was {error.reason}: {error.message}"
    assert wrong == {}


def test_there_are_cases_of_both_services() -> None:
    found = [case.method for case in cases()]
    assert len(found) > 150
    assert {"CreateUser", "SetQuota", "LeaseQuotas", "ReportUsage", "SignIn"} <= set(found)


async def send(service: Service, case: Case) -> None:
    stub = service.policies if hasattr(policy_pb2, f"{case.method}Request") else service.stub
    metadata = (("mlxmesh-role", "admin"), ("mlxmesh-owner", "spiffe://mlxmesh/admin"))
    await getattr(stub, case.method)(case.request, metadata=metadata)
