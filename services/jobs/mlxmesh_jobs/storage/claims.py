"""Choosing the jobs that a session gets: lanes first, then the oldest jobs of each.

A claim reads as many lanes as it may take jobs, in the order of an index, and then as many jobs, by
another index: how many jobs wait makes no difference.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlxmesh_jobs.domain.jobs import AttemptId, Capability, Claim, Kind
from mlxmesh_jobs.storage import moves, queues
from mlxmesh_jobs.storage.queues import QueueRoom
from mlxmesh_jobs.storage.records import FROM, SELECT, Record, record_of
from mlxmesh_jobs.storage.rows import chunks, select
from mlxmesh_jobs.storage.work import Work
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.sql.database import Row, Session, Value

_MIN_PAGE = 64
_MAX_EXCLUDED = 200
_HEADS = f"{SELECT}, c.request{FROM}"
_NOT_BLOCKED = (
    "NOT EXISTS (SELECT 1 FROM blocked_principals AS b WHERE b.principal = lanes.principal"
)
_LIMITED_BATCHES = (
    "FROM batches AS b JOIN lanes AS l ON l.batch_key = b.key"
    " WHERE l.batch_key > 0 AND b.max_running > 0 AND l.waiting > 0"
)
_SESSIONS = (
    "SELECT key, worker_id, EXISTS (SELECT 1 FROM queues) AS has_queues,"  # noqa: S608
    f" EXISTS (SELECT 1 {_LIMITED_BATCHES}) AS has_limited_batches"
    " FROM sessions WHERE ended_ms = 0 AND key IN ({wanted})"
)
Claimed = tuple[Sequence[Claim], float | None]


@dataclass(frozen=True)
class Wanted:
    """A session's claim."""

    session: int
    capability: Capability
    limit: int


async def claim(work: Work, wanted: Sequence[Wanted]) -> list[Claimed | MeshError]:
    """Begins attempts for each session, in turn."""
    known = await _sessions(work.session, [one.session for one in wanted])
    return [await _claim(work, one, known.get(one.session)) for one in wanted]


async def _claim(work: Work, wanted: Wanted, known: Row | None) -> Claimed:
    """known: the session; None for one that has ended."""
    takes_nothing = not wanted.capability.kinds and not wanted.capability.connectors
    if known is None or wanted.limit <= 0 or takes_nothing:
        return [], None
    rooms = await queues.read_rooms(work.session, work.now_ms) if known["has_queues"] else {}
    batches = await _limited_batches(work.session) if known["has_limited_batches"] else {}
    choice = _Choice(rooms, batches, wanted, work.now_ms)
    await choice.choose(work.session)
    if not choice.chosen:
        return [], choice.wait_s
    heads = await _heads(work, choice.chosen)
    claims = await _begin(work, heads, wanted.session, known["worker_id"])
    await _store(work, choice, {record.lane for record, _ in heads})
    return claims, choice.wait_s if len(claims) < wanted.limit else None


