"""Which models a principal may use. Pure."""

from __future__ import annotations

import re

from mlxmesh_gateway.door.principal import Principal
from mlxmesh_shared.errors import ModelNotAllowed, ModelNotFound

_ENDS_NAME = re.compile(r"[@:]")


def allows(patterns: tuple[str, ...], reference: str) -> bool:
    """Whether a pattern matches the reference, or the name in it; without patterns all match.

    patterns: names in which * stands for any text.
    """
    if not patterns:
        return True
    name = _ENDS_NAME.split(reference, maxsplit=1)[0]
    return any(matches(one, name) or matches(one, reference) for one in patterns)


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text matches; in linear time, since members choose patterns."""
    first, *others = pattern.split("*")
    if not others:
        return pattern == text
    last = others.pop()
    if not text.startswith(first) or len(text) < len(first) + len(last):
        return False
    position, end = len(first), len(text) - len(last)
    for part in others:
        # The leftmost match leaves the most for the parts that follow.
        position = text.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return text.endswith(last)


def check_model(principal: Principal, reference: str) -> None:
    """Raises: ModelNotAllowed."""
    if not allows(principal.models, reference):
        raise ModelNotAllowed(
            f"this key may not use the model {reference}; it may use {', '.join(principal.models)}",
            field="model",
        )


def unknown_model(reference: str) -> ModelNotFound:
    """What a caller gets that asks for the description of a model that it may not use."""
    return ModelNotFound(f"there is no model {reference}", field="model")
