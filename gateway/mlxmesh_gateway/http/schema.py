"""Requests of HTTP protocols as pydantic models that say how each field is handled.

A field without a mark is honoured. `Harmless` marks one that cannot change the answer, and is
ignored. `Refused` marks one that the protocol has and the mesh does not honour. A field that the
model does not have is unknown: it is ignored and told, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

MAX_TOLD = 20
"""Unknown fields that are told by name."""
LEGAL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
"""Of fields that are told."""


class Schema(BaseModel):
    """The base of requests and of the objects in them; values are never converted."""

    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, use_attribute_docstrings=True, defer_build=True
    )


@dataclass(frozen=True)
class Harmless:
    """Marks a field that cannot change the answer."""


# Not by value: typing would make Annotated types with equal marks one type, and 0 equals False.
@dataclass(frozen=True, eq=False)
class Refused:
    """Marks a field that is an error unless its value changes nothing."""

    because: str = "this version does not support it"
    unless: tuple[object, ...] = ()
    """Values, besides null, that change nothing."""

    def allows(self, value: object) -> bool:
        """Whether the value changes nothing; it must have the same type too: true is not 1."""
        return value is None or any(
            value == one and type(value) is type(one) for one in self.unless
        )


T = TypeVar("T", bound=Schema)
V = TypeVar("V")


def read_request(
    cls: type[T], body: object, *, refuse_unknown: bool = False
) -> tuple[T, list[str]]:
    """The request, and the paths of its unknown fields.

    Raises: InvalidArgument for an illegal value, FeatureNotSupported for a refused field; each
    names the field and quotes no value.
    """
    try:
        request = cls.model_validate(body)
    except ValidationError as error:
        raise _illegal(error) from None
    _check_refused(request)
    unknown = [path for path in _unknown(request, "") if LEGAL_NAME.fullmatch(path)]
    if unknown and refuse_unknown:
        raise InvalidArgument(f"there is no field {unknown[0]}", field=unknown[0])
    return request, unknown[:MAX_TOLD]


def required(value: V | None, field: str) -> V:
    """A value that must be there. Raises: InvalidArgument."""
    if value is None:
        raise InvalidArgument(f"{field} is required", field=field)
    return value


def _illegal(error: ValidationError) -> InvalidArgument:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    return InvalidArgument(f"{path}: {text}" if path else text, field=path)


def _check_refused(request: Schema) -> None:
    for path, schema in _schemas(request, ""):
        for name, field in type(schema).model_fields.items():
            value: object = getattr(schema, name)
            for mark in field.metadata:
                if isinstance(mark, Refused) and not mark.allows(value):
                    where = f"{path}{name}"
                    raise FeatureNotSupported(
                        f"{where} is not supported: {mark.because}", field=where
                    )


def _unknown(request: Schema, start: str) -> Iterator[str]:
    for path, schema in _schemas(request, start):
        yield from (f"{path}{name}" for name in schema.model_extra or ())


def _schemas(value: object, path: str) -> Iterator[tuple[str, Schema]]:
    """The value and all schemas in it, each with the beginning of its fields' paths."""
    if isinstance(value, Schema):
        yield path, value
        for name in type(value).model_fields:
            yield from _schemas(getattr(value, name), f"{path}{name}.")
    elif isinstance(value, list):
        for number, one in enumerate(cast("list[Any]", value)):
            yield from _schemas(one, f"{path}{number}.")
