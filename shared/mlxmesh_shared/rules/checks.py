"""Checks of single values: a number, a text, an enum's number, a map's key, a size.

Each function builds a check from the rules once; None if every value is valid.
"""

import math
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from mlxmesh_shared.errors import InvalidArgument, MeshError
from mlxmesh_shared.rules.words import (
    FieldRules,
    form_words,
    given,
    items_words,
    key_words,
    length_words,
    range_words,
)


class Violation(NamedTuple):
    """A problem, and the path of its field below the checked value."""

    path: str
    problem: str
    error: type[MeshError] = InvalidArgument


# The violation of a value; None if it is valid.
Check = Callable[[Any], Violation | None]


def scalar_check(field: FieldDescriptor, rules: FieldRules, *, required: bool) -> Check | None:
    """A check of a number, text or enum number; a required one must not have its zero value."""
    if field.enum_type is not None:
        return _enum_check(field.enum_type, required=required)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _text_check(rules, required=required)
    return _number_check(field.cpp_type, rules)


def key_check(rules: FieldRules) -> Check | None:
    """A check of a map's key."""
    problem = f"has a key that is not {key_words(rules)}"
    if rules.HasField("key_pattern"):
        pattern = re.compile(rules.key_pattern, re.ASCII)
        return lambda key: None if pattern.fullmatch(key) else Violation("", problem)
    least, most = _interval(given(rules, "key_gte"), given(rules, "key_lte"))
    if not key_words(rules):
        return None
    return lambda key: None if least <= key <= most else Violation("", problem)


def size_check(rules: FieldRules) -> Check | None:
    """A check of the number of elements of a list or map."""
    words = items_words(rules)
    if not words:
        return None
    least, most = _interval(given(rules, "min_items"), given(rules, "max_items"))
    return lambda items: (
        None if least <= len(items) <= most else Violation("", f"must have {words}")
    )


def _enum_check(enum: EnumDescriptor, *, required: bool) -> Check:
    valid = set(enum.values_by_number) - ({0} if required else set())
    violation = Violation("", f"must be one of the values of {enum.name}")
    return lambda number: None if number in valid else violation


def _text_check(rules: FieldRules, *, required: bool) -> Check | None:
    least, most = _interval(given(rules, "min_length"), given(rules, "max_length"))
    pattern = re.compile(rules.pattern, re.ASCII) if rules.HasField("pattern") else None
    words = length_words(rules)
    if not words and pattern is None and not required:
        return None
    empty = Violation("", "must not be empty")
    bad_length = Violation("", f"must be {words}")
    bad_form = Violation("", form_words(rules.pattern))

    def check(text: Any) -> Violation | None:
        if required and not text:
            return empty
        if not least <= len(text) <= most:
            return bad_length
        if pattern is not None and text and pattern.fullmatch(text) is None:
            return bad_form
        return None

    return check


def _number_check(cpp_type: int, rules: FieldRules) -> Check | None:
    words = range_words(rules)
    floating = cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
    if not words and not floating:
        return None
    # A float field has a bound such as 0.1 only as the nearest float32.
    stored = _as_float32 if cpp_type == FieldDescriptor.CPPTYPE_FLOAT else _unchanged
    least, most = map(stored, _interval(given(rules, "gte"), given(rules, "lte")))
    above, below = map(stored, _interval(given(rules, "gt"), given(rules, "lt")))
    violation = Violation("", f"must be {words or 'a finite number'}")

    def check(number: Any) -> Violation | None:
        # NaN fails every comparison, and infinity is outside of the open interval.
        valid = least <= number <= most and above < number < below
        return None if valid else violation

    return check


def _interval(least: float | None, most: float | None) -> tuple[float, float]:
    return (-math.inf if least is None else least, math.inf if most is None else most)


def _as_float32(bound: float) -> float:
    return struct.unpack("f", struct.pack("f", bound))[0]


def _unchanged(bound: float) -> float:
    return bound
