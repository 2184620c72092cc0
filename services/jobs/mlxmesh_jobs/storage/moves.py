"""What happens to jobs, in memory: each function changes a record, and notes what follows."""

from dataclasses import dataclass, replace

from mlxmesh_jobs.domain.jobs import Completed, Failed, FailureFacts, Kind
from mlxmesh_jobs.domain.recovery import STRATEGIES, Decision, decide
from mlxmesh_jobs.domain.states import Move, State, after
from mlxmesh_jobs.storage.details import encode_failure
from mlxmesh_jobs.storage.records import Record
from mlxmesh_jobs.storage.work import Work, snapshot
from mlxmesh_shared.errors import DeadlineExceeded, IllegalState

_MAX_DELAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class EndedRecord:
    """As Ended, with the record as it was then."""

    record: Record
    recovery: str = ""
    delay_ms: int | None = None
    failure: FailureFacts | None = None


def claim(work: Work, record: Record, session: int, worker_id: str) -> None:
    """Begins the next attempt."""
    _move(work, record, Move.CLAIM)
    record.session = session
    record.worker_id = worker_id
    record.attempt += 1
    record.attempt_ms = work.now_ms
    record.started_ms = record.started_ms or work.now_ms


def complete(work: Work, record: Record, news: Completed) -> EndedRecord:
    """The attempt has its result."""
    _move(work, record, Move.COMPLETE)
    record.failure = ""
    record.cost += news.cost
    work.add_result(record, news.result)
    if news.used is not None:
        work.add_usage(record, news.used, failed=False)
    if record.batch_key:
        tokens = {} if news.used is None else _tokens(news)
        work.count(record.batch_key, **tokens)
    return EndedRecord(record=snapshot(record))


def fail(work: Work, record: Record, news: Failed) -> EndedRecord:
    """The attempt failed; what follows is decided by its fault."""
    decision = _decided(record, news)
    failure = news.failure
    if decision.reason:
        failure = replace(failure, reason=decision.reason)
    if news.used is not None:
        work.add_usage(record, news.used, failed=True)
    work.add_attempt(record, encode_failure(news.failure), decision.recovery)
    counts = decision.counts
    record.failures, record.unavailable = counts.failures, counts.unavailable
    record.losses = counts.losses
    record.failure = encode_failure(failure)
    if decision.delay_ms is None:
        _move(work, record, Move.FAIL)
        if news.result and record.state == State.FAILED:
            work.add_result(record, news.result)
    elif decision.delay_ms == 0:
        _move(work, record, Move.REQUEUE)
    else:
        _move(work, record, Move.DELAY)
        if record.state == State.DELAYED:
            record.delay_ms = decision.delay_ms
            record.ready_ms = work.now_ms + decision.delay_ms
    delay_ms = None if State(record.state).ended else decision.delay_ms
    return EndedRecord(
        record=snapshot(record), recovery=decision.recovery, delay_ms=delay_ms, failure=failure
    )


def stop(work: Work, record: Record) -> EndedRecord:
    """The attempt ended without a result, and without being at fault."""
    work.add_attempt(record, "", "")
    _move(work, record, Move.STOPPED)
    delay_ms = None if State(record.state).ended else 0
    return EndedRecord(record=snapshot(record), delay_ms=delay_ms)


def cancel(work: Work, record: Record) -> None:
    """Its owner cancels it; one that has ended stays as it is."""
    if State(record.state).ended:
        return
    _move(work, record, Move.CANCEL)
    if record.kind == Kind.BATCH and record.state == State.CANCELLING:
        work.cancel_requests(record.key)


def expire(work: Work, record: Record) -> EndedRecord:
    """Its deadline has passed."""
    failure = FailureFacts(
        code=DeadlineExceeded.code.value[0],
        reason=DeadlineExceeded.reason,
        message="the job did not end before its deadline",
    )
    if State(record.state).held:
        work.add_attempt(record, encode_failure(failure), "none")
    _move(work, record, Move.EXPIRE)
    if record.state == State.FAILED:
        record.failure = encode_failure(failure)
    return EndedRecord(record=snapshot(record), recovery="none", failure=failure)


def retry(work: Work, record: Record, *, has_failed_requests: bool = False) -> None:
    """Its owner runs it again, with as many attempts as a new one.

    has_failed_requests: whether it is a batch of which some requests did not complete.
    Raises: IllegalState.
    """
    if record.batch_key:
        raise IllegalState("a request of a batch cannot be retried alone; retry its batch")
    completed_batch = record.kind == Kind.BATCH and record.state == State.COMPLETED
    if completed_batch and not has_failed_requests:
        raise IllegalState("all requests of the batch completed; there is none to run again")
    _move(work, record, Move.RETRY_REQUESTS if completed_batch else Move.RETRY)
    record.ended_ms = record.expires_ms = 0
    record.failures = record.unavailable = record.losses = 0
    record.failure = ""
    if record.deadline_ms <= work.now_ms:
        record.deadline_ms = 0


def due(work: Work, record: Record) -> None:
    """The time that it waited for has come."""
    _move(work, record, Move.DUE)
    record.ready_ms = record.delay_ms = 0


def _move(work: Work, record: Record, move: Move) -> None:
    state = after(State(record.state), move)
    record.state = int(state)
    work.touch(record)
    if not state.held:
        record.session = 0
    if state.ended:
        _end(work, record, state)


def _end(work: Work, record: Record, state: State) -> None:
    record.ended_ms = work.now_ms
    if record.batch_key:
        # It is removed with its batch.
        work.count(record.batch_key, **{state.name.lower(): 1})
    else:
        record.expires_ms = work.now_ms + record.details.retention_s * 1_000
    if record.kind == Kind.BATCH and state is not State.COMPLETED:
        work.cancel_requests(record.key)


def _decided(record: Record, news: Failed) -> Decision:
    decision = decide(news.fault, record.counts, record.details.retry)
    if decision.delay_ms is None or not STRATEGIES[news.fault].delays:
        return decision
    # What failed may know better when it works again.
    delay_ms = max(decision.delay_ms, min(news.failure.retry_delay_ms, _MAX_DELAY_MS))
    return replace(decision, delay_ms=delay_ms)


def _tokens(news: Completed) -> dict[str, int]:
    assert news.used is not None
    return {
        "prompt_tokens": news.used.prompt_tokens,
        "completion_tokens": news.used.completion_tokens,
    }
