"""Lists and their parameters as OpenAI's API has them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlxmesh_gateway.openai.responses.ids import whole_number
from mlxmesh_shared.errors import InvalidArgument

JsonObject = dict[str, object]


def read_limit(query: Mapping[str, str], *, most: int, default: int) -> int:
    """How many are wanted. Raises: InvalidArgument."""
    limit = whole_number(query.get("limit", str(default)), "limit")
    if not 1 <= limit <= most:
        raise InvalidArgument(f"limit must be from 1 to {most}", field="limit")
    return limit


def read_order(query: Mapping[str, str]) -> str:
    """In which order. Raises: InvalidArgument."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidArgument("order must be asc or desc", field="order")
    return order


def list_object(data: Sequence[JsonObject], *, has_more: bool) -> JsonObject:
    """One page of a list."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
