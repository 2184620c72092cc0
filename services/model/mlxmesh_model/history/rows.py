"""Periods in the database; each statement runs in its caller's transaction."""

from collections.abc import Sequence

from mlxmesh_model.history.periods import DAY_S, HOUR_S, Amounts, PeriodKey, Sums, TimeRange
from mlxmesh_shared.sql.database import Row, Session
from mlxmesh_shared.sql.statements import upsert
from mlxmesh_shared.telemetry import histograms

_KEY = ("model", "version", "length_s", "start_s")
_COUNTS = (
    *("requests", "errors", "refused", "cancelled"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "device_us", "cost"),
)
_HISTOGRAMS = ("ttft", "tpot")
_PUT = upsert("history", (*_KEY, *_COUNTS, *_HISTOGRAMS), _KEY)
_ONE = "SELECT * FROM history WHERE model = $1 AND version = $2 AND length_s = $3 AND start_s = $4"
_DURING = "SELECT * FROM history WHERE model = $1 AND start_s < $2 AND start_s + length_s > $3"
_OLDEST = "SELECT * FROM history WHERE length_s = $1 AND start_s < $2 ORDER BY start_s LIMIT $3"
_DELETE = "DELETE FROM history WHERE model = $1 AND version = $2 AND length_s = $3 AND start_s = $4"


async def add(session: Session, sums: Sums) -> None:
    """Adds amounts to those that are there; no other transaction may write meanwhile."""
    for key, amounts in sums.items():
        for row in await session.fetch(_ONE, *key):
            amounts.add(_from_row(row))
        counts = [getattr(amounts, column) for column in _COUNTS]
        stored = [histograms.encoded(getattr(amounts, column)) for column in _HISTOGRAMS]
        await session.fetch(_PUT, *key, *counts, *stored)


async def read(
    session: Session, model: str, versions: Sequence[int], during: TimeRange, *, limit: int
) -> Sums:
    """The stored periods that a range touches, at most `limit`; no versions stand for all."""
    numbers = ", ".join(f"${index}" for index in range(5, 5 + len(versions)))
    only = f" AND version IN ({numbers})" if versions else ""
    statement = f"{_DURING}{only} ORDER BY start_s, version LIMIT $4"
    values = (model, int(during.end_s), int(during.start_s), limit, *versions)
    return _sums(await session.fetch(statement, *values))


async def is_known(session: Session, model: str, versions: Sequence[int]) -> bool:
    """Whether there is any period of a model, or of one of these versions."""
    endless = TimeRange(-(2**60), 2**60)
    return bool(await read(session, model, versions, endless, limit=1))


async def take_oldest_hours(session: Session, *, before_s: int, limit: int) -> Sums:
    """Removes and returns hours that began earlier, at most `limit`."""
    sums = _sums(await session.fetch(_OLDEST, HOUR_S, before_s, limit))
    for key in sums:
        await session.fetch(_DELETE, *key)
    return sums


async def prune_days(session: Session, *, before_s: int) -> None:
    """Removes days that began earlier."""
    await session.fetch("DELETE FROM history WHERE length_s = $1 AND start_s < $2", DAY_S, before_s)


def _sums(rows: Sequence[Row]) -> Sums:
    return {PeriodKey(*(row[column] for column in _KEY)): _from_row(row) for row in rows}


def _from_row(row: Row) -> Amounts:
    counts = {column: row[column] for column in _COUNTS}
    ttft, tpot = (histograms.decoded(row[column]) for column in _HISTOGRAMS)
    return Amounts(**counts, ttft=ttft, tpot=tpot)
