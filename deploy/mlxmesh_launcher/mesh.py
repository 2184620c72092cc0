"""The whole mesh on one host: started in order, models loaded, stopped in order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_client import MeshClient
from mlxmesh_launcher.child import Child
from mlxmesh_launcher.models import ModelSource
from mlxmesh_launcher.provision import Report, provide_models
from mlxmesh_launcher.record import RecordFile
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.forked import ForkedProcess
from mlxmesh_shared.registry import Registry

SERVICES = ("runtime", "model", "generation", "gateway")
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class MeshOptions:
    """What to run."""

    data_dir: Path
    grpc_port: int = 50051
    """Port of the gateway on the loopback address; 0 takes a free one."""
    replicas: int | None = None
    """Of each model that is loaded; None is one, or as many as before."""
    models: tuple[ModelSource, ...] = ()
    """What to load; with none, what was loaded before, and in a fresh data directory `pocket`."""
    stop_grace_s: float = 30.0
    """How long running streams may go on when the mesh stops."""


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
        self._forked = forked or {}
        self._record = RecordFile(options.data_dir)
        self._gateway = f"127.0.0.1:{options.grpc_port}"
        self._claimed = False
        self.children = {name: self._child(name) for name in SERVICES}

    @property
    def gateway(self) -> str:
        """host:port of the gateway, once started."""
        return self._gateway

    async def start(self, report: Report = lambda _: None) -> None:
        """Start every service and load the models. Raises MeshError with the log's last words."""
        self._record.claim()
        self._claimed = True
        report("starting services")
        await asyncio.gather(*(child.spawn() for child in self.children.values()))
        addresses = await asyncio.gather(*map(self._serving, self.children.values()))
        self._gateway = addresses[SERVICES.index("gateway")]
        for child in self.children.values():
            child.keep_running()
        async with MeshClient(self._gateway) as client:
            await provide_models(client, self._options.models, self._options.replicas, report)
        self._record.publish(self._gateway)

    async def stop(self, report: Report = lambda _: None) -> None:
        """Stop every service, the gateway first: nothing new comes in while the rest drains."""
        for name in reversed(SERVICES):
            report(f"stopping {name}")
            await self.children[name].stop(self._options.stop_grace_s + 5.0)
        if self._claimed:
            self._record.release()

    def _child(self, name: str) -> Child:
        return Child(
            name=name,
            command=lambda: self._command(name),
            log=self._options.data_dir / "logs" / f"{name}.log",
            forked=self._forked.get(f"mlxmesh_{name}"),
        )

    def _command(self, name: str) -> Sequence[str]:
        # A restarted gateway must come back where its clients expect it.
        listen = self._gateway if name == "gateway" else "127.0.0.1:0"
        command = [sys.executable, "-m", f"mlxmesh_{name}", "--listen", listen]
        grace = ["--drain-grace-s", str(self._options.stop_grace_s)] if name == "gateway" else []
        return [*command, "--data-dir", str(self._options.data_dir), *grace]

    async def _serving(self, child: Child) -> str:
        """The address of the child once it has registered itself, which it does when it serves."""
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

    async def _registered(self, child: Child) -> str:
        async for instances in self._registry.watch(child.name):
            for instance in instances:
                if instance.pid == child.pid:
                    return instance.address
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
