"""HostService: the operator's view of the hosts of a mesh."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from mlxmesh.control.v1 import hosts_pb2 as pb
from mlxmesh.control.v1 import hosts_pb2_grpc as pb_grpc
from mlxmesh_launcher.hosts.invitations import Invitation, State
from mlxmesh_launcher.hosts.state import Member
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.rpc.caller import ANONYMOUS
from mlxmesh_shared.tls.identity import peer_spiffe_id

_Context = aio.ServicerContext[Any, Any]
_STATES = {
    State.OPEN: pb.INVITATION_STATE_OPEN,
    State.USED: pb.INVITATION_STATE_USED,
    State.REVOKED: pb.INVITATION_STATE_REVOKED,
    State.EXPIRED: pb.INVITATION_STATE_EXPIRED,
}


class HostControl(Protocol):
    """What the first host offers its operator."""

    @property
    def join_address(self) -> str:
        """host:port where hosts join."""
        ...

    async def invite(
        self, services: Sequence[str], lifetime_s: float, actor: str
    ) -> tuple[Invitation, str]:
        """A new invitation and its token; `actor` is who asked for it. Raises: MeshError."""
        ...

    def invitations(self) -> list[Invitation]:
        """The newest first."""
        ...

    def revoke(self, invitation_id: str) -> None:
        """Raises: NotFound."""
        ...

    def hosts(self) -> list[Member]:
        """The hosts that joined, by name."""
        ...

    async def remove(self, name: str, actor: str, *, force: bool = False) -> None:
        """Raises: MeshError."""
        ...


class HostServicer(pb_grpc.HostServiceServicer):
    """Requests have passed the contract's rules; other hosts than the first refuse them all."""

    def __init__(self, control: HostControl | None) -> None:
        self._control = control

    async def CreateInvitation(
        self, request: pb.CreateInvitationRequest, context: _Context
    ) -> pb.CreateInvitationResponse:
        control = self._first()
        invitation, token = await control.invite(
            list(request.services), request.lifetime_s, _actor(context)
        )
        return pb.CreateInvitationResponse(
            invitation=invitation_message(invitation), token=token, address=control.join_address
        )

    async def ListInvitations(
        self, request: pb.ListInvitationsRequest, context: object
    ) -> pb.ListInvitationsResponse:
        found = map(invitation_message, self._first().invitations())
        return pb.ListInvitationsResponse(invitations=found)

    async def RevokeInvitation(
        self, request: pb.RevokeInvitationRequest, context: object
    ) -> pb.RevokeInvitationResponse:
        self._first().revoke(request.id)
        return pb.RevokeInvitationResponse()

    async def ListHosts(
        self, request: pb.ListHostsRequest, context: object
    ) -> pb.ListHostsResponse:
        return pb.ListHostsResponse(hosts=map(_host_message, self._first().hosts()))

    async def RemoveHost(
        self, request: pb.RemoveHostRequest, context: _Context
    ) -> pb.RemoveHostResponse:
        await self._first().remove(request.name, _actor(context), force=request.force)
        return pb.RemoveHostResponse()

    def _first(self) -> HostControl:
        if self._control is None:
            raise IllegalState(
                "this is not the first host of a mesh of several: run this command on the host"
                " where `mlxmesh up --hosts` ran; a mesh of one host becomes that by"
                " `mlxmesh down`, then `mlxmesh up --hosts`"
            )
        return self._control


def _actor(context: _Context) -> str:
    return peer_spiffe_id(context.auth_context()) or ANONYMOUS


def invitation_message(invitation: Invitation) -> pb.Invitation:
    """An invitation without its secret, as it is now."""
    now_s = datetime.now(UTC).timestamp()
    return pb.Invitation(
        id=invitation.id,
        services=invitation.services,
        create_time=_timestamp(invitation.created_s),
        expire_time=_timestamp(invitation.expires_s),
        state=_STATES[invitation.state(now_s)],
        used_by=invitation.used_by,
    )


def _host_message(member: Member) -> pb.JoinedHost:
    return pb.JoinedHost(
        name=member.name,
        address=member.address,
        services=member.services,
        join_time=_timestamp(member.joined_s),
        certificates_expire_time=_timestamp(member.expires_s),
    )


def _timestamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
