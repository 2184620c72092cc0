"""What a call must pass before its request is read: access, and the limit of concurrent calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from grpc import aio

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.resilience.admission import CallAdmission
from mlxmesh_shared.rpc.caller import claimed_caller, peer_host
from mlxmesh_shared.rpc.methods import is_infrastructure
from mlxmesh_shared.tls.method_access import MethodAccess

Context = aio.ServicerContext[Any, Any]
Release = Callable[[], None]


class Entrance(Protocol):
    """Decides which calls a server handles."""

    async def admit(self, method: str, context: Context, *, counted: bool) -> Release | None:
        """Lets a call in; returns what must be called at its end, if anything.

        counted: whether the limit of concurrent calls applies.
        Raises: MeshError for a call that is refused.
        """
        ...

    def caller(self, context: Context) -> str:
        """The name that limits count for the call that this task handles, and that was let in."""
        ...

    def principal(self) -> str:
        """Who made the call that this task handles, for its record; empty if that is not known."""
        ...

    def resize(self, limit: int, *, per_caller: int | None) -> None:
        """Changes the limit of concurrent calls, if there is one; running calls continue."""
        ...


class RoleEntrance:
    """The entrance of a service: the role in the caller's certificate, and the limit.

    Satisfies Entrance. Without `access` every caller may call every method; without `admission`,
    any number of calls may run.
    """

    def __init__(
        self, *, access: MethodAccess | None = None, admission: CallAdmission | None = None
    ) -> None:
        self._access = access
        self._admission = admission

    async def admit(self, method: str, context: Context, *, counted: bool) -> Release | None:
        """Raises: Unauthenticated, PermissionDenied, MethodNotFound, TooManyRequests,
        InvalidArgument.
        """
        if self._access is not None and not is_infrastructure(method):
            self._access.check(method, context)
        if self._admission is None or not counted:
            return None
        caller = claimed_caller(context)
        self._admission.admit(caller)
        return partial(self._admission.release, caller)

    def caller(self, context: Context) -> str:
        """The claimed name; the peer's host if there is none, or an illegal one."""
        try:
            return claimed_caller(context)
        except InvalidArgument:
            return peer_host(context.peer())

    def principal(self) -> str:
        """Not known: services serve processes."""
        return ""

    def resize(self, limit: int, *, per_caller: int | None) -> None:
        """As of Entrance."""
        if self._admission is not None:
            self._admission.resize(limit, per_caller=per_caller)
