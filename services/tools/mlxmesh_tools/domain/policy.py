"""Who may call which tool, and whether a call needs an approval. Pure."""

from mlxmesh_shared.errors import ToolDenied, ToolNeedsApproval
from mlxmesh_tools.domain.models import Access, Approval, Policy, ServerConfig, Tool


def may_use(config: ServerConfig, *, is_admin: bool) -> bool:
    """Whether a caller may use the tools of a server."""
    return is_admin or config.access is Access.EVERYONE


def effective_approval(config: ServerConfig, policy: Policy | None, tool: Tool) -> Approval:
    """The policy of a tool, with the server's default filled in.

    A tool that was allowed without approvals and has changed since is asked for again.
    """
    if policy is None:
        return config.default_approval or Approval.ASK
    if policy.approval is Approval.ALWAYS and policy.definition != tool.definition:
        return Approval.ASK
    return policy.approval


def require_approval(approval: Approval, *, function: str, approved: bool) -> None:
    """Raises: ToolDenied, ToolNeedsApproval."""
    if approval is Approval.NEVER:
        raise ToolDenied(f"calls of {function} are denied by its policy")
    if approval is Approval.ASK and not approved:
        raise ToolNeedsApproval(
            f"calls of {function} must be approved; ask the person who calls, then call again with"
            " approved"
        )
