"""The changes of jobs in one transaction: collected in memory, written with few statements."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from copy import copy

from mlxmesh_jobs.domain.jobs import NewJob, Used
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.storage import batch_rows
from mlxmesh_jobs.storage.details import encode_details, encode_owner
from mlxmesh_jobs.storage.lanes import COUNTED_AS, Counts, LaneKey, add_counts, put_lanes
from mlxmesh_jobs.storage.records import (
    CHANGING,
    COLUMNS,
    FROM,
    SELECT,
    Record,
    changing_values,
    record_of,
    values_of,
)
from mlxmesh_jobs.storage.rows import insert, select, update
from mlxmesh_shared.sql.database import Session, Value
from mlxmesh_shared.sql.statements import upsert

_USAGE = (
    "batch_id",
    "sent_ms",
    "owner",
    "model",
    "model_version",
    "used_ms",
    "failed",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "device_ms",
)
_ATTEMPT = ("job_key", "attempt", "worker_id", "started_ms", "ended_ms", "failure", "recovery")


class Work:
    """Reads jobs once, and writes those that changed when it is flushed."""

    def __init__(self, session: Session, now_ms: int) -> None:
        self.session = session
        self.now_ms = now_ms
        self.changed = False
        self._change = 0
        self._records: dict[int, Record] = {}
        self._stored: dict[int, State] = {}
        self._new: list[tuple[Record, NewJob]] = []
        self._touched: dict[int, Record] = {}
        self._rows: defaultdict[str, list[Sequence[Value]]] = defaultdict(list)
        self._batches: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._cancelled_batches: list[int] = []
        self._served: dict[int, int] = {}
        """By lane."""

    # Reading.

    async def by_ids(self, job_ids: Iterable[str]) -> dict[str, Record]:
        """Those of the jobs that exist."""
        wanted = sorted(set(job_ids))
        rows = await select(self.session, f"{SELECT}{FROM} WHERE j.job_id IN ({{wanted}})", wanted)
        return {record.job_id: record for record in map(self._known, map(record_of, rows))}

    async def where(self, condition: str, *values: Value) -> list[Record]:
        """The jobs that a condition selects, as they were stored last."""
        rows = await self.session.fetch(f"{SELECT}{FROM} WHERE {condition}", *values)
        return [self._known(record_of(row)) for row in rows]

    def add(self, record: Record) -> Record:
        """A record that the caller read, or the one that is known already."""
        return self._known(record)

    def _known(self, record: Record) -> Record:
        known = self._records.setdefault(record.key, record)
        self._stored.setdefault(record.key, State(record.state))
        return known

    # Changing.

    async def next_change(self) -> int:
        """The number of this transaction, which others notice; grows."""
        if not self._change:
            sql = "UPDATE counters SET value = value + 1 WHERE name = 'change' RETURNING value"
            [row] = await self.session.fetch(sql)
            self._change = row["value"]
        return self._change

    async def new_keys(self, count: int) -> range:
        """Keys for new jobs."""
        sql = "UPDATE counters SET value = value + $1 WHERE name = 'key' RETURNING value"
        [row] = await self.session.fetch(sql, count)
        return range(row["value"] - count + 1, row["value"] + 1)

    def insert(self, record: Record, job: NewJob) -> None:
        """Adds a new job."""
        self.changed = True
        self._new.append((record, job))

    def touch(self, record: Record) -> None:
        """Stores what was changed in a record, as one more change of its job."""
        self.changed = True
        record.sequence += 1
        self._touched[record.key] = record

    def add_attempt(self, record: Record, failure: str, recovery: str) -> None:
        """The attempt of a record has ended."""
        self._rows["job_attempts"].append(
            (
                record.key,
                record.attempt,
                record.worker_id,
                record.attempt_ms,
                self.now_ms,
                failure,
                recovery,
            )
        )

    def add_result(self, record: Record, result: bytes) -> None:
        """The result of a job."""
        self._rows["job_results"].append((record.key, result))

    def add_output(self, record: Record, message: bytes) -> None:
        """The next message of a job's stream."""
        self.touch(record)
        record.outputs += 1
        self._rows["job_outputs"].append((record.key, record.sequence, message))

    def add_usage(self, record: Record, used: Used, *, failed: bool) -> None:
        """What an attempt used."""
        self._rows["usage_outbox"].append(
            (
                "",
                0,
                encode_owner(record.details.owner),
                used.model,
                used.model_version,
                self.now_ms,
                int(failed),
                used.prompt_tokens,
                used.cached_tokens,
                used.completion_tokens,
                used.device_ms,
            )
        )

    def count(self, batch_key: int, **counts: int) -> None:
        """Adds to the counts of a batch."""
        self._batches[batch_key].update(counts)

    def serve(self, lanes: Iterable[int], change: int) -> None:
        """A claim took jobs of lanes: others come first the next time."""
        self._served.update(dict.fromkeys(lanes, change))

    def cancel_requests(self, batch_key: int) -> None:
        """Cancels the requests of a batch."""
        self._cancelled_batches.append(batch_key)

    # Writing.

    async def flush(self) -> None:
        """Writes the changes; records that were read before are not to be changed any more."""
        await self._put_lanes()
        change = await self._mark_changed()
        await self._put_new()
        rows = [(record.key, *changing_values(record)) for record in self._touched.values()]
        await update(self.session, "jobs", {"key": "BIGINT", **CHANGING}, rows)
        for table, columns in _TABLES.items():
            ending = _REPLACES.get(table, "")
            await insert(self.session, table, columns, self._rows[table], ending)
        await batch_rows.add_counts(self.session, self._batches, change)
        for key in self._cancelled_batches:
            await batch_rows.cancel_requests(self.session, key, self.now_ms, change)
        for part in (self._records, self._stored, self._new, self._touched, self._rows):
            part.clear()
        self._batches.clear()
        self._served.clear()
        self._cancelled_batches.clear()

    async def put_resumption(self, record: Record, column: str, value: Value) -> None:
        """What a later attempt needs; of the columns `position` and `back_end_state`, one."""
        both: dict[str, Value] = {"position": b"", "back_end_state": "", column: value}
        sql = upsert("job_resumptions", ("key", *both), ("key",))
        head, _, _ = sql.partition("DO UPDATE")
        sql = f"{head} DO UPDATE SET {column} = excluded.{column}"
        await self.session.fetch(sql, record.key, *both.values())

    async def finish(self) -> bool:
        """Writes the rest; whether anything was changed."""
        await self.flush()
        if self.changed:
            await self.next_change()
        return self.changed

    async def _mark_changed(self) -> int:
        """Numbers what changes; requests of batches are watched by their batch."""
        if not (self._new or self._touched or self._batches or self._cancelled_batches):
            return 0
        change = await self.next_change()
        for record in (*self._touched.values(), *(record for record, _ in self._new)):
            record.change = 0 if record.batch_key else change
        return change

    async def _put_lanes(self) -> None:
        """Counts the jobs in their lanes, and gives those a lane that had none."""
        placed: defaultdict[LaneKey, list[Record]] = defaultdict(list)
        moved: defaultdict[int, Counts] = defaultdict(Counts)
        for record, _ in self._new:
            placed[LaneKey.of(record)].append(record)
        for record in self._touched.values():
            before = COUNTED_AS.get(self._stored[record.key])
            now = COUNTED_AS.get(State(record.state))
            if before == now:
                continue
            if before is None:
                placed[LaneKey.of(record)].append(record)
                continue
            moved[record.lane][before] -= 1
            if now is not None:
                moved[record.lane][now] += 1
        await put_lanes(self.session, placed)
        await add_counts(self.session, moved, self._served)

    async def _put_new(self) -> None:
        if not self._new:
            return
        session = self.session
        await insert(session, "jobs", COLUMNS, [values_of(record) for record, _ in self._new])
        contents = [
            (record.key, job.digest, encode_details(record.details), job.request)
            for record, job in self._new
        ]
        await insert(session, "job_contents", ("key", "digest", "details", "request"), contents)
        labels = [
            (name, value, record.key)
            for record, job in self._new
            for name, value in job.labels.items()
        ]
        await insert(session, "job_labels", ("name", "value", "job_key"), labels)
        files = [(id_, record.key) for record, job in self._new for id_ in set(job.input_files)]
        await insert(session, "job_files", ("file_id", "job_key"), files)
        batches = [record.key for record, _ in self._new if record.kind == batch_rows.BATCH]
        await batch_rows.insert_batches(session, batches)


def snapshot(record: Record) -> Record:
    """The record as it is now."""
    return copy(record)


_TABLES = {
    "job_attempts": _ATTEMPT,
    "job_results": ("key", "result"),
    "job_outputs": ("job_key", "sequence", "data"),
    "usage_outbox": _USAGE,
}
_REPLACES = {"job_results": "ON CONFLICT (key) DO UPDATE SET result = excluded.result"}
"""A batch may have a result before it ends."""
