"""The settings of queues, and what is in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlxmesh_jobs.domain.jobs import Kind, QueueCounts, QueueSettings
from mlxmesh_jobs.storage.lanes import COUNTS
from mlxmesh_shared.sql.database import Row, Session
from mlxmesh_shared.sql.statements import upsert

_SETTINGS = (
    "paused",
    "max_running",
    "max_running_per_principal",
    "max_waiting_per_principal",
    "starts_per_second",
    "burst",
)
_PUT = upsert("queues", ("name", *_SETTINGS, "tokens", "refilled_ms"), ("name",))
_SUMS = ", ".join(f"CAST(SUM({name}) AS BIGINT) AS {name}" for name in COUNTS)
_OLDEST = (
    "SELECT queue, MIN((SELECT created_ms FROM jobs WHERE lane = lanes.id AND state = 2"
    " ORDER BY lane, key LIMIT 1)) AS oldest_ms FROM lanes WHERE waiting > 0 GROUP BY queue"
)


async def put_settings(session: Session, name: str, settings: QueueSettings, now_ms: int) -> None:
    """Replaces the settings of a queue."""
    values = [getattr(settings, column) for column in _SETTINGS]
    values[0] = int(settings.paused)
    await session.fetch(_PUT, name, *values, burst_of(settings), now_ms)


async def limited(session: Session, column: str) -> dict[str, int]:
    """The queues that have a limit, and it."""
    rows = await session.fetch(f"SELECT name, {column} AS most FROM queues WHERE {column} > 0")  # noqa: S608
    return {row["name"]: row["most"] for row in rows}


async def read_queues(session: Session) -> list[QueueCounts]:
    """The queues with settings, or with jobs that have not completed, by name."""
    rows = await session.fetch("SELECT * FROM queues")
    settings = {row["name"]: settings_of(row) for row in rows}
    counts = {
        row["queue"]: row
        for row in await session.fetch(f"SELECT queue, {_SUMS} FROM lanes GROUP BY queue")  # noqa: S608
        if any(row[name] for name in COUNTS)
    }
    oldest = {row["queue"]: row["oldest_ms"] for row in await session.fetch(_OLDEST)}
    return [
        _queue(name, settings.get(name, QueueSettings()), counts.get(name), oldest.get(name) or 0)
        for name in sorted(settings.keys() | counts.keys())
    ]


def settings_of(row: Row) -> QueueSettings:
    """Those of a row."""
    return QueueSettings(
        paused=bool(row["paused"]), **{name: row[name] for name in _SETTINGS if name != "paused"}
    )


def burst_of(settings: QueueSettings) -> float:
    """How many jobs may start at once after a pause."""
    return float(settings.burst or max(1.0, settings.starts_per_second))


def _queue(name: str, settings: QueueSettings, counts: Row | None, oldest_ms: int) -> QueueCounts:
    columns = ("delayed", "waiting", "running", "failed")
    numbers: Mapping[str, int] = {} if counts is None else {key: counts[key] for key in columns}
    return QueueCounts(name=name, settings=settings, oldest_waiting_ms=oldest_ms, **numbers)


@dataclass(slots=True)
class QueueRoom:
    """How many more jobs of a queue may start now."""

    settings: QueueSettings
    tokens: float
    """By its rate."""
    running: int = 0

    @property
    def blocked(self) -> bool:
        """Whether none may, whatever its rate."""
        most = self.settings.max_running
        return self.settings.paused or 0 < most <= self.running

    @property
    def wait_s(self) -> float:
        """Until its rate allows a start; 0 for now."""
        rate = self.settings.starts_per_second
        return 0.0 if not rate or self.tokens >= 1 else (1 - self.tokens) / rate


async def read_rooms(session: Session, now_ms: int) -> dict[str, QueueRoom]:
    """Of the queues that have settings."""
    rows = await session.fetch("SELECT * FROM queues")
    rooms = {row["name"]: QueueRoom(settings_of(row), _refilled(row, now_ms)) for row in rows}
    if any(room.settings.max_running for room in rooms.values()):
        # A batch runs while its requests do: only they take places.
        sql = (
            "SELECT queue, CAST(SUM(running) AS BIGINT) AS running FROM lanes"
            " WHERE running > 0 AND kind <> $1 GROUP BY queue"
        )
        for row in await session.fetch(sql, int(Kind.BATCH)):
            if row["queue"] in rooms:
                rooms[row["queue"]].running = row["running"]
    return rooms


async def put_tokens(session: Session, rooms: Mapping[str, QueueRoom], now_ms: int) -> None:
    """Stores what is left for the rates of queues."""
    for name, room in rooms.items():
        if room.settings.starts_per_second:
            sql = "UPDATE queues SET tokens = $2, refilled_ms = $3 WHERE name = $1"
            await session.fetch(sql, name, room.tokens, now_ms)


async def running_by_principal(
    session: Session, queues: Sequence[str]
) -> dict[tuple[str, str], int]:
    """How many jobs of each principal run in some queues."""
    found: dict[tuple[str, str], int] = {}
    for queue in queues:
        rows = await session.fetch(
            "SELECT principal, CAST(SUM(running) AS BIGINT) AS running FROM lanes"
            " WHERE queue = $1 AND running > 0 AND kind <> $2 GROUP BY principal",
            queue,
            int(Kind.BATCH),
        )
        found |= {(queue, row["principal"]): row["running"] for row in rows}
    return found


def _refilled(row: Row, now_ms: int) -> float:
    """A clock that was set back or forward gives a queue no more than one burst."""
    settings = settings_of(row)
    elapsed_s = max(0, now_ms - row["refilled_ms"]) / 1_000
    return min(burst_of(settings), row["tokens"] + elapsed_s * settings.starts_per_second)
