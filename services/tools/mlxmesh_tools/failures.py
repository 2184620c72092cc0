"""Errors as facts that are stored and sent."""

from mlxmesh_shared.errors import MeshError, ToolServerUnavailable
from mlxmesh_tools.domain.models import FailureFacts


def to_facts(error: MeshError) -> FailureFacts:
    """Why something failed."""
    return FailureFacts(code=error.code.value[0], reason=error.reason, message=error.message)


def shown_error(error: MeshError, server: str, *, is_admin: bool) -> MeshError:
    """The error as its caller may see it: what a server's command has written is for admins."""
    if is_admin or not isinstance(error, ToolServerUnavailable):
        return error
    return ToolServerUnavailable(
        f"the MCP server {server} cannot be reached", retry_delay_s=error.retry_delay_s
    )
