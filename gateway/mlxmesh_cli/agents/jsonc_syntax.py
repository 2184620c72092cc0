"""Parses JSON with comments and trailing commas into nodes that know their places in the text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from mlxmesh_cli.agents.formats import UnusableFile

_TRIVIA = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_LITERAL = re.compile(r"-?\d[\d.eE+-]*|true|false|null")
MAX_DEPTH = 100


@dataclass
class Node:
    """A value; `text[start:end]` is how it is written."""

    start: int
    end: int
    value: Any
    members: list[Member] | None = None
    """Those of an object; None for any other value."""


@dataclass
class Member:
    """A key and its value."""

    key: str
    start: int
    node: Node
    comma: int | None = field(default=None)
    """Where the comma behind it is, if there is one."""


def parse(text: str) -> Node:
    """The only value of the text. Raises: UnusableFile with the line of the error."""
    parser = _Parser(text)
    node = parser.value(skip_trivia(text, 0), 0)
    end = skip_trivia(text, node.end)
    if end != len(text):
        parser.fail(end)
    return node


def skip_trivia(text: str, at: int) -> int:
    """The place of the next token."""
    found = _TRIVIA.match(text, at)
    return found.end() if found else at


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text

    def fail(self, at: int) -> None:
        line = self._text.count("\n", 0, at) + 1
        raise UnusableFile(f"line {line} is not JSON (comments are allowed)")

    def value(self, at: int, depth: int) -> Node:
        text = self._text
        if depth > MAX_DEPTH:
            self.fail(at)
        if text.startswith("{", at):
            return self._object(at, depth)
        if text.startswith("[", at):
            return self._array(at, depth)
        found = _STRING.match(text, at) or _LITERAL.match(text, at)
        if not found:
            self.fail(at)
        assert found is not None
        return Node(at, found.end(), self._decoded(found[0], at))

    def _decoded(self, token: str, at: int) -> Any:
        try:
            return json.loads(token)
        except ValueError:
            self.fail(at)

    def _object(self, start: int, depth: int) -> Node:
        members: list[Member] = []
        at = skip_trivia(self._text, start + 1)
        while not self._text.startswith("}", at):
            if members and members[-1].comma is None:
                self.fail(at)
            member = self._member(at, depth)
            members.append(member)
            at = skip_trivia(self._text, member.node.end)
            if self._text.startswith(",", at):
                member.comma = at
                at = skip_trivia(self._text, at + 1)
        return Node(start, at + 1, {each.key: each.node.value for each in members}, members)

    def _member(self, at: int, depth: int) -> Member:
        key = _STRING.match(self._text, at)
        if key is None:
            self.fail(at)
        assert key is not None
        colon = skip_trivia(self._text, key.end())
        if not self._text.startswith(":", colon):
            self.fail(colon)
        node = self.value(skip_trivia(self._text, colon + 1), depth + 1)
        return Member(self._decoded(key[0], at), at, node)

    def _array(self, start: int, depth: int) -> Node:
        values: list[Any] = []
        needs_comma = False
        at = skip_trivia(self._text, start + 1)
        while not self._text.startswith("]", at):
            if needs_comma:
                self.fail(at)
            node = self.value(at, depth + 1)
            values.append(node.value)
            at = skip_trivia(self._text, node.end)
            needs_comma = not self._text.startswith(",", at)
            if not needs_comma:
                at = skip_trivia(self._text, at + 1)
        return Node(start, at + 1, values)
