"""JSON Schemas of messages, with the rules of their fields. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from mlxmesh_shared.rules.words import FieldRules, describe, field_rules, given

JsonSchema = dict[str, Any]
_F = FieldDescriptor

_INTEGERS = {
    _F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    _F.CPPTYPE_UINT32: (0, 2**32 - 1),
}
_TIMESTAMP: JsonSchema = {"type": "string", "format": "date-time"}
_WELL_KNOWN: dict[str, JsonSchema] = {
    "google.protobuf.Timestamp": _TIMESTAMP,
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array"},
}
_BOUNDS = {"gte": "minimum", "lte": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


class MessageSchemas:
    """The schemas of some messages and of all messages in them, by their full names."""

    def __init__(self) -> None:
        self.by_name: dict[str, JsonSchema] = {}

    def of(self, descriptor: Descriptor) -> JsonSchema:
        """A reference to the schema of a message, or the schema of a well-known one."""
        name = descriptor.full_name
        if name.startswith("google.protobuf."):
            return _WELL_KNOWN.get(name, {"type": "object"})
        if name not in self.by_name:
            self.by_name[name] = {}  # a message may contain itself
            self.by_name[name] = self._object(descriptor)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, descriptor: Descriptor) -> JsonSchema:
        found: JsonSchema = {"type": "object"}
        if descriptor.fields:
            found["properties"] = {one.json_name: self._field(one) for one in descriptor.fields}
        required = [one.json_name for one in descriptor.fields if field_rules(one).required]
        if required:
            found["required"] = required
        return found

    def _field(self, field: FieldDescriptor) -> JsonSchema:
        rules = field_rules(field)
        words = describe(field)
        said: JsonSchema = {"description": words} if words else {}
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            value = self._value(inner.fields_by_name["value"], rules)
            return {"type": "object", "additionalProperties": value, **said}
        value = self._value(field, rules)
        if not field.is_repeated:
            return {**value, **said}
        limits = {"minItems": given(rules, "min_items"), "maxItems": given(rules, "max_items")}
        set_ = {name: limit for name, limit in limits.items() if limit is not None}
        return {"type": "array", "items": value, **set_, **said}

    def _value(self, field: FieldDescriptor, rules: FieldRules) -> JsonSchema:
        if field.message_type is not None:
            return self.of(field.message_type)
        if field.enum_type is not None:
            return _enum(field.enum_type)
        make = _SCALARS.get(field.cpp_type, _number)
        return make(field, rules)


def _enum(enum: EnumDescriptor) -> JsonSchema:
    return {"type": "string", "enum": [value.name for value in enum.values]}


def _boolean(_field: FieldDescriptor, _rules: FieldRules) -> JsonSchema:
    return {"type": "boolean"}


def _text(field: FieldDescriptor, rules: FieldRules) -> JsonSchema:
    if field.type == _F.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    found: JsonSchema = {"type": "string"}
    for rule, name in (("min_length", "minLength"), ("max_length", "maxLength")):
        if (limit := given(rules, rule)) is not None:
            found[name] = limit
    if pattern := given(rules, "pattern"):
        # A text that is not required may be empty whatever its pattern.
        found["pattern"] = f"^(?:{pattern})$" if rules.required else f"^(?:{pattern})?$"
    return found


def _integer(field: FieldDescriptor, rules: FieldRules) -> JsonSchema:
    least, most = _INTEGERS[field.cpp_type]
    return {"type": "integer", "minimum": least, "maximum": most, **_bounds(rules)}


def _long(field: FieldDescriptor, _rules: FieldRules) -> JsonSchema:
    # JavaScript's numbers are exact up to 2^53 only.
    signed = field.cpp_type == _F.CPPTYPE_INT64
    sign = "-?" if signed else ""
    return {
        "type": "string",
        "format": "int64" if signed else "uint64",
        "pattern": f"^{sign}[0-9]{{1,20}}$",
    }


def _number(_field: FieldDescriptor, rules: FieldRules) -> JsonSchema:
    return {"type": "number", **_bounds(rules)}


def _bounds(rules: FieldRules) -> JsonSchema:
    found = {name: given(rules, rule) for rule, name in _BOUNDS.items()}
    return {name: bound for name, bound in found.items() if bound is not None}


_SCALARS: dict[int, Callable[[FieldDescriptor, FieldRules], JsonSchema]] = {
    _F.CPPTYPE_BOOL: _boolean,
    _F.CPPTYPE_STRING: _text,
    _F.CPPTYPE_INT32: _integer,
    _F.CPPTYPE_UINT32: _integer,
    _F.CPPTYPE_INT64: _long,
    _F.CPPTYPE_UINT64: _long,
}
