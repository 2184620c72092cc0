"""Jobs as the service stores them and talks about them. Times are milliseconds since 1970, UTC.

What only workers and clients read stays encoded here: requests, results and messages of streams.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from mlxmesh_jobs.domain.recovery import Counts, Fault, RetryPolicy
from mlxmesh_jobs.domain.states import State

DEFAULT_ATTEMPT_TIMEOUT_S = 3_600
MAX_RETENTION_S = 30 * 86_400
LOWEST_PRIORITY, HIGHEST_PRIORITY = -100, 100


class Kind(IntEnum):
    """As in JobKind; stored."""

    GENERATION = 1
    BATCH = 2
    EMBEDDING = 3
    CONNECTOR = 4
    REQUEST = 5


@dataclass(frozen=True, kw_only=True)
class Owner:
    """On whose behalf a job runs, as its gateway verified it; as in JobOwner."""

    owner: str
    principal: str
    share: str
    user: str = ""
    key_id: str = ""
    team: str = ""
    models: tuple[str, ...] = ()
    is_admin: bool = False


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job to store."""

    job_id: str
    kind: Kind
    queue: str
    owner: Owner
    request: bytes
    """The SubmitJobRequest, encoded, with what its job sets: request_id, seed, service_tier."""
    digest: bytes
    """The SHA-256 of what the caller submitted: jobs with one id and one digest are the same."""
    summary: str
    connector: str = ""
    """The connector that it needs; empty for other kinds."""
    priority: int = 0
    not_before_ms: int = 0
    """0 for at once."""
    deadline_ms: int = 0
    """0 for none."""
    attempt_timeout_s: int = DEFAULT_ATTEMPT_TIMEOUT_S
    """0 for no limit."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    retention_s: int = MAX_RETENTION_S
    input_files: tuple[str, ...] = ()
    """The files that it reads: they must be complete, and stay until it has ended."""


@dataclass(frozen=True, kw_only=True)
class FailureFacts:
    """A Failure, as in the contract."""

    code: int
    reason: str
    message: str
    field: str = ""
    retry_delay_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """As in JobProgress."""

    fraction: float = 0.0
    done: int = 0
    total: int = 0
    unit: str = ""
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class BatchCounts:
    """What has become of the requests of a batch, as in BatchResult."""

    total: int = 0
    """0 until the file was read."""
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def ended(self) -> bool:
        """Whether all requests have ended."""
        return 0 < self.total <= self.completed + self.failed + self.cancelled


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stored job, without its request and result."""

    key: int
    """The database's own id: grows with each job."""
    job_id: str
    kind: Kind
    queue: str
    connector: str
    owner: Owner
    state: State
    priority: int
    created_ms: int
    not_before_ms: int
    deadline_ms: int
    started_ms: int
    ended_ms: int
    expires_ms: int
    """When it is removed; 0 while it has not ended."""
    ready_ms: int
    """When the next attempt may begin, of a job that is DELAYED."""
    attempt: int
    counts: Counts
    retry: RetryPolicy
    attempt_timeout_s: int
    sequence: int
    outputs: int
    """How many messages of its stream are stored."""
    cost: float
    summary: str
    worker_id: str = ""
    failure: FailureFacts | None = None
    progress: Progress | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    batch_id: str = ""
    number: int = 0
    """Its place in its batch, from 1; 0 for other jobs."""
    custom_id: str = ""
    batch: BatchCounts | None = None
    """Of a batch."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attempt that has ended, as in JobAttempt."""

    attempt: int
    worker_id: str
    started_ms: int
    ended_ms: int
    failure: FailureFacts | None
    recovery: str


@dataclass(frozen=True, slots=True)
class AttemptId:
    """An attempt of a job; its number is the fencing token."""

    job_id: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An attempt that a session was given."""

    id: AttemptId
    kind: Kind
    queue: str
    owner: Owner
    request: bytes
    """As NewJob's."""
    timeout_ms: int
    """0 for no limit."""
    connector: str = ""
    """The connector that it needs; empty for other kinds."""
    outputs: int
    back_end_state: str
    started: bytes
    """The first message of its stream, encoded; empty without."""
    position: bytes = b""
    """What the stored messages of its stream hold: the StreamPosition of the last of its Outputs,
    encoded; empty without."""


@dataclass(frozen=True, kw_only=True)
class Capability:
    """Which jobs a session takes."""

    kinds: frozenset[Kind] = frozenset()
    connectors: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    """Empty for all."""
    limits: frozenset[tuple[str, int]] = frozenset()
    """The most jobs that a claim takes of a connector; others have no limit."""


@dataclass(frozen=True, kw_only=True)
class Used:
    """As in UsedAmounts."""

    model: str = ""
    model_version: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    device_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Messages of a stream; those that are stored are skipped."""

    first: int
    messages: Sequence[bytes]
    position: bytes = b""
    """The StreamPosition after them, encoded; stored in the same transaction, unless all of the
    messages are stored already."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """An attempt's result."""

    result: bytes
    """The encoded AttemptResult."""
    cost: float = 0.0
    used: Used | None = None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """An attempt failed."""

    failure: FailureFacts
    fault: Fault
    used: Used | None = None
    result: bytes = b""
    """The encoded AttemptResult of a request whose response is an error; kept if the job fails."""


@dataclass(frozen=True)
class Stopped:
    """An attempt was stopped without a result."""


@dataclass(frozen=True)
class BackEndState:
    """What a later attempt needs to find the work at its back end again."""

    state: str


News = Progress | Outputs | Completed | Failed | Stopped | BackEndState


@dataclass(frozen=True, kw_only=True)
class Update:
    """News of one attempt."""

    id: AttemptId
    news: News


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs to list, as in ListJobsRequest."""

    principal: str = ""
    """Empty for all."""
    states: frozenset[State] = frozenset()
    kinds: frozenset[Kind] = frozenset(Kind) - {Kind.REQUEST}
    queue: str = ""
    batch_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    created_after_ms: int = 0
    created_before_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class JobChanges:
    """Jobs that changed."""

    jobs: Sequence[Job]
    """As they are now, the last change first."""
    change: int
    """The number of the last change of any job."""
    more: bool = False
    """More jobs changed than were asked for."""


@dataclass(frozen=True, kw_only=True)
class QueueSettings:
    """As in the contract; 0 is no limit."""

    paused: bool = False
    max_running: int = 0
    max_running_per_principal: int = 0
    max_waiting_per_principal: int = 0
    starts_per_second: float = 0.0
    burst: int = 0


@dataclass(frozen=True, kw_only=True)
class QueueCounts:
    """A queue as it is now."""

    name: str
    settings: QueueSettings
    delayed: int = 0
    waiting: int = 0
    running: int = 0
    failed: int = 0
    oldest_waiting_ms: int = 0
    """When the oldest waiting job was stored; 0 without one."""


@dataclass(frozen=True, kw_only=True)
class StoredSession:
    """A session of a worker, or of a jobs service that runs batches, as the database knows it."""

    key: int
    worker_id: str
    session: str
    beat: int
    """Grows with each heartbeat. Whoever has not seen it change for a lease, by its own monotonic
    clock, may end the session; no clock of another host is compared."""
    running: int
    """Attempts that it holds."""
    facts: bytes = b""
    """As of open_session."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What became of a job by an update, or by the loss of its worker."""

    job: Job
    recovery: str = ""
    """The strategy, for a failed attempt."""
    delay_ms: int | None = None
    """Until the next attempt; None when none follows."""
    failure: FailureFacts | None = None
