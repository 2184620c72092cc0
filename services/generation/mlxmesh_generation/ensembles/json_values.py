"""Text as JSON, for comparing and for checking answers. Pure."""

import json
from collections.abc import Hashable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn, cast


def json_value(text: str, **numbers: Any) -> Any:
    """Raises: ValueError for what is no JSON, or nested too deeply."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, **numbers)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def canonical_json(text: str) -> Hashable:
    """A value that is equal for texts of equal JSON: 1 is 1.0, and members have no order.

    Raises: ValueError for what is no JSON.
    """
    try:
        value = _hashable(json_value(text, parse_float=Decimal, parse_int=Decimal))
        hash(value)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _hashable(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value).items()
        return "object", frozenset((key, _hashable(each)) for key, each in members)
    if isinstance(value, list):
        return "array", tuple(map(_hashable, cast("Sequence[Any]", value)))
    # True equals 1 in Python, but not in JSON.
    return type(value).__name__, value


def satisfies(text: str, schema: str) -> bool:
    """Whether a text is JSON that satisfies a schema."""
    try:
        value = json_value(text)
        return bool(_validator(schema).is_valid(value))
    except (ValueError, OverflowError):
        return False


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    """Raises: ValueError for a schema that cannot be checked."""
    # Not at the top: it takes 40 ms to import, and most meshes have no ensembles.
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(
            json_value(schema), pattern_options=jsonschema_rs.RegexOptions(), retriever=_no_document
        )
    except (jsonschema_rs.ValidationError, TypeError) as error:
        raise ValueError("no schema that can be checked") from error


def _no_document(uri: str) -> NoReturn:
    raise ValueError(f"another document: {uri}")
