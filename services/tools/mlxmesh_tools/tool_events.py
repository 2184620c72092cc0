"""The events of MCP servers and calls."""

from google.protobuf.message import Message

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_tools.domain.models import Approval, CallRecord, FailureFacts, ServerStatus


def of_added(server: str) -> Message:
    """A server was added."""
    return events.ToolServerAdded(server=server)


def of_updated(server: str, *, disabled: bool) -> Message:
    """A server was changed."""
    return events.ToolServerUpdated(server=server, disabled=disabled)


def of_removed(server: str) -> Message:
    """A server was removed."""
    return events.ToolServerRemoved(server=server)


def of_ready(server: str, status: ServerStatus) -> Message:
    """The tools of a server can be called."""
    return events.ToolServerReady(server=server, tools=len(status.tools))


def of_failed(server: str, failure: FailureFacts | None) -> Message:
    """A server cannot be used. What its command has written is not for everybody who watches."""
    shown = Failure(code=failure.code, reason=failure.reason) if failure else None
    return events.ToolServerFailed(server=server, failure=shown)


def of_policy(server: str, tool: str, approval: Approval) -> Message:
    """The policy of a tool was set."""
    return events.ToolPolicySet(server=server, tool=tool, approval=approval.name.lower())


def of_call(record: CallRecord) -> Message:
    """A tool was called."""
    return events.ToolCalled(
        server=record.server,
        tool=record.tool,
        call_id=record.call_id,
        principal=record.principal,
        duration_ms=record.duration_ms,
        is_error=record.is_error,
        failure=to_failure(record.failure),
    )


def to_failure(facts: FailureFacts | None) -> Failure | None:
    """Why a server or a call failed."""
    if facts is None:
        return None
    return Failure(code=facts.code, reason=facts.reason, message=facts.message)
