"""The Connect protocol at a whole gateway: its official client, roles, the gateway's services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from connectrpc.client import ConnectClient
from connectrpc.code import Code
from connectrpc.codec import proto_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo
from google.protobuf.json_format import MessageToDict

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh.telemetry.v1 import events_pb2 as e
from mlxmesh.telemetry.v1 import telemetry_pb2 as t
from mlxmesh_gateway.connect.methods import connect_methods
from mlxmesh_gateway.forwarding.routes import public_routes

from .conftest import Stand
from .who_may_call import METHODS, table

GENERATION = "mlxmesh.generation.v1.GenerationService"
MODEL = "mlxmesh.model.v1.ModelService"
TELEMETRY = "mlxmesh.telemetry.v1.TelemetryService"
PROMPT = g.GenerateRequest(model="pocket", prompt="a")
KEYS = {"": "", "client": "mm_member", "admin": "mm_admin"}


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        yield Stand(stack, tmp_path)


async def started(stand: Stand) -> str:
    """The URL of a gateway."""
    return f"http://{await stand.http(await stand.gateway(http_listen='127.0.0.1:0'))}"


def method(service: str, name: str, request: Any, response: Any, *, get: bool = False) -> Any:
    level = IdempotencyLevel.NO_SIDE_EFFECTS if get else IdempotencyLevel.UNKNOWN
    return MethodInfo(
        name=name, service_name=service, input=request, output=response, idempotency_level=level
    )


LIST = method(MODEL, "ListModels", m.ListModelsRequest, m.ListModelsResponse, get=True)
COMPLETE = method(GENERATION, "Complete", g.CompleteRequest, g.CompleteResponse)
GENERATE = method(GENERATION, "Generate", g.GenerateRequest, g.GenerateResponse)
STATUS = method(TELEMETRY, "GetMeshStatus", t.GetMeshStatusRequest, t.GetMeshStatusResponse)
EVENTS = method(TELEMETRY, "WatchEvents", e.WatchEventsRequest, e.WatchEventsResponse)


@pytest.fixture(params=["proto", "json"])
async def client(request: Any, stand: Stand) -> AsyncIterator[ConnectClient]:
    """The official client as it is by default: it compresses what it sends."""
    await stand.generation()
    await stand.models()
    options: Any = {} if request.param == "proto" else {"codec": proto_json_codec()}
    async with ConnectClient(await started(stand), **options) as client:
        yield client


async def test_the_official_client_calls(client: ConnectClient) -> None:
    answer = await client.execute_unary(
        request=g.CompleteRequest(generation=PROMPT), method=COMPLETE
    )
    assert answer.finished.finish_reason
    for get in (False, True):
        listed = await client.execute_unary(request=m.ListModelsRequest(), method=LIST, use_get=get)
        assert isinstance(listed, m.ListModelsResponse)


async def test_the_official_client_streams(client: ConnectClient) -> None:
    found = [one async for one in client.execute_server_stream(request=PROMPT, method=GENERATE)]
    assert found[0].HasField("started")
    assert found[-1].HasField("finished")


async def test_the_official_client_gets_errors_with_details(client: ConnectClient) -> None:
    with pytest.raises(ConnectError) as caught:
        await client.execute_unary(request=g.CompleteRequest(), method=COMPLETE)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "generation" in caught.value.message
    assert caught.value.details
    with pytest.raises(ConnectError) as streamed:
        async for _ in client.execute_server_stream(
            request=g.GenerateRequest(model="pocket"), method=GENERATE
        ):
            pass
    assert streamed.value.code is Code.INVALID_ARGUMENT
    assert streamed.value.details


async def test_the_gateways_own_services_are_served_too(client: ConnectClient) -> None:
    status = await client.execute_unary(request=t.GetMeshStatusRequest(), method=STATUS)
    assert status.instances
    watch = client.execute_server_stream(request=e.WatchEventsRequest(), method=EVENTS)
    async with asyncio.timeout(30):
        assert (await anext(watch)).log_id
    request = e.WatchEventsRequest(log_id="no id")
    with pytest.raises(ConnectError) as caught:
        await anext(client.execute_server_stream(request=request, method=EVENTS))
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_roles_are_those_of_grpc(stand: Stand) -> None:
    await stand.generation()
    await stand.models()
    access = await stand.access()
    await access.add_user("ada", admin=True)
    await access.add_key(KEYS["client"])
    await access.add_key(KEYS["admin"], admin=True)
    url = await started(stand)
    expected = {path: roles for path, roles in table(METHODS).items() if path in served()}
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        for path, roles in expected.items():
            for role, secret in KEYS.items():
                code = await _code(client, path, secret)
                allowed = bool({role, "open"} & roles)
                refused = code in ("unauthenticated", "permission_denied")
                assert refused != allowed, (path, role, code)


def served() -> set[str]:
    own = {f"/{TELEMETRY}/{name}" for name in ("GetMeshStatus", "GetTrace", "WatchEvents")}
    return {route.path for route in public_routes()} | own


async def _code(client: httpx2.AsyncClient, path: str, secret: str) -> str:
    """How a call with an empty request begins; streams that stay silent have begun."""
    headers = {"content-type": "application/json"}
    known = connect_methods(public_routes()).get(path)
    if (known is not None and known.streams) or path.endswith("/WatchEvents"):
        headers["accept"] = "text/event-stream"
    if secret:
        headers["authorization"] = f"Bearer {secret}"
    try:
        async with (
            asyncio.timeout(1 if headers.get("accept") else 60),
            client.stream("POST", path, content=b"{}", headers=headers) as answer,
        ):
            if answer.status_code == 200:
                return ""
            return json.loads(await answer.aread())["code"]
    except TimeoutError:
        return ""


async def test_what_only_processes_call_is_not_served(stand: Stand) -> None:
    url = await started(stand)
    async with httpx2.AsyncClient(base_url=url) as client:
        for name in ("PublishEvents", "GetTraffic"):
            answer = await client.post(f"/{TELEMETRY}/{name}", json={})
            assert answer.status_code == 404


async def test_json_of_the_status_is_what_grpc_says(stand: Stand) -> None:
    await stand.generation()
    address = await stand.gateway(http_listen="127.0.0.1:0")
    url = f"http://{await stand.http(address)}"
    async with httpx2.AsyncClient(base_url=url) as client:
        answer = await client.get(f"/{TELEMETRY}/GetMeshStatus")
    channel = await stand.channel(address)
    call = channel.unary_unary(
        f"/{TELEMETRY}/GetMeshStatus",
        request_serializer=t.GetMeshStatusRequest.SerializeToString,
        response_deserializer=t.GetMeshStatusResponse.FromString,
    )
    expected = MessageToDict(await call(t.GetMeshStatusRequest()))
    names = [one["instanceId"] for one in expected["instances"]]
    assert [one["instanceId"] for one in answer.json()["instances"]] == names
