"""Reports who was invited, joined, was refused or removed: as events, and for the audit log."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from google.protobuf.message import Message

from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_launcher.hosts.audit import AuditOutbox
from mlxmesh_launcher.hosts.invitations import Invitation
from mlxmesh_launcher.hosts.state import Member
from mlxmesh_shared.audit_delivery import AuditEntry
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.events import Publish
from mlxmesh_shared.rpc.error_status import to_failure

MAX_REFUSALS = 20
REFUSALS_WINDOW_S = 60.0
_MAX_CORRELATION_ID = 200

_log = logging.getLogger(__name__)


class HostReports:
    """Nothing that is reported contains a secret of a token."""

    def __init__(
        self, publish: Publish, outbox: AuditOutbox, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` returns seconds since the epoch."""
        self._publish = publish
        self._outbox = outbox
        self._clock = clock
        self._refusals: deque[float] = deque(maxlen=MAX_REFUSALS)

    def invited(self, invitation: Invitation, actor: str) -> None:
        """The operator, `actor`, got a token."""
        event = events.HostInvited(invitation_id=invitation.id, services=invitation.services)
        event.expire_time.FromMilliseconds(round(invitation.expires_s * 1000))
        self._event(event, invitation.id)
        until = datetime.fromtimestamp(invitation.expires_s, UTC).isoformat(timespec="seconds")
        details = f"{_words(invitation.services)}, until {until}"
        self._entry(actor, "host.invited", f"invitation:{invitation.id}", details)

    def joined(self, member: Member, invitation_id: str) -> None:
        """A host joined."""
        event = events.HostJoined(
            host=member.name,
            address=member.address,
            services=member.services,
            invitation_id=invitation_id,
        )
        self._event(event, member.name)
        details = f"at {member.address}, {_words(member.services)}, invitation {invitation_id}"
        self._entry(f"host:{member.name}", "host.joined", f"host:{member.name}", details)

    def refused(self, name: str, peer: str, invitation_id: str, error: MeshError) -> None:
        """A host was not let in; no more than some a minute are reported."""
        now_s, oldest_s = self._clock(), self._refusals[0] if self._refusals else 0.0
        if len(self._refusals) == MAX_REFUSALS and now_s - oldest_s < REFUSALS_WINDOW_S:
            _log.info("a host at %s was not let in: %s", peer, error.reason)
            return
        self._refusals.append(now_s)
        event = events.HostJoinRefused(
            host=name, peer=peer, invitation_id=invitation_id, failure=to_failure(error)
        )
        self._event(event, name)
        details = f"as host {name}, invitation {invitation_id}: {error.reason}"
        self._entry(f"peer:{peer}", "host.join_refused", f"invitation:{invitation_id}", details)

    def removed(self, member: Member, actor: str) -> None:
        """The operator, `actor`, removed a host."""
        self._event(events.HostRemoved(host=member.name, address=member.address), member.name)
        self._entry(actor, "host.removed", f"host:{member.name}", f"at {member.address}")

    def _event(self, event: Message, correlation_id: str) -> None:
        self._publish(event, correlation_id[:_MAX_CORRELATION_ID])

    def _entry(self, actor: str, action: str, target: str, details: str) -> None:
        time_ms = round(self._clock() * 1000)
        self._outbox.add(
            AuditEntry(time_ms=time_ms, actor=actor, action=action, target=target, details=details)
        )


def _words(services: tuple[str, ...]) -> str:
    return ", ".join(services)
