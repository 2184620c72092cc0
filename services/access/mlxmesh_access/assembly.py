"""Builds the access service from its settings."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from mlxmesh.access.v1 import access_pb2_grpc, policy_pb2_grpc
from mlxmesh_access.accounts.keys import Keys
from mlxmesh_access.accounts.users import Users
from mlxmesh_access.audit import Audit
from mlxmesh_access.clock import Clock, system_clock
from mlxmesh_access.database import AccessDatabase
from mlxmesh_access.maintenance import Maintenance
from mlxmesh_access.policies.feed import PolicyFeed
from mlxmesh_access.policy_servicer import PolicyServicer
from mlxmesh_access.quotas.quotas import Quotas
from mlxmesh_access.servicer import AccessServicer
from mlxmesh_access.sign_in.passwords import HashCost, Passwords, ThrottledPasswords
from mlxmesh_access.sign_in.sign_in import open_sign_in
from mlxmesh_access.usage.usage import Usage
from mlxmesh_shared.process.service_host import running_in_background
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.registry import Registry, follow_others
from mlxmesh_shared.rpc.server import AddServicer, MeshServer, ServerOptions
from mlxmesh_shared.settings import AccessSettings
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile, database_url

SERVICE_NAMES = ("mlxmesh.access.v1.AccessService", "mlxmesh.access.v1.PolicyService")
_POLL_INTERVAL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Access:
    """The access database, and what acts on it."""

    database: AccessDatabase
    servicer: AccessServicer
    policy_servicer: PolicyServicer
    maintenance: Maintenance

    def services(self) -> list[tuple[AddServicer, object]]:
        """The services, for a server."""
        return [
            (access_pb2_grpc.add_AccessServiceServicer_to_server, self.servicer),
            (policy_pb2_grpc.add_PolicyServiceServicer_to_server, self.policy_servicer),
        ]

    def running(self, registry: Registry, instance_id: str) -> AbstractAsyncContextManager[None]:
        """Follows changes by other instances, and removes old entries, until the body ends."""
        others = asyncio.Event()
        return running_in_background(
            follow_others(registry, "access", instance_id, others),
            self.database.poll_changes(_POLL_INTERVAL_S, others),
            self.maintenance.run(),
        )


async def open_access(
    stack: AsyncExitStack,
    settings: AccessSettings,
    *,
    clock: Clock = system_clock,
    password_cost: HashCost | None = None,
) -> Access:
    """Opens the database, which the stack closes. Raises: MeshError."""
    database = await AccessDatabase.open(_database_url(settings), clock)
    stack.push_async_callback(database.close)
    passwords = Passwords(password_cost)
    stack.callback(passwords.close)
    quotas = Quotas(database)
    usage = Usage(database)
    audit = Audit(database)
    users = Users(
        database,
        ThrottledPasswords(passwords),
        sign_up=settings.sign_up,
        needs_password=not settings.oidc_issuer,
    )
    servicer = AccessServicer(
        sign_in=open_sign_in(stack, settings, database, passwords, users),
        users=users,
        keys=Keys(database),
        quotas=quotas,
        usage=usage,
        audit=audit,
        clock=clock,
    )
    return Access(
        database=database,
        servicer=servicer,
        policy_servicer=PolicyServicer(
            feed=PolicyFeed(database), quotas=quotas, usage=usage, audit=audit
        ),
        maintenance=Maintenance(
            database,
            audit_retention_days=settings.audit_retention_days,
            usage_retention_days=settings.usage_retention_days,
        ),
    )


def make_server(process: ServiceProcess[AccessSettings], access: Access) -> MeshServer:
    """The server with its servicers."""
    settings = process.settings
    return process.make_server(
        settings.listen,
        services=access.services(),
        service_names=SERVICE_NAMES,
        options=ServerOptions(reflection=settings.reflection),
    )


def _database_url(settings: AccessSettings) -> DatabaseUrl:
    if settings.database_url:
        return database_url(settings.database_url)
    return SqliteFile(settings.data_dir / "access.db")
