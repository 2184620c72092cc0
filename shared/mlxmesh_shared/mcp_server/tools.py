"""The mesh's MCP tools. They know no transport, and not the SDK either."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.mcp_server.arguments import (
    GenerateArguments,
    Generated,
    Input,
    MeshState,
    ModelInfo,
    ModelList,
    NoArguments,
    TokenCount,
)
from mlxmesh_shared.mcp_server.mesh import Mesh, ModelState

Progress = Callable[[float, float | None, str | None], Awaitable[None]]
"""Takes how many tokens there are, of how many at most, and the text since the last time."""
PROGRESS_TOKENS = 16
DEFAULT_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshTool:
    """One tool."""

    name: str
    title: str
    description: str
    arguments: type[BaseModel]
    result: type[BaseModel]
    call: Callable[[Mesh, Any, Progress], Awaitable[BaseModel]]
    generates: bool = False
    """Whether its use is counted by quotas of generations."""


async def call_tool(
    tool: MeshTool, mesh: Mesh, arguments: dict[str, Any], progress: Progress
) -> BaseModel:
    """Its result. Raises: MeshError; InvalidArgument for illegal arguments."""
    try:
        asked = tool.arguments.model_validate(arguments)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = ".".join(map(str, first["loc"]))
        text = first["msg"].removeprefix("Value error, ")
        raise InvalidArgument(f"{path}: {text}" if path else text, field=path) from None
    return await tool.call(mesh, asked, progress)


async def _list_models(mesh: Mesh, _: NoArguments, _progress: Progress) -> ModelList:
    return ModelList(models=[_info(one) for one in await mesh.models()])


def _info(model: ModelState) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        ready=model.replicas > 0,
        aliases=sorted(model.aliases),
        versions=model.versions,
    )


async def _state(mesh: Mesh, _: NoArguments, _progress: Progress) -> MeshState:
    models = await mesh.models()
    ready = [one for one in models if one.replicas]
    return MeshState(
        ready=bool(ready),
        models=len(models),
        models_ready=len(ready),
        replicas=sum(one.replicas for one in models),
    )


async def _generate(mesh: Mesh, asked: GenerateArguments, progress: Progress) -> Generated:
    parts: list[str] = []
    told = tokens = 0
    model = ""
    end = None
    async with aclosing(mesh.generate(asked)) as pieces:
        async for piece in pieces:
            parts.append(piece.text)
            tokens += piece.tokens
            model = piece.model or model
            if tokens - told >= PROGRESS_TOKENS:
                told = tokens
                await progress(tokens, asked.max_tokens or DEFAULT_MAX_TOKENS, None)
            if piece.finish_reason:
                end = piece
    assert end is not None
    return Generated.model_validate(
        {
            "text": "".join(parts),
            "model": model,
            "finish_reason": end.finish_reason,
            "prompt_tokens": end.prompt_tokens,
            "completion_tokens": end.completion_tokens,
        }
    )


async def _count(mesh: Mesh, asked: Input, _progress: Progress) -> TokenCount:
    return TokenCount(tokens=await mesh.count_tokens(asked))


TOOLS = (
    MeshTool(
        name="list_models",
        title="List models",
        description="List the language models of the mesh, and whether each is loaded.",
        arguments=NoArguments,
        result=ModelList,
        call=_list_models,
    ),
    MeshTool(
        name="generate",
        title="Generate text",
        description="Have a language model of the mesh answer a prompt or continue a conversation."
        " With a JSON Schema, the text is JSON that satisfies it.",
        arguments=GenerateArguments,
        result=Generated,
        call=_generate,
        generates=True,
    ),
    MeshTool(
        name="count_tokens",
        title="Count tokens",
        description="Count the tokens of a prompt or a conversation for a model.",
        arguments=Input,
        result=TokenCount,
        call=_count,
    ),
    MeshTool(
        name="mesh_status",
        title="Show the mesh's state",
        description="Show whether the mesh can generate, and how many models and engines it has.",
        arguments=NoArguments,
        result=MeshState,
        call=_state,
    ),
)
BY_NAME = {tool.name: tool for tool in TOOLS}
