"""Usage in the database; each statement runs in its caller's transaction."""

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
# A filter that is empty restricts nothing.
_FILTERS = (
    "hour_ms >= $1 AND hour_ms < $2 AND ($3 = '' OR principal = $3) AND ($4 = '' OR user_name = $4)"
    " AND ($5 = '' OR key_id = $5) AND ($6 = '' OR model = $6)"
)
_FIRST_POSITION = 7
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
    filters = (query.principal, query.user, query.key_id, query.model)
    values = (query.from_ms, query.to_ms, *filters, *after, limit)
    rows = await session.fetch(_statement(columns, is_first=not after), *values)
    return [_sum(row, columns) for row in rows]


def columns_of(groups: Sequence[Group]) -> tuple[str, ...]:
    """The columns that usage is summed by, each once, in their order."""
    return tuple(dict.fromkeys(column for group in groups for column in _COLUMNS_OF[group]))


async def prune_usage(session: Session, *, before_ms: int) -> None:
    """Removes usage of earlier hours."""
    await session.fetch("DELETE FROM usage WHERE hour_ms < $1", before_ms)


async def prune_batches(session: Session, *, before_ms: int) -> None:
    """Forgets batches that were recorded before; they would count again if they were repeated."""
    await session.fetch("DELETE FROM usage_batches WHERE recorded_ms < $1", before_ms)


def _statement(columns: Sequence[str], *, is_first: bool) -> str:
    names = ", ".join(columns)
    sums = ", ".join(f"sum({name}) AS {name}" for name in AMOUNTS)
    shown = f"{names}, " if columns else ""
    grouped = f" GROUP BY {names}" if columns else ""
    numbers = range(_FIRST_POSITION, _FIRST_POSITION + len(columns))
    position = ", ".join(f"${number}" for number in numbers)
    after = "" if is_first else f" WHERE ({names}) > ({position})"
    order = f" ORDER BY {names}" if columns else ""
    limit = _FIRST_POSITION if is_first else _FIRST_POSITION + len(columns)
    return (
        f"SELECT * FROM (SELECT {shown}{sums}, count(*) AS records"  # noqa: S608  names of ours
        f" FROM (SELECT *, {_DAY} FROM usage WHERE {_FILTERS}) AS chosen{grouped}) AS sums"
        f"{after}{order} LIMIT ${limit}"
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