class _Choice:
    """How many jobs to take of which lanes."""

    def __init__(
        self,
        rooms: dict[str, QueueRoom],
        batches: Mapping[int, int],
        wanted: Wanted,
        now_ms: int,
    ) -> None:
        """batches: how many of their requests may run, of those that limit it."""
        self.rooms = rooms
        self.chosen: Counter[int] = Counter()
        """By lane."""
        self.wait_s: float | None = None
        """Until a rate allows more, if that has left something out."""
        self._wanted = wanted
        self._now_ms = now_ms
        self._running: dict[tuple[str, str], int] = {}
        self._batches = batches
        self._limits = dict(wanted.capability.limits)
        """How many more jobs of a connector may be taken."""

    async def choose(self, session: Session) -> None:
        """Fills `chosen`, the lane with the highest priority and the fewest running jobs first."""
        per_principal = [
            name for name, room in self.rooms.items() if room.settings.max_running_per_principal
        ]
        self._running = await queues.running_by_principal(session, per_principal)
        size, offset = max(self._wanted.limit, _MIN_PAGE), 0
        while True:
            page = await _lanes(session, self._conditions(), size, offset)
            self._fill(page)
            if self.chosen or len(page) < size:
                return
            offset += size

    def _fill(self, lanes: Sequence[Row]) -> None:
        """Takes one job at a time, of the lane whose turn it is."""
        left = self._wanted.limit
        turns = [
            (-lane["priority"], lane["running"], lane["served"], lane["id"], lane["waiting"], index)
            for index, lane in enumerate(lanes)
        ]
        heapq.heapify(turns)
        while turns and left:
            priority, running, served, id_, waiting, index = heapq.heappop(turns)
            if not waiting or not self._may_start(lanes[index], running):
                continue
            self._take(lanes[index])
            left -= 1
            heapq.heappush(turns, (priority, running + 1, served, id_, waiting - 1, index))

    def _may_start(self, lane: Row, running: int) -> bool:
        if lane["batch_key"] and running >= self._batches.get(lane["batch_key"], running + 1):
            return False
        if self._limits.get(lane["connector"], 1) <= 0:
            return False
        room = self.rooms.get(lane["queue"])
        if room is None:
            return True
        if lane["kind"] == Kind.BATCH:
            return not room.settings.paused
        most = room.settings.max_running_per_principal
        if room.blocked or 0 < most <= self._running.get((lane["queue"], lane["principal"]), 0):
            return False
        if room.wait_s:
            self.wait_s = min(room.wait_s, self.wait_s or room.wait_s)
            return False
        return True

    def _take(self, lane: Row) -> None:
        self.chosen[lane["id"]] += 1
        if lane["connector"] in self._limits:
            self._limits[lane["connector"]] -= 1
        room = self.rooms.get(lane["queue"])
        if room is None or lane["kind"] == Kind.BATCH:
            return
        of_principal = lane["queue"], lane["principal"]
        self._running[of_principal] = self._running.get(of_principal, 0) + 1
        room.running += 1
        room.tokens -= bool(room.settings.starts_per_second)

    def _conditions(self) -> "_Conditions":
        """What the database leaves out; `_may_start` leaves out the rest."""
        conditions = _Conditions()
        capability = self._wanted.capability
        conditions.add_any(
            ("kind", [int(kind) for kind in sorted(capability.kinds - {Kind.CONNECTOR})]),
            ("connector", sorted(capability.connectors)),
        )
        if capability.queues:
            conditions.add("queue IN", sorted(capability.queues))
        paused = [name for name, room in self.rooms.items() if room.settings.paused]
        conditions.add("queue NOT IN", paused[:_MAX_EXCLUDED])
        full = [name for name, room in self.rooms.items() if room.blocked]
        conditions.add(f"kind = {int(Kind.BATCH)} OR queue NOT IN", full[:_MAX_EXCLUDED])
        conditions.add_pairs(self._at_limit()[:_MAX_EXCLUDED])
        conditions.texts.append(f"{_NOT_BLOCKED} AND b.until_ms > {conditions.bind(self._now_ms)})")
        return conditions

    def _at_limit(self) -> list[tuple[str, str]]:
        return [
            (queue, principal)
            for (queue, principal), running in self._running.items()
            if running >= self.rooms[queue].settings.max_running_per_principal
        ]


class _Conditions:
    """Conditions of a statement, and the values that are bound in them."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.values: list[Value] = []

    def bind(self, value: Value) -> str:
        """The name of a value."""
        self.values.append(value)
        return f"${len(self.values)}"

    def add(self, start: str, values: Sequence[Value]) -> None:
        """One about a list; none for an empty list."""
        if values:
            self.texts.append(f"({start} ({', '.join(map(self.bind, values))}))")

    def add_any(self, *lists: tuple[str, Sequence[Value]]) -> None:
        """One of several lists has the column's value."""
        parts = [
            f"{column} IN ({', '.join(map(self.bind, values))})"
            for column, values in lists
            if values
        ]
        self.texts.append(f"({' OR '.join(parts) or '1 = 0'})")

    def add_pairs(self, excluded: Sequence[tuple[str, str]]) -> None:
        """None of these queues and principals; a batch itself counts for no limit."""
        for queue, principal in excluded:
            names = f"queue = {self.bind(queue)} AND principal = {self.bind(principal)}"
            self.texts.append(f"(kind = {int(Kind.BATCH)} OR NOT ({names}))")


