"""What a worker runs, how it may end, and what a failure means: no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Protocol

from grpc import StatusCode

from mlxmesh_shared.errors import (
    ConstraintFailed,
    DeadlineExceeded,
    DiskFull,
    FilesFull,
    GenerationCancelled,
    MeshError,
    MessageTooLarge,
    ModelNotLoaded,
    ModelRefused,
    OutputTooLarge,
)


class Kind(IntEnum):
    """As in JobKind; batches are run by jobs services."""

    GENERATION = 1
    EMBEDDING = 3
    CONNECTOR = 4
    REQUEST = 5


class Fault(IntEnum):
    """As in the contract."""

    JOB = 1
    TRANSIENT = 2
    SERVICE_UNAVAILABLE = 3
    TIMEOUT = 4


class Stop(StrEnum):
    """Why an attempt is stopped before its end."""

    CANCELLED = "cancelled"
    """Its job was cancelled."""
    TIMEOUT = "timeout"
    """It took too long."""
    LEAVING = "leaving"
    """This worker stops; another one goes on."""
    FENCED = "fenced"
    """It is not its job's last attempt any more, or may not be."""

    @property
    def ends_work(self) -> bool:
        """Whether the work at the back end is to be stopped too: else another attempt has it."""
        return self in (Stop.CANCELLED, Stop.TIMEOUT)


@dataclass(frozen=True, slots=True)
class AttemptKey:
    """An attempt of a job; its number is the fencing token."""

    job_id: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """An attempt to run."""

    key: AttemptKey
    kind: Kind
    timeout_s: float | None
    """How long it may take; None for any time."""
    message: Any
    """The Assignment of the contract."""


class Reports(Protocol):
    """What a running attempt tells. Once the attempt was stopped, nothing of it is sent."""

    @property
    def stop(self) -> Stop | None:
        """Why the attempt is being cancelled; None while it is not."""
        ...

    def progress(
        self,
        *,
        fraction: float = 0.0,
        done: int = 0,
        total: int = 0,
        unit: str = "",
        text: str = "",
    ) -> None:
        """Sends how far the attempt has come, at most twice a second; the last one is sent.

        Called again with nothing new, it says that the work is alive, which is sent once a minute.
        An attempt without any news for long is stopped as stuck, so call it for work that only
        waits, and never without having asked whether the work is there.
        """
        ...

    async def outputs(self, first: int, messages: list[Any], position: Any) -> None:
        """Sends messages of the stream; waits while the jobs service is behind."""
        ...

    async def remember(self, state_json: str) -> None:
        """Returns once the state of the back end is stored. Raises: OutputTooLarge."""
        ...


class Runner(Protocol):
    """Runs attempts of one kind."""

    async def run(self, assignment: Assignment, reports: Reports) -> Any:
        """The AttemptResult of the contract. Raises: MeshError, or AttemptFailed.

        When it is cancelled, `reports.stop` says whether the work at the back end ends with it.
        """
        ...


class AttemptFailed(Exception):
    """An attempt failed, and used something, or its fault is not that of its error."""

    def __init__(self, error: MeshError, *, fault: Fault | None = None, used: Any = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.fault = fault or fault_of(error)
        self.used = used
        """The UsedAmounts of the contract; None for nothing."""


_OF_JOB = frozenset(
    {
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNIMPLEMENTED,
    }
)
_UNAVAILABLE = frozenset({StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED})
_OF_JOB_BY_CLASS = (
    ConstraintFailed,
    FilesFull,
    GenerationCancelled,
    MessageTooLarge,
    ModelRefused,
    OutputTooLarge,
)


def fault_of(error: MeshError) -> Fault:
    """What an error says of the attempts that follow."""
    if isinstance(error, _OF_JOB_BY_CLASS) or error.code in _OF_JOB:
        return Fault.JOB
    # A model that is not loaded may be by the time of the next attempt.
    if isinstance(error, ModelNotLoaded | DiskFull) or error.code in _UNAVAILABLE:
        return Fault.SERVICE_UNAVAILABLE
    return Fault.TIMEOUT if isinstance(error, DeadlineExceeded) else Fault.TRANSIENT
