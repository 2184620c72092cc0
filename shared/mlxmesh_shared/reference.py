"""Model references: `name`, `name@version` or `name:alias`."""

import re
from dataclasses import dataclass
from typing import Self

from mlxmesh_shared.errors import InvalidArgument

_REFERENCE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,95})"
    r"(?:@(?P<version>[1-9][0-9]{0,8})|:(?P<alias>[A-Za-z0-9][A-Za-z0-9._-]{0,63}))?"
)


@dataclass(frozen=True)
class ModelReference:
    """The name of a model, optionally with a version or an alias."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference in a text. Raises: InvalidArgument(field="model")."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise InvalidArgument(
                "model must be written name, name@version or name:alias", field="model"
            )
        version = match["version"]
        return cls(match["name"], int(version) if version else None, match["alias"])

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}@{self.version}"
        return f"{self.name}:{self.alias}" if self.alias is not None else self.name
