"""Stores what the workers report: all that has arrived of one in one transaction."""

import asyncio
import logging
from collections.abc import Sequence

from mlxmesh_jobs.domain.jobs import Update
from mlxmesh_jobs.domain.ports import Applied, JobStore
from mlxmesh_jobs.observer import JobObserver
from mlxmesh_jobs.workers.attempts import ends
from mlxmesh_jobs.workers.connection import Connection
from mlxmesh_shared.errors import Internal, InvalidArgument, MeshError

_FIRST_RETRY_S = 0.05
_MAX_RETRY_S = 2.0
_log = logging.getLogger("mlxmesh.jobs")


class Recorder:
    """Stores updates; a worker hears of it once they are durable."""

    def __init__(self, store: JobStore, observer: JobObserver) -> None:
        self._store = store
        self._observer = observer

    async def run(self, connection: Connection) -> None:
        """Stores the updates of one stream, until cancelled or it has closed and has none left."""
        try:
            await self._run(connection)
        except InvalidArgument as error:
            _log.warning("a worker sent what cannot be stored: %s", error.message)
            connection.close(error)
        except Exception:  # noqa: BLE001 - a worker that is never confirmed must connect again
            _log.exception("news of jobs could not be stored")
            connection.close(Internal("this jobs service failed; see its log"))

    async def _run(self, connection: Connection) -> None:
        while not (connection.closed and not connection.has_unstored):
            updates, number = await connection.unstored()
            if updates:
                connection.storing = True
                try:
                    applied = await self._apply(connection, updates)
                finally:
                    connection.storing = False
                self._settle(connection, updates, applied)
                connection.confirm(number)

    async def _apply(self, connection: Connection, updates: Sequence[Update]) -> Applied:
        """Stores updates, however long the database is away: a worker keeps what is unconfirmed.

        Raises: InvalidArgument.
        """
        delay_s = _FIRST_RETRY_S
        while True:
            try:
                return await self._store.apply(connection.key, updates)
            except InvalidArgument:
                raise
            except MeshError as error:
                _log.warning("news of jobs could not be stored yet: %s", error.message)
            await asyncio.sleep(delay_s)
            delay_s = min(_MAX_RETRY_S, 2 * delay_s)

    def _settle(self, connection: Connection, updates: Sequence[Update], applied: Applied) -> None:
        connection.drop([each.id for each in updates if ends(each)])
        connection.fence(applied.fenced)
        self._observer.ended(applied.ended)
