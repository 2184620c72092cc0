"""A database as a SQLite file."""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from sqlite3 import Row

import aiosqlite

BUSY_TIMEOUT_MS = 5000
_PARAMETER = re.compile(r"\$(\d+)")


class SqliteDatabase:
    """Satisfies Database: a reader never waits for a writer, and writers wait for each other, also
    across processes.
    """

    def __init__(self, path: Path) -> None:
        """Connects when it is first used; missing folders are created then."""
        self._reader = _Connection(path, "BEGIN")
        # Otherwise a transaction would begin at its first change, and what it read before may be
        # outdated by then.
        self._writer = _Connection(path, "BEGIN IMMEDIATE")

    async def tables(self) -> set[str]:
        async with self.reading() as session:
            rows = await session.fetch("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {row["name"] for row in rows}

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator["_Session"]:
        async with self._reader.transaction() as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator["_Session"]:
        async with self._writer.transaction() as session:
            yield session

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()


def create_private_file(path: Path) -> None:
    """Creates an empty database that only its owner can read, with SQLite's files beside it, which
    get the same mode. A file that exists keeps its mode.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)


class _Session:
    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *values: str | int | float | bytes | datetime) -> Sequence[Row]:
        stored = list(map(_stored, values))
        in_order = _in_order(sql, len(stored)) if stored else sql
        if in_order is not None:
            return list(await self._connection.execute_fetchall(in_order, stored))
        # SQLite has no numbered parameters of this form: to it, $1 is one with the name 1.
        named = {str(number): value for number, value in enumerate(stored, 1)}
        return list(await self._connection.execute_fetchall(sql, named))


class _Connection:
    """A connection, used by one transaction at a time."""

    def __init__(self, path: Path, begin: str) -> None:
        self._path = path
        self._begin = begin
        self._lock = asyncio.Lock()
        self._connection: aiosqlite.Connection | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[_Session]:
        """Commits at its end, or undoes everything after an error."""
        async with self._lock:
            self._connection = connection = self._connection or await _connect(self._path)
            try:
                await connection.execute_fetchall(self._begin)
                yield _Session(connection)
                await connection.commit()
            except BaseException:
                await connection.rollback()
                raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


async def _connect(path: Path) -> aiosqlite.Connection:
    """Concurrent readers with one writer, enforced foreign keys, waiting for locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without an isolation level, the driver leaves transactions to us.
    connection = await aiosqlite.connect(path, isolation_level=None)
    try:
        connection.row_factory = Row
        # The timeout first, because the other pragmas need locks.
        for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "foreign_keys=ON"):
            await connection.execute_fetchall(f"PRAGMA {pragma}")
    except BaseException:
        await connection.close()
        raise
    return connection


@lru_cache(maxsize=256)
def _in_order(sql: str, count: int) -> str | None:
    """The statement with parameters that have no names, which SQLite finds much faster where there
    are many; None if the statement does not use each once, and in order.
    """
    numbers = [int(number) for number in _PARAMETER.findall(sql)]
    if numbers != list(range(1, count + 1)):
        return None
    return _PARAMETER.sub("?", sql)


def _stored(value: str | int | float | bytes | datetime) -> str | int | float | bytes:
    """SQLite has no type for times: text without a time zone, in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    return value
