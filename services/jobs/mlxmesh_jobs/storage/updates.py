"""News of attempts: stored if the session that sends it holds the attempt."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mlxmesh_jobs.domain.jobs import (
    AttemptId,
    BackEndState,
    Completed,
    Failed,
    Outputs,
    Progress,
    Stopped,
    Update,
)
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.storage import moves
from mlxmesh_jobs.storage.details import encode_progress
from mlxmesh_jobs.storage.moves import EndedRecord
from mlxmesh_jobs.storage.records import Record
from mlxmesh_jobs.storage.rows import select
from mlxmesh_jobs.storage.work import Work
from mlxmesh_shared.errors import InvalidArgument, MeshError


@dataclass(frozen=True)
class SessionUpdates:
    """What a session sends."""

    session: int
    updates: Sequence[Update]


@dataclass(frozen=True)
class AppliedRecords:
    """As Applied."""

    fenced: list[AttemptId] = field(default_factory=list[AttemptId])
    ended: list[EndedRecord] = field(default_factory=list[EndedRecord])


async def apply(work: Work, wanted: Sequence[SessionUpdates]) -> list[AppliedRecords | MeshError]:
    """Stores the news of each session, all or none."""
    records = await work.by_ids(update.id.job_id for one in wanted for update in one.updates)
    living = await _living(work, sorted({one.session for one in wanted}))
    return [await _apply(work, one, records, one.session in living) for one in wanted]


async def _living(work: Work, sessions: Sequence[int]) -> set[int]:
    sql = "SELECT key FROM sessions WHERE ended_ms = 0 AND key IN ({wanted})"
    return {row["key"] for row in await select(work.session, sql, sessions)}


async def _apply(
    work: Work, wanted: SessionUpdates, records: dict[str, Record], lives: bool
) -> AppliedRecords | MeshError:
    applied = AppliedRecords()
    try:
        _check_numbers(wanted, records)
    except InvalidArgument as error:
        return error
    for update in wanted.updates:
        record = records.get(update.id.job_id)
        if record is None or not lives or not _holds(wanted.session, update.id, record):
            applied.fenced.append(update.id)
            continue
        ended = await _store(work, record, update)
        if ended is not None:
            applied.ended.append(ended)
    return AppliedRecords(list(dict.fromkeys(applied.fenced)), applied.ended)


def _holds(session: int, id_: AttemptId, record: Record) -> bool:
    held = State(record.state).held and record.session == session
    return held and record.attempt == id_.attempt


async def _store(work: Work, record: Record, update: Update) -> EndedRecord | None:
    match update.news:
        case Completed() as news:
            return moves.complete(work, record, news)
        case Failed() as news:
            return moves.fail(work, record, news)
        case Stopped():
            return moves.stop(work, record)
        case Progress() as news:
            record.progress = encode_progress(news)
            work.touch(record)
        case Outputs() as news:
            await _store_outputs(work, record, news)
        case BackEndState(state):
            await work.put_resumption(record, "back_end_state", state)
            work.touch(record)
    return None


async def _store_outputs(work: Work, record: Record, news: Outputs) -> None:
    new = news.messages[max(0, record.outputs + 1 - news.first) :]
    for message in new:
        work.add_output(record, message)
    if new and news.position:
        await work.put_resumption(record, "position", news.position)


def _check_numbers(wanted: SessionUpdates, records: dict[str, Record]) -> None:
    """Raises: InvalidArgument for messages that are not the next ones of their stream."""
    outputs: dict[str, int] = {}
    for update in wanted.updates:
        record = records.get(update.id.job_id)
        if not isinstance(update.news, Outputs) or record is None:
            continue
        if not _holds(wanted.session, update.id, record):
            continue
        stored = outputs.get(record.job_id, record.outputs)
        if update.news.first > stored + 1:
            raise InvalidArgument(
                f"{record.job_id} has {stored} messages; the next one cannot be number"
                f" {update.news.first}",
                field="updates.outputs.first",
            )
        last = update.news.first + len(update.news.messages) - 1
        outputs[record.job_id] = max(stored, last)
