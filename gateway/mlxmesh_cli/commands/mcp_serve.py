"""`mlxmesh mcp serve`: the mesh's tools for a program that starts this one.

Nothing but the protocol is written to standard output.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.mcp_calls import mcp
from mlxmesh_cli.commands.session import Address, DataDir, connect, run

if TYPE_CHECKING:
    from mlxmesh_client import MeshClient
    from mlxmesh_client.options import InputOptions
    from mlxmesh_client.outputs import GenerationEvent
    from mlxmesh_shared.mcp_server.arguments import GenerateArguments, Input
    from mlxmesh_shared.mcp_server.mesh import ModelState, Piece

__all__ = ["mcp"]

_REASONS = {2: "length", 3: "cancelled", 4: "tool_calls"}


@mcp.command(
    "serve",
    short_help="Be an MCP server with the mesh's tools.",
    epilog="Example: mlxmesh mcp serve (in Claude Code: claude mcp add mesh -- mlxmesh mcp serve)",
)
def serve(address: Address = None, data_dir: DataDir = None) -> None:
    """Speak the Model Context Protocol on standard input and output.

    Start it from a program that uses MCP servers. Its tools list models, generate, count tokens and
    show the mesh's state, with the key that MLXMESH_API_KEY or `mlxmesh login` gives.
    """
    try:
        importlib.import_module("mcp")
    except ImportError:
        fail("this needs the MCP SDK: install mlxmesh[mcp]")
    run(_serve(address, data_dir))


async def _serve(address: str | None, data_dir: Path | None) -> None:
    from mcp.server.stdio import stdio_server

    from mlxmesh_shared.mcp_server.server import make_server

    async with connect(address, data_dir) as client:
        mesh = MeshOfClient(client)

        async def open_mesh(_context: Any, _tool: Any) -> MeshOfClient:
            return mesh

        server = make_server(open_mesh)
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())


class MeshOfClient:
    """Satisfies Mesh."""

    def __init__(self, client: MeshClient) -> None:
        self._client = client

    async def models(self) -> Sequence[ModelState]:
        from mlxmesh_shared.mcp_server.mesh import ModelState

        return [
            ModelState(
                name=one.name,
                aliases=list(one.aliases),
                versions=len(one.versions),
                replicas=sum(version.ready_replicas for version in one.versions),
            )
            for one in await self._client.list_models()
        ]

    async def generate(self, asked: GenerateArguments) -> AsyncGenerator[Piece]:
        options: dict[str, Any] = {**_input(asked)}
        for name in ("max_tokens", "temperature", "json_schema"):
            if (value := getattr(asked, name)) is not None:
                options[name] = value
        async with aclosing(self._client.generate(asked.model, **options)) as events:
            async for event in events:
                yield _piece(event)

    async def count_tokens(self, asked: Input) -> int:
        return (await self._client.count_tokens(asked.model, **_input(asked))).tokens


def _input(asked: Input) -> InputOptions:
    return {"messages": [(one.role, one.content) for one in asked.conversation]}


def _piece(event: GenerationEvent) -> Piece:
    from mlxmesh_shared.mcp_server.mesh import Piece

    if event.started is not None:
        return Piece(model=f"{event.started.model}@{event.started.model_version}")
    if event.finished is not None:
        usage = event.finished.usage
        return Piece(
            finish_reason=_REASONS.get(event.finished.finish_reason, "stop"),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
        )
    return Piece(text=event.text, tokens=len(event.token_ids))
