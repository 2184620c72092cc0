"""Edits YAML: keys at the top, and items with a `name` in a list there.

PyYAML parses and says where each node is; the text around an edit stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import yaml

from mlxmesh_cli.agents.formats import KeyPath, UnusableFile

_FLOW = "is written in brackets; add what --print prints yourself"


class YamlLists:
    """The Format of Continue's config.yaml. Paths are (key,) or (key of a list, name)."""

    def read(self, text: str) -> dict[str, Any]:
        """As of Format; lists of named items become objects."""
        _root(text)
        data: dict[str, Any] = yaml.safe_load(text) or {}
        return {key: _by_name(value) for key, value in data.items()}

    def with_value(self, text: str, path: KeyPath, value: Any) -> str:
        """As of Format."""
        node = _value(_root(text), path[0])
        if node is None:
            whole = value if len(path) == 1 else [value]
            before = text if not text or text.endswith("\n") else f"{text}\n"
            return before + _dumped({path[0]: whole}, 0)
        if len(path) == 1:
            return _replaced(text, node, value)
        return _with_item(text, node, path[1], value)

    def without(self, text: str, path: KeyPath) -> str:
        """As of Format."""
        root = _root(text)
        assert root is not None, "the path is there"
        if len(path) == 1:
            key, node = next(pair for pair in root.value if pair[0].value == path[0])
            return _without_lines(text, key.start_mark.index, _content_end(text, node))
        node = _value(root, path[0])
        item = _item(node, path[1])
        assert node is not None, "the path is there"
        assert item is not None, "the path is there"
        if node.flow_style:
            raise UnusableFile(f"{path[0]} {_FLOW}")
        if len(node.value) == 1:
            return _replaced(text, node, [])
        return _without_lines(text, item.start_mark.index, _content_end(text, item))


def _by_name(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    items = cast("list[Any]", value)
    if not all(isinstance(item, dict) and "name" in item for item in items):
        return items
    return {item["name"]: item for item in items}


def _compose(text: str) -> Any:
    compose: Callable[..., Any] = yaml.compose  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return compose(text, Loader=yaml.SafeLoader)


def _root(text: str) -> Any:
    try:
        root = _compose(text)
    except yaml.YAMLError as error:
        raise UnusableFile(f"it is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(root, yaml.ScalarNode) and not root.value:
        return None  # `---` alone
    if root is not None and (not isinstance(root, yaml.MappingNode) or root.flow_style):
        raise UnusableFile("it is not a mapping of lines `key: value`")
    return root


def _value(root: Any, key: str) -> Any:
    pairs = root.value if root is not None else ()
    return next((value for name, value in pairs if name.value == key), None)


def _item(node: Any, name: str) -> Any:
    for item in node.value if isinstance(node, yaml.SequenceNode) else ():
        if isinstance(item, yaml.MappingNode):
            named = _value(item, "name")
            if named is not None and named.value == name:
                return item
    return None


def _with_item(text: str, node: Any, name: str, value: Any) -> str:
    item = _item(node, name)
    if item is not None:
        end = _content_end(text, item)
        lines = _dumped(value, item.start_mark.column).strip()
        return text[: item.start_mark.index] + lines + text[end:]
    is_empty = not node.value
    if is_empty:
        return _replaced(text, node, [value])
    if not isinstance(node, yaml.SequenceNode) or node.flow_style:
        raise UnusableFile(f"{name}: the list {_FLOW}")
    at = _content_end(text, node)
    line = _dumped([value], node.start_mark.column)
    if at < len(text):
        return f"{text[:at]}\n{line.rstrip()}{text[at:]}"
    return f"{text[:at]}{'' if text.endswith(chr(10)) else chr(10)}{line}"


def _replaced(text: str, node: Any, value: Any) -> str:
    """The value of a key at the top, written anew."""
    start, end = node.start_mark.index, _content_end(text, node)
    before = text[:start].rstrip()
    written = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000)
    written = written.removesuffix("...\n").rstrip()
    if isinstance(value, list) and value:
        return f"{before}\n{_dumped(value, 2).rstrip()}{text[end:]}"
    return f"{before} {written}{text[end:]}"


def _dumped(value: Any, column: int) -> str:
    """The lines of a value, each indented to the column."""
    written = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000)
    return "".join(f"{' ' * column}{line}\n" for line in written.splitlines())


def _content_end(text: str, node: Any) -> int:
    """The end of the node's last line; PyYAML ends blocks behind the comments that follow."""
    last = node
    while isinstance(last, yaml.CollectionNode) and last.value and not last.flow_style:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    end = last.end_mark.index
    if end > 0 and text[end - 1] == "\n":
        return end - 1  # a block scalar
    line_end = text.find("\n", end)
    return len(text) if line_end < 0 else line_end


def _without_lines(text: str, start: int, end: int) -> str:
    first = text.rfind("\n", 0, start) + 1
    return text[:first] + text[end + 1 :]
