"""Requests for approvals in a conversation, and how the client answers them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mlxmesh_gateway.openai.responses.schema import Item
from mlxmesh_shared.errors import InvalidArgument

TOOL_ITEMS = frozenset(
    {"mcp_list_tools", "mcp_call", "mcp_approval_request", "mcp_approval_response"}
)
NOT_ANSWERED = "The user did not approve this call, so it was not made."
MAX_ID = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A call that waits for an approval."""

    request_id: str
    """Of the request for the approval."""
    call_id: str
    label: str
    name: str
    arguments: str
    """A JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is done with a call that waited for an approval."""

    call: Pending
    approve: bool
    refusal: str = NOT_ANSWERED
    """What the model is told of a call that is not made."""


def answers(items: Sequence[Item], pending: Mapping[str, Pending]) -> list[Answer]:
    """One for each request for an approval that no call in the conversation has settled.

    pending: of the previous response, by the ids of the requests.
    Raises: InvalidArgument for an answer to no request, and for two to one.
    """
    settled = {item.approval_request_id for item in items if item.type == "mcp_call"}
    asked = dict(pending)
    for number, item in enumerate(items):
        if item.type == "mcp_approval_request":
            one = _pending(item, f"input.{number}")
            if one.request_id in asked:
                raise InvalidArgument(
                    f"input.{number}.id is that of another request for an approval; one of the"
                    " previous response must not be sent again",
                    field=f"input.{number}.id",
                )
            asked[one.request_id] = one
    given: dict[str, Answer] = {}
    for number, item in enumerate(items):
        if item.type == "mcp_approval_response":
            answer = _answer(item, f"input.{number}", asked, given)
            given[answer.call.request_id] = answer
    return [
        given.get(request_id) or Answer(call=call, approve=False)
        for request_id, call in asked.items()
        if request_id not in settled
    ]


def _pending(item: Item, field: str) -> Pending:
    own_id = item_id_of(item, field)
    label, name = read_tool(item, field)
    return Pending(
        request_id=own_id, call_id=own_id, label=label, name=name, arguments=item.arguments or "{}"
    )


def _answer(
    item: Item, field: str, asked: Mapping[str, Pending], given: Mapping[str, Answer]
) -> Answer:
    request_id = item.approval_request_id
    if request_id is None or request_id not in asked or request_id in given:
        raise InvalidArgument(
            f"{field}.approval_request_id must name a request for an approval, once: one of the"
            " previous response or of the input",
            field=f"{field}.approval_request_id",
        )
    if item.approve is None:
        raise InvalidArgument(f"{field}.approve is required", field=f"{field}.approve")
    why = f" The reason: {item.reason}" if item.reason else ""
    refusal = f"The user did not approve this call, so it was not made.{why}"
    return Answer(call=asked[request_id], approve=item.approve, refusal=refusal)


def read_tool(item: Item, field: str) -> tuple[str, str]:
    """The label of the server and the name of the tool of an item. Raises: InvalidArgument."""
    for key, value in (("server_label", item.server_label), ("name", item.name)):
        if not value:
            raise InvalidArgument(f"{field}.{key} is required", field=f"{field}.{key}")
    return item.server_label or "", item.name or ""


def item_id_of(item: Item, field: str) -> str:
    """Raises: InvalidArgument."""
    if not item.id or len(item.id) > MAX_ID:
        raise InvalidArgument(
            f"{field}.id is required, with at most {MAX_ID} characters", field=f"{field}.id"
        )
    return item.id


def result_text(item: Item) -> str:
    """What a call in the conversation returned."""
    if item.output is not None:
        return "".join(part.text or "" for part in item.output)
    error = item.error
    if isinstance(error, dict):
        message = cast("dict[str, Any]", error).get("message")
        if isinstance(message, str):
            return message
    return "The call failed."
