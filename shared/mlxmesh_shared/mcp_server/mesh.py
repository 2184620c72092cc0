"""What the tools ask of a mesh."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlxmesh_shared.mcp_server.arguments import GenerateArguments, Input


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """A model of the catalogue."""

    name: str
    aliases: Sequence[str]
    versions: int
    replicas: int
    """That are ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """New text, or how a generation began or ended."""

    text: str = ""
    tokens: int = 0
    model: str = ""
    """NAME@VERSION, with the first piece."""
    finish_reason: str = ""
    """With the last piece, as are the counts."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Mesh(Protocol):
    """A mesh, as one caller may use it."""

    async def models(self) -> Sequence[ModelState]:
        """The models that the caller may use. Raises: MeshError."""
        ...

    def generate(self, asked: GenerateArguments) -> AsyncGenerator[Piece]:
        """The pieces of a generation, which ends with the generator. Raises: MeshError."""
        ...

    async def count_tokens(self, asked: Input) -> int:
        """The tokens of an input. Raises: MeshError."""
        ...