async def _sessions(session: Session, keys: Sequence[int]) -> dict[int, Row]:
    """Those of the sessions that have not ended, and which limits must be read for a claim."""
    return {row["key"]: row for row in await select(session, _SESSIONS, keys)}


async def _limited_batches(session: Session) -> dict[int, int]:
    """The batches that limit how many of their requests run."""
    rows = await session.fetch(f"SELECT b.key, b.max_running {_LIMITED_BATCHES}")
    return {row["key"]: row["max_running"] for row in rows}


async def _lanes(
    session: Session, conditions: _Conditions, limit: int, offset: int
) -> Sequence[Row]:
    sql = (
        f"SELECT * FROM lanes WHERE waiting > 0 AND {' AND '.join(conditions.texts)}"  # noqa: S608
        " ORDER BY priority DESC, running, served, id"
    )
    count = len(conditions.values)
    return await session.fetch(
        f"{sql} LIMIT ${count + 1} OFFSET ${count + 2}", *conditions.values, limit, offset
    )


async def _heads(work: Work, chosen: Counter[int]) -> list[tuple[Record, bytes]]:
    """The oldest jobs of lanes; those whose deadline has passed are left to `expire`."""
    found: list[tuple[Record, bytes]] = []
    for part in chunks(list(chosen.items())):
        numbers = range(2, 2 + 2 * len(part), 2)
        selects = " UNION ALL ".join(map(_select_heads, numbers))
        values = [value for pair in part for value in pair]
        for row in await work.session.fetch(selects, work.now_ms, *values):
            found.append((work.add(record_of(row)), row["request"]))
    return found


def _select_heads(number: int) -> str:
    # By the lane too: no other index has this order.
    return (
        f"SELECT * FROM ({_HEADS} WHERE j.lane = ${number} AND j.state = 2"  # noqa: S608
        " AND (j.deadline_ms = 0 OR j.deadline_ms > $1)"
        f" ORDER BY j.lane, j.key LIMIT ${number + 1}) AS heads_{number}"
    )


async def _begin(
    work: Work, heads: Sequence[tuple[Record, bytes]], session: int, worker_id: str
) -> list[Claim]:
    for record, _ in heads:
        moves.claim(work, record, session, worker_id)
    earlier = [record.key for record, _ in heads if record.attempt > 1]
    started = await _first_outputs(work, [record.key for record, _ in heads if record.outputs])
    sql = "SELECT * FROM job_resumptions WHERE key IN ({wanted})"
    rows = {row["key"]: row for row in await select(work.session, sql, earlier)}
    return [
        Claim(
            id=AttemptId(record.job_id, record.attempt),
            kind=Kind(record.kind),
            queue=record.queue,
            owner=record.details.owner,
            request=request,
            timeout_ms=_timeout_ms(record, work.now_ms),
            connector=record.connector,
            outputs=record.outputs,
            back_end_state=rows[record.key]["back_end_state"] if record.key in rows else "",
            started=started.get(record.key, b""),
            position=rows[record.key]["position"] if record.key in rows else b"",
        )
        for record, request in heads
    ]


async def _first_outputs(work: Work, keys: Sequence[int]) -> dict[int, bytes]:
    sql = (
        "SELECT job_key, data FROM job_outputs AS o WHERE job_key IN ({wanted}) AND sequence ="
        " (SELECT MIN(sequence) FROM job_outputs WHERE job_key = o.job_key)"
    )
    return {row["job_key"]: row["data"] for row in await select(work.session, sql, keys)}


def _timeout_ms(record: Record, now_ms: int) -> int:
    limits = list(_limits_ms(record, now_ms))
    return max(1, min(limits)) if limits else 0


def _limits_ms(record: Record, now_ms: int) -> Iterator[int]:
    if record.details.attempt_timeout_s:
        yield record.details.attempt_timeout_s * 1_000
    if record.deadline_ms:
        yield record.deadline_ms - now_ms


async def _store(work: Work, choice: _Choice, taken: Iterable[int]) -> None:
    """Writes the attempts, and when their lanes were served."""
    work.serve(taken, await work.next_change())
    await work.flush()
    await queues.put_tokens(work.session, choice.rooms, work.now_ms)
