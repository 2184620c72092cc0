"""Grammars of outputs with tool calls, in llguidance's dialect of Lark. Pure.

Source: docs/syntax.md of llguidance 1.9.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.formats import TokenId


def literal(text: str) -> str:
    """A text as it is; empty for none."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def marker(text: str, token_id: TokenId) -> str:
    """A marker, as its special token if it has one."""
    special = token_id(text)
    return literal(text) if special is None else f"<[{special}]>"


def arguments(tool: Tool, *, required: bool) -> str:
    """The arguments of a tool as a JSON object: by its schema if they are to satisfy it."""
    return f"%json {json.dumps(arguments_schema(tool, required=required))}"


def arguments_schema(tool: Tool, *, required: bool) -> Mapping[str, Any]:
    """The schema of an object that the arguments of a tool must satisfy."""
    return {**(tool_schema(tool) if required or tool.strict else {}), "type": "object"}


def tool_schema(tool: Tool) -> Mapping[str, Any]:
    """The schema of a tool's parameters; empty for any object."""
    schema: Any = json.loads(tool.parameters or "{}")
    return cast("dict[str, Any]", schema) if isinstance(schema, dict) else {}


def without(texts: Collection[str], regex: str = "(?s:.+)") -> str:
    """A terminal: text that matches and contains none of `texts`."""
    nots = [f"& ~/(?s:.*){_escaped(text)}(?s:.*)/" for text in sorted(texts)]
    return " ".join([f"/{regex}/", *nots])


def rules(named: Mapping[str, str]) -> str:
    """A grammar of these rules."""
    return "".join(f"{name}: {body}\n" for name, body in named.items())


def sequence(*items: str) -> str:
    """These one after another; empty ones are left out."""
    return " ".join(filter(None, items))


def repeated(rule: str, separator: str, *, parallel: bool) -> str:
    """One, or any number from one if there may be several."""
    return f"{rule} ({sequence(literal(separator), rule)})*" if parallel else rule


def text_with_calls(
    start: str, body: str, others: Sequence[str], *, parallel: bool, token_id: TokenId
) -> dict[str, str]:
    """Rules of free text in which each `start` marker is followed by `body`.

    The text contains neither it nor one of the `others`, however it is tokenized.
    """
    excluded = {start, *others}
    text = {"text": '"" | TEXT', "TEXT": without(excluded)}
    times = "*" if parallel else "?"
    if token_id(start) is not None:
        return {"start": f"text ({marker(start, token_id)} {body} text){times}", **text}
    # The text up to a marker is one terminal: after text of its own, the marker's first characters
    # would already have been taken by the text.
    opened = without(excluded - {start}, regex=f"(?s:.*){_escaped(start)}")
    return {
        "start": f"(opened {body}){times} text",
        "opened[lazy]": "OPENED",
        "OPENED": opened,
        **text,
    }


def _escaped(text: str) -> str:
    """A text inside a regular expression of Lark."""
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n").replace(r"\ ", " ")
