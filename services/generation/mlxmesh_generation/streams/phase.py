"""The phases of an output, and which event leads from one to the next. Pure."""

from enum import Enum
from types import MappingProxyType

from mlxmesh_shared.errors import IllegalState


class Phase(Enum):
    CREATED = "created"
    SUBMITTED = "submitted"
    """On an engine that has not accepted it yet; the reader has received nothing."""
    RUNNING = "running"
    WAITING = "waiting"
    """Without an engine: it waits to be resumed on another one."""
    RESUBMITTED = "resubmitted"
    """As SUBMITTED, with output from earlier engines."""
    STOPPING = "stopping"
    """It was cancelled, or its output is complete; the engine has yet to confirm the end."""
    FINISHED = "finished"
    FAILED = "failed"

    def __init__(self, label: str) -> None:
        # Attributes, not properties: an output reads them for every output.
        self.ended = label in ("finished", "failed")
        self.unaccepted = label in ("submitted", "resubmitted")
        """Whether an engine was asked and has not answered."""


class Change(Enum):
    """What happens to an output."""

    SUBMIT = "submit"
    ACCEPT = "accept"
    WAIT = "wait"
    STOP = "stop"
    FINISH = "finish"
    FAIL = "fail"


_TRANSITIONS = MappingProxyType(
    {
        (Phase.CREATED, Change.SUBMIT): Phase.SUBMITTED,
        (Phase.CREATED, Change.WAIT): Phase.WAITING,
        (Phase.CREATED, Change.STOP): Phase.STOPPING,
        (Phase.CREATED, Change.FAIL): Phase.FAILED,
        (Phase.SUBMITTED, Change.SUBMIT): Phase.SUBMITTED,
        (Phase.SUBMITTED, Change.ACCEPT): Phase.RUNNING,
        # An output beside the first one waits until an engine accepts it.
        (Phase.SUBMITTED, Change.WAIT): Phase.WAITING,
        (Phase.SUBMITTED, Change.STOP): Phase.STOPPING,
        (Phase.SUBMITTED, Change.FINISH): Phase.FINISHED,
        (Phase.SUBMITTED, Change.FAIL): Phase.FAILED,
        (Phase.RUNNING, Change.WAIT): Phase.WAITING,
        (Phase.RUNNING, Change.STOP): Phase.STOPPING,
        (Phase.RUNNING, Change.FINISH): Phase.FINISHED,
        (Phase.RUNNING, Change.FAIL): Phase.FAILED,
        (Phase.WAITING, Change.SUBMIT): Phase.RESUBMITTED,
        (Phase.WAITING, Change.STOP): Phase.STOPPING,
        (Phase.WAITING, Change.FAIL): Phase.FAILED,
        (Phase.RESUBMITTED, Change.ACCEPT): Phase.RUNNING,
        (Phase.RESUBMITTED, Change.WAIT): Phase.WAITING,
        (Phase.RESUBMITTED, Change.STOP): Phase.STOPPING,
        (Phase.RESUBMITTED, Change.FINISH): Phase.FINISHED,
        (Phase.RESUBMITTED, Change.FAIL): Phase.FAILED,
        # The engine's acceptance may arrive after the request to stop.
        (Phase.STOPPING, Change.ACCEPT): Phase.STOPPING,
        (Phase.STOPPING, Change.STOP): Phase.STOPPING,
        (Phase.STOPPING, Change.FINISH): Phase.FINISHED,
        (Phase.STOPPING, Change.FAIL): Phase.FAILED,
    }
)


def next_phase(phase: Phase, change: Change) -> Phase:
    """Raises: IllegalState for a change that is impossible in this phase."""
    try:
        return _TRANSITIONS[phase, change]
    except KeyError:
        raise IllegalState(f"a {phase.value} generation cannot {change.value}") from None
