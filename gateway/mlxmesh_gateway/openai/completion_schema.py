"""The request of POST /v1/completions, and how each of its fields is handled."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import Field, PlainValidator

from mlxmesh_gateway.http.schema import Refused
from mlxmesh_gateway.openai.schema import NOT_YET, GenerationFields, UInt32


def _one_prompt(value: object) -> object:
    """The text or the token ids; either may be alone in a list."""
    prompt = value
    if isinstance(value, list):
        prompts = cast("list[object]", value)
        if len(prompts) > 1 and isinstance(prompts[0], str | list):
            raise ValueError("send one request for each prompt")
        if prompts and isinstance(prompts[0], str | list):
            prompt = cast("object", prompts[0])
    if isinstance(prompt, str) or _are_token_ids(prompt):
        return prompt
    raise ValueError("must be a text or a list of token ids")


def _are_token_ids(value: object) -> bool:
    if not isinstance(value, list):
        return False
    ids = cast("list[object]", value)
    return all(type(one) is int and 0 <= one < 2**32 for one in ids)


_One = Field(max_length=1)
_Prompt = str | list[int] | Annotated[list[str], _One] | Annotated[list[list[int]], _One]


class CompletionRequest(GenerationFields):
    """A text to continue."""

    prompt: Annotated[str | list[int], PlainValidator(_one_prompt, json_schema_input_type=_Prompt)]
    max_tokens: UInt32 | None = None

    best_of: Annotated[Any, Refused(NOT_YET, unless=(1,))] = None
    echo: Annotated[Any, Refused("prepend the prompt yourself", unless=(False,))] = None
    logprobs: Annotated[Any, Refused(NOT_YET)] = None
    suffix: Annotated[Any, Refused("models here do not fill in the middle", unless=("",))] = None
