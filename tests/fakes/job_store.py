"""Jobs in memory."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from mlxmesh_jobs.domain.jobs import (
    Attempt,
    AttemptId,
    BackEndState,
    BatchCounts,
    Capability,
    Claim,
    Completed,
    Ended,
    Failed,
    FailureFacts,
    Job,
    JobChanges,
    JobFilter,
    Kind,
    NewJob,
    Outputs,
    Progress,
    QueueCounts,
    QueueSettings,
    Stopped,
    StoredSession,
    Update,
)
from mlxmesh_jobs.domain.ports import Applied
from mlxmesh_jobs.domain.recovery import Counts, Fault, decide
from mlxmesh_jobs.domain.states import Move, State, after
from mlxmesh_shared.errors import IllegalState, InvalidArgument, JobExists, JobNotFound, QueueFull
from mlxmesh_shared.sql.change_signal import ChangeSignal
from tests.fakes.clock import FakeClock

_EXPIRED = FailureFacts(
    code=4, reason="DEADLINE_EXCEEDED", message="the job did not end before its deadline"
)


@dataclass
class _Entry:
    """A job, with what is stored beside it."""

    job: Job
    new: NewJob
    session: int = 0
    worker_id: str = ""
    attempt_ms: int = 0
    delay_ms: int = 0
    result: bytes = b""
    position: bytes = b""
    back_end_state: str = ""
    outputs: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    noted: int = 0
    changed: int = 0

    def change(self, **fields: Any) -> Job:
        self.job = replace(self.job, sequence=self.job.sequence + 1, **fields)
        return self.job


@dataclass
class _Session:
    stored: StoredSession
    ended: bool = False


class InMemoryJobStore:
    """Satisfies JobStore, without batches' requests."""

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock or FakeClock()
        self._jobs: dict[str, _Entry] = {}
        self._sessions: list[_Session] = []
        self._settings: dict[str, QueueSettings] = {}
        self._tokens: dict[str, tuple[float, int]] = {}
        self._served: dict[tuple[Any, ...], int] = {}
        self._blocked: dict[str, int] = {}
        self._changed = ChangeSignal()
        self._changes = 0
        self.error: Exception | None = None
        """What every writing method raises, such as DiskFull; they store nothing then."""

    # Owners.

    async def submit(self, jobs: Sequence[NewJob]) -> list[Job]:
        self._check()
        known = [self._known(job) for job in jobs]
        new = [job for job, entry in zip(jobs, known, strict=True) if entry is None]
        if len({job.job_id for job in new}) < len(new):
            raise JobExists("two jobs have one id", field="job_id")
        self._check_room(new)
        for job in new:
            self._jobs[job.job_id] = self._entry(job)
        if new:
            self._notify()
        return [self._shown(self._jobs[job.job_id]) for job in jobs]

    def _known(self, job: NewJob) -> _Entry | None:
        entry = self._jobs.get(job.job_id)
        if entry is not None and (entry.new.digest, entry.new.owner.owner) != (
            job.digest,
            job.owner.owner,
        ):
            raise JobExists(f"there is another job {job.job_id}", field="job_id")
        return entry

    def _check_room(self, new: Sequence[NewJob]) -> None:
        wanted: defaultdict[tuple[str, str], int] = defaultdict(int)
        for job in new:
            wanted[job.queue, job.owner.principal] += 1
        for (queue, principal), count in wanted.items():
            most = self._of(queue).max_waiting_per_principal
            waiting = self._count(
                lambda job, q=queue, p=principal: (
                    job.queue == q
                    and job.owner.principal == p
                    and job.state in (State.DELAYED, State.WAITING)
                )
            )
            if most and waiting + count > most:
                raise QueueFull(f"{principal} has too many jobs in {queue}", retry_delay_s=5.0)

    def _entry(self, new: NewJob) -> _Entry:
        delayed = new.not_before_ms > self._clock()
        job = Job(
            key=max((entry.job.key for entry in self._jobs.values()), default=0) + 1,
            job_id=new.job_id,
            kind=new.kind,
            queue=new.queue,
            connector=new.connector,
            owner=new.owner,
            state=State.DELAYED if delayed else State.WAITING,
            priority=new.priority,
            created_ms=self._clock(),
            not_before_ms=new.not_before_ms,
            deadline_ms=new.deadline_ms,
            started_ms=0,
            ended_ms=0,
            expires_ms=0,
            ready_ms=new.not_before_ms if delayed else 0,
            attempt=0,
            counts=Counts(),
            retry=new.retry,
            attempt_timeout_s=new.attempt_timeout_s,
            sequence=1,
            outputs=0,
            cost=0.0,
            summary=new.summary,
            labels=new.labels,
            batch=BatchCounts() if new.kind is Kind.BATCH else None,
        )
        return _Entry(job, new)

    async def get(self, job_id: str) -> Job:
        return self._shown(self._find(job_id))

    async def attempts(self, job_id: str) -> Sequence[Attempt]:
        entry = self._jobs.get(job_id)
        if entry is None:
            return []
        attempts = list(entry.attempts)
        if entry.job.state is State.COMPLETED:
            attempts.append(self._attempt(entry, None, ""))
        return attempts[-100:]

    async def result(self, job_id: str) -> bytes:
        return self._find(job_id).result

    async def request(self, job_id: str) -> bytes:
        return self._find(job_id).new.request

    async def outputs(
        self, job_id: str, *, after_sequence: int, limit: int
    ) -> Sequence[tuple[int, bytes]]:
        entry = self._jobs.get(job_id)
        found = entry.outputs if entry else []
        return [one for one in found if one[0] > after_sequence][:limit]

    async def list(self, wanted: JobFilter, *, before_key: int, limit: int) -> Sequence[Job]:
        jobs = [self._shown(entry) for entry in self._jobs.values()]
        found = [job for job in jobs if _matches(job, wanted)]
        found = [job for job in found if job.key < before_key]
        return sorted(found, key=lambda job: -job.key)[:limit]

    async def changes(self, after: int, *, principal: str, limit: int) -> JobChanges:
        ordered = sorted(self._jobs.values(), key=lambda entry: -entry.changed)
        found = [
            self._shown(entry)
            for entry in ordered
            if entry.changed > after and principal in ("", entry.job.owner.principal)
        ]
        return JobChanges(jobs=found[:limit], change=self._changes, more=len(found) > limit)

    async def cancel(self, job_id: str) -> Job:
        self._check()
        entry = self._find(job_id)
        if not entry.job.state.ended:
            self._move(entry, Move.CANCEL)
            self._notify()
        return self._shown(entry)

    async def retry(self, job_id: str) -> Job:
        self._check()
        entry = self._find(job_id)
        if entry.new.kind is Kind.BATCH and entry.job.state is State.COMPLETED:
            raise IllegalState("all requests of the batch completed; there is none to run again")
        self._move(entry, Move.RETRY)
        entry.result = b""
        late = entry.job.deadline_ms <= self._clock()
        entry.job = replace(
            entry.job,
            ended_ms=0,
            expires_ms=0,
            counts=Counts(),
            failure=None,
            deadline_ms=0 if late else entry.job.deadline_ms,
        )
        self._notify()
        return self._shown(entry)

    # Sessions.

    async def open_session(self, worker_id: str, session: str, facts: bytes = b"") -> int:
        self._check()
        for known in self._sessions:
            if (known.stored.worker_id, known.stored.session) == (worker_id, session):
                if known.ended:
                    raise IllegalState(f"the session of {worker_id} was ended")
                beat = known.stored.beat + 1
                known.stored = replace(known.stored, beat=beat, facts=facts)
                return known.stored.key
        key = len(self._sessions) + 1
        stored = StoredSession(
            key=key, worker_id=worker_id, session=session, beat=1, running=0, facts=facts
        )
        self._sessions.append(_Session(stored))
        return key

    async def describe_session(self, key: int, facts: bytes) -> None:
        self._check()
        known = self._sessions[key - 1]
        known.stored = replace(known.stored, facts=facts)

    async def beat(self, sessions: Sequence[int]) -> Sequence[int]:
        self._check()
        for key in sessions:
            if self._lives(key):
                known = self._sessions[key - 1]
                known.stored = replace(known.stored, beat=known.stored.beat + 1)
        return [key for key in sessions if not self._lives(key)]

    async def sessions(self) -> Sequence[StoredSession]:
        return [
            replace(known.stored, running=len(await self.held(known.stored.key)))
            for known in self._sessions
            if not known.ended
        ]

    async def end_session(
        self, key: int, *, beat: int | None, fault: Fault, failure: FailureFacts
    ) -> Sequence[Ended]:
        self._check()
        if not self._lives(key):
            return []
        known = self._sessions[key - 1]
        if beat is not None and known.stored.beat != beat:
            return []
        known.ended = True
        held = [entry for entry in self._jobs.values() if self._holds(key, entry)]
        self._notify()
        return [self._fail(entry, Failed(failure=failure, fault=fault)) for entry in held]

    async def held(self, session: int) -> Sequence[AttemptId]:
        entries = [entry for entry in self._jobs.values() if self._holds(session, entry)]
        return [AttemptId(entry.job.job_id, entry.job.attempt) for entry in entries]

    async def cancelling(self) -> Sequence[AttemptId]:
        jobs = [entry.job for entry in self._jobs.values()]
        return [AttemptId(job.job_id, job.attempt) for job in jobs if job.state is State.CANCELLING]

    # Attempts.

    async def claim(
        self, session: int, capability: Capability, limit: int
    ) -> tuple[Sequence[Claim], float | None]:
        self._check()
        claims: list[Claim] = []
        wait_s: float | None = None
        self._changes += 1
        self._refill()
        running = self._lane_counts()
        limits = dict(capability.limits)
        while self._lives(session) and len(claims) < limit:
            full = {name for name, most in limits.items() if most <= 0}
            chosen, wait_s = self._next(
                replace(capability, connectors=capability.connectors - full), running
            )
            if chosen is None:
                break
            if chosen.job.connector in limits:
                limits[chosen.job.connector] -= 1
            running[_lane(chosen.job)] += 1
            claims.append(self._begin(chosen, session))
        for claim in claims:
            self._served[_lane(self._jobs[claim.id.job_id].job)] = self._changes
        if claims:
            self._notify()
        return claims, wait_s if len(claims) < limit else None

    def _next(
        self, capability: Capability, running: dict[tuple[Any, ...], int]
    ) -> tuple[_Entry | None, float | None]:
        wait_s: float | None = None
        waiting = [
            entry
            for entry in self._jobs.values()
            if entry.job.state is State.WAITING and self._may_start(entry.job, capability)
        ]
        waiting.sort(
            key=lambda entry: (
                -entry.job.priority,
                running[_lane(entry.job)],
                self._served.get(_lane(entry.job), 0),
                entry.job.key,
            )
        )
        for entry in waiting:
            rate = self._of(entry.job.queue).starts_per_second
            tokens = self._tokens.get(entry.job.queue, (0.0, 0))[0]
            if not rate or entry.job.kind is Kind.BATCH or tokens >= 1:
                return entry, None
            left_s = (1 - tokens) / rate
            wait_s = min(left_s, wait_s or left_s)
        return None, wait_s

    def _may_start(self, job: Job, capability: Capability) -> bool:
        if job.kind not in capability.kinds - {Kind.CONNECTOR} and (
            job.connector not in capability.connectors
        ):
            return False
        if capability.queues and job.queue not in capability.queues:
            return False
        now_ms = self._clock()
        if self._blocked.get(job.owner.principal, 0) > now_ms or 0 < job.deadline_ms <= now_ms:
            return False
        settings = self._of(job.queue)
        if settings.paused or job.kind is Kind.BATCH:
            return not settings.paused
        in_queue = [
            entry.job
            for entry in self._jobs.values()
            if entry.job.queue == job.queue
            and entry.job.state.held
            and entry.job.kind is not Kind.BATCH
        ]
        own = [one for one in in_queue if one.owner.principal == job.owner.principal]
        return not (
            0 < settings.max_running <= len(in_queue)
            or 0 < settings.max_running_per_principal <= len(own)
        )

    def _begin(self, entry: _Entry, session: int) -> Claim:
        job = self._move(entry, Move.CLAIM)
        now_ms = self._clock()
        entry.session, entry.attempt_ms = session, now_ms
        entry.job = job = replace(
            job,
            attempt=job.attempt + 1,
            started_ms=job.started_ms or now_ms,
        )
        entry.worker_id = self._sessions[session - 1].stored.worker_id
        tokens, refilled_ms = self._tokens.get(job.queue, (0.0, 0))
        if job.kind is not Kind.BATCH:
            self._tokens[job.queue] = (tokens - 1, refilled_ms)
        limits = [job.attempt_timeout_s * 1_000] if job.attempt_timeout_s else []
        limits += [job.deadline_ms - now_ms] if job.deadline_ms else []
        return Claim(
            id=AttemptId(job.job_id, job.attempt),
            kind=job.kind,
            queue=job.queue,
            owner=job.owner,
            request=entry.new.request,
            timeout_ms=min(limits, default=0),
            connector=job.connector,
            outputs=job.outputs,
            back_end_state=entry.back_end_state,
            started=entry.outputs[0][1] if entry.outputs else b"",
            position=entry.position,
        )

    async def apply(self, session: int, updates: Sequence[Update]) -> Applied:
        self._check()
        self._check_numbers(session, updates)
        fenced: list[AttemptId] = []
        ended: list[Ended] = []
        for update in updates:
            entry = self._jobs.get(update.id.job_id)
            if (
                entry is None
                or not self._lives(session)
                or not self._holds(session, entry)
                or entry.job.attempt != update.id.attempt
            ):
                fenced.append(update.id)
            elif (end := self._store(entry, update)) is not None:
                ended.append(end)
        if len(fenced) < len(updates):
            self._notify()
        return Applied(fenced=list(dict.fromkeys(fenced)), ended=ended)

    def _check_numbers(self, session: int, updates: Sequence[Update]) -> None:
        stored: dict[str, int] = {}
        for update in updates:
            entry = self._jobs.get(update.id.job_id)
            if entry is None or not isinstance(update.news, Outputs):
                continue
            if not self._holds(session, entry) or entry.job.attempt != update.id.attempt:
                continue
            count = stored.get(update.id.job_id, entry.job.outputs)
            if update.news.first > count + 1:
                raise InvalidArgument("these are not the next messages")
            last = update.news.first + len(update.news.messages) - 1
            stored[update.id.job_id] = max(count, last)

    def _store(self, entry: _Entry, update: Update) -> Ended | None:
        match update.news:
            case Completed() as news:
                self._move(entry, Move.COMPLETE)
                entry.result = news.result
                entry.job = replace(entry.job, failure=None, cost=entry.job.cost + news.cost)
                return Ended(job=self._shown(entry))
            case Failed() as news:
                return self._fail(entry, news)
            case Stopped():
                entry.attempts.append(self._attempt(entry, None, ""))
                self._move(entry, Move.STOPPED)
                delay_ms = None if entry.job.state.ended else 0
                return Ended(job=self._shown(entry), delay_ms=delay_ms)
            case Progress() as news:
                entry.change(progress=news)
            case Outputs() as news:
                new = news.messages[max(0, entry.job.outputs + 1 - news.first) :]
                for message in new:
                    job = entry.change(outputs=entry.job.outputs + 1)
                    entry.outputs.append((job.sequence, message))
                if new and news.position:
                    entry.position = news.position
            case BackEndState(state):
                entry.back_end_state = state
                entry.change()
        return None

    async def stop_attempts(
        self, ids: Sequence[AttemptId], *, fault: Fault, failure: FailureFacts
    ) -> Sequence[Ended]:
        self._check()
        news = Failed(failure=failure, fault=fault)
        entries = [(self._jobs.get(id_.job_id), id_.attempt) for id_ in ids]
        ended = [
            self._fail(entry, news)
            for entry, attempt in entries
            if entry and entry.job.state.held and entry.job.attempt == attempt
        ]
        self._notify()
        return ended

    # Time.

    async def promote(self) -> float | None:
        self._check()
        now_ms = self._clock()
        for entry in self._jobs.values():
            if entry.job.state is not State.DELAYED:
                continue
            if entry.delay_ms and entry.job.ready_ms - now_ms > entry.delay_ms:
                entry.job = replace(entry.job, ready_ms=now_ms + entry.delay_ms)
            if entry.job.ready_ms <= now_ms:
                self._move(entry, Move.DUE)
                entry.delay_ms = 0
                self._notify()
        ready = [e.job.ready_ms for e in self._jobs.values() if e.job.state is State.DELAYED]
        return (min(ready) - now_ms) / 1_000 if ready else None

    async def expire(self) -> Sequence[Ended]:
        self._check()
        ended: list[Ended] = []
        for entry in self._jobs.values():
            if entry.job.state.ended or not 0 < entry.job.deadline_ms <= self._clock():
                continue
            if entry.job.state.held:
                entry.attempts.append(self._attempt(entry, _EXPIRED, "none"))
            self._move(entry, Move.EXPIRE)
            if entry.job.state is State.FAILED:
                entry.job = replace(entry.job, failure=_EXPIRED)
            ended.append(Ended(job=self._shown(entry), recovery="none", failure=_EXPIRED))
        if ended:
            self._notify()
        return ended

    async def prune(self) -> int:
        self._check()
        over = [id_ for id_, e in self._jobs.items() if 0 < e.job.expires_ms <= self._clock()]
        for job_id in over:
            del self._jobs[job_id]
        return len(over)

    # Queues.

    async def queues(self) -> Sequence[QueueCounts]:
        names = {entry.job.queue for entry in self._jobs.values()} | self._settings.keys()
        counted = [self._queue(name) for name in sorted(names)]
        return [
            each
            for each in counted
            if each.name in self._settings
            or each.delayed + each.waiting + each.running + each.failed
        ]

    def _queue(self, name: str) -> QueueCounts:
        jobs = [entry.job for entry in self._jobs.values() if entry.job.queue == name]
        waiting = [job for job in jobs if job.state is State.WAITING]
        oldest_ms: dict[tuple[Any, ...], int] = {}
        for job in waiting:
            oldest_ms.setdefault(_lane(job), job.created_ms)
        return QueueCounts(
            name=name,
            settings=self._of(name),
            delayed=sum(job.state is State.DELAYED for job in jobs),
            waiting=len(waiting),
            running=sum(job.state.held for job in jobs),
            failed=sum(job.state is State.FAILED for job in jobs),
            oldest_waiting_ms=min(oldest_ms.values(), default=0),
        )

    async def set_queue(self, name: str, settings: QueueSettings) -> None:
        self._check()
        self._settings[name] = settings
        self._tokens[name] = (_burst(settings), self._clock())
        self._notify()

    async def block_principal(self, principal: str, until_ms: int) -> None:
        self._check()
        self._blocked[principal] = until_ms

    def subscribe(self) -> AbstractContextManager[asyncio.Event]:
        return self._changed.subscribe()

    # What the methods share.

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _notify(self) -> None:
        self._changes += 1
        for entry in self._jobs.values():
            if entry.job.sequence != entry.noted:
                entry.noted, entry.changed = entry.job.sequence, self._changes
        self._changed.notify()

    def _find(self, job_id: str) -> _Entry:
        if job_id not in self._jobs:
            raise JobNotFound(f"there is no job {job_id}", field="job_id")
        return self._jobs[job_id]

    def _shown(self, entry: _Entry) -> Job:
        """The job; only while it runs it has a worker."""
        state = entry.job.state
        worker_id = entry.worker_id if state.held else ""
        ready_ms = entry.job.ready_ms if state is State.DELAYED else 0
        return replace(entry.job, worker_id=worker_id, ready_ms=ready_ms)

    def _move(self, entry: _Entry, move: Move) -> Job:
        state = after(entry.job.state, move)
        entry.change(state=state)
        if not state.held:
            entry.session = 0
        if state.ended:
            now_ms = self._clock()
            expires_ms = now_ms + entry.new.retention_s * 1_000
            entry.job = replace(entry.job, ended_ms=now_ms, expires_ms=expires_ms)
        return entry.job

    def _fail(self, entry: _Entry, news: Failed) -> Ended:
        decision = decide(news.fault, entry.job.counts, entry.job.retry)
        delay_ms = decision.delay_ms
        if delay_ms:
            delay_ms = max(delay_ms, min(news.failure.retry_delay_ms, 86_400_000))
        failure = news.failure
        if decision.reason:
            failure = replace(failure, reason=decision.reason)
        entry.attempts.append(self._attempt(entry, news.failure, decision.recovery))
        entry.job = replace(entry.job, counts=decision.counts, failure=failure)
        if delay_ms is None:
            self._move(entry, Move.FAIL)
            if news.result and entry.job.state is State.FAILED:
                entry.result = news.result
        elif delay_ms == 0:
            self._move(entry, Move.REQUEUE)
        else:
            self._move(entry, Move.DELAY)
            entry.delay_ms = delay_ms
            entry.job = replace(entry.job, ready_ms=self._clock() + delay_ms)
        return Ended(
            job=self._shown(entry),
            recovery=decision.recovery,
            delay_ms=None if entry.job.state.ended else delay_ms,
            failure=failure,
        )

    def _attempt(self, entry: _Entry, failure: FailureFacts | None, recovery: str) -> Attempt:
        return Attempt(
            attempt=entry.job.attempt,
            worker_id=entry.worker_id,
            started_ms=entry.attempt_ms,
            ended_ms=self._clock() if failure or not entry.job.ended_ms else entry.job.ended_ms,
            failure=failure,
            recovery=recovery,
        )

    def _lives(self, session: int) -> bool:
        return 0 < session <= len(self._sessions) and not self._sessions[session - 1].ended

    def _holds(self, session: int, entry: _Entry) -> bool:
        return entry.job.state.held and entry.session == session

    def _of(self, queue: str) -> QueueSettings:
        return self._settings.get(queue, QueueSettings())

    def _count(self, condition: Callable[[Job], bool]) -> int:
        return sum(condition(entry.job) for entry in self._jobs.values())

    def _lane_counts(self) -> defaultdict[tuple[Any, ...], int]:
        counts: defaultdict[tuple[Any, ...], int] = defaultdict(int)
        for entry in self._jobs.values():
            counts[_lane(entry.job)] += entry.job.state.held
        return counts

    def _refill(self) -> None:
        now_ms = self._clock()
        for name, (tokens, refilled_ms) in self._tokens.items():
            settings = self._of(name)
            more = max(0, now_ms - refilled_ms) / 1_000 * settings.starts_per_second
            self._tokens[name] = (min(_burst(settings), tokens + more), now_ms)


def _burst(settings: QueueSettings) -> float:
    return float(settings.burst or max(1.0, settings.starts_per_second))


def _lane(job: Job) -> tuple[Any, ...]:
    return job.queue, job.priority, job.owner.principal, job.kind, job.connector, job.batch_id


def _matches(job: Job, wanted: JobFilter) -> bool:
    return (
        job.batch_id == wanted.batch_id
        and (bool(wanted.batch_id) or job.kind in wanted.kinds)
        and wanted.principal in ("", job.owner.principal)
        and (not wanted.states or job.state in wanted.states)
        and wanted.queue in ("", job.queue)
        and wanted.labels.items() <= job.labels.items()
        and (not wanted.created_after_ms or job.created_ms > wanted.created_after_ms)
        and (not wanted.created_before_ms or job.created_ms < wanted.created_before_ms)
    )
