"""Messages of the contracts as JSON, and back.

Source: the JSON mapping of Protocol Buffers, by its own library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mlxmesh_shared.errors import InvalidArgument

_WELL_KNOWN = "google.protobuf."


def to_json(message: Message) -> str:
    """The message on one line, with names in lowerCamelCase; default values are left out."""
    return json.dumps(MessageToDict(message), ensure_ascii=False, separators=(",", ":"))


def from_json(cls: type[Message], value: Mapping[str, Any]) -> tuple[Message, list[str]]:
    """The message, and the paths of fields that it does not have.

    Names may be those of the contract or in lowerCamelCase.
    Raises: InvalidArgument, which names the field and quotes no value.
    """
    unknown: list[str] = []
    known = _known(_descriptor(cls), value, "", unknown)
    message = cls()
    try:
        ParseDict(known, message)
    except (ParseError, RecursionError):
        raise _illegal(cls, known) from None
    return message, unknown


def _known(descriptor: Descriptor, value: Any, path: str, unknown: list[str]) -> Any:
    """The value without unknown fields, whose paths are added to `unknown`."""
    if value is None or descriptor.full_name.startswith(_WELL_KNOWN):
        return value
    if not isinstance(value, dict):
        # The library would take an empty list for an empty message.
        raise _no_legal_json(path.removesuffix("."))
    fields = _fields(descriptor)
    kept: dict[str, Any] = {}
    for name, one in cast("dict[str, Any]", value).items():
        field = fields.get(name)
        if field is None:
            unknown.append(f"{path}{name}")
        else:
            kept[name] = _known_value(field, one, f"{path}{field.name}", unknown)
    return kept


def _known_value(field: FieldDescriptor, value: Any, path: str, unknown: list[str]) -> Any:
    inner = field.message_type
    if inner is None:
        return value
    if inner.GetOptions().map_entry:
        of_values = inner.fields_by_name["value"].message_type
        if of_values is None or not isinstance(value, dict):
            return value
        entries = cast("dict[str, Any]", value).items()
        return {key: _known(of_values, one, f"{path}.", unknown) for key, one in entries}
    if field.is_repeated and isinstance(value, list):
        elements = enumerate(cast("list[Any]", value))
        return [_known(inner, one, f"{path}[{index}].", unknown) for index, one in elements]
    return _known(inner, value, f"{path}.", unknown)


@cache
def _fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    """By both of their names."""
    by_name = {field.name: field for field in descriptor.fields}
    return by_name | {field.json_name: field for field in descriptor.fields}


def _illegal(cls: type[Message], value: Any) -> InvalidArgument:
    # The library's own message may quote the value, which may be a secret.
    path = _offending(cls, value)
    if not path:
        return InvalidArgument(f"the JSON does not fit {_descriptor(cls).full_name}")
    return _no_legal_json(path)


def _no_legal_json(path: str) -> InvalidArgument:
    return InvalidArgument(f"{path} is no legal JSON for its type", field=path)


def _offending(cls: type[Message], value: Any) -> str:
    """The path of the first field that cannot be read by itself; empty if there is none."""
    if not isinstance(value, dict):
        return ""
    fields = _fields(_descriptor(cls))
    for name, one in cast("dict[str, Any]", value).items():
        if _fits(cls, {name: one}):
            continue
        field = fields[name]
        return field.name + _offending_within(cls, name, field, one)
    return ""


def _offending_within(cls: type[Message], name: str, field: FieldDescriptor, value: Any) -> str:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return ""
    if field.is_repeated and isinstance(value, list):
        for index, one in enumerate(cast("list[Any]", value)):
            if not _fits(cls, {name: [one]}):
                return f"[{index}]{_below(inner, one)}"
        return ""
    return _below(inner, value)


def _below(inner: Descriptor | None, value: Any) -> str:
    if inner is None or inner.full_name.startswith(_WELL_KNOWN):
        return ""
    path = _offending(GetMessageClass(inner), value)
    return f".{path}" if path else ""


def _fits(cls: type[Message], value: dict[str, Any]) -> bool:
    try:
        ParseDict(value, cls())
    except (ParseError, RecursionError):
        return False
    return True


def _descriptor(cls: type[Message]) -> Descriptor:
    return cast("Descriptor", cls.DESCRIPTOR)
