"""Sampling parameters: JSON or the parameters of a request, as a checked object. Pure.

Their names are those of GenerateRequest and Sampling, where the ranges are checked. vLLM's back end
has the same names for the same things; what else Triton's back ends have is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NoReturn, TypeVar, cast

from pydantic import BeforeValidator, Field

from mlxmesh_gateway.http.schema import Refused, Schema, read_request
from mlxmesh_gateway.kserve.tensors import quotable, refused
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

SAMPLING_PARAMETERS = "sampling_parameters"
MAX_SAMPLING_BYTES = 64 * 1024
_MAX_UINT32, _MAX_UINT64, _MAX_INT32 = 2**32 - 1, 2**64 - 1, 2**31 - 1
_BOOLS = {"true": True, "false": False}
T = TypeVar("T", int, float)


def _number(convert: Callable[[str], T]) -> BeforeValidator:
    """Reads a number that is written as a text, as many clients of tritonclient do."""

    def read(value: object) -> object:
        if not isinstance(value, str) or len(value) > 40 or not value.isascii():
            return value
        try:
            return convert(value)
        except ValueError:
            return value  # which then is no number

    return BeforeValidator(read)


def _read_bool(value: object) -> object:
    return _BOOLS.get(value.lower(), value) if isinstance(value, str) else value


def _read_top_k(value: object) -> object:
    return 0 if value in (-1, "-1") else value  # as vLLM writes "all"


def _read_schema(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _read_stop(value: object) -> object:
    return [value] if isinstance(value, str) else value


_INT, _FLOAT, _BOOL = _number(int), _number(float), BeforeValidator(_read_bool)
Real = Annotated[float, Field(allow_inf_nan=False), _FLOAT]
Natural = Annotated[int, Field(ge=0, le=_MAX_UINT32), _INT]
Seed = Annotated[int, Field(ge=0, le=_MAX_UINT64), _INT]
TopK = Annotated[int, Field(ge=0, le=_MAX_UINT32), _INT, BeforeValidator(_read_top_k)]
Priority = Annotated[int, Field(ge=-_MAX_INT32, le=_MAX_INT32), _INT]
Flag = Annotated[bool, _BOOL]
Stop = Annotated[list[str], BeforeValidator(_read_stop)]
JsonSchema = Annotated[str, BeforeValidator(_read_schema)]
Count = Annotated[Any, _INT]
Switch = Annotated[Any, _BOOL]


_USE = "use json_schema, regex, grammar, choice or json_object"
_NO_PLACE = "no output tensor holds it; gRPC and OpenAI's API have it"
_PROMPT = "the input is a prompt, not a conversation"


class SamplingParameters(Schema):
    """How to generate; None for the default of GenerateRequest."""

    max_tokens: Natural | None = None
    temperature: Real | None = None
    top_p: Real | None = None
    top_k: TopK | None = None
    min_p: Real | None = None
    repetition_penalty: Real | None = None
    presence_penalty: Real | None = None
    frequency_penalty: Real | None = None
    seed: Seed | None = None
    logit_bias: dict[str, Real] | None = None
    stop: Stop | None = None
    stop_token_ids: list[Natural] | None = None
    ignore_eos: Flag | None = None
    priority: Priority | None = None
    service_tier: Literal["standard", "flex"] | None = None
    request_id: str | None = None
    session_id: str | None = None
    adapter: str | None = None
    """A LoRA adapter of the model."""
    json_schema: JsonSchema | None = None
    """At most one of json_schema, regex, grammar, choice and json_object may be given."""
    regex: str | None = None
    grammar: str | None = None
    choice: list[str] | None = None
    json_object: Flag | None = None
    n: Annotated[Count, Refused("one output is generated", unless=(1,))] = None

    # What Triton's back ends have besides, refused unless the value changes nothing.
    stop_words: Annotated[Any, Refused("use stop", unless=("",))] = None
    best_of: Annotated[Count, Refused(unless=(1,))] = None
    logprobs: Annotated[Any, Refused(_NO_PLACE)] = None
    prompt_logprobs: Annotated[Any, Refused(_NO_PLACE)] = None
    min_tokens: Annotated[Count, Refused(unless=(0,))] = None
    bad_words: Annotated[Any, Refused(unless=("",))] = None
    length_penalty: Annotated[Any, Refused(unless=(1, 1.0, "1", "1.0"))] = None
    early_stopping: Annotated[Switch, Refused(unless=(False,))] = None
    use_beam_search: Annotated[Switch, Refused(unless=(False,))] = None
    include_stop_str_in_output: Annotated[Switch, Refused(unless=(False,))] = None
    skip_special_tokens: Annotated[Switch, Refused(unless=(True,))] = None
    spaces_between_special_tokens: Annotated[Switch, Refused(unless=(True,))] = None
    detokenize: Annotated[Switch, Refused(unless=(True,))] = None
    truncate_prompt_tokens: Annotated[Any, Refused()] = None
    guided_decoding: Annotated[Any, Refused(_USE)] = None
    structured_outputs: Annotated[Any, Refused(_USE)] = None
    logits_processors: Annotated[Any, Refused()] = None
    lora_name: Annotated[Any, Refused("use adapter")] = None
    # What GenerateRequest has for conversations, or for more outputs than the tensors can hold.
    tools: Annotated[Any, Refused(_PROMPT)] = None
    tool_choice: Annotated[Any, Refused(_PROMPT)] = None
    parallel_tool_calls: Annotated[Any, Refused(_PROMPT)] = None
    reasoning: Annotated[Any, Refused(_PROMPT)] = None
    # What tritonclient can send with a request.
    sequence_id: Annotated[Any, Refused(unless=(0, ""))] = None
    sequence_start: Annotated[Switch, Refused(unless=(False,))] = None
    sequence_end: Annotated[Switch, Refused(unless=(False,))] = None


def read_sampling(
    tensor: bytes, parameters: Mapping[str, object], *, refuse_unknown: bool
) -> tuple[SamplingParameters, list[str]]:
    """The parameters in the tensor and in the request, and the names of those nobody knows.

    Raises: InvalidArgument, FeatureNotSupported; each names the parameter and quotes no value.
    """
    given = _parsed(tensor) if tensor else {}
    for name, value in parameters.items():
        if name in given:
            told = quotable(name) or "a parameter"
            raise refused(SAMPLING_PARAMETERS, f"and the request both have {told}; set it once")
        given[name] = value
    try:
        return read_request(SamplingParameters, given, refuse_unknown=refuse_unknown)
    except (FeatureNotSupported, InvalidArgument) as error:
        field = f"{SAMPLING_PARAMETERS}.{error.field}"
        raise type(error)(f"{SAMPLING_PARAMETERS}.{error.message}", field=field) from None


def _parsed(tensor: bytes) -> dict[str, object]:
    if len(tensor) > MAX_SAMPLING_BYTES:
        raise refused(SAMPLING_PARAMETERS, f"must have at most {MAX_SAMPLING_BYTES} bytes")
    try:
        value = json.loads(tensor.decode(), parse_constant=_refuse_constant)
        if b"\\u" in tensor:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise refused(SAMPLING_PARAMETERS, "must be a JSON object in UTF-8")
    return cast("dict[str, object]", value)


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")
