"""Illegal values of the fields of contracts, made from their rules."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from mlxmesh.common.v1.rules_pb2 import FieldRules

INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
UNSIGNED = {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
NUMBERS = INTEGERS | UNSIGNED | FLOATS
MISSING_FEATURE = "of a feature that is not there"


def illegal_values(field: FieldDescriptor, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    if rules.unsupported:
        yield MISSING_FEATURE, some_value(field)
        return
    if is_map(field):
        [key] = some_keys(field, 1)
        value_field = map_entry(field)["value"]
        yield from ((what, {key: value}) for what, value in illegal_scalars(value_field, rules))
        if rules.HasField("key_pattern"):
            yield "a key off the pattern", {off(rules.key_pattern): some_value(value_field)}
    elif field.is_repeated:
        yield from ((what, [value]) for what, value in illegal_scalars(field, rules))
    else:
        yield from illegal_scalars(field, rules)
    if rules.HasField("max_items"):
        yield "too many", too_many(field, rules.max_items + 1)


def illegal_scalars(field: FieldDescriptor, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    if field.cpp_type in FLOATS:
        yield from (("not a number", math.nan), ("infinite", math.inf))
    if field.cpp_type in NUMBERS:
        yield from illegal_numbers(field, rules)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if rules.HasField("max_length"):
            yield "too long", some_value(field, is_element=True) * (rules.max_length + 1)
        # Where empty and absent are the same, only `required` refuses it.
        is_absence = not field.has_presence and not field.is_repeated
        if rules.min_length and not rules.required and not is_absence:
            yield "empty", some_value(field, is_element=True)[:0]
        if rules.HasField("pattern"):
            yield "off the pattern", off(rules.pattern)


def off(pattern: str) -> str:
    """A text that does not match."""
    return next(text for text in ("../ etc\n", "\0") if not re.fullmatch(pattern, text, re.ASCII))


def illegal_numbers(field: FieldDescriptor, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    step = 0.5 if field.cpp_type in FLOATS else 1
    lowest = 0 if field.cpp_type in UNSIGNED else -math.inf
    edges = {
        "too small": rules.gte - step if rules.HasField("gte") else None,
        "too large": rules.lte + step if rules.HasField("lte") else None,
        "at the lower edge": rules.gt if rules.HasField("gt") else None,
        "at the upper edge": rules.lt if rules.HasField("lt") else None,
    }
    for what, value in edges.items():
        is_absence = value == 0 and not field.has_presence
        if value is not None and value >= lowest and not is_absence:
            yield what, value if field.cpp_type in FLOATS else int(value)


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def map_entry(field: FieldDescriptor) -> Mapping[str, FieldDescriptor]:
    assert field.message_type is not None
    return field.message_type.fields_by_name


def some_keys(field: FieldDescriptor, count: int) -> list[Any]:
    is_text = map_entry(field)["key"].cpp_type == FieldDescriptor.CPPTYPE_STRING
    return [f"k{number}" if is_text else number for number in range(7, 7 + count)]


def some_value(field: FieldDescriptor, *, is_element: bool = False) -> Any:
    if is_map(field):
        return {"a": "b"}
    value: Any = 1
    if field.message_type is not None:
        value = GetMessageClass(field.message_type)()
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        value = b"x" if field.type == FieldDescriptor.TYPE_BYTES else "x"
    return [value] if field.is_repeated and not is_element else value


def too_many(field: FieldDescriptor, count: int) -> Any:
    if is_map(field):
        return dict.fromkeys(some_keys(field, count), some_value(map_entry(field)["value"]))
    return some_value(field) * count
