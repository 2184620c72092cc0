"""The request of POST /v1/completions, and how each of its fields is handled."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import Field, PlainValidator

from mlxmesh_gateway.http.schema import Refused
from mlxmesh_gateway.openai.schema import GenerationFields, UInt32

MAX_LOGPROBS = 5
"""OpenAI's, for text completions."""

MAX_PROMPTS = 32
"""In one request; each is a generation."""
Prompt = str | list[int]
"""A text, or token ids."""


def _prompts(value: object) -> list[Prompt]:
    """A text or token ids, or a list of these."""
    if _is_prompt(value):
        return [cast("Prompt", value)]
    prompts = cast("list[object]", value) if isinstance(value, list) else []
    if not prompts or not all(map(_is_prompt, prompts)):
        raise ValueError("must be a text, a list of token ids, or a list of these")
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"must be at most {MAX_PROMPTS} prompts; send several requests")
    return cast("list[Prompt]", prompts)


def _is_prompt(value: object) -> bool:
    return isinstance(value, str) or _are_token_ids(value)


def _are_token_ids(value: object) -> bool:
    if not isinstance(value, list):
        return False
    ids = cast("list[object]", value)
    return all(type(one) is int and 0 <= one < 2**32 for one in ids)


_Several = Field(min_length=1, max_length=MAX_PROMPTS)
_Asked = str | list[int] | Annotated[list[str], _Several] | Annotated[list[list[int]], _Several]


class CompletionRequest(GenerationFields):
    """Texts to continue."""

    prompt: Annotated[list[Prompt], PlainValidator(_prompts, json_schema_input_type=_Asked)]
    max_tokens: UInt32 | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None
    """How many of the most likely tokens to report for each."""
    echo: bool | None = None
    """Whether the text begins with the prompt."""
    best_of: UInt32 | None = None
    """Only n, or 1 without n."""

    suffix: Annotated[Any, Refused("models here do not fill in the middle", unless=("",))] = None
