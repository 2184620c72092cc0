"""The rules of fields in words, for error messages and for the documentation."""

import re
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor, OneofDescriptor

from mlxmesh.common.v1 import rules_pb2

FieldRules = rules_pb2.FieldRules
_WORDS = re.compile(r"[a-z0-9_-]+(\|[a-z0-9_-]+)+", re.ASCII)


def field_rules(field: FieldDescriptor) -> FieldRules:
    """The rules of a field; empty if there are none."""
    return field.GetOptions().Extensions[rules_pb2.rules]


def oneof_rules(oneof: OneofDescriptor) -> rules_pb2.OneofRules:
    """The rules of a oneof; empty if there are none."""
    return oneof.GetOptions().Extensions[rules_pb2.oneof_rules]


def describe(field: FieldDescriptor) -> str:
    """The rules of a field for the documentation; empty if there are none."""
    rules = field_rules(field)
    if rules.unsupported:
        return "not supported yet"
    parts = (
        "required" if rules.required else "",
        range_words(rules),
        length_words(rules),
        items_words(rules),
        f"matches `{rules.pattern}`" if rules.HasField("pattern") else "",
        f"keys {key_words(rules)}" if key_words(rules) else "",
    )
    return "; ".join(part for part in parts if part)


def form_words(pattern: str) -> str:
    """What a text must be: one of the words, where a pattern lists words."""
    if _WORDS.fullmatch(pattern):
        return f"must be one of {pattern.replace('|', ', ')}"
    return f"must match {pattern}"


def range_words(rules: FieldRules) -> str:
    """For example "0 to 10", or "above 0 and at most 1"."""
    least, most = given(rules, "gte"), given(rules, "lte")
    above, below = given(rules, "gt"), given(rules, "lt")
    parts = (
        f"above {_shown(above)}" if above is not None else "",
        _bounds(least, most),
        f"below {_shown(below)}" if below is not None else "",
    )
    return " and ".join(part for part in parts if part)


def length_words(rules: FieldRules) -> str:
    """For example "1 to 256 long"."""
    words = _bounds(given(rules, "min_length"), given(rules, "max_length"))
    return f"{words} long" if words else ""


def items_words(rules: FieldRules) -> str:
    """For example "at most 16 elements"."""
    words = _bounds(given(rules, "min_items"), given(rules, "max_items"))
    return f"{words} elements" if words else ""


def key_words(rules: FieldRules) -> str:
    """For example "0 to 9": the valid keys of a map."""
    if rules.HasField("key_pattern"):
        return f"matching `{rules.key_pattern}`"
    return _bounds(given(rules, "key_gte"), given(rules, "key_lte"))


def given(rules: FieldRules, name: str) -> Any:
    """The value of a rule; None if the field does not have the rule."""
    return getattr(rules, name) if rules.HasField(cast("Any", name)) else None


def _bounds(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return _shown(least) if least == most else f"{_shown(least)} to {_shown(most)}"
    if least is not None:
        return f"at least {_shown(least)}"
    return f"at most {_shown(most)}" if most is not None else ""


def _shown(number: float) -> str:
    return f"{number:.15g}"
