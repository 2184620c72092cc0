"""The whole mesh on one host: started in order, models loaded, stopped in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING

from mlxmesh.control.v1 import launcher_pb2
from mlxmesh_client import MeshClient
from mlxmesh_launcher.announcement import announce, withdraw
from mlxmesh_launcher.child import Child
from mlxmesh_launcher.command_lines import CommandLines
from mlxmesh_launcher.hosts.state import read_state
from mlxmesh_launcher.initial_models import Report, load_initial_models
from mlxmesh_launcher.launcher_events import LauncherEvents, service_message
from mlxmesh_launcher.lock import DirectoryLock
from mlxmesh_launcher.options import MeshOptions
from mlxmesh_launcher.periodic_tasks import (
    PeriodicTasks,
    renew_certificates,
    rotate_logs,
    watch_directory,
)
from mlxmesh_launcher.readiness import (
    START_TIMEOUT_S,
    SUCCESSOR_TIMEOUT_S,
    spawn,
    until_serving,
)
from mlxmesh_launcher.record import RecordFile
from mlxmesh_launcher.service_settings import (
    ACCESS,
    ON_USE,
    SERVICES,
    STARTED_TOGETHER,
    STOP_MARGIN_S,
)
from mlxmesh_launcher.servicer import control_server
from mlxmesh_launcher.users import may_have_users
from mlxmesh_shared.errors import IllegalState, ServiceUnavailable
from mlxmesh_shared.host.log_file import LogFile
from mlxmesh_shared.process.forked import ForkedProcess
from mlxmesh_shared.registry import Instance, Registry, open_registry
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.rpc.shared_port import is_free
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.tls import CertificateFiles, CertificateSource, ServerTls

if TYPE_CHECKING:
    from mlxmesh_launcher.hosts.local_host import LocalHost

# A process that was replaced waits for its engines to load elsewhere, or its clients to move.
LEAVE_TIMEOUT_S = 600.0
_WITHOUT = {
    "access": "users cannot sign in, and new keys do not work",
    "jobs": "no jobs can be submitted",
    "worker": "no jobs run",
    "tools": "no tools can be called",
}


class Mesh:
    """The processes of one data directory; `start`, then `stop`."""

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
        self._stop_timeouts_s = self._settings.stop_timeouts_s(options.stop_grace_s)
        self._record = RecordFile(
            options.data_dir,
            options.flags,
            stop_timeout_s=sum(self._stop_timeouts_s.values()) + STOP_MARGIN_S,
            lock=lock,
        )
        self._events = LauncherEvents(registry)
        self.host = self._local_host()
        """This host's part in a mesh of several hosts; None for a mesh on one host."""
        self._periodic = PeriodicTasks()
        self._starting = asyncio.Lock()
        self._leaving: dict[Child, asyncio.Task[None]] = {}
        self._control: MeshServer | None = None
        self._announced: Instance | None = None
        self.notes: tuple[str, ...] = ()
        """Notes for the owner after the start, for example about ports that were taken."""
        self.leaving = asyncio.Event()
        """Set once the mesh should stop."""
        used = (self.host.services if self.host is not None else ()) or self._settings.used()
        self.children = {name: self._child(name) for name in SERVICES if name in used}
        """The supervised processes by service, in starting order."""

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
        await self._spawn_all()
        # Only now: the first report may take a while, as of a screen that has to be opened.
        for note in self.notes:
            report(note)
        report("starting services")
        addresses = await self._until_serving(report)
        self._events.start(self._certificates())
        for child in self.children.values():
            child.keep_running()
        if "model" in self.children:
            await self._load_models(addresses, report)
        if "gateway" in self.children:
            self.notes += (self._commands.who_may_call(),)
        await self._publish()

    async def _load_models(self, addresses: Mapping[str, str], report: Report) -> None:
        # With TLS the gateway knows this client by its certificate. Without, it may ask for the
        # key of a user; the model service never does.
        reached = self.gateway if self._tls_dir is not None else addresses["model"]
        async with MeshClient(reached, tls=self.tls, api_key="") as client:
            await load_initial_models(client, self._options.models, self._options.replicas, report)

    async def _spawn_all(self) -> None:
        """Starts the processes. Gateways depend on whether there are users."""
        gateway = self.children.get("gateway")
        if (access := self.children.get(ACCESS)) is None or gateway is None:
            await asyncio.gather(*map(spawn, self.children.values()))
            return
        others = (child for child in self.children.values() if child is not gateway)
        await asyncio.gather(*map(spawn, others))
        self._commands.has_users = await may_have_users(
            access, self._registry, tls=self._tls_dir is not None
        )
        await spawn(gateway)

    async def _until_serving(self, report: Report) -> Mapping[str, str]:
        """Waits for all services; returns their addresses. Raises: ServiceUnavailable.

        A mesh serves without those that start on use.
        """

        async def address(child: Child) -> str:
            try:
                instance = await until_serving(child, self._registry)
            except ServiceUnavailable as error:
                if child.name not in ON_USE:
                    raise
                report(f"{_WITHOUT[child.name]}: {error}")
                return ""
            if child.name == "gateway":
                self._commands.pin(instance)
            return instance.address

        found = await asyncio.gather(*map(address, self.children.values()))
        return dict(zip(self.children, found, strict=True))

    async def _publish(self) -> None:
        """Serves LauncherService, and writes how this mesh is reached."""
        certificates = self._certificates()
        tls = ServerTls(certificates) if certificates is not None else None
        first = self.host.first if self.host is not None else None
        self._control = control_server(self, leaving=self.leaving, tls=tls, hosts=first)
        control = await self._control.start()
        await self._control.set_serving()
        self._announced = await announce(self._registry, self._settings.of_runtime, control)
        self._record.publish(
            self.gateway, http=self.http, control=control, tls_dir=self._tls_dir, notes=self.notes
        )

    async def start_service(self, name: str) -> tuple[launcher_pb2.SupervisedService, bool]:
        """As of Supervised."""
        async with self._starting:
            started = [await self._start_on_use(each) for each in STARTED_TOGETHER[name]]
            return service_message(self.children[name]), any(started)

    async def _start_on_use(self, name: str) -> bool:
        """Returns once the service serves; whether this call started it. Raises: MeshError."""
        if (child := self.children.get(name)) is not None:
            await until_serving(child, self._registry)
            return False
        if self.host is not None and self.host.first is None:
            raise IllegalState(
                f"the {name} service of this mesh runs on host {self.host.state.first_host}, where"
                " its first use starts it: repeat this there"
            )
        new = self._child(name)
        try:
            await spawn(new)
            await until_serving(new, self._registry)
        except BaseException:
            await new.stop(0)
            raise
        new.keep_running()
        known = {**self.children, name: new}
        self.children = {each: known[each] for each in SERVICES if each in known}
        return True

    def names(self, services: Sequence[str]) -> list[str]:
        """As of Supervised."""
        return [name for name in self.children if not services or name in services]

    def services(self) -> Sequence[launcher_pb2.SupervisedService]:
        """As of Supervised."""
        return [service_message(child) for child in self.children.values()]

    async def replace(self, name: str) -> AsyncGenerator[launcher_pb2.RestartPhase.ValueType]:
        """As of Supervised: the new process serves before the old one drains, if both can
        listen at the same time.
        """
        if name == "gateway" and (access := self.children.get(ACCESS)) is not None:
            self._commands.has_users = await may_have_users(
                access, self._registry, tls=self._tls_dir is not None
            )
        overlaps = self._commands.can_overlap(name)
        old, new = self.children[name], self._child(name, takes_over=overlaps)
        yield launcher_pb2.RESTART_PHASE_STARTING
        if not overlaps:
            await old.stop(LEAVE_TIMEOUT_S)
            self.children[name] = new
        timeout_s = SUCCESSOR_TIMEOUT_S if overlaps else START_TIMEOUT_S
        try:
            await spawn(new)
            await until_serving(new, self._registry, timeout_s)
        except BaseException:
            if overlaps:
                await new.stop(0)
            else:
                new.keep_running()  # there is no other
            raise
        new.keep_running()
        self.children[name] = new
        # In its own task: it continues when the caller is gone.
        self._leaving[old] = asyncio.create_task(old.stop(LEAVE_TIMEOUT_S))
        yield launcher_pb2.RESTART_PHASE_DRAINING
        await asyncio.shield(self._leaving[old])
        del self._leaving[old]
        yield launcher_pb2.RESTART_PHASE_DONE

    async def stop(self, report: Report = lambda _: None) -> None:
        """Stops every service, the gateway first: no new calls arrive while the rest drains."""
        if self._announced is not None:
            await withdraw(self._registry, self._announced)
        if self._control is not None:
            await self._control.drain(0, settle_s=0)
        leaving = [
            asyncio.create_task(old.stop(self._stop_timeouts_s[old.name])) for old in self._leaving
        ]
        for name, child in reversed(self.children.items()):
            if child.pid is not None:
                report(f"stopping {name}")
            await child.stop(self._stop_timeouts_s[name])
        await asyncio.gather(*leaving, *self._leaving.values())
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

    def _child(self, name: str, *, takes_over: bool = False) -> Child:
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
