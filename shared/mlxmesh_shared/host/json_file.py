"""Reads untrusted JSON files in bounded time and memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

MIB = 2**20
MAX_JSON_BYTES = 16 * MIB
MAX_DEPTH = 64
MAX_INTEGER_DIGITS = 32
_CONTAINERS = (dict, list)

# Several times what real models need: the largest known index has 9 MB, tokenizer 33 MB.
MAX_BYTES_BY_NAME: Mapping[str, int] = {
    "config.json": 4 * MIB,
    "generation_config.json": MIB,
    "model.safetensors.index.json": 64 * MIB,
    "tokenizer.json": 128 * MIB,
    "chat_template.jinja": MIB,
    "chat_template.json": MIB,
}
MAX_FILE_BYTES = 64 * MIB
"""For a model file that is neither weights nor JSON and has no limit of its own."""


class UnusableJson(ValueError):
    """A rejected JSON file; the message continues a sentence that starts with the file name."""


def max_file_bytes(name: str) -> int:
    """The maximum size of a model file of this name, except weights."""
    default = MAX_JSON_BYTES if name.endswith(".json") else MAX_FILE_BYTES
    return MAX_BYTES_BY_NAME.get(name, default)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises: UnusableJson, OSError."""
    return parse_json_object(_content(path))


def read_json_objects(path: Path) -> list[dict[str, Any]]:
    """The list of JSON objects in a file. Raises: UnusableJson, OSError."""
    parsed = _parsed(_content(path))
    items = cast("list[object]", parsed) if isinstance(parsed, list) else [None]
    if not all(isinstance(item, dict) for item in items):
        raise UnusableJson("must hold a list of JSON objects")
    return cast("list[dict[str, Any]]", items)


def parse_json_object(content: bytes) -> dict[str, Any]:
    """The JSON object that a file holds. Raises: UnusableJson."""
    parsed = _parsed(content)
    if not isinstance(parsed, dict):
        raise UnusableJson("must hold a JSON object")
    return cast("dict[str, Any]", parsed)


def _content(path: Path) -> bytes:
    max_bytes = max_file_bytes(path.name)
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UnusableJson(f"is larger than {max_bytes // MIB} MiB")
    return content


def _parsed(content: bytes) -> object:
    try:
        parsed: object = json.loads(content, parse_int=_integer)
    except UnusableJson:
        raise
    except (ValueError, RecursionError) as error:
        raise UnusableJson("is not JSON") from error
    _check_depth(parsed)
    return parsed


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise UnusableJson(f"has a number of more than {MAX_INTEGER_DIGITS} digits")
    return int(text)


def _check_depth(value: object) -> None:
    """Checks level by level instead of by recursion, which could exceed the stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for parent in level for item in _items(parent)]
        if not level:
            return
    raise UnusableJson(f"is nested more than {MAX_DEPTH} deep")


def _items(value: object) -> list[object]:
    if not isinstance(value, _CONTAINERS):
        return []
    values = cast("list[object]", value.values() if isinstance(value, dict) else value)
    return [item for item in values if isinstance(item, _CONTAINERS)]
