"""The workers that have a stream to this jobs service, and what is known of those of others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from mlxmesh_jobs.clock import Monotonic
from mlxmesh_jobs.domain.jobs import AttemptId, Ended, Stopped, StoredSession, Update
from mlxmesh_jobs.domain.ports import JobStore
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.observer import JobObserver
from mlxmesh_jobs.workers.attempts import Attempts, to_facts
from mlxmesh_jobs.workers.connection import Connection
from mlxmesh_jobs.workers.facts import decoded, encoded
from mlxmesh_jobs.workers.leases import Leases
from mlxmesh_jobs.workers.messages import Hello, Report, WorkerFacts
from mlxmesh_jobs.workers.recorder import Recorder
from mlxmesh_shared.errors import Draining, IllegalState, MeshError, ReaderReplaced, WorkerLost

_MAX_SESSIONS = 100
FLUSH_S = 5.0
"""How long the last updates of a stream that has ended may take to be stored."""


class Workers:
    """Opens and closes sessions."""

    def __init__(
        self,
        store: JobStore,
        leases: Leases,
        observer: JobObserver,
        *,
        stall_timeout_s: float,
        clock: Monotonic,
    ) -> None:
        self._store = store
        self._leases = leases
        self._observer = observer
        self._recorder = Recorder(store, observer)
        self._stall_timeout_s = stall_timeout_s
        self._clock = clock
        self._connections: dict[int, Connection] = {}
        self._seen: Mapping[int, WorkerFacts] = {}
        self._draining = False
        self._connecting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self.wake_dispatcher: Callable[[], None] = lambda: None
        self.wake_monitor: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Connection]:
        return iter([*self._connections.values()])

    def __len__(self) -> int:
        return len(self._connections)

    async def connect(self, hello: Hello) -> tuple[Connection, Sequence[AttemptId]]:
        """The new stream of a worker, and the attempts that it must stop.

        Raises: MeshError.
        """
        if self._draining:
            raise Draining("this jobs service stops; connect to another one")
        async with self._connecting:  # two streams of one session come one after the other
            return await self._connect(hello)

    async def _connect(self, hello: Hello) -> tuple[Connection, Sequence[AttemptId]]:
        key = await self._open_session(hello)
        await self._replace(key)
        held = frozenset(await self._store.held(key))
        await self._give_back(key, held - hello.running)
        timeouts_ms = {each: await self._timeout_ms(each) for each in held & hello.running}
        connection = Connection(
            key,
            hello,
            Attempts(stall_timeout_s=self._stall_timeout_s),
            clock=self._clock,
            wake=lambda: self.wake_dispatcher(),
        )
        connection.keep(timeouts_ms)
        connection.recording = asyncio.create_task(self._recorder.run(connection))
        self._connections[key] = connection
        self._leases.connected(key, hello.worker_id, self._clock())
        self._observer.worker_connected(hello.worker_id, hello.host, hello.slots)
        return connection, [*(hello.running - held)]

    async def _open_session(self, hello: Hello) -> int:
        """A session that was ended is followed by another one of the same process."""
        facts = encoded(
            WorkerFacts(
                worker_id=hello.worker_id,
                host=hello.host,
                slots=hello.slots,
                kinds=hello.kinds,
                connectors=hello.connectors,
                queues=hello.queues,
            )
        )
        name = hello.session
        for number in range(2, _MAX_SESSIONS + 2):
            try:
                return await self._store.open_session(hello.worker_id, name, facts)
            except IllegalState:
                name = f"{hello.session}.{number}"
        raise IllegalState("this run of the worker was lost too often; start it again")

    async def _replace(self, key: int) -> None:
        """Ends the earlier stream of a session, and waits for what it still stores."""
        earlier = self._connections.get(key)
        if earlier is not None:
            earlier.close(ReaderReplaced("the session goes on with another stream"))
            await self._stored(earlier)

    async def _give_back(self, key: int, attempts: frozenset[AttemptId]) -> None:
        """Attempts that the worker never heard of run elsewhere."""
        if attempts:
            updates = [Update(id=each, news=Stopped()) for each in attempts]
            self._observer.ended((await self._store.apply(key, updates)).ended)

    async def _timeout_ms(self, attempt: AttemptId) -> int:
        """How long an attempt may take from now on: all of its time, since how much of it has
        passed is known only by clocks that may jump.
        """
        return (await self._store.get(attempt.job_id)).attempt_timeout_s * 1_000

    async def receive(self, connection: Connection, report: Report) -> None:
        """Takes a message of a worker, once there is room for it. Raises: MeshError."""
        self._leases.heard(connection.key, self._clock())
        await connection.has_room()
        self._leases.heard(connection.key, self._clock())
        if connection.receive(report):
            await self._store.describe_session(connection.key, encoded(connection.facts))

    def disconnect(self, connection: Connection) -> None:
        """A stream has ended; the worker may come back."""
        connection.close()
        task = asyncio.create_task(self._disconnect(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _disconnect(self, connection: Connection) -> None:
        await self._stored(connection)
        if self._connections.get(connection.key) is connection:
            if connection.has_left:
                await self._leave(connection)
            self._connections.pop(connection.key, None)
            self._leases.disconnected(connection.key, self._clock())
            self.wake_monitor()

    async def _leave(self, connection: Connection) -> None:
        """Ends the session of a worker that has stopped; nothing of it is lost."""
        with contextlib.suppress(MeshError):  # then it is found like a lost one
            error = WorkerLost("the worker has stopped")
            await self._store.end_session(
                connection.key, beat=None, fault=Fault.WORKER_LOST, failure=to_facts(error)
            )
            self._leases.forget(connection.key)

    async def _stored(self, connection: Connection) -> None:
        """Returns once the last updates of a stream that has closed are stored."""
        recording = connection.recording
        if recording is not None:
            await asyncio.wait({recording}, timeout=FLUSH_S)
            recording.cancel()

    def ended(self, key: int, reason: str) -> None:
        """A session was ended: nothing of it is stored any more."""
        self._leases.forget(key)
        connection = self._connections.pop(key, None)
        if connection is not None:
            connection.close(WorkerLost(f"the worker was lost: {reason}; connect again"))

    def fence(self, ended: Sequence[Ended]) -> None:
        """Jobs have ended, or begin again, without their workers: those must stop them."""
        for each in ended:
            attempt = AttemptId(each.job.job_id, each.job.attempt)
            for connection in self:
                if attempt in connection.attempts:
                    connection.fence([attempt])

    def cancel(self, attempts: Sequence[AttemptId]) -> None:
        """Asks workers to stop attempts; what they do not hold is ignored."""
        for connection in self:
            if mine := [each for each in attempts if each in connection.attempts]:
                connection.cancel(mine)

    def observe(self, stored: Sequence[StoredSession]) -> None:
        """What the database has of all sessions."""
        self._seen = {each.key: decoded(each.facts, each.running) for each in stored if each.facts}

    def facts(self) -> Sequence[WorkerFacts]:
        """All workers, also those of other jobs services as they were seen last, by id."""
        own = {key: each.facts for key, each in self._connections.items()}
        return sorted({**self._seen, **own}.values(), key=lambda each: each.worker_id)

    def connectors(self) -> Mapping[str, Sequence[str]] | None:
        """The operations of all connectors that workers have; None while there is no worker."""
        workers = self.facts()
        if not workers:
            return None
        return {name: each for facts in workers for name, each in facts.connectors.items()}

    async def drain(self) -> None:
        """Ends all streams; returns once what they reported is stored."""
        self._draining = True
        for connection in self:
            connection.close(Draining("this jobs service stops; connect to another one"))
        for connection in self:
            await self._stored(connection)
