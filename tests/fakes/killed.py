"""A database whose process is killed before or after it commits a transaction."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal

from mlxmesh_shared.sql.database import Database, Session

Moment = Literal["before the commit", "after the commit"]


class Killed(Exception):
    """Nothing that the process would have done next is done."""


class MortalDatabase:
    """Satisfies Database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.dies: Moment | None = None
        """When the next transaction that writes ends this process."""

    async def tables(self) -> set[str]:
        return await self._database.tables()

    def reading(self) -> AbstractAsyncContextManager[Session]:
        return self._database.reading()

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[Session]:
        async with self._database.writing() as session:
            yield session
            if self.dies == "before the commit":
                raise Killed
        if self.dies == "after the commit":
            raise Killed

    async def close(self) -> None:
        await self._database.close()
