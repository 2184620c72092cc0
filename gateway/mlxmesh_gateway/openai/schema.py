"""The fields that OpenAI's generation requests share, and how each is handled.

Ranges are those of the contract and are checked at the door; here are only the types that its
messages can hold.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, StringConstraints

from mlxmesh_gateway.http.schema import Harmless, Refused, Schema

UInt32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)]
"""OpenAI's seeds are signed, those of the contract are not."""
NOT_YET = "this version does not support it yet"


def as_list(value: object) -> object:
    """A text as a list of one; anything else as it is."""
    return [value] if isinstance(value, str) else value


def _by_token_id(value: object) -> object:
    """A JSON object's keys as token ids, where they are."""
    if not isinstance(value, dict):
        return value
    bias = cast("dict[str, Any]", value)
    if not all(map(_is_token_id, bias)):
        raise ValueError("its keys must be token ids")
    return {int(key): one for key, one in bias.items()}


def _is_token_id(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) <= 10


Texts = Annotated[list[str], BeforeValidator(as_list, json_schema_input_type=str | list[str])]
"""One text, or several."""
TokenBias = Annotated[
    dict[UInt32, float], BeforeValidator(_by_token_id, json_schema_input_type=dict[str, float])
]


LabelMap = Annotated[dict[str, str], Field(json_schema_extra={"maxProperties": 16})]
_Key = Annotated[str, StringConstraints(max_length=64)]
_Value = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[_Key, _Value], Field(max_length=16)]
"""OpenAI's pairs of texts."""
Effort = Literal["none", "minimal", "low", "medium", "high"]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority"]
"""OpenAI's. All but flex are the standard tier."""
TopLogprobs = Annotated[UInt32, Field(json_schema_extra={"maximum": 20})]
_FORMAT = "send response_format, regex, grammar or choice"


def _at_most(characters: int) -> dict[str, Any]:
    return {"minLength": 1, "maxLength": characters}


class ReasoningFields(Schema):
    """Whether and how much the model reasons."""

    enabled: bool | None = None
    effort: Effort | None = None
    budget_tokens: Annotated[
        UInt32 | None, Field(json_schema_extra={"minimum": 1, "maximum": 1_000_000})
    ] = None


class SamplingFields(Schema):
    """How tokens are chosen, what the output may be, and when generating ends."""

    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: TokenBias | None = None
    seed: Seed | None = None
    stop: Texts | None = None
    service_tier: ServiceTier | None = None
    # Below are options that OpenAI lacks, under their names in the contract.
    top_k: UInt32 | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[UInt32] | None = None
    ignore_eos: bool | None = None
    priority: Int32 | None = None
    session_id: Annotated[
        str | None, Field(json_schema_extra={"pattern": "^[A-Za-z0-9._:-]{1,128}$"})
    ] = None
    adapter: Annotated[
        str | None, Field(json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"})
    ] = None
    """A LoRA adapter of the model; `model:adapter` as the model is the same."""
    labels: LabelMap | None = None
    regex: Annotated[str | None, Field(json_schema_extra=_at_most(65_536))] = None
    grammar: Annotated[str | None, Field(json_schema_extra=_at_most(262_144))] = None
    choice: Annotated[
        list[str] | None, Field(json_schema_extra={"minItems": 1, "maxItems": 1024})
    ] = None
    # Names that other servers have for the above.
    guided_json: Annotated[Any, Refused(_FORMAT)] = None
    guided_regex: Annotated[Any, Refused("send regex")] = None
    guided_grammar: Annotated[Any, Refused("send grammar")] = None
    guided_choice: Annotated[Any, Refused("send choice")] = None
    guided_decoding_backend: Annotated[Any, Refused("there is one backend")] = None
    guided_whitespace_pattern: Annotated[Any, Refused(_FORMAT)] = None
    structured_outputs: Annotated[Any, Refused(_FORMAT)] = None


class StreamOptions(Schema):
    """What a stream has beside the text."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, Harmless()] = None


class GenerationFields(SamplingFields):
    """The fields that chat and text completions share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[UInt32 | None, Field(json_schema_extra={"minimum": 1, "maximum": 32})] = None
    user: str | None = None
    """The label `user`, unless the request has it."""


class ImageUrl(Schema):
    """An image, as a data URL: nothing is fetched."""

    url: str
    detail: Annotated[Any, Harmless()] = None
    """The model's own processor decides the resolution."""


class TextPart(Schema):
    """A part of a message's content: text, or an image for models that read some."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None
    prompt_cache_breakpoint: Annotated[Any, Harmless()] = None
    input_audio: Annotated[Any, Refused("models here read text and images only")] = None
    file: Annotated[Any, Refused("models here read text and images only")] = None
    refusal: Annotated[str | None, Refused("send it as text")] = None


def _as_parts(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if isinstance(value, list):
        return cast("object", value)
    raise ValueError("must be a text or a list of parts")


Content = Annotated[
    list[TextPart], BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart])
]
"""A text, or parts."""
