"""Quotas and their use in the database; each statement runs in its caller's transaction."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mlxmesh_access.quotas.models import LimitId, LimitKind, Limits, Subject, SubjectKind
from mlxmesh_access.quotas.slices import Slice, Spending
from mlxmesh_shared.sql.database import Row, Session, Value
from mlxmesh_shared.sql.statements import upsert, value_rows

_LIMITS = tuple(kind.value for kind in LimitKind)
_SUBJECT = ("subject_kind", "subject")
_LIMIT_ID = (*_SUBJECT, "limit_kind")
_WINDOW = (*_LIMIT_ID, "starts_ms", "spent")
_SLICE_ID = (*_LIMIT_ID, "gateway_id")
_SLICE = (*_SLICE_ID, "starts_ms", "held", "wanted", "valid_until_ms")
_PUT = upsert("quotas", (*_SUBJECT, *_LIMITS), _SUBJECT)
_ROWS_PER_STATEMENT = 1000
"""SQLite takes at most 32,766 values in a statement."""


async def find_limits(session: Session, subjects: Iterable[Subject]) -> dict[Subject, Limits]:
    """The limits of those of the subjects that have a quota."""
    rows = await _of_subjects(session, "quotas", subjects)
    return {_subject(row): _limits(row) for row in rows}


async def list_limits(
    session: Session, *, after: tuple[str, str] = ("", ""), limit: int
) -> list[tuple[Subject, Limits]]:
    """All quotas after one, by kind and name of their subject."""
    find = (
        "SELECT * FROM quotas WHERE (subject_kind, subject) > ($1, $2)"
        " ORDER BY subject_kind, subject LIMIT $3"
    )
    rows = await session.fetch(find, *after, limit)
    return [(_subject(row), _limits(row)) for row in rows]


async def put_limits(session: Session, subject: Subject, limits: Limits) -> None:
    """Sets a subject's quota."""
    values = [limits.of(kind) for kind in LimitKind]
    await session.fetch(_PUT, subject.kind.value, subject.name, *values)


async def delete_limits(session: Session, subject: Subject) -> bool:
    """Removes a subject's quota, and what is known of its use; False if there is none."""
    delete = "DELETE FROM quotas WHERE subject_kind = $1 AND subject = $2 RETURNING subject"
    return bool(await session.fetch(delete, subject.kind.value, subject.name))


async def find_spending(session: Session, subjects: Iterable[Subject]) -> dict[LimitId, Spending]:
    """What is known of the use of the subjects' limits."""
    chosen = list(subjects)
    windows = await _of_subjects(session, "quota_windows", chosen)
    slices: defaultdict[LimitId, dict[str, Slice]] = defaultdict(dict)
    for row in await _of_subjects(session, "quota_slices", chosen):
        held = Slice(row["starts_ms"], row["held"], row["wanted"], row["valid_until_ms"])
        slices[_limit_id(row)][row["gateway_id"]] = held
    found = {
        _limit_id(row): Spending(row["starts_ms"], row["spent"], slices.pop(_limit_id(row), {}))
        for row in windows
    }
    return found | {limit_id: Spending(slices=held) for limit_id, held in slices.items()}


async def put_spending(
    session: Session,
    gateway_id: str,
    before: Mapping[LimitId, Spending],
    after: Mapping[LimitId, Spending],
) -> None:
    """Stores what a request of a gateway has changed."""
    windows: list[Sequence[Value]] = []
    held: list[Sequence[Value]] = []
    for limit_id, spending in after.items():
        key = _values(limit_id)
        windows.append((*key, spending.starts_ms, spending.spent))
        slice_ = spending.slices.get(gateway_id)
        if slice_ is not None:
            expiry = (slice_.wanted, slice_.valid_until_ms)
            held.append((*key, gateway_id, slice_.starts_ms, slice_.held, *expiry))
    await _put_all(session, "quota_windows", _WINDOW, _LIMIT_ID, windows)
    await _put_all(session, "quota_slices", _SLICE, _SLICE_ID, held)
    for limit_id, spending in after.items():
        had = limit_id in before and gateway_id in before[limit_id].slices
        if had and gateway_id not in spending.slices:
            delete = (
                "DELETE FROM quota_slices WHERE subject_kind = $1 AND subject = $2"
                " AND limit_kind = $3 AND gateway_id = $4"
            )
            await session.fetch(delete, *_values(limit_id), gateway_id)


async def prune_slices(session: Session, *, before_ms: int) -> None:
    """Removes slices that ended before, of gateways that never asked again."""
    await session.fetch("DELETE FROM quota_slices WHERE valid_until_ms < $1", before_ms)


async def _put_all(
    session: Session,
    table: str,
    columns: Sequence[str],
    key: Sequence[str],
    rows: Sequence[Sequence[Value]],
) -> None:
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        part = rows[start : start + _ROWS_PER_STATEMENT]
        values = [value for row in part for value in row]
        await session.fetch(upsert(table, columns, key, rows=len(part)), *values)


async def _of_subjects(session: Session, table: str, subjects: Iterable[Subject]) -> Sequence[Row]:
    chosen = sorted(set(subjects))
    found: list[Row] = []
    for start in range(0, len(chosen), _ROWS_PER_STATEMENT):
        part = chosen[start : start + _ROWS_PER_STATEMENT]
        values = [value for each in part for value in (each.kind.value, each.name)]
        pairs = value_rows(len(part), 2)
        found += await session.fetch(
            f"SELECT * FROM {table} WHERE (subject_kind, subject) IN (VALUES {pairs})",  # noqa: S608
            *values,
        )
    return found


def _values(limit_id: LimitId) -> tuple[str, str, str]:
    return limit_id.subject.kind.value, limit_id.subject.name, limit_id.kind.value


def _subject(row: Row) -> Subject:
    return Subject(SubjectKind(row["subject_kind"]), row["subject"])


def _limit_id(row: Row) -> LimitId:
    return LimitId(_subject(row), LimitKind(row["limit_kind"]))


def _limits(row: Row) -> Limits:
    return Limits(**{name: row[name] for name in _LIMITS})
