"""Every method of every contract states who may call it, and nobody else gets in."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_shared.errors import MethodNotFound, PermissionDenied, Unauthenticated
from mlxmesh_shared.rpc.reflection import V1
from mlxmesh_shared.tls import CertificateFiles, CertificateSource
from mlxmesh_shared.tls.identity import ROLES
from mlxmesh_shared.tls.method_access import declared_rules

from .conftest import GENERATE, LOAD_MODEL, Connect, Serve, all_services, call

RULES = {path: rules for service in all_services() for path, rules in declared_rules(service)}
ROLE_NUMBERS = {role: Role.Value(f"ROLE_{role.upper()}") for role in ROLES}


def name_of(service: ServiceDescriptor) -> str:
    return service.name


@pytest.mark.parametrize("service", all_services(), ids=name_of)
def test_every_method_states_its_roles(service: ServiceDescriptor) -> None:
    silent = [
        path
        for path, rules in declared_rules(service)
        if not rules.allowed_roles and not rules.gateway_roles
    ]
    assert silent == []


def test_there_are_methods() -> None:
    assert len(RULES) >= 26


@pytest.mark.parametrize("at_gateway", [False, True], ids=["service", "gateway"])
@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_call_what_lists_it_and_nothing_else(
    serve: Serve, connect: Connect, role: str, at_gateway: bool
) -> None:
    server = await serve(at_gateway=at_gateway)
    channel = await connect(server, role)
    outcomes: dict[str, bool] = {}
    for path in RULES:
        try:
            await call(channel, path)
            outcomes[path] = True
        except PermissionDenied:
            outcomes[path] = False
    number = ROLE_NUMBERS[role]
    assert outcomes == {
        path: number in (rules.gateway_roles if at_gateway else rules.allowed_roles)
        or (at_gateway and rules.gateway_open)
        for path, rules in RULES.items()
    }


@pytest.mark.parametrize("role", ROLES)
async def test_health_and_reflection_are_open_to_every_role(
    serve: Serve, connect: Connect, role: str
) -> None:
    channel = await connect(await serve(), role)

    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    health = await check(health_pb2.HealthCheckRequest())
    ask = channel.stream_stream(
        f"/{V1}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    listed = [
        answer
        async for answer in ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    ]

    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert listed[0].list_services_response.service


async def test_a_refusal_is_audited_without_contents(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await connect(await serve(), "client")

    with caplog.at_level(logging.WARNING, "mlxmesh.audit"), pytest.raises(PermissionDenied) as told:
        await call(channel, LOAD_MODEL, b"a secret")

    (record,) = [each for each in caplog.records if each.name == "mlxmesh.audit"]
    fields = vars(record)["fields"]
    assert fields["method"] == LOAD_MODEL
    assert fields["caller"] == "spiffe://mlxmesh/client"
    assert fields["peer"].startswith("ipv4:127.0.0.1:")
    assert set(fields) == {"method", "caller", "peer"}
    assert told.value.message == "the role client may not call this method; allowed: gateway"


async def test_a_method_that_is_in_no_contract_is_not_there(serve: Serve, connect: Connect) -> None:
    channel = await connect(await serve())

    with pytest.raises(MethodNotFound):
        await call(channel, "/mlxmesh.generation.v1.GenerationService/NoSuchMethod")


async def test_without_client_certificates_everybody_is_a_client(
    serve: Serve, connect: Connect, tls_dir: Path
) -> None:
    server = await serve(at_gateway=True, client_certificates=False)
    nobody = CertificateSource(CertificateFiles(tls_dir / "ca.crt"))
    channel = await connect(server, certificates=nobody)

    assert await call(channel, GENERATE) == [b"answer"]
    with pytest.raises(Unauthenticated, match="certificate of one of the roles admin"):
        await call(channel, LOAD_MODEL)
