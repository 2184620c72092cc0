"""What is reported of hosts that are invited, join, are refused and are removed."""

import json
from pathlib import Path

import pytest
from google.protobuf.message import Message

from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_launcher.hosts.audit import MAX_ENTRIES, AuditOutbox
from mlxmesh_launcher.hosts.invitations import Invitation
from mlxmesh_launcher.hosts.reports import MAX_REFUSALS, HostReports
from mlxmesh_launcher.hosts.state import Member
from mlxmesh_shared.audit_delivery import AuditEntry
from mlxmesh_shared.errors import Unauthenticated
from mlxmesh_shared.events import make_event

NOW_S = 1_800_000_000.0
INVITATION = Invitation("3f09a1c27b54", "hash", ("runtime",), NOW_S, NOW_S + 900)
MEMBER = Member("b", "10.0.0.2", ("runtime",), NOW_S, ("hash",), NOW_S + 9)


class Rig:
    def __init__(self, folder: Path) -> None:
        self.now_s = NOW_S
        self.events: list[tuple[Message, str]] = []
        self.outbox = AuditOutbox(folder)
        self.reports = HostReports(self._publish, self.outbox, clock=lambda: self.now_s)

    def _publish(self, payload: Message, correlation_id: str = "") -> None:
        make_event(payload, service="launcher", instance_id="x", correlation_id=correlation_id)
        self.events.append((payload, correlation_id))

    def refuse(self) -> None:
        self.reports.refused("b", "10.0.0.9", INVITATION.id, Unauthenticated("no such token"))


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "hosts")


def test_each_step_is_an_event_and_an_entry(rig: Rig) -> None:
    rig.reports.invited(INVITATION, "spiffe://mlxmesh/admin")
    rig.refuse()
    rig.reports.joined(MEMBER, INVITATION.id)
    rig.reports.removed(MEMBER, "spiffe://mlxmesh/admin")
    kinds = [(type(event), correlation) for event, correlation in rig.events]
    assert kinds == [
        (events.HostInvited, INVITATION.id),
        (events.HostJoinRefused, "b"),
        (events.HostJoined, "b"),
        (events.HostRemoved, "b"),
    ]
    refusal = rig.events[1][0]
    assert isinstance(refusal, events.HostJoinRefused)
    assert (refusal.peer, refusal.failure.reason) == ("10.0.0.9", "UNAUTHENTICATED")
    invitation = f"invitation:{INVITATION.id}"
    assert [(each.actor, each.action, each.target) for each in rig.outbox.entries] == [
        ("spiffe://mlxmesh/admin", "host.invited", invitation),
        ("peer:10.0.0.9", "host.join_refused", invitation),
        ("host:b", "host.joined", "host:b"),
        ("spiffe://mlxmesh/admin", "host.removed", "host:b"),
    ]
    assert {each.time_ms for each in rig.outbox.entries} == {int(NOW_S * 1000)}


def test_some_refusals_a_minute_are_reported(rig: Rig) -> None:
    for _ in range(MAX_REFUSALS + 5):
        rig.refuse()
    assert len(rig.events) == len(rig.outbox.entries) == MAX_REFUSALS
    rig.now_s += 60
    rig.refuse()
    assert len(rig.events) == len(rig.outbox.entries) == MAX_REFUSALS + 1


async def test_entries_survive_a_restart(rig: Rig, tmp_path: Path) -> None:
    rig.refuse()
    rig.reports.removed(MEMBER, "spiffe://mlxmesh/admin")
    again = AuditOutbox(tmp_path / "hosts")
    assert list(again.entries) == list(rig.outbox.entries)
    await again.audit_delivered(await again.audit_entries(1))
    [left] = AuditOutbox(tmp_path / "hosts").entries
    assert left.action == "host.removed"
    assert (tmp_path / "hosts" / "audit.json").stat().st_mode & 0o777 == 0o600


def test_the_oldest_entries_go_first(tmp_path: Path) -> None:
    rows = [
        {"time_ms": at, "actor": "a", "action": "host.joined", "target": "host:b"}
        for at in range(MAX_ENTRIES)
    ]
    (tmp_path / "audit.json").write_text(json.dumps(rows))
    outbox = AuditOutbox(tmp_path)
    outbox.add(AuditEntry(time_ms=MAX_ENTRIES, actor="a", action="host.removed", target="host:b"))
    assert [each.time_ms for each in outbox.entries] == list(range(1, MAX_ENTRIES + 1))


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"x": 1}]'])
def test_a_file_that_cannot_be_read_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "audit.json").write_text(content)
    outbox = AuditOutbox(tmp_path)
    assert list(outbox.entries) == []
    outbox.add(AuditEntry(time_ms=1, actor="a", action="host.joined", target="host:b"))
    assert len(AuditOutbox(tmp_path).entries) == 1
