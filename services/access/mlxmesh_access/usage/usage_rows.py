"""Usage in the database; each statement runs in its caller's transaction."""

import itertools
from collections.abc import Mapping, Sequence

from mlxmesh_access.clock import DAY_MS
from mlxmesh_access.usage.models import AMOUNTS, Amounts, Group, UsageKey, UsageQuery, UsageSum
from mlxmesh_shared.sql.database import Row, Session, Value
from mlxmesh_shared.sql.statements import upsert

_KEY = ("principal", "key_id", "user_name", "team", "model", "model_version", "hour_ms")
_COLUMNS = (*_KEY, *AMOUNTS)
_ROWS_PER_STATEMENT = 1000
_COLUMNS_OF: Mapping[Group, Sequence[str]] = {
    Group.KEY: ("key_id", "user_name"),
    Group.USER: ("user_name",),
    Group.TEAM: ("team",),
    Group.MODEL: ("model", "model_version"),
    Group.HOUR: ("hour_ms",),
    Group.DAY: ("day_ms",),
}
_DAY = f"hour_ms - hour_ms % {DAY_MS} AS day_ms"
_PERIOD = "hour_ms >= $1 AND hour_ms < $2"
_BATCH = (
    "INSERT INTO usage_batches (batch_id, recorded_ms) VALUES ($1, $2)"
    " ON CONFLICT (batch_id) DO NOTHING RETURNING batch_id"
)


async def begin_batch(session: Session, batch_id: str, now_ms: int) -> bool:
    """Notes that a batch is recorded; False if it was noted before."""
    return bool(await session.fetch(_BATCH, batch_id, now_ms))


async def add_usage(session: Session, usage: Mapping[UsageKey, Amounts]) -> None:
    """Adds amounts to those that are there."""
    rows = [_values(key, amounts) for key, amounts in usage.items()]
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        part = rows[start : start + _ROWS_PER_STATEMENT]
        statement = upsert("usage", _COLUMNS, _KEY, rows=len(part), add=AMOUNTS)
        await session.fetch(statement, *(value for row in part for value in row))


async def sum_usage(
    session: Session, query: UsageQuery, *, after: Sequence[str | int], limit: int
) -> list[UsageSum]:
    """The sums after a position, in the order of what they are summed by."""
    columns = columns_of(query.groups)
    filters = _filters(query)
    statement = _statement(columns, list(filters), is_first=not after)
    values = (query.from_ms, query.to_ms, *filters.values(), *after, limit)
    return [_sum(row, columns) for row in await session.fetch(statement, *values)]


def columns_of(groups: Sequence[Group]) -> tuple[str, ...]:
    """The columns that usage is summed by, each once, in their order."""
    return tuple(dict.fromkeys(column for group in groups for column in _COLUMNS_OF[group]))


async def prune_usage(session: Session, *, before_ms: int) -> None:
    """Removes usage of earlier hours."""
    await session.fetch("DELETE FROM usage WHERE hour_ms < $1", before_ms)


async def prune_batches(session: Session, *, before_ms: int) -> None:
    """Forgets batches that were recorded before; they would count again if they were repeated."""
    await session.fetch("DELETE FROM usage_batches WHERE recorded_ms < $1", before_ms)


def _filters(query: UsageQuery) -> dict[str, str]:
    """The columns that must have a value. Only these are in the statement, so that it can use the
    index of users.
    """
    columns = {
        "principal": query.principal,
        "user_name": query.user,
        "key_id": query.key_id,
        "model": query.model,
    }
    return {column: value for column, value in columns.items() if value}


def _statement(columns: Sequence[str], filters: Sequence[str], *, is_first: bool) -> str:
    next_number = itertools.count(3)
    conditions = "".join(f" AND {column} = ${next(next_number)}" for column in filters)
    names = ", ".join(columns)
    position = "" if is_first else ", ".join(f"${next(next_number)}" for _ in columns)
    sums = ", ".join(f"sum({name}) AS {name}" for name in AMOUNTS)
    shown = f"{names}, " if columns else ""
    grouped = f" GROUP BY {names}" if columns else ""
    after = f" WHERE ({names}) > ({position})" if position else ""
    order = f" ORDER BY {names}" if columns else ""
    return (
        f"SELECT * FROM (SELECT {shown}{sums}"  # noqa: S608  names of ours
        f" FROM (SELECT *, {_DAY} FROM usage WHERE {_PERIOD}{conditions}) AS chosen{grouped})"
        f" AS sums{after}{order} LIMIT ${next(next_number)}"
    )


def _sum(row: Row, columns: Sequence[str]) -> UsageSum:
    found: dict[str, str | int] = {column: row[column] for column in columns}
    position = tuple(found.values())
    user = found.pop("user_name", "")
    day_ms = found.pop("day_ms", 0)
    key = UsageKey(**{"user": user, "hour_ms": day_ms, **found})  # pyright: ignore[reportArgumentType]
    # A total of nothing has no sums.
    amounts = Amounts(**{name: int(row[name] or 0) for name in AMOUNTS})
    return UsageSum(key, amounts, position)


def _values(key: UsageKey, amounts: Amounts) -> tuple[Value, ...]:
    who = (key.principal, key.key_id, key.user, key.team)
    what = (key.model, key.model_version, key.hour_ms)
    return (*who, *what, *(getattr(amounts, name) for name in AMOUNTS))
