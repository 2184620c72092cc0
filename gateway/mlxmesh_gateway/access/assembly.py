"""Builds the gateway's side of the access service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from google.protobuf.descriptor import ServiceDescriptor

from mlxmesh_gateway.access.authenticator import AccessAuthenticator
from mlxmesh_gateway.access.authorizer import RoleAuthorizer
from mlxmesh_gateway.access.link import ACCESS, AccessLink
from mlxmesh_gateway.access.policies import Policies
from mlxmesh_gateway.access.policy_file import PolicyFile
from mlxmesh_gateway.access.quotas.keeper import QuotaKeeper
from mlxmesh_gateway.access.quotas.renewer import QuotaRenewer, SteadyClock
from mlxmesh_gateway.access.requirement import Requirement
from mlxmesh_gateway.access.usage.folder import UsageFolder
from mlxmesh_gateway.access.usage.ledger import Ledger
from mlxmesh_gateway.access.usage.meter import UsageMeter
from mlxmesh_gateway.access.usage.reporter import UsageReporter
from mlxmesh_gateway.access.watch import PolicyWatch
from mlxmesh_gateway.forwarding.backends import Backends
from mlxmesh_shared.settings import GatewaySettings
from mlxmesh_shared.tls.method_access import MethodAccess

FIRST_POLICIES_S = 3.0
"""How long a start waits for the policies of an access service that is registered."""


class Access:
    """All parts, and their beginning and end."""

    def __init__(self, settings: GatewaySettings, backends: Backends, *, instance_id: str) -> None:
        """Reads the policies that were kept. Raises: IllegalState."""
        policies = Policies()
        self._file = PolicyFile(settings.data_dir, policies)
        self._file.load()
        self._link = link = AccessLink(backends)
        self.watch = PolicyWatch(link, policies, keep=self._keep)
        self.requirement = Requirement(
            policies,
            undecided=lambda: self.watch.is_undecided,
            setting=settings.authentication,
            listens=[one for one in (settings.listen, settings.http_listen) if one],
            tls=settings.tls_dir is not None,
            certificates_requested=settings.client_certificates == "required",
        )
        clock = SteadyClock()
        self._renewer = QuotaRenewer(partial(link.lease_quotas, instance_id), clock=clock)
        self.quotas = QuotaKeeper(policies, clock=clock, on_need=self._renewer.need)
        ledger = Ledger()
        self.meter = UsageMeter(
            ledger, self.quotas, wanted=lambda: policies.known or link.is_registered()
        )
        self.authenticator = AccessAuthenticator(policies, self.watch, self.requirement)
        self._reporter = UsageReporter(
            ledger,
            UsageFolder(settings.data_dir, instance_id),
            link.report_usage,
            may_send=lambda: self.watch.is_following,
        )

    def authorizer(self, services: Iterable[ServiceDescriptor]) -> RoleAuthorizer:
        """For the methods of these services."""
        return RoleAuthorizer(MethodAccess(services, at_gateway=True), self.requirement)

    def on_backend(self, backend: str, known: bool) -> None:
        """Instances of a backend have come or gone."""
        if backend == ACCESS and known:
            self.watch.wake()

    def _keep(self) -> None:
        """Policies have changed."""
        self._file.keep()
        self.quotas.note_policies()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Follows the access service and reports to it; returns once its policies are known."""
        work = (
            self.watch.run(),
            self._file.run(),
            self._reporter.run(),
            self._renewer.run(self.quotas),
        )
        tasks = [asyncio.create_task(each) for each in work]
        async with AsyncExitStack() as ending:  # each step is taken even if one before it fails
            ending.push_async_callback(self._file.write)
            ending.push_async_callback(self.watch.close)
            ending.push_async_callback(self._renewer.close, self.quotas)
            ending.push_async_callback(_cancel, tasks)
            ending.push_async_callback(self._reporter.close)
            await self.watch.settle()
            await self.watch.decided(FIRST_POLICIES_S)
            yield


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
