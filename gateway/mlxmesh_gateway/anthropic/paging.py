"""Pages of a list, as Anthropic's API has them. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

from mlxmesh_shared.errors import InvalidArgument

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000
KNOWN = frozenset({"limit", "before_id", "after_id", "lifecycle", "lifecycle[]", "beta"})
"""The parameters that a list has."""
_ACTIVE = "active"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which page of a list is wanted."""

    limit: int = DEFAULT_LIMIT
    before_id: str | None = None
    after_id: str | None = None
    active: bool = True
    """Whether models in use are wanted; the mesh has no others."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page; has_more: in the direction of the query."""

    ids: Sequence[str]
    has_more: bool


def read_query(encoded: bytes) -> tuple[Query, list[str]]:
    """The query, and the names of unknown parameters. Raises: InvalidArgument."""
    text = encoded.decode("latin-1")
    try:
        values = parse_qs(text, keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise InvalidArgument("there are too many parameters", field="limit") from None
    before_id, after_id = _last(values, "before_id"), _last(values, "after_id")
    if before_id is not None and after_id is not None:
        raise InvalidArgument("before_id cannot be combined with after_id", field="before_id")
    stages = [*values.get("lifecycle", ()), *values.get("lifecycle[]", ())]
    query = Query(
        limit=_limit(_last(values, "limit")),
        before_id=before_id,
        after_id=after_id,
        active=not stages or _ACTIVE in stages,
    )
    return query, sorted(values.keys() - KNOWN)


def page_of(ids: Sequence[str], query: Query) -> Page:
    """The page of a sorted list; an id that is no longer in the list still has its place."""
    if not query.active:
        return Page([], has_more=False)
    if query.before_id is not None:
        end = bisect_left(ids, query.before_id)
        start = max(0, end - query.limit)
        return Page(ids[start:end], has_more=start > 0)
    start = bisect_right(ids, query.after_id) if query.after_id is not None else 0
    end = start + query.limit
    return Page(ids[start:end], has_more=end < len(ids))


def _last(values: Mapping[str, Sequence[str]], name: str) -> str | None:
    return values[name][-1] if name in values else None


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise InvalidArgument(f"limit must be a whole number from 1 to {MAX_LIMIT}", field="limit")
