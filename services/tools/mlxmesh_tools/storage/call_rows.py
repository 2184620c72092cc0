"""Records of calls in the database; each statement runs in its caller's transaction."""

from collections.abc import Sequence
from dataclasses import asdict

from mlxmesh_shared.sql.database import Row, Session, Value
from mlxmesh_tools.domain.models import CallRecord, FailureFacts

MAX_RECORDS = 1_000_000
_COLUMNS = (
    *("call_id", "time_ms", "principal", "server", "tool", "approved", "arguments_bytes"),
    *("arguments_sha256", "request_id", "result_bytes", "result_sha256", "duration_ms"),
    *("is_error", "failure_code", "failure_reason", "failure_message"),
)
_ADD = (
    f"INSERT INTO calls ({', '.join(_COLUMNS)})"  # noqa: S608  names of ours
    f" VALUES ({', '.join(f'${number}' for number in range(1, len(_COLUMNS) + 1))})"
)


async def add(session: Session, record: CallRecord) -> None:
    """Stores a record."""
    values: dict[str, Value] = asdict(record)
    failure = record.failure or FailureFacts(code=0, reason="", message="")
    values |= {
        "approved": int(record.approved),
        "is_error": int(record.is_error),
        "failure_code": failure.code,
        "failure_reason": failure.reason,
        "failure_message": failure.message,
    }
    await session.fetch(_ADD, *(values[column] for column in _COLUMNS))


async def list_before(
    session: Session, *, principal: str, server: str, before: tuple[int, str], limit: int
) -> Sequence[CallRecord]:
    """The newest records before a time and id, the newest first.

    principal, server: empty for all.
    """
    wanted = {"principal": principal, "server": server}
    wanted = {column: value for column, value in wanted.items() if value}
    # Only these are in the statement, so that it can use an index.
    conditions = "".join(f" AND {column} = ${at}" for at, column in enumerate(wanted, 3))
    statement = (
        f"SELECT * FROM calls WHERE (time_ms, call_id) < ($1, $2){conditions}"  # noqa: S608
        f" ORDER BY time_ms DESC, call_id DESC LIMIT ${len(wanted) + 3}"
    )
    rows = await session.fetch(statement, *before, *wanted.values(), limit)
    return [_record(row) for row in rows]


async def prune(session: Session, *, before_ms: int) -> None:
    """Removes records that are older, and those beyond MAX_RECORDS."""
    await session.fetch("DELETE FROM calls WHERE time_ms < $1", before_ms)
    statement = "SELECT time_ms FROM calls ORDER BY time_ms DESC LIMIT 1 OFFSET $1"
    for row in await session.fetch(statement, MAX_RECORDS):
        await session.fetch("DELETE FROM calls WHERE time_ms <= $1", row["time_ms"])


def _record(row: Row) -> CallRecord:
    plain = [column for column in _COLUMNS if not column.startswith("failure_")]
    values = {column: row[column] for column in plain}
    values |= {"approved": bool(row["approved"]), "is_error": bool(row["is_error"])}
    failure = None
    if row["failure_code"]:
        failure = FailureFacts(
            code=row["failure_code"], reason=row["failure_reason"], message=row["failure_message"]
        )
    return CallRecord(**values, failure=failure)
