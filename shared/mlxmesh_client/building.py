"""Builds messages so that an error can name the field. Pure."""

from collections.abc import Mapping
from typing import Any

from mlxmesh_shared.errors import InvalidArgument


def build(cls: Any, fields: Mapping[str, Any], *, path: str = "") -> Any:
    """Builds a message field by field. Raises: InvalidArgument."""
    message = cls()
    for name, value in fields.items():
        try:
            message.MergeFrom(cls(**{name: value}))
        except (TypeError, ValueError, AttributeError):
            known = name in cls.DESCRIPTOR.fields_by_name
            problem = "has the wrong type or is out of range" if known else "is no option"
            # The cause is left out: its text may quote the value, which may be a prompt.
            raise InvalidArgument(f"{path}{name} {problem}", field=f"{path}{name}") from None
    return message
