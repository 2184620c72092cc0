"""The arguments and results of the mesh's MCP tools. Pure.

Ranges are those of the contract, which the mesh checks.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class NoArguments(_Object):
    """None."""


class ChatMessage(_Object):
    role: Literal["system", "user", "assistant"]
    content: str


class Input(_Object):
    """What a model reads."""

    model: str = Field(min_length=1, max_length=200)
    """A name of list_models, with @VERSION or :ALIAS if wanted."""
    prompt: str | None = Field(default=None, max_length=4_000_000)
    """A request in words; the same as one message of the user."""
    messages: list[ChatMessage] | None = Field(default=None, max_length=10_000)
    """A conversation, instead of a prompt."""

    @model_validator(mode="after")
    def _one_input(self) -> Input:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("give either prompt or messages")
        return self

    @property
    def conversation(self) -> list[ChatMessage]:
        """The messages."""
        return self.messages or [ChatMessage(role="user", content=self.prompt or "")]


class GenerateArguments(Input):
    """Of generate."""

    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    """The most tokens to generate. Default 512."""
    temperature: float | None = Field(default=None, ge=0, le=10)
    """Default 0: the most likely token each time."""
    json_schema: dict[str, Any] | None = None
    """A JSON Schema that the output satisfies."""


class ModelInfo(_Object):
    name: str
    ready: bool
    """Whether it is loaded; others may be loaded by their first request."""
    aliases: list[str]
    versions: int


class ModelList(_Object):
    models: list[ModelInfo]


class Generated(_Object):
    text: str
    model: str
    """NAME@VERSION that answered."""
    finish_reason: Literal["stop", "length", "cancelled", "tool_calls"]
    prompt_tokens: int
    completion_tokens: int


class TokenCount(_Object):
    tokens: int


class MeshState(_Object):
    ready: bool
    """Whether a model is loaded."""
    models: int
    models_ready: int
    replicas: int
    """Engines that serve a model."""
