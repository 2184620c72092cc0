"""The gateway as others see it: health, reflection, its record, and how it leaves."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from mlxmesh_shared.errors import Internal, ServiceUnavailable

GENERATION = "mlxmesh.generation.v1.GenerationService"
MODEL = "mlxmesh.model.v1.ModelService"


async def test_health_tells_which_contracts_can_be_served(stand: Any) -> None:
    await stand.generation()
    channel = await stand.channel(await stand.gateway())

    assert await stand.health(channel, "") == "SERVING"
    assert await stand.health(channel, GENERATION) == "SERVING"
    assert await stand.health(channel, MODEL) == "NOT_SERVING"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_documents_the_contracts(stand: Any, version: str) -> None:
    channel = await stand.channel(await stand.gateway())
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=GENERATION),
    ]

    services, files = [answer async for answer in _reflect(channel, version, requests)]

    names = {service.name for service in services.list_services_response.service}
    assert {GENERATION, MODEL} <= names
    protos = [
        FileDescriptorProto.FromString(encoded)
        for encoded in files.file_descriptor_response.file_descriptor_proto
    ]
    comments = {
        location.leading_comments.strip()
        for proto in protos
        if proto.name == "mlxmesh/generation/v1/generation.proto"
        for location in proto.source_code_info.location
    }
    assert "The model to describe." in comments
    assert "mlxmesh/common/v1/sampling.proto" in {proto.name for proto in protos}


async def test_reflection_can_be_switched_off(stand: Any) -> None:
    channel = await stand.channel(await stand.gateway(reflection=False))
    request = reflection_pb2.ServerReflectionRequest(list_services="")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [answer async for answer in _reflect(channel, "v1", [request])]

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_stopping_gateway_lets_its_streams_finish(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    async with stand.running_gateway(drain_grace_s=60) as (address, stop):
        client = await stand.client(address, attempts=1)
        stream = client.generate("pocket", prompt="a b c")
        events = [await anext(stream), await anext(stream)]

        stop.set()
        async with asyncio.timeout(30):
            while await stand.registry.resolve("gateway"):
                await asyncio.sleep(0.01)
        generation.go_on.set()
        events += [event async for event in stream]

    assert "".join(event.text for event in events) == "a b c "
    with pytest.raises(ServiceUnavailable):
        await client.complete("pocket", prompt="a")


async def test_a_stream_that_outlasts_the_grace_ends_as_unavailable(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    async with stand.running_gateway(drain_grace_s=0.2) as (address, stop):
        client = await stand.client(address, attempts=1)
        stream = client.generate("pocket", prompt="a b c")
        await anext(stream)

        stop.set()
        with pytest.raises(ServiceUnavailable):
            _ = [event async for event in stream]


async def _reflect(
    channel: grpc.aio.Channel, version: str, requests: list[Any]
) -> AsyncIterator[Any]:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(iter(requests))
    async for answer in call:
        yield answer


async def test_no_prompt_reaches_the_logs(stand: Any, caplog: pytest.LogCaptureFixture) -> None:
    generation = await stand.generation()
    generation.failures = [ValueError("canary-2 from inside")]
    client = await stand.client(await stand.gateway(), attempts=1)

    with caplog.at_level(logging.DEBUG), pytest.raises(Internal) as caught:
        await client.complete("pocket", prompt="canary-1")
    with caplog.at_level(logging.DEBUG):
        await client.complete("pocket", prompt="canary-1")
        async with asyncio.timeout(30):
            while not any(record.name == "mlxmesh.access" for record in caplog.records):
                await asyncio.sleep(0.01)

    assert "canary-1" not in caplog.text
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("service", ["gateway", "generation", "model", "runtime", "engine"])
def test_a_listener_that_is_refused_is_one_line(service: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"mlxmesh_{service}", "--listen", "0.0.0.0:0"]
    result = subprocess.run(
        [*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 1
    assert result.stderr.startswith("flag --listen: listen: refusing to listen on 0.0.0.0:0")
    assert len(result.stderr.splitlines()) == 1
