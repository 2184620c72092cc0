"""What servers send, and what of it is shown."""

from dataclasses import replace

import pytest

from mlxmesh_shared.errors import ToolDenied, ToolNeedsApproval, ToolServerUnavailable
from mlxmesh_tools.domain.models import Access, Approval, Http, Policy, ServerConfig, Tool
from mlxmesh_tools.domain.policy import effective_approval, may_use, require_approval
from mlxmesh_tools.servers.flow import BURST_MESSAGES, MAX_MESSAGES_PER_S, Flow
from mlxmesh_tools.servers.tail import MAX_CHARACTERS, Tail


def test_a_flow_allows_bursts_and_refills() -> None:
    now_s = 0.0
    flow = Flow(lambda: now_s, max_message_bytes=1)
    for _ in range(int(BURST_MESSAGES)):
        flow.spend(1)
    with pytest.raises(ToolServerUnavailable):
        flow.spend(1)
    now_s = 1.0
    for _ in range(int(MAX_MESSAGES_PER_S) - 1):
        flow.spend(1)


def test_a_tail_has_no_secrets_and_no_end() -> None:
    tail = Tail(["s3cret", "abc"])
    tail.add(b"one s3cr")
    tail.add(b"et line\n\n")
    assert tail.last_line() == "one *** line"
    tail.add(b"x" * 1_000_000)
    assert len(tail.last_line()) == MAX_CHARACTERS


def test_policies() -> None:
    config = ServerConfig(
        name="a", transport=Http(url="http://x"), default_approval=Approval.ALWAYS
    )
    assert not may_use(config, is_admin=False)
    open_ = ServerConfig(name="a", transport=Http(url="http://x"), access=Access.EVERYONE)
    assert may_use(open_, is_admin=False)
    tool = Tool(server="a", name="t", function="a__t", description="Reads.")
    assert effective_approval(config, None, tool) is Approval.ALWAYS
    for approval in (Approval.ASK, Approval.ALWAYS, Approval.NEVER):
        policy = Policy(approval=approval, definition=tool.definition)
        assert effective_approval(config, policy, tool) is approval
    require_approval(Approval.ALWAYS, function="f", approved=False)
    require_approval(Approval.ASK, function="f", approved=True)
    with pytest.raises(ToolNeedsApproval):
        require_approval(Approval.ASK, function="f", approved=False)
    with pytest.raises(ToolDenied):
        require_approval(Approval.NEVER, function="f", approved=True)


@pytest.mark.parametrize(
    "change", [{"description": "Deletes."}, {"input_schema": '{"type": "object"}'}]
)
def test_a_tool_that_was_allowed_and_has_changed_is_asked_for(change: dict[str, str]) -> None:
    config = ServerConfig(
        name="a", transport=Http(url="http://x"), default_approval=Approval.ALWAYS
    )
    tool = Tool(server="a", name="t", function="a__t", description="Reads.")
    changed = replace(tool, **change)
    always = Policy(approval=Approval.ALWAYS, definition=tool.definition)
    assert effective_approval(config, always, changed) is Approval.ASK
    never = Policy(approval=Approval.NEVER, definition=tool.definition)
    assert effective_approval(config, never, changed) is Approval.NEVER
