"""Converts Python arguments to requests; it checks types, the mesh checks ranges."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import (
    ChatInput,
    ChatMessage,
    CountTokensRequest,
    GenerateRequest,
    Role,
    TokenInput,
)
from mlxmesh_shared.errors import InvalidArgument

Message: TypeAlias = tuple[str, str] | Mapping[str, str]
"""One message: `("user", "Hi")` or `{"role": "user", "content": "Hi"}`."""

_ROLES = {
    "system": Role.ROLE_SYSTEM,
    "user": Role.ROLE_USER,
    "assistant": Role.ROLE_ASSISTANT,
    "tool": Role.ROLE_TOOL,
}
_SAMPLING_FIELDS = frozenset(Sampling.DESCRIPTOR.fields_by_name)


class InputOptions(TypedDict, total=False):
    """The model's input; exactly one is required."""

    prompt: str
    messages: Sequence[Message]


class GenerateOptions(InputOptions, total=False):
    """Options of a generation; generation.proto documents their defaults and ranges."""

    token_ids: Sequence[int]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    logit_bias: Mapping[int, float]
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    request_id: str
    detached: bool
    keep_request: bool
    client_data: str


def generate_request(model: str, options: GenerateOptions) -> GenerateRequest:
    """Builds the request for a generation.

    Raises InvalidArgument for an option that does not exist, or whose value has the wrong type.
    """
    values: dict[str, Any] = {**options}
    fields = _input_fields(values)
    sampling = {name: values.pop(name) for name in _SAMPLING_FIELDS & values.keys()}
    if sampling:
        fields["sampling"] = _build(Sampling, sampling, path="sampling.")
    return _build(GenerateRequest, {"model": model, **fields, **values})


def count_request(
    model: str, options: InputOptions, *, return_token_ids: bool
) -> CountTokensRequest:
    """Builds the request for a token count. Raises InvalidArgument like `generate_request`."""
    values: dict[str, Any] = {**options}
    fields = _input_fields(values)
    fields["return_token_ids"] = return_token_ids
    return _build(CountTokensRequest, {"model": model, **fields, **values})


def _input_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Removes the input from `values` and returns it as fields of the request."""
    given = [name for name in ("prompt", "messages", "token_ids") if name in values]
    if len(given) != 1:
        raise InvalidArgument(
            f"give one of prompt, messages and token_ids, not {len(given)} of them", field="input"
        )
    name = given[0]
    value = values.pop(name)
    if name == "messages":
        return {"chat": ChatInput(messages=_turns(value))}
    if name == "token_ids":
        return {"tokens": _build(TokenInput, {"token_ids": value})}
    return {"prompt": value}


def _turns(messages: Sequence[Message]) -> list[ChatMessage]:
    return [_turn(index, message) for index, message in enumerate(messages)]


def _turn(index: int, message: Message) -> ChatMessage:
    path = f"chat.messages[{index}]"
    try:
        role, content = (
            (message["role"], message["content"]) if isinstance(message, Mapping) else message
        )
    except (KeyError, TypeError, ValueError):
        problem = "must be (role, content) or have the keys role and content"
        raise InvalidArgument(f"{path} {problem}", field=path) from None
    if role not in _ROLES:
        known = ", ".join(_ROLES)
        raise InvalidArgument(f"{path}.role must be one of {known}", field=f"{path}.role")
    return _build(ChatMessage, {"role": _ROLES[role], "content": content}, path=f"{path}.")


def _build(cls: Any, fields: Mapping[str, Any], *, path: str = "") -> Any:
    """Builds a message field by field, so that an error can name the field."""
    message = cls()
    for name, value in fields.items():
        try:
            message.MergeFrom(cls(**{name: value}))
        except (TypeError, ValueError):
            known = name in cls.DESCRIPTOR.fields_by_name
            problem = "has the wrong type or is out of range" if known else "is no option"
            # The cause is left out: its text may quote the value, which may be a prompt.
            raise InvalidArgument(f"{path}{name} {problem}", field=f"{path}{name}") from None
    return message
