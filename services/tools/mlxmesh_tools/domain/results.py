"""Brings the results of tools within their limit. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlxmesh_tools.domain.models import Result

Block = Mapping[str, Any]
"""A content block of MCP's CallToolResult, as JSON has it."""
_NOTE_BYTES = 256
"""For what says that something is left out."""


def bounded_result(
    blocks: Sequence[Block],
    structured: Any,
    *,
    is_error: bool,
    max_bytes: int,
) -> Result:
    """The result, cut off where it is larger than the limit: texts at a character, other blocks
    and the structured content whole.
    """
    room, kept, truncated = max_bytes, list[Block](), False
    for index, block in enumerate(blocks):
        size = _size(block)
        if size <= room:
            kept.append(block)
            room -= size
            continue
        truncated = True
        kept += _cut(block, room, left=len(blocks) - index)
        break
    text_of_structured = "" if structured is None else _json(structured)
    if len(text_of_structured.encode()) > max_bytes:
        text_of_structured, truncated = "", True
    return Result(
        content=_json(kept),
        text="\n".join(filter(None, map(_text, kept))),
        structured=text_of_structured,
        is_error=is_error,
        truncated=truncated,
    )


def _cut(block: Block, room: int, *, left: int) -> list[Block]:
    """What remains of the first block that does not fit, and what says so."""
    kept = list[Block]()
    text = block.get("text")
    if block.get("type") == "text" and isinstance(text, str) and room > _NOTE_BYTES:
        kept.append({"type": "text", "text": _first_bytes(text, room - _NOTE_BYTES)})
        left -= 1
    note = "[cut off here: the result is larger than this server's limit"
    note += f"; {left} blocks are left out]" if left else "]"
    return [*kept, {"type": "text", "text": note}]


def _first_bytes(text: str, size: int) -> str:
    """The beginning of a text whose JSON is at most this large."""
    low, high = 0, min(len(text), size)
    while low < high:
        middle = (low + high + 1) // 2
        if len(_json(text[:middle]).encode()) <= size:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def _text(block: Block) -> str:
    """A block as text for a model."""
    match block.get("type"):
        case "text":
            return str(block.get("text", ""))
        case "resource":
            resource: Any = block.get("resource") or {}
            return str(resource.get("text") or f"[resource {resource.get('uri', '')}]")
        case "resource_link":
            return f"[resource {block.get('uri', '')}]"
        case kind:
            return f"[{kind} {block.get('mimeType', '')}]"


def _size(block: Block) -> int:
    return len(_json(block).encode())


def _json(value: Any) -> str:
    # Lone surrogates, which UTF-8 does not have, stay escaped.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"))
    return text
