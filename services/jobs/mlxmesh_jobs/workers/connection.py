"""One worker's stream: what it holds, what it may get, and what it has reported."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

from mlxmesh_jobs.clock import Monotonic
from mlxmesh_jobs.domain.jobs import AttemptId, Capability, Claim, Update
from mlxmesh_jobs.workers.attempts import Attempts, Cause
from mlxmesh_jobs.workers.messages import BackEnd, Hello, Report, WorkerFacts
from mlxmesh_jobs.workers.outbox import Outbox

MAX_UNSTORED = 4_096
"""Updates of one worker; beyond that its stream is not read."""


class Connection:
    """An open stream of a worker's session."""

    def __init__(
        self,
        key: int,
        hello: Hello,
        attempts: Attempts,
        *,
        clock: Monotonic,
        wake: Callable[[], None],
    ) -> None:
        """wake: called when it may take more jobs than before."""
        self.key = key
        self.hello = hello
        self.attempts = attempts
        self.outbox = Outbox()
        self.back_ends: Sequence[BackEnd] = ()
        self._clock = clock
        self._wake = wake
        self._free_slots = 0
        self._received_assignments = 0
        self._busy: frozenset[str] = frozenset()
        self._connector_slots: Mapping[str, int] = {}
        self._on_their_way: deque[str] = deque()
        """The connectors of assignments that the worker had not received with its last message."""
        self._leaving = False
        self._updates: list[Update] = []
        self._received = 0
        self._confirmed = 0
        self._unstored = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.storing = False
        """Whether updates are being stored."""
        self.recording: asyncio.Task[None] | None = None
        """Stores its updates."""

    @property
    def free(self) -> int:
        """How many more jobs it takes now."""
        if self._leaving or self.outbox.closed:
            return 0
        on_their_way = self.outbox.assigned - self._received_assignments
        return max(0, min(self._free_slots - on_their_way, self.hello.slots - len(self.attempts)))

    @property
    def held(self) -> int:
        """How many attempts it holds."""
        return len(self.attempts)

    @property
    def capability(self) -> Capability:
        """Which jobs it takes now."""
        on_their_way = Counter(self._on_their_way)
        free = {name: n - on_their_way[name] for name, n in self._connector_slots.items()}
        full = {name for name, slots in free.items() if slots <= 0}
        connectors = frozenset(self.hello.connectors) - self._busy - full
        return Capability(
            kinds=self.hello.kinds,
            connectors=connectors,
            queues=self.hello.queues,
            limits=frozenset(item for item in free.items() if item[0] in connectors),
        )

    @property
    def closed(self) -> bool:
        """Whether the stream ends."""
        return self.outbox.closed

    @property
    def has_left(self) -> bool:
        """Whether the worker stops and holds nothing any more."""
        return self._leaving and not len(self.attempts)

    @property
    def facts(self) -> WorkerFacts:
        """What is shown of it."""
        hello = self.hello
        return WorkerFacts(
            worker_id=hello.worker_id,
            host=hello.host,
            slots=hello.slots,
            running=len(self.attempts),
            kinds=hello.kinds,
            connectors=hello.connectors,
            queues=hello.queues,
            back_ends=self.back_ends,
        )

    def receive(self, report: Report) -> bool:
        """Notes a message; returns whether the facts of the worker have changed."""
        now_s = self._clock()
        self._received = report.number
        self._free_slots = report.free_slots
        self._received_assignments = report.assignments
        while len(self._on_their_way) > self.outbox.assigned - report.assignments:
            self._on_their_way.popleft()
        self._busy = report.busy_connectors
        self._connector_slots = report.connector_slots
        self._leaving = self._leaving or report.leaving
        self._updates += [self.attempts.news(update, now_s) for update in report.updates]
        if self._updates:
            self._unstored.set()
        if len(self._updates) >= MAX_UNSTORED:
            self._room.clear()
        if self.free:
            self._wake()
        changed = bool(report.back_ends) and report.back_ends != self.back_ends
        if changed:
            self.back_ends = report.back_ends
        return changed

    async def has_room(self) -> None:
        """Returns once the next message may be read."""
        await self._room.wait()

    @property
    def waits_for_room(self) -> bool:
        """Whether the stream is not read at present, which is no silence of the worker."""
        return not self._room.is_set()

    async def unstored(self) -> tuple[list[Update], int]:
        """Updates that are to be stored next, and the number of the message up to which they go."""
        await self._unstored.wait()
        self._unstored.clear()
        updates, self._updates = self._updates, []
        self._room.set()
        return updates, self._received

    @property
    def has_unstored(self) -> bool:
        """Whether any update is not stored yet."""
        return self.storing or bool(self._updates)

    @property
    def received(self) -> int:
        """The number of the last message."""
        return self._received

    def confirm(self, number: int) -> None:
        """The updates of messages up to a number are stored, and a heartbeat is recorded."""
        if number > self._confirmed:
            self._confirmed = number
            self.outbox.confirm(number)

    def give(self, claims: Sequence[Claim]) -> None:
        """Assigns attempts."""
        now_s = self._clock()
        for claim in claims:
            self.attempts.begin(claim.id, claim.timeout_ms, now_s)
        self._on_their_way += [claim.connector for claim in claims]
        self.outbox.assign(claims)

    def keep(self, timeouts_ms: Mapping[AttemptId, int]) -> None:
        """The session goes on with attempts of an earlier stream; a timeout of 0 is none."""
        now_s = self._clock()
        for attempt, timeout_ms in timeouts_ms.items():
            self.attempts.begin(attempt, timeout_ms, now_s)

    def cancel(self, attempts: Sequence[AttemptId]) -> None:
        """Asks the worker to stop attempts whose jobs were cancelled."""
        now_s = self._clock()
        if told := [each for each in attempts if self.attempts.cancel(each, now_s)]:
            self.outbox.cancel(told)

    def stop_overdue(self) -> Sequence[tuple[AttemptId, Cause]]:
        """Asks the worker to stop attempts that take too long; returns those to end without it."""
        now_s = self._clock()
        if overdue := self.attempts.overdue(now_s):
            self.outbox.cancel(overdue)
        return self.attempts.unstopped(now_s)

    def fence(self, attempts: Sequence[AttemptId]) -> None:
        """Attempts are not the worker's any more."""
        self.drop(attempts)
        if attempts:
            self.outbox.fence(attempts)

    def drop(self, attempts: Sequence[AttemptId]) -> None:
        """Attempts have ended."""
        for attempt in attempts:
            self.attempts.end(attempt)
        if attempts:
            self._wake()

    def close(self, error: Exception | None = None) -> None:
        """Ends the stream, after what it has reported is stored."""
        self.outbox.close(error)
        self._unstored.set()
        self._room.set()
