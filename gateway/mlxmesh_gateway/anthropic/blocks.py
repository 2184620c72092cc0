"""The blocks of Anthropic's contents, and how each of their fields is handled."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field

from mlxmesh_gateway.http.schema import Harmless, Refused, Schema

Ignored = Annotated[Any, Harmless()]
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=128)]
_READ = ("text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking")

BlockType = Literal[
    "text",
    "image",
    "document",
    "search_result",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "tool_result",
    "tool_reference",
    "browser_state",
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "mcp_tool_use",
    "mcp_tool_result",
    "container_upload",
    "compaction",
]


def _as_blocks(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if isinstance(value, list):
        return cast("object", value)
    raise ValueError("must be a text or a list of blocks")


class TextBlock(Schema):
    """A block of a system prompt or of a tool's result: text."""

    type: Annotated[BlockType, Refused("this version reads text only here", unless=("text",))]
    text: str | None = None
    cache_control: Ignored = None
    citations: Ignored = None


Texts = Annotated[
    list[TextBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[TextBlock])
]
"""A text, or blocks of text."""


class ImageSource(Schema):
    """An image itself: nothing is fetched."""

    type: Annotated[
        Literal["base64", "url", "file"],
        Refused("send the image itself, in base64", unless=("base64",)),
    ]
    media_type: Annotated[str | None, Harmless()] = None
    """The file says it."""
    data: str | None = None
    url: Ignored = None
    file_id: Ignored = None


class Block(Schema):
    """A block of a message. Each type has its own fields."""

    type: Annotated[
        BlockType, Refused("this version reads text, images, thinking and tools", unless=_READ)
    ]
    text: str | None = None
    """Of `text`."""
    source: ImageSource | None = None
    """Of `image`."""
    id: CallId | None = None
    """Of `tool_use`: the id of the call."""
    name: ToolName | None = None
    """Of `tool_use`: the tool."""
    input: dict[str, Any] | None = None
    """Of `tool_use`: the arguments."""
    tool_use_id: CallId | None = None
    """Of `tool_result`: the call that it is the result of."""
    content: Texts | None = None
    """Of `tool_result`."""
    is_error: bool | None = None
    """Of `tool_result`: whether the call failed; the model then reads `Error: ` before it."""
    thinking: str | None = None
    """Of `thinking`."""
    toolset_name: Annotated[Any, Refused("the mesh has no toolsets")] = None
    signature: Ignored = None
    data: Ignored = None
    caller: Ignored = None
    cache_control: Ignored = None
    citations: Ignored = None


Content = Annotated[
    list[Block], BeforeValidator(_as_blocks, json_schema_input_type=str | list[Block])
]
"""A text, or blocks."""
