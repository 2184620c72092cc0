"""The whole mesh on one host: started in order, models loaded, stopped in order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_client import MeshClient
from mlxmesh_launcher.child import Child
from mlxmesh_launcher.models import DEFAULT_MODEL, ModelSource, bundled_models
from mlxmesh_launcher.record import RecordFile
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.registry import Registry

SERVICES = ("runtime", "model", "generation", "gateway")
START_TIMEOUT_S = 60.0

Report = Callable[[str], None]
"""Receives one line of progress for the reader."""


@dataclass(frozen=True)
class MeshOptions:
    """What to run."""

    data_dir: Path
    grpc_port: int = 50051
    """Port of the gateway on the loopback address; 0 takes a free one."""
    replicas: int = 1
    models: tuple[ModelSource, ...] = ()
    """What to load; with none, what was loaded before, and in a fresh data directory `pocket`."""
    stop_grace_s: float = 30.0
    """How long running streams may go on when the mesh stops."""


class Mesh:
    """The processes of one data directory; `start`, then `stop`."""

    def __init__(self, options: MeshOptions, registry: Registry) -> None:
        self._options = options
        self._registry = registry
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
        await self._load_models(report)
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

    async def _load_models(self, report: Report) -> None:
        async with MeshClient(self._gateway) as client:
            known = await client.list_models()
            to_load = {model.name: self._options.replicas for model in self._options.models}
            if not known and not to_load:
                to_load[DEFAULT_MODEL] = self._options.replicas
            bundled = () if known else bundled_models().values()
            for model in {m.name: m for m in (*bundled, *self._options.models)}.values():
                await add_model(client, model, report)
            for model in known:
                for version in model.versions:
                    if version.desired_replicas:
                        reference = f"{model.name}@{version.version}"
                        to_load.setdefault(reference, version.desired_replicas)
            for reference, replicas in to_load.items():
                report(f"loading {reference}")
                async for _ in client.load_model(reference, replicas=replicas):
                    pass


async def add_model(client: MeshClient, model: ModelSource, report: Report) -> None:
    """Put a model into the catalogue; one that is already there is not added twice."""
    if model.directory is not None:
        await client.register_model(name=model.name, directory=str(model.directory))
        return
    async for progress in client.pull_model(model.hub_id, name=model.name):
        done, total = progress.done_bytes / 1e6, progress.total_bytes / 1e6
        report(f"pulling {model.name}: {done:,.0f} of {total:,.0f} MB")
