"""The whole mesh on one host: started in order, models loaded, stopped in order."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence

from mlxmesh.control.v1 import launcher_pb2
from mlxmesh_client import MeshClient
from mlxmesh_launcher.child import Child
from mlxmesh_launcher.crash_events import CrashEvents, service_message
from mlxmesh_launcher.lock import DirectoryLock
from mlxmesh_launcher.options import MeshOptions
from mlxmesh_launcher.ports import choose, port_of, with_port
from mlxmesh_launcher.provision import Report, provide_models
from mlxmesh_launcher.record import RecordFile
from mlxmesh_launcher.service_settings import SERVICES, STOP_MARGIN_S, ServiceSettings
from mlxmesh_launcher.servicer import control_server
from mlxmesh_launcher.upkeep import Upkeep, bound_logs, keep_directory, renew_certificates
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.host.log_file import LogFile
from mlxmesh_shared.process.forked import ForkedProcess
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.rpc.shared_port import CAN_SHARE, is_free
from mlxmesh_shared.tls import CertificateFiles, CertificateSource, ServerTls

START_TIMEOUT_S = 60.0
# A process that was replaced waits for its engines to load elsewhere, or its clients to move.
LEAVE_TIMEOUT_S = 600.0


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
        self._tls_dir = options.data_dir / "tls" if options.tls else options.tls_dir
        tls = ("--tls-dir", str(self._tls_dir)) if self._tls_dir is not None else ()
        self._flags = (*options.settings_flags, *tls)
        self._settings = ServiceSettings(self._flags)
        self._stop_timeouts_s = self._settings.stop_timeouts_s(options.stop_grace_s)
        self._record = RecordFile(
            options.data_dir,
            options.flags,
            stop_timeout_s=sum(self._stop_timeouts_s.values()) + STOP_MARGIN_S,
            lock=lock,
        )
        self._upkeep = Upkeep()
        self._crashes = CrashEvents(registry)
        self._listens: Mapping[str, str] = {}
        self._gateway = self._http = ""
        self._leaving: dict[Child, asyncio.Task[None]] = {}
        self._control: MeshServer | None = None
        self.notes: tuple[str, ...] = ()
        """What its owner should know once it is started: ports that were taken."""
        self.leaving = asyncio.Event()
        """Set once somebody asked for the end of the mesh."""
        self.children = {name: self._child(name) for name in SERVICES}

    @property
    def gateway(self) -> str:
        """host:port of the gateway, once started."""
        return self._gateway

    @property
    def http(self) -> str:
        """host:port of the gateway's HTTP, once started; empty where it has none."""
        return self._http

    @property
    def tls(self) -> CertificateFiles | None:
        """What a client of this mesh's owner connects with; None without TLS."""
        return CertificateFiles.of_role(self._tls_dir, "admin") if self._tls_dir else None

    async def start(self, report: Report = lambda _: None) -> None:
        """Start every service and load the models. Raises MeshError with the log's last words."""
        self._record.claim()
        options = self._options
        wishes = self._settings.wishes(options.grpc_port, options.http_port)
        self._listens, self.notes = choose(wishes, is_free)
        self._begin_upkeep()
        for note in self.notes:
            report(note)
        report("starting services")
        await asyncio.gather(*map(self._spawn, self.children.values()))
        instances = await asyncio.gather(*map(self._serving, self.children.values()))
        self._note_gateway(instances[SERVICES.index("gateway")])
        self._crashes.start(self._certificates())
        for child in self.children.values():
            child.keep_running()
        async with MeshClient(self._gateway, tls=self.tls) as client:
            await provide_models(client, options.models, options.replicas, report)
        certificates = self._certificates()
        tls = ServerTls(certificates) if certificates is not None else None
        self._control = control_server(self, leaving=self.leaving, tls=tls)
        control = await self._control.start()
        await self._control.set_serving()
        self._record.publish(
            self._gateway,
            http=self._http,
            control=control,
            tls_dir=self._tls_dir,
            notes=self.notes,
        )

    def names(self, services: Sequence[str]) -> list[str]:
        """As of Supervised."""
        return [name for name in self.children if not services or name in services]

    def services(self) -> Sequence[launcher_pb2.SupervisedService]:
        """As of Supervised."""
        return [service_message(child) for child in self.children.values()]

    async def replace(self, name: str) -> AsyncGenerator[launcher_pb2.RestartPhase.ValueType]:
        """As of Supervised: the new process serves before the old one is told to leave, where two
        can listen at the same time.
        """
        overlaps = self._can_overlap(name)
        old, new = self.children[name], self._child(name, takes_over=overlaps)
        yield launcher_pb2.RESTART_PHASE_STARTING
        if not overlaps:
            await old.stop(LEAVE_TIMEOUT_S)
            self.children[name] = new
        try:
            await self._spawn(new)
            await self._serving(new)
        except BaseException:
            if overlaps:
                await new.stop(0)
            else:
                new.keep_running()  # there is no other
            raise
        new.keep_running()
        self.children[name] = new
        # In a task of its own: once begun, it goes on when nobody listens any more.
        self._leaving[old] = asyncio.create_task(old.stop(LEAVE_TIMEOUT_S))
        yield launcher_pb2.RESTART_PHASE_DRAINING
        await asyncio.shield(self._leaving[old])
        del self._leaving[old]
        yield launcher_pb2.RESTART_PHASE_DONE

    async def stop(self, report: Report = lambda _: None) -> None:
        """Stop every service, the gateway first: nothing new comes in while the rest drains."""
        if self._control is not None:
            await self._control.drain(0, settle_s=0)
        leaving = [
            asyncio.create_task(old.stop(self._stop_timeouts_s[old.name])) for old in self._leaving
        ]
        for name in reversed(SERVICES):
            if self.children[name].pid is not None:
                report(f"stopping {name}")
            await self.children[name].stop(self._stop_timeouts_s[name])
        await asyncio.gather(*leaving, *self._leaving.values())
        await self._crashes.stop()
        await self._upkeep.stop()
        self._record.release()

    def _certificates(self) -> CertificateSource | None:
        """The launcher supervises its host as a runtime does, and has that one's certificate."""
        if self._tls_dir is None:
            return None
        return CertificateSource(CertificateFiles.of_role(self._tls_dir, "runtime"))

    def _begin_upkeep(self) -> None:
        data_dir = self._options.data_dir
        launcher = self._log_file("launcher")
        keep_directory(self._upkeep, self._record, launcher)
        bound_logs(self._upkeep, [*(child.log for child in self.children.values()), launcher])
        if self._options.tls:
            renew_certificates(self._upkeep, data_dir / "tls")

    def _can_overlap(self, name: str) -> bool:
        if name == "gateway":
            return CAN_SHARE
        return port_of(self._settings.listens()[name]) == 0

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
            command=lambda: self._command(name, takes_over=takes_over),
            log=self._log_file(name),
            forked=self._forked.pop(f"mlxmesh_{name}", None),
            on_crash=self._crashes.tell,
        )

    def _command(self, name: str, *, takes_over: bool) -> Sequence[str]:
        command = [sys.executable, "-m", f"mlxmesh_{name}", *self._flags]
        if name == "gateway":
            command += [
                "--listen",
                self._listens["gateway"],
                "--http-listen",
                self._listens["HTTP"],
            ]
            grace_s = self._options.stop_grace_s
            command += ["--drain-grace-s", str(grace_s)] if grace_s is not None else []
            command += ["--take-over"] if takes_over else []
        return command

    def _note_gateway(self, gateway: Instance) -> None:
        """A gateway that is started again must come back where its clients expect it."""
        self._gateway, self._http = gateway.address, gateway.metadata.get("http", "")
        reached = {"gateway": self._gateway, "HTTP": self._http}
        self._listens = {
            **self._listens,
            **{
                what: with_port(self._listens[what], port_of(address))
                for what, address in reached.items()
                if address
            },
        }

    async def _spawn(self, child: Child) -> None:
        try:
            await child.spawn()
        except OSError as error:
            raise ServiceUnavailable(f"cannot start {child.name}: {error}") from None

    async def _serving(self, child: Child) -> Instance:
        """The child once it has registered itself, which it does when it serves."""
        registered = asyncio.create_task(self._registered(child))
        ended = asyncio.create_task(child.ended())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                done, _ = await asyncio.wait(
                    (registered, ended), return_when=asyncio.FIRST_COMPLETED
                )
            await next(iter(done))
            return registered.result()
        except TimeoutError:
            raise ServiceUnavailable(
                f"{child.name} did not serve within {START_TIMEOUT_S:.0f} s: {child.log_tail()}"
            ) from None
        finally:
            registered.cancel()
            ended.cancel()
            await asyncio.gather(registered, ended, return_exceptions=True)

    async def _registered(self, child: Child) -> Instance:
        async for instances in self._registry.watch(child.name):
            for instance in instances:
                here = instance.metadata.get("host") == socket.gethostname()
                if here and instance.pid == child.pid:
                    return instance
        raise ServiceUnavailable("the registry watch ended")


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
