"""Edits JSON with comments where a value changes, and nowhere else."""

from __future__ import annotations

import json
import re
from typing import Any

from mlxmesh_cli.agents.formats import KeyPath, UnusableFile
from mlxmesh_cli.agents.jsonc_syntax import Member, Node, parse

_REST_OF_LINE = re.compile(r"[ \t]*(?:/\*[^\n]*?\*/[ \t]*)*(?://[^\n]*)?(?=\r?\n)")


class Jsonc:
    """The Format of settings.json and opencode.json."""

    def read(self, text: str) -> dict[str, Any]:
        """As of Format."""
        return self._root(text).value

    def with_value(self, text: str, path: KeyPath, value: Any) -> str:
        """As of Format."""
        text = text if text.strip() else "{}\n"
        node = self._root(text)
        for depth, key in enumerate(path):
            found = _member(node, key)
            if found is None:
                for missing in reversed(path[depth + 1 :]):
                    value = {missing: value}
                return _inserted(text, node, key, value)
            node = found.node
            if node.members is None and depth < len(path) - 1:
                raise UnusableFile(f"{'.'.join(path[: depth + 1])} is not an object")
        return text[: node.start] + _dumped(text, value, node.start) + text[node.end :]

    def without(self, text: str, path: KeyPath) -> str:
        """As of Format."""
        node = self._root(text)
        for key in path[:-1]:
            found = _member(node, key)
            assert found is not None, "the path is there"
            node = found.node
        found = _member(node, path[-1])
        assert found is not None, "the path is there"
        return _removed(text, node, found)

    def _root(self, text: str) -> Node:
        node = parse(text if text.strip() else "{}")
        if node.members is None:
            raise UnusableFile("it does not contain an object")
        return node


def _member(node: Node, key: str) -> Member | None:
    """The last one of this name counts, as for readers of JSON."""
    return next((each for each in reversed(node.members or ()) if each.key == key), None)


def _inserted(text: str, node: Node, key: str, value: Any) -> str:
    """The text with a new last member."""
    newline = "\r\n" if "\r\n" in text else "\n"
    members = node.members or []
    if members and "\n" not in text[node.start : node.end]:
        last = members[-1]
        rest = "" if last.comma is None else ","
        at = last.node.end if last.comma is None else last.comma + 1
        added = f"{'' if rest else ','} {json.dumps(key)}: {json.dumps(value)}{rest}"
        return text[:at] + added + text[at:]
    indent = _indent_of(text, members[0].start) if members else _inner_indent(text, node)
    line = f"{indent}{json.dumps(key)}: {_dumped(text, value, indent=indent)}"
    if not members:
        body = text[node.start + 1 : node.end - 1].rstrip()
        outer = _indent_of(text, node.start)
        middle = f"{body}{newline}{line}{newline}{outer}"
        return text[: node.start + 1] + middle + text[node.end - 1 :]
    return _after(text, members[-1], f"{newline}{line}")


def _after(text: str, last: Member, added: str) -> str:
    """`added` behind the last member, and behind a comment in its line."""
    if last.comma is None:
        text = f"{text[: last.node.end]},{text[last.node.end :]}"
        end = last.node.end + 1
    else:
        added, end = f"{added},", last.comma + 1
    rest = _REST_OF_LINE.match(text, end)
    at = rest.end() if rest else end
    return text[:at] + added + text[at:]


def _removed(text: str, node: Node, member: Member) -> str:
    members = node.members or []
    index = next(place for place, each in enumerate(members) if each is member)
    start = member.start
    end = member.node.end if member.comma is None else member.comma + 1
    text_before = text[:start]
    line_start = text_before.rfind("\n") + 1
    if not text_before[line_start:].strip():
        rest = _REST_OF_LINE.match(text, end)
        if rest:
            newline = re.compile(r"\r?\n").match(text, rest.end())
            start, end = line_start, newline.end() if newline else rest.end()
    elif index > 0 and member.comma is None:
        start = len(text_before.rstrip(" \t"))
    else:
        end = re.compile(r"[ \t]*").match(text, end).end()  # pyright: ignore[reportOptionalMemberAccess]
    text = text[:start] + text[end:]
    previous = members[index - 1] if index > 0 else None
    if member.comma is None and previous is not None and previous.comma is not None:
        text = text[: previous.comma] + text[previous.comma + 1 :]
    return text


def _dumped(text: str, value: Any, at: int | None = None, indent: str | None = None) -> str:
    """The value over several lines, indented like the line that it begins in."""
    if at is not None:
        indent = _indent_of(text, at)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = json.dumps(value, indent=_unit(text), ensure_ascii=False).split("\n")
    return f"{newline}{indent}".join(lines)


def _indent_of(text: str, at: int) -> str:
    line_start = text.rfind("\n", 0, at) + 1
    found = re.compile(r"[ \t]*").match(text, line_start)
    return found[0] if found else ""


def _inner_indent(text: str, node: Node) -> str:
    return _indent_of(text, node.start) + _unit(text)


def _unit(text: str) -> str:
    """The first indentation in the text; two spaces where there is none."""
    found = re.search(r"\n([ \t]+)[^\s]", text)
    return found[1] if found else "  "
