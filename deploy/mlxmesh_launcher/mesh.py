"""The whole mesh on one host: started in order, models loaded, stopped in order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlxmesh_client import MeshClient
from mlxmesh_launcher.announcement import announce, withdraw
from mlxmesh_launcher.child import Child
from mlxmesh_launcher.command_lines import CommandLines
from mlxmesh_launcher.hosts.state import read_state
from mlxmesh_launcher.initial_models import Report, load_initial_models
from mlxmesh_launcher.launcher_events import LauncherEvents
from mlxmesh_launcher.lock import DirectoryLock
from mlxmesh_launcher.options import MeshOptions
from mlxmesh_launcher.periodic_tasks import (
    PeriodicTasks,
    renew_certificates,
    rotate_logs,
    watch_directory,
)
from mlxmesh_launcher.processes import Processes
from mlxmesh_launcher.record import RecordFile
from mlxmesh_launcher.service_settings import SERVICES, STOP_MARGIN_S
from mlxmesh_launcher.servicer import control_server
from mlxmesh_shared.host.log_file import LogFile
from mlxmesh_shared.process.forked import ForkedProcess
from mlxmesh_shared.registry import Instance, Registry, open_registry
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.rpc.shared_port import is_free
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.tls import CertificateFiles, CertificateSource, ServerTls

if TYPE_CHECKING:
    from mlxmesh_launcher.hosts.local_host import LocalHost


class Mesh:
    """The mesh of one data directory; `start`, then `stop`."""

    def __init__(
        self,
        options: MeshOptions,
        registry: Registry,
        forked: Mapping[str, ForkedProcess] | None = None,
        lock: DirectoryLock | None = None,
    ) -> None:
        """`forked` are processes by the module that they will run, as of `fork_services`; `lock`
        is that of the data directory where this process was handed it. Raises: SettingsError.
        """
        self._options = options
        self._registry = registry
        self._forked = dict(forked or {})
        state = read_state(options.data_dir)
        self._makes_certificates = options.tls if state is None else state.is_first
        self._tls_dir = options.data_dir / "tls" if self._makes_certificates else options.tls_dir
        self._commands = CommandLines(options, self._tls_dir)
        self._settings = self._commands.settings
        stop_timeouts_s = self._settings.stop_timeouts_s(options.stop_grace_s)
        self._record = RecordFile(
            options.data_dir,
            options.flags,
            stop_timeout_s=sum(stop_timeouts_s.values()) + STOP_MARGIN_S,
            lock=lock,
        )
        self._events = LauncherEvents(registry)
        self.host = self._local_host()
        """This host's part in a mesh of several hosts; None for a mesh on one host."""
        self._periodic = PeriodicTasks()
        self._control: MeshServer | None = None
        self._announced: Instance | None = None
        self.notes: tuple[str, ...] = ()
        """Notes for the owner after the start, for example about ports that were taken."""
        self.leaving = asyncio.Event()
        """Set once the mesh should stop."""
        used = (self.host.services if self.host is not None else ()) or self._settings.used()
        self.processes = Processes(
            used,
            self._child,
            self._commands,
            registry,
            tls=self._tls_dir is not None,
            stop_timeouts_s=stop_timeouts_s,
            starts_on="" if state is None or state.is_first else state.first_host,
        )

    @property
    def gateway(self) -> str:
        """host:port of the gateway, once started."""
        return self._commands.gateway

    @property
    def http(self) -> str:
        """host:port of the gateway's HTTP, once started; empty where it has none."""
        return self._commands.http

    @property
    def tls(self) -> CertificateFiles | None:
        """What a client of this mesh's owner connects with; None without TLS."""
        return CertificateFiles.of_role(self._tls_dir, "admin") if self._tls_dir else None

    async def start(self, report: Report = lambda _: None) -> None:
        """Start every service and load the models. Raises MeshError with the log's last words."""
        self._record.claim()
        self.notes = self._commands.choose_addresses(is_free)
        self._start_periodic_tasks()
        if self.host is not None:
            await self.host.start(report)
        await self.processes.spawn()
        # Only now: the first report may take a while, as of a screen that has to be opened.
        for note in self.notes:
            report(note)
        report("starting services")
        addresses = await self.processes.until_serving(report)
        self._events.start(self._certificates())
        self.processes.keep_running()
        if "model" in addresses:
            await self._load_models(addresses, report)
        if "gateway" in addresses:
            self.notes += (self._commands.who_may_call(),)
        await self._publish()

    async def _load_models(self, addresses: Mapping[str, str], report: Report) -> None:
        # With TLS the gateway knows this client by its certificate. Without, it may ask for the
        # key of a user; the model service never does.
        reached = self.gateway if self._tls_dir is not None else addresses["model"]
        async with MeshClient(reached, tls=self.tls, api_key="") as client:
            await load_initial_models(client, self._options.models, self._options.replicas, report)

    async def _publish(self) -> None:
        """Serves LauncherService, and writes how this mesh is reached."""
        certificates = self._certificates()
        tls = ServerTls(certificates) if certificates is not None else None
        first = self.host.first if self.host is not None else None
        self._control = control_server(self.processes, leaving=self.leaving, tls=tls, hosts=first)
        control = await self._control.start()
        await self._control.set_serving()
        self._announced = await announce(self._registry, self._settings.of_runtime, control)
        self._record.publish(
            self.gateway, http=self.http, control=control, tls_dir=self._tls_dir, notes=self.notes
        )

    async def stop(self, report: Report = lambda _: None) -> None:
        """Stops the processes in order, then what this one runs beside them."""
        if self._announced is not None:
            await withdraw(self._registry, self._announced)
        if self._control is not None:
            await self._control.drain(0, settle_s=0)
        await self.processes.stop(report)
        if self.host is not None:
            await self.host.stop()
        await self._events.stop()
        await self._periodic.stop()
        self._record.release()

    def _certificates(self) -> CertificateSource | None:
        """The launcher uses the certificate of a runtime."""
        if self._tls_dir is None:
            return None
        return CertificateSource(CertificateFiles.of_role(self._tls_dir, "runtime"))

    def _start_periodic_tasks(self) -> None:
        data_dir = self._options.data_dir
        launcher = self._log_file("launcher")
        watch_directory(self._periodic, self._record, launcher)
        rotate_logs(self._periodic, [*map(self._log_file, (*SERVICES, "consul")), launcher])
        if self._makes_certificates:
            reload, lifetime_s = (lambda: None), 0.0
            if self.host is not None:
                reload = self.host.reload_certificates
                lifetime_s = self.host.state.certificate_lifetime_s
            renew_certificates(
                self._periodic, data_dir / "tls", lifetime_s=lifetime_s, on_renewal=reload
            )

    def _local_host(self) -> LocalHost | None:
        if (state := read_state(self._options.data_dir)) is None:
            return None
        # Not at the top: a mesh on one host needs neither certificates nor Consul.
        from mlxmesh_launcher.hosts.local_host import LocalHost

        agent_log = self._log_file("consul")
        settings, publish = self._settings.of_runtime, self._events.publish
        return LocalHost(state, settings, self._registry, agent_log, publish=publish)

    def _log_file(self, name: str) -> LogFile:
        settings = self._settings.of_runtime
        return LogFile(
            self._options.data_dir / "logs" / f"{name}.log",
            max_bytes=settings.log_file_bytes,
            max_files=settings.log_files,
        )

    def _child(self, name: str, takes_over: bool) -> Child:
        return Child(
            name=name,
            command=lambda: self._commands.of(name, takes_over=takes_over),
            log=self._log_file(name),
            forked=self._forked.pop(f"mlxmesh_{name}", None),
            on_crash=self._events.publish_crash,
        )


def open_mesh_registry(settings: MeshSettings) -> Registry:
    """The registry of a launcher, which uses the certificate of a runtime; the caller closes it."""
    if settings.registry != "consul" or settings.tls_dir is None:
        return open_registry(settings)
    files = CertificateFiles.of_role(settings.tls_dir, "runtime")
    # `mlxmesh up --tls` makes them later, with the first start.
    exists = (settings.tls_dir / "runtime.crt").exists()
    return open_registry(settings, CertificateSource(files) if exists else None)


async def start_unless_stopped(mesh: Mesh, stop: asyncio.Task[None], report: Report) -> bool:
    """Start the mesh; False when `stop` was done first. The caller stops the mesh either way."""
    start = asyncio.create_task(mesh.start(report))
    try:
        await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            await start
        return start.done()
    finally:
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
