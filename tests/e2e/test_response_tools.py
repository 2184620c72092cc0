"""MCP tools in responses, with a real MCP server: a call that is forced always parses."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from openai import AsyncOpenAI

from tests.e2e.running_mesh import RunningMesh, mlxmesh

SERVER = Path(__file__).parent.parent / "fakes" / "mcp" / "closed_server.py"
FORCED: dict[str, Any] = {
    "model": "pocket",
    "input": "Turn.",
    "max_output_tokens": 120,
    "temperature": 0,
    "tools": [
        {
            "type": "mcp",
            "server_label": "demo",
            "require_approval": "never",
            "allowed_tools": ["turn"],
        }
    ],
    "tool_choice": {"type": "mcp", "server_label": "demo", "name": "turn"},
}


@pytest.fixture(scope="module", autouse=True)
def added(mesh: RunningMesh) -> None:
    options = ("--access", "everyone", "--approval", "always", "--data-dir", str(mesh.data_dir))
    result = mlxmesh("mcp", "add", "demo", *options, "--", sys.executable, str(SERVER))
    assert result.returncode == 0, result.stderr


@pytest.fixture
async def client(mesh: RunningMesh) -> AsyncIterator[Any]:
    url = f"http://{mesh.http}/v1"
    async with AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as opened:
        yield opened


def check(response: Any) -> None:
    listed, called, *rest = response.output
    assert [one.name for one in listed.tools] == ["turn"]
    assert (called.type, called.name, called.server_label) == ("mcp_call", "turn", "demo")
    assert called.status == "completed"
    assert called.output == f"turned {json.loads(called.arguments)['side']}"
    assert rest  # what the model made of it


async def test_a_forced_call(mesh: RunningMesh, client: Any) -> None:
    response = await client.responses.create(**FORCED)
    check(response)
    assert await client.responses.retrieve(response.id) == response
    result = mesh.command("mcp", "calls", "--json")
    assert response.id in result.stdout  # the record names the generation


async def test_a_forced_call_in_a_stream(client: Any) -> None:
    stream = await client.responses.create(**FORCED, stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == [*range(len(events))]
    check(events[-1].response)
    assert {"response.mcp_call.in_progress", "response.mcp_call_arguments.done"} <= {
        event.type for event in events
    }


async def test_an_answer_in_a_format(client: Any) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    text = {"format": {"type": "json_schema", "name": "answer", "schema": schema}}
    response = await client.responses.create(**FORCED, max_tool_calls=1, text=text)
    check(response)
    assert isinstance(json.loads(response.output_text)["ok"], bool)


async def test_an_approval_by_the_client(mesh: RunningMesh, client: Any) -> None:
    result = mesh.command("mcp", "policy", "demo", "turn", "ask")
    assert result.returncode == 0, result.stderr
    try:
        asking = await client.responses.create(**FORCED)
        request = asking.output[-1]
        assert request.type == "mcp_approval_request"
        answer = {
            "type": "mcp_approval_response",
            "approval_request_id": request.id,
            "approve": True,
        }
        response = await client.responses.create(
            **{**FORCED, "input": [answer], "tool_choice": "none"},
            previous_response_id=asking.id,
        )
    finally:
        mesh.command("mcp", "policy", "demo", "turn", "default")
    called = response.output[1]
    assert (called.type, called.approval_request_id) == ("mcp_call", request.id)


async def test_an_unknown_server_says_what_to_do(client: Any) -> None:
    tools = [{"type": "mcp", "server_label": "nothing"}]
    with pytest.raises(openai.BadRequestError, match="mlxmesh mcp add"):
        await client.responses.create(model="pocket", input="Hi", tools=tools)


async def test_the_mesh_is_an_mcp_server_itself(mesh: RunningMesh) -> None:
    opened: Any = streamable_http_client(f"http://{mesh.http}/mcp")
    async with Client(opened) as mcp:
        asked = {"model": "pocket", "prompt": "Hello", "max_tokens": 8}
        result = await mcp.call_tool("generate", asked)
    assert not result.is_error
    assert result.structured_content is not None
    assert result.structured_content["completion_tokens"] <= 8
