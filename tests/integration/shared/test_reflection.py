"""Reflection in both versions, as grpcurl asks for it."""

import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from mlxmesh_shared.errors import MethodNotFound
from mlxmesh_shared.rpc.control import SERVICE_NAME as CONTROL
from mlxmesh_shared.rpc.reflection import V1, V1ALPHA
from mlxmesh_shared.rpc.server import ServerOptions

from .conftest import SERVICE, Serve, Served

Request = reflection_pb2.ServerReflectionRequest


async def ask(
    served: Served, service: str, *requests: Request
) -> list[reflection_pb2.ServerReflectionResponse]:
    call = served.channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=Request.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [answer async for answer in call(iter(requests))]


@pytest.mark.parametrize("version", [V1, V1ALPHA])
async def test_lists_and_describes(serve: Serve, version: str) -> None:
    served = await serve()

    listed, described, itself, missing = await ask(
        served,
        version,
        Request(list_services=""),
        Request(file_containing_symbol=SERVICE),
        Request(file_containing_symbol=version),
        Request(file_containing_symbol="no.such.Symbol"),
    )

    names = {service.name for service in listed.list_services_response.service}
    assert names == {SERVICE, CONTROL, "grpc.health.v1.Health", V1, V1ALPHA}
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(encoded)
        for encoded in described.file_descriptor_response.file_descriptor_proto
    ]
    assert "mlxmesh/generation/v1/generation.proto" in {file.name for file in files}
    assert itself.file_descriptor_response.file_descriptor_proto
    assert missing.error_response.error_code == 5


async def test_can_be_switched_off(serve: Serve) -> None:
    served = await serve(ServerOptions(reflection=False))

    with pytest.raises(MethodNotFound):
        await ask(served, V1, Request(list_services=""))


@pytest.mark.parametrize(
    "symbol",
    [
        f"{SERVICE}.Generate",
        "mlxmesh.generation.v1.GenerateRequest.model",
        "mlxmesh.generation.v1.GenerateRequest.input",
        "mlxmesh.generation.v1.FINISH_REASON_STOP",
        "mlxmesh.generation.v1.FinishReason.FINISH_REASON_STOP",
        "mlxmesh.generation.v1.FinishReason",
        "mlxmesh.common.v1.Sampling.LogitBiasEntry",
        "mlxmesh.common.v1.rules",
        "grpc.health.v1.Health.Check",
        "grpc.health.v1.HealthCheckResponse.ServingStatus",
        f"{V1}.ServerReflectionInfo",
    ],
)
async def test_finds_whatever_a_contract_names(serve: Serve, symbol: str) -> None:
    (answer,) = await ask(await serve(), V1, Request(file_containing_symbol=symbol))

    files = [
        descriptor_pb2.FileDescriptorProto.FromString(encoded)
        for encoded in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert any(symbol.startswith(f"{file.package}.") for file in files)


@pytest.mark.parametrize(
    "symbol",
    [f"{SERVICE}.NoSuchMethod", "mlxmesh.generation.v1.GenerateRequest.no_such_field", "", "."],
)
async def test_does_not_find_what_is_not_there(serve: Serve, symbol: str) -> None:
    (answer,) = await ask(await serve(), V1, Request(file_containing_symbol=symbol))

    assert answer.error_response.error_code == 5
