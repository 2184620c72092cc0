"""This host in a running mesh of several: its Consul agent, and the renewal of certificates."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import cached_property

from mlxmesh_launcher.certificate_directory import read_certificate, until_due_s
from mlxmesh_launcher.hosts.agent import AgentProcess, until_registry_answers
from mlxmesh_launcher.hosts.audit import AuditOutbox, deliver_audit
from mlxmesh_launcher.hosts.first_host import FirstHost
from mlxmesh_launcher.hosts.joining import recalled_certificates, renew_certificates
from mlxmesh_launcher.hosts.recalling import write_recalled
from mlxmesh_launcher.hosts.reports import HostReports
from mlxmesh_launcher.hosts.state import HostState, folder_of
from mlxmesh_launcher.periodic_tasks import (
    RENEWAL_RETRY_S,
    renewal_pause_s,
    renewal_retry_s,
)
from mlxmesh_shared.consul.agent import ConsulAgent
from mlxmesh_shared.errors import (
    IllegalState,
    MeshError,
    PermissionDenied,
    RegistryUnavailable,
    Unauthenticated,
)
from mlxmesh_shared.events import Publish
from mlxmesh_shared.host.log_file import LogFile
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.tls import CertificateFiles, CertificateSource

RECALL_CHECK_INTERVAL_S = 10.0
MEMBERSHIP_TIMEOUT_S = 2.0
"""At the start: the first host may be away, and this one serves without it."""

_log = logging.getLogger(__name__)


class LocalHost:
    """Started before the services of this host, and stopped after them."""

    def __init__(
        self,
        state: HostState,
        settings: MeshSettings,
        registry: Registry,
        agent_log: LogFile,
        *,
        publish: Publish,
    ) -> None:
        """`settings` are those of this host's services. Raises: IllegalState."""
        if settings.tls_dir is None or settings.registry != "consul":
            raise IllegalState(
                f"mlxmesh.toml in {settings.data_dir} has lost tls_dir or registry of [mesh]; write"
                " them again with `mlxmesh up --hosts`, or let this host join again"
            )
        self.state = state
        self._settings = settings
        self._tls_dir = settings.tls_dir
        self._registry = registry
        self._agent: AgentProcess | None = None
        if state.consul:
            self._agent = AgentProcess(state, settings.data_dir, settings.tls_dir, agent_log)
        self._tasks: list[asyncio.Task[None]] = []
        self._outbox = AuditOutbox(folder_of(settings.data_dir))
        self.first: FirstHost | None = None
        if state.is_first:
            self.first = FirstHost(
                state,
                settings.data_dir,
                settings.tls_dir,
                registry,
                consul_prefix=settings.consul.prefix,
                forget=self._forget,
                reports=HostReports(publish, self._outbox),
            )

    @property
    def services(self) -> Sequence[str]:
        """What runs here; empty for all that the mesh uses."""
        return self.state.services

    async def start(self, report: Callable[[str], None]) -> None:
        """Returns once the registry answers.

        Raises: IllegalState, also for a host that was removed, and ServiceUnavailable.
        """
        if self.first is None:
            await self._check_membership()
        if self._agent is not None:
            await self._agent.start(self._registry, report)
        else:
            await until_registry_answers(
                self._registry,
                report,
                f"the Consul agent at {self._settings.consul.address} does not answer; start it, or"
                " correct consul.address in mlxmesh.toml",
            )
        if self.first is not None:
            await self.first.start()
            audit = deliver_audit(self._outbox, self._registry, self._tls_dir)
            self._tasks.append(asyncio.create_task(audit, name="deliver-audit"))
        else:
            renewing = self._renew_when_due()
            self._tasks.append(asyncio.create_task(renewing, name="renew-certificates"))
            recalling = self._follow_recalled()
            self._tasks.append(asyncio.create_task(recalling, name="follow-recalled"))

    async def stop(self) -> None:
        """Stops the agent last: it tells the other hosts that this one leaves."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.first is not None:
            await self.first.stop()
        if self._agent is not None:
            await self._agent.stop()

    def reload_certificates(self) -> None:
        """Has the agent use new certificates; services do so by themselves. Thread-safe."""
        if self._agent is not None:
            self._agent.reload()

    async def _renew_when_due(self) -> None:
        """Logs a failure when its reason changes; the first host may be away for weeks."""
        failure = ""
        while True:
            try:
                if until_due_s(self._tls_dir) <= 0:
                    await self._renew()
                failure, pause_s = "", renewal_pause_s(until_due_s(self._tls_dir))
            except (MeshError, OSError) as error:
                if failure != (failure := str(error)):
                    _log.error("renewing certificates failed, will be retried: %s", failure)
                pause_s = self._retry_s()
            await asyncio.sleep(pause_s)

    async def _follow_recalled(self) -> None:
        """What was recalled stays so while the first host is away."""
        while True:
            await asyncio.sleep(RECALL_CHECK_INTERVAL_S)  # it was read at the start
            try:
                await self._read_recalled()
            except MeshError as error:
                _log.debug("recalled certificates are not known: %s", error)

    async def _read_recalled(self) -> None:
        recalled = await recalled_certificates(self.state, self._certificates)
        write_recalled(self._tls_dir, recalled)

    @cached_property
    def _certificates(self) -> CertificateSource:
        """What this host shows to the first one. Raises: IllegalState."""
        return CertificateSource(CertificateFiles.of_role(self._tls_dir, "runtime"))

    async def _check_membership(self) -> None:
        try:
            async with asyncio.timeout(MEMBERSHIP_TIMEOUT_S):
                await self._read_recalled()
        except (Unauthenticated, PermissionDenied) as error:
            raise IllegalState(
                f"host {self.state.first_host} refuses this one: {error.message}"
            ) from None
        except (MeshError, TimeoutError) as error:
            _log.info("whether this host was removed is not known yet: %s", error)

    def _retry_s(self) -> float:
        with contextlib.suppress(OSError, IllegalState):
            lifetime = read_certificate(self._tls_dir / "runtime.crt").lifetime
            return renewal_retry_s(lifetime.total_seconds())
        return RENEWAL_RETRY_S

    async def _renew(self) -> None:
        await renew_certificates(self.state, self._tls_dir, self._certificates)
        self.reload_certificates()
        _log.info("the first host renewed the certificates of this host")

    async def _forget(self, name: str) -> None:
        """Where the own agents do not know the host any more, there is nothing to do."""
        if self._agent is None:
            return
        agent = ConsulAgent(self._settings.consul)
        try:
            await agent.forget_host(name)
        except RegistryUnavailable as error:
            _log.warning("Consul forgets host %s by itself within three days: %s", name, error)
        finally:
            await agent.close()
