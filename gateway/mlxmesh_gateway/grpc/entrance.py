"""The gRPC server's way to the door's entrance."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from grpc import aio

from mlxmesh_gateway.door.entrance import Entrance
from mlxmesh_gateway.door.evidence import Evidence, credential_in
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_shared.rpc.caller import claimed_name, peer_host
from mlxmesh_shared.rpc.entrance import Release
from mlxmesh_shared.rpc.methods import is_infrastructure
from mlxmesh_shared.tls.identity import peer_identity

Context = aio.ServicerContext[Any, Any]

_principal: ContextVar[Principal] = ContextVar("principal")


class GrpcEntrance:
    """Satisfies the servers' Entrance; health and reflection are open to every caller."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance

    async def admit(self, method: str, context: Context, *, counted: bool) -> Release | None:
        """Raises: InvalidArgument, and as of the door's Entrance."""
        if is_infrastructure(method):
            return None
        admitted = await self._entrance.admit(method, evidence_of(context), counted=counted)
        # Each call is a task of its own, so this is the call's.
        _principal.set(admitted.principal)
        return admitted.release

    def caller(self, context: Context) -> str:
        """The share of the principal; of infrastructure, the peer's host."""
        principal = _principal.get(None)
        return peer_host(context.peer()) if principal is None else principal.share

    def principal(self) -> str:
        """The principal's id, if it is known."""
        principal = _principal.get(None)
        return principal.id if principal is not None and principal.known else ""

    def resize(self, limit: int, *, per_caller: int | None) -> None:
        """As of the servers' Entrance."""
        self._entrance.resize(limit, per_caller=per_caller)


def current_principal() -> Principal:
    """The caller of the call that this task handles."""
    return _principal.get()


def act_as(principal: Principal) -> None:
    """Makes a principal the caller of the call that this task handles, which no gRPC call is."""
    _principal.set(principal)


def evidence_of(context: Context) -> Evidence:
    """What a call presents. Raises: InvalidArgument for an illegal claimed name or a repeated
    credential.
    """
    return Evidence(
        certificate=peer_identity(context.auth_context()),
        credential=credential_in(context.invocation_metadata() or ()),
        claimed_name=claimed_name(context),
        host=peer_host(context.peer()),
    )
