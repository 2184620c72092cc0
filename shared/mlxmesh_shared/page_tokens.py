"""Page tokens: the position of the last entry of a page."""

import base64
import json
from collections.abc import Sequence
from typing import Any, cast

from mlxmesh_shared.errors import InvalidArgument

Position = tuple[str | int, ...]
_KIND = "after"
_MAX_NUMBER = 2**63


def to_page_token(position: Sequence[str | int]) -> str:
    """The token of the page that starts after a position."""
    return base64.urlsafe_b64encode(json.dumps([_KIND, *position]).encode()).decode()


def from_page_token(token: str, first: Position) -> Position:
    """The position after which a page starts; `first` for an empty token.

    first: also says of which types the position is.
    Raises: InvalidArgument for a token that no response contained.
    """
    if not token:
        return first
    position = _decoded(token)
    types = [type(one) for one in first]
    if [type(one) for one in position] != types or not all(map(_is_storable, position)):
        raise InvalidArgument(
            "page_token must be next_page_token of an earlier response", field="page_token"
        )
    return position


def _decoded(token: str) -> Position:
    """What a token contains; nothing for one that is none of ours."""
    try:
        found: Any = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        return ()
    is_ours = isinstance(found, list) and found[:1] == [_KIND]
    return tuple(cast("list[Any]", found)[1:]) if is_ours else ()


def _is_storable(value: str | int) -> bool:
    """Whether a database can compare with it."""
    return "\0" not in value if isinstance(value, str) else abs(value) < _MAX_NUMBER
