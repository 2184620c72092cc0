"""The whole mesh on one host: started in order, models loaded, stopped in order."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxmesh.control.v1 import launcher_pb2
from mlxmesh_client import MeshClient
from mlxmesh_launcher.child import Child
from mlxmesh_launcher.models import ModelSource
from mlxmesh_launcher.provision import Report, provide_models
from mlxmesh_launcher.record import RecordFile
from mlxmesh_launcher.servicer import control_server
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.forked import ForkedProcess
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.server import MeshServer
from mlxmesh_shared.shared_port import CAN_SHARE
from mlxmesh_shared.tls import CertificateFiles, CertificateSource, ServerTls

SERVICES = ("runtime", "model", "generation", "gateway")
START_TIMEOUT_S = 60.0
RENEWAL_CHECK_INTERVAL_S = 3600.0
# A process that was replaced waits for its engines to load elsewhere, or its clients to move.
LEAVE_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class MeshOptions:
    """What to run."""

    data_dir: Path
    grpc_port: int = 50051
    """Port of the gateway on the loopback address; 0 takes a free one."""
    http_port: int | None = None
    """Port of its HTTP, likewise; None leaves it to the gateway's settings."""
    replicas: int | None = None
    """Of each model that is loaded; None is one, or as many as before."""
    models: tuple[ModelSource, ...] = ()
    """What to load; with none, what was loaded before, and in a fresh data directory `pocket`."""
    flags: tuple[str, ...] = ()
    """Settings' flags that every service gets, such as `--registry consul`."""
    tls: bool = False
    """Whether to run with TLS, by certificates made and renewed in the data directory."""
    tls_dir: Path | None = None
    """Certificates that others make, where the settings name them; `tls` comes before it."""
    stop_grace_s: float = 30.0
    """How long running streams may go on when the mesh stops."""

    @property
    def settings_flags(self) -> tuple[str, ...]:
        """The flags that make a process, or this one, belong to the mesh."""
        return ("--data-dir", str(self.data_dir), *self.flags)


class Mesh:
    """The processes of one data directory; `start`, then `stop`."""

    def __init__(
        self,
        options: MeshOptions,
        registry: Registry,
        forked: Mapping[str, ForkedProcess] | None = None,
    ) -> None:
        """`forked` are processes by the module that they will run, as of `fork_services`."""
        self._options = options
        self._registry = registry
        self._forked = dict(forked or {})
        self._record = RecordFile(options.data_dir, options.flags)
        self._tls_dir = options.data_dir / "tls" if options.tls else options.tls_dir
        self._renewal: asyncio.Task[None] | None = None
        self._gateway = f"127.0.0.1:{options.grpc_port}"
        self._http = "" if options.http_port is None else f"127.0.0.1:{options.http_port}"
        self._claimed = False
        self._leaving: dict[Child, asyncio.Task[None]] = {}
        self._control: MeshServer | None = None
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
        self._claimed = True
        if self._options.tls:
            await self._keep_certificates()
        report("starting services")
        await asyncio.gather(*(child.spawn() for child in self.children.values()))
        instances = await asyncio.gather(*map(self._serving, self.children.values()))
        gateway = instances[SERVICES.index("gateway")]
        self._gateway, self._http = gateway.address, gateway.metadata.get("http", "")
        for child in self.children.values():
            child.keep_running()
        async with MeshClient(self._gateway, tls=self.tls) as client:
            await provide_models(client, self._options.models, self._options.replicas, report)
        self._control = control_server(self, leaving=self.leaving, tls=self._control_tls())
        control = await self._control.start()
        await self._control.set_serving()
        self._record.publish(self._gateway, http=self._http, control=control, tls_dir=self._tls_dir)

    def names(self, services: Sequence[str]) -> list[str]:
        """As of Replaceable."""
        return [name for name in self.children if not services or name in services]

    async def replace(self, name: str) -> AsyncGenerator[launcher_pb2.RestartPhase.ValueType]:
        """As of Replaceable: the new process serves before the old one is told to leave."""
        old, new = self.children[name], self._child(name, takes_over=CAN_SHARE)
        yield launcher_pb2.RESTART_PHASE_STARTING
        if name == "gateway" and not CAN_SHARE:
            await old.stop(LEAVE_TIMEOUT_S)
        try:
            await new.spawn()
            await self._serving(new)
        except BaseException:
            await new.stop(0)
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
        grace_s = self._options.stop_grace_s + 5.0
        leaving = [asyncio.create_task(old.stop(grace_s)) for old in self._leaving]
        for name in reversed(SERVICES):
            report(f"stopping {name}")
            await self.children[name].stop(grace_s)
        await asyncio.gather(*leaving, *self._leaving.values())
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        if self._claimed:
            self._record.release()

    def _control_tls(self) -> ServerTls | None:
        """The launcher supervises its host as a runtime does, and has that one's certificate."""
        if self._tls_dir is None:
            return None
        return ServerTls(CertificateSource(CertificateFiles.of_role(self._tls_dir, "runtime")))

    async def _keep_certificates(self) -> None:
        """Makes what is missing, then renews what is due; every process picks that up itself."""
        # Only a mesh with TLS needs the library behind it.
        from mlxmesh_launcher.authority import ensure_certificates

        async def renew() -> None:
            while True:
                await asyncio.sleep(RENEWAL_CHECK_INTERVAL_S)
                ensure_certificates(self._options.data_dir / "tls")

        ensure_certificates(self._options.data_dir / "tls")
        self._renewal = asyncio.create_task(renew(), name="renew-certificates")

    def _child(self, name: str, *, takes_over: bool = False) -> Child:
        return Child(
            name=name,
            command=lambda: self._command(name, takes_over=takes_over),
            log=self._options.data_dir / "logs" / f"{name}.log",
            forked=self._forked.pop(f"mlxmesh_{name}", None),
        )

    def _command(self, name: str, *, takes_over: bool) -> Sequence[str]:
        # A restarted gateway must come back where its clients expect it.
        listen = self._gateway if name == "gateway" else "127.0.0.1:0"
        command = [sys.executable, "-m", f"mlxmesh_{name}", "--listen", listen]
        if name == "gateway":
            command += ["--drain-grace-s", str(self._options.stop_grace_s)]
            command += ["--http-listen", self._http] if self._http else []
            command += ["--take-over"] if takes_over else []
        tls = ["--tls-dir", str(self._tls_dir)] if self._tls_dir is not None else []
        return [*command, *self._options.settings_flags, *tls]

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
