"""The official MCP client at POST /mcp of a real gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_gateway.forwarding.routes import PUBLIC_SERVICES
from mlxmesh_gateway.http.model_handlers import LIST_MODELS
from mlxmesh_gateway.mcp.convert import COUNT_TOKENS, GENERATE
from mlxmesh_shared.errors import ModelNotLoaded
from mlxmesh_shared.tls.method_access import declared_rules
from tests.fakes.public_services import FakeGeneration
from tests.fakes.scripted import delta, finished
from tests.fakes.waiting import until
from tests.integration.gateway.conftest import Stand

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
ACCEPT = {"accept": "application/json, text/event-stream"}


@dataclass
class Rig:
    model: FakeGeneration
    url: str

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncGenerator[Any]:
        async with Client(streamable_http_client(self.url), **options) as client:
            yield client


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        stand = Stand(stack, tmp_path)
        model = await stand.generation()
        models = await stand.models()
        versions = [m.ModelVersion(version=1, ready_replicas=2)]
        models.models["pocket"] = m.Model(name="pocket", versions=versions, aliases={"stable": 1})
        models.models["other"] = m.Model(name="other", versions=[m.ModelVersion(version=1)])
        models.models["third"] = m.Model(name="third", versions=[m.ModelVersion(version=1)])
        url = f"http://{await stand.http(await stand.gateway())}/mcp"
        yield Rig(model, url)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_tools_of_the_mesh(rig: Rig, mode: str) -> None:
    async with rig.client(mode=mode) as client:
        listed = await client.list_tools()
        models = await client.call_tool("list_models", {})
        state = await client.call_tool("mesh_status", {})
        counted = await client.call_tool("count_tokens", {"model": "pocket", "prompt": "a b"})
    names = [tool.name for tool in listed.tools]
    assert names == ["list_models", "generate", "count_tokens", "mesh_status"]
    assert all(tool.input_schema and tool.output_schema for tool in listed.tools)
    found = models.structured_content["models"]
    assert [(one["name"], one["ready"]) for one in found] == [
        ("other", False),
        ("pocket", True),
        ("third", False),
    ]
    assert state.structured_content == {
        "ready": True,
        "models": 3,
        "models_ready": 1,
        "replicas": 2,
    }
    assert counted.structured_content == {"tokens": 0}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_generation_tells_its_progress(rig: Rig, mode: str) -> None:
    rig.model.script = [*(delta(f"{n} ") for n in range(40)), finished()]
    told: list[float] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    asked = {
        "model": "pocket",
        "messages": [{"role": "system", "content": "Count."}, {"role": "user", "content": "Go"}],
        "max_tokens": 64,
        "temperature": 0.5,
        "json_schema": {"type": "object"},
    }
    async with rig.client(mode=mode) as client:
        result = await client.call_tool("generate", asked, progress_callback=progress)
    assert not result.is_error
    assert result.structured_content == {
        "text": " ".join(map(str, range(40))) + " ",
        "model": "pocket@1",
        "finish_reason": "stop",
        "prompt_tokens": 7,
        "completion_tokens": 5,
    }
    assert result.content[0].text == result.structured_content["text"]
    assert told == [16, 32]
    (request,) = rig.model.requests
    assert (request.max_tokens, request.sampling.temperature) == (64, 0.5)
    assert json.loads(request.json_schema) == {"type": "object"}
    assert len(request.chat.messages) == 2


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_that_leaves_frees_the_place_in_the_batch(rig: Rig, mode: str) -> None:
    rig.model.go_on.clear()
    async with rig.client(mode=mode) as client:
        asking = asyncio.ensure_future(
            client.call_tool("generate", {"model": "pocket", "prompt": "a b c"})
        )
        await until(lambda: bool(rig.model.requests))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: rig.model.interrupted == 1)


async def test_a_connection_that_breaks_ends_the_generation(rig: Rig) -> None:
    rig.model.go_on.clear()
    call = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "generate", "arguments": {"model": "pocket", "prompt": "a b"}},
    }
    async with httpx2.AsyncClient() as client:
        asking = asyncio.ensure_future(client.post(rig.url, json=call, headers=ACCEPT))
        await until(lambda: bool(rig.model.requests))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: rig.model.interrupted == 1)


@pytest.mark.parametrize(
    ("tool", "arguments", "hint"),
    [
        ("generate", {"model": "pocket"}, "either prompt or messages"),
        ("generate", {"model": "pocket", "prompt": "a", "frob": 1}, "frob"),
        ("generate", {"model": "../etc", "prompt": "a"}, "model"),
        ("generate", {"model": "pocket", "prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("list_models", {"x": "\x00"}, "x"),
        ("nothing", {}, "there is no such tool"),
    ],
)
async def test_illegal_calls_say_what_is_wrong(
    rig: Rig, tool: str, arguments: dict[str, Any], hint: str
) -> None:
    async with rig.client() as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert hint in result.content[0].text


async def test_an_error_of_the_mesh_is_told(rig: Rig) -> None:
    rig.model.failures.append(ModelNotLoaded("pocket is not loaded; `mlxmesh load pocket`"))
    async with rig.client() as client:
        result = await client.call_tool("generate", {"model": "pocket", "prompt": "a"})
    assert result.is_error
    assert result.content[0].text == "pocket is not loaded; `mlxmesh load pocket`"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", ACCEPT, 400),
        (b"[]", ACCEPT, 400),
        (b"\xff\xfe", ACCEPT, 400),
        (b"[" * 100_000, ACCEPT, 400),
        (json.dumps(INITIALIZE).encode(), {**ACCEPT, "content-type": "text/plain"}, 400),
        (json.dumps(INITIALIZE).encode(), {**ACCEPT, "origin": "https://evil.example"}, 403),
        (json.dumps(INITIALIZE).encode(), {**ACCEPT, "host": "evil.example"}, 421),
        (json.dumps(INITIALIZE).encode(), {**ACCEPT, "authorization": "Bearer x"}, 200),
    ],
)
async def test_hostile_requests(
    rig: Rig, body: bytes, headers: dict[str, str], status: int
) -> None:
    own = {"content-type": "application/json", **headers}
    async with httpx2.AsyncClient() as client:
        response = await client.post(rig.url, content=body, headers=own)
    assert response.status_code == status


@pytest.mark.parametrize("verb", ["GET", "DELETE", "PUT"])
async def test_there_are_no_sessions(rig: Rig, verb: str) -> None:
    async with httpx2.AsyncClient() as client:
        response = await client.request(verb, rig.url, headers=ACCEPT)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_a_wrong_key_is_refused(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        stand = Stand(stack, tmp_path)
        model = await stand.generation()
        await stand.access()
        address = await stand.gateway(authentication="required")
        url = f"http://{await stand.http(address)}/mcp"
        async with httpx2.AsyncClient() as client:
            for headers in (ACCEPT, {**ACCEPT, "authorization": "Bearer mk_wrong"}):
                response = await client.post(url, json=INITIALIZE, headers=headers)
                assert response.status_code == 401
                assert response.json()["error"]["data"]["reason"] == "UNAUTHENTICATED"
                assert response.headers["www-authenticate"].startswith("Bearer")
        assert model.requests == []


def test_who_may_list_models_may_call_every_tool() -> None:
    """The request is let in as a call of ListModels."""
    rules = {path: rule for one in PUBLIC_SERVICES for path, rule in declared_rules(one)}
    roles = {frozenset(rules[path].gateway_roles) for path in (LIST_MODELS, GENERATE, COUNT_TOKENS)}
    assert len(roles) == 1
