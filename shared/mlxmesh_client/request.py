"""Converts Python arguments to requests; it checks types, the mesh checks ranges."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import (
    ChatInput,
    ChatMessage,
    ContentPart,
    CountTokensRequest,
    GenerateRequest,
    Image,
    Role,
    TokenInput,
)
from mlxmesh_client.building import build
from mlxmesh_client.options import (
    GenerateOptions,
    InputOptions,
    Message,
    chat_fields,
    output_fields,
    tool_call,
)
from mlxmesh_shared.errors import InvalidArgument

_ROLES = {
    "system": Role.ROLE_SYSTEM,
    "user": Role.ROLE_USER,
    "assistant": Role.ROLE_ASSISTANT,
    "tool": Role.ROLE_TOOL,
}
_SAMPLING_FIELDS = frozenset(Sampling.DESCRIPTOR.fields_by_name)


def generate_request(model: str, options: GenerateOptions) -> GenerateRequest:
    """Builds the request for a generation.

    Raises InvalidArgument for an option that does not exist, or whose value has the wrong type.
    """
    values: dict[str, Any] = {**options}
    fields = {**_input_fields(values), **chat_fields(values), **output_fields(values)}
    sampling = {name: values.pop(name) for name in _SAMPLING_FIELDS & values.keys()}
    if sampling:
        fields["sampling"] = build(Sampling, sampling, path="sampling.")
    return build(GenerateRequest, {"model": model, **fields, **values})


def count_request(
    model: str, options: InputOptions, *, return_token_ids: bool
) -> CountTokensRequest:
    """Builds the request for a token count. Raises InvalidArgument like `generate_request`."""
    values: dict[str, Any] = {**options}
    fields = {**_input_fields(values), **chat_fields(values)}
    fields["return_token_ids"] = return_token_ids
    return build(CountTokensRequest, {"model": model, **fields, **values})


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
        return {"tokens": build(TokenInput, {"token_ids": value})}
    return {"prompt": value}


def _turns(messages: Sequence[Message]) -> list[ChatMessage]:
    return [_turn(index, message) for index, message in enumerate(messages)]


def _turn(index: int, message: Message) -> ChatMessage:
    path = f"chat.messages[{index}]"
    fields = _message_fields(message, path)
    role = fields["role"]
    if not isinstance(role, str) or role not in _ROLES:
        known = ", ".join(_ROLES)
        raise InvalidArgument(f"{path}.role must be one of {known}", field=f"{path}.role")
    return build(ChatMessage, {**fields, "role": _ROLES[role]}, path=f"{path}.")


def _message_fields(message: Message, path: str) -> dict[str, Any]:
    try:
        if not isinstance(message, Mapping):
            role, content = message
            return {"role": role, "content": content}
        fields = {"role": message["role"], **message}
        calls = fields.get("tool_calls") or ()
        # The model's message may be nothing but calls.
        content = fields.pop("content", None) if calls else fields.pop("content")
    except (KeyError, TypeError, ValueError):
        problem = "must be (role, content) or have the keys role and content"
        raise InvalidArgument(f"{path} {problem}", field=path) from None
    if isinstance(content, list):
        fields["parts"] = [
            _part(part, f"{path}.content[{at}]")
            for at, part in enumerate(cast("list[Any]", content))
        ]
    elif content is not None:
        fields["content"] = content
    if "tool_calls" in fields:
        fields["tool_calls"] = [
            tool_call(call, f"{path}.tool_calls[{at}]") for at, call in enumerate(calls)
        ]
    return fields


def _part(part: Any, path: str) -> ContentPart:
    """Raises: InvalidArgument, OSError for a file that cannot be read."""
    if isinstance(part, Path):
        part = part.read_bytes()
    if isinstance(part, bytes):
        return ContentPart(image=build(Image, {"data": part}, path=f"{path}."))
    return build(ContentPart, {"text": part}, path=f"{path}.")
