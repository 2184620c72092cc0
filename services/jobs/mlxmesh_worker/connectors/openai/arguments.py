"""The arguments of OpenAI's connector: the body of the request, passed on as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

_REFUSED = {
    "stream": "the connector streams by itself, and returns the whole",
    "stream_options": "the connector sets them",
    "api_key": "keys are named by the address of the back end",
    "extra_headers": "headers are set by the connector",
}


class Body(BaseModel):
    """The body of a request. Fields that are not listed here are passed on."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=256)]

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        for name, why in _REFUSED.items():
            if name in fields:
                raise ValueError(f"{name} is not legal: {why}")
        return fields

    def body(self) -> dict[str, Any]:
        """What is sent."""
        return self.model_dump(exclude_unset=True)


class Chat(Body):
    """A chat completion."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None


class Completion(Body):
    """A completion of a text."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None


class Embedding(Body):
    """Embeddings of texts."""

    input: str | list[str] | list[int] | list[list[int]]


class Image(Body):
    """Images of a text."""

    prompt: Annotated[str, Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=16)] | None = None


OPERATIONS: Mapping[str, type[Body]] = {
    "chat": Chat,
    "completion": Completion,
    "embedding": Embedding,
    "image": Image,
}
