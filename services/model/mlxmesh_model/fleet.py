"""The runtimes that the registry knows, and their RuntimeService."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from mlxmesh.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from mlxmesh_model.catalog import FailureRecord, Phase, Version
from mlxmesh_model.placement import Engine, Runtime
from mlxmesh_shared.channels import ChannelPool
from mlxmesh_shared.errors import EngineNotFound, MeshError, NoRuntime
from mlxmesh_shared.registry.port import Instance, Registry

_log = logging.getLogger(__name__)

RUNTIME = "runtime"
_PHASES = {
    runtime_pb2.ENGINE_STATE_READY: Phase.READY,
    runtime_pb2.ENGINE_STATE_FAILED: Phase.FAILED,
}


class Fleet(Protocol):
    """All runtimes, as the reconciler sees them."""

    async def observe(self) -> tuple[Runtime, ...]:
        """The registered runtimes with their engines; one that does not answer has none."""
        ...

    async def start(self, runtime_id: str, engine_id: str, version: Version) -> Engine:
        """Starts an engine of a version, or finds it started. Raises: MeshError."""
        ...

    async def stop(self, runtime_id: str, engine_id: str) -> None:
        """Drains and stops an engine; returns when it is gone. Raises: MeshError."""
        ...


class GrpcFleet:
    """The fleet by registry and gRPC.

    How long a stopped engine may finish is its runtime's setting; a stop that takes longer than
    `stop_timeout_s` is asked for again.
    """

    def __init__(
        self, registry: Registry, *, timeout_s: float = 5.0, stop_timeout_s: float = 120.0
    ) -> None:
        self._registry = registry
        self._channels = ChannelPool()
        self._timeout_s = timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._reconnect_s = 0.5
        self._addresses: Mapping[str, str] = {}

    async def close(self) -> None:
        """Closes the channels."""
        await self._channels.close()

    async def observe(self) -> tuple[Runtime, ...]:
        """The registered runtimes with their engines; one that does not answer has none."""
        instances = await self._registry.resolve(RUNTIME)
        gone = set(self._addresses.values()) - {instance.address for instance in instances}
        self._addresses = {instance.instance_id: instance.address for instance in instances}
        for address in gone:
            await self._channels.discard(address)
        return tuple(await asyncio.gather(*map(self._observe, instances)))

    async def _observe(self, instance: Instance) -> Runtime:
        stub = self._stub(instance.instance_id)
        try:
            info = await stub.GetRuntimeInfo(
                runtime_pb2.GetRuntimeInfoRequest(), timeout=self._timeout_s
            )
            engines = await self._engines(stub)
        except MeshError as error:
            _log.warning("%s does not answer: %s", instance.instance_id, error.message)
            return Runtime(instance.instance_id)
        return Runtime(instance.instance_id, info.memory_available_bytes, engines)

    async def _engines(self, stub: runtime_pb2_grpc.RuntimeServiceStub) -> dict[str, Engine]:
        engines: dict[str, Engine] = {}
        token = ""
        while True:
            page = await stub.ListEngines(
                runtime_pb2.ListEnginesRequest(page_size=1000, page_token=token),
                timeout=self._timeout_s,
            )
            engines.update((engine.engine_id, _to_engine(engine)) for engine in page.engines)
            token = page.next_page_token
            if not token:
                return engines

    async def start(self, runtime_id: str, engine_id: str, version: Version) -> Engine:
        """Starts an engine of a version, or finds it started. Raises: MeshError."""
        request = runtime_pb2.StartEngineRequest(
            engine_id=engine_id,
            model=version.model,
            model_version=version.number,
            model_dir=version.artifact.directory if version.artifact else "",
        )
        answer = await self._stub(runtime_id).StartEngine(request, timeout=self._timeout_s)
        return _to_engine(answer.engine)

    async def stop(self, runtime_id: str, engine_id: str) -> None:
        """Drains and stops an engine; returns when it is gone. Raises: MeshError."""
        request = runtime_pb2.StopEngineRequest(engine_id=engine_id)
        with suppress(EngineNotFound):
            await self._stub(runtime_id).StopEngine(request, timeout=self._stop_timeout_s)

    def _stub(self, runtime_id: str) -> runtime_pb2_grpc.RuntimeServiceStub:
        address = self._addresses.get(runtime_id)
        if address is None:
            raise NoRuntime(f"{runtime_id} is no longer registered; its engines ended with it")
        return runtime_pb2_grpc.RuntimeServiceStub(self._channels.get(address))

    async def listen(self, ring: Callable[[], None]) -> None:
        """Rings whenever a runtime comes, goes, or tells of a change; runs until cancelled."""
        ears: dict[str, asyncio.Task[None]] = {}
        try:
            async for instances in self._registry.watch(RUNTIME):
                ring()
                present = {instance.address for instance in instances}
                for address in ears.keys() - present:
                    ears.pop(address).cancel()
                for address in present:
                    if address not in ears or ears[address].done():
                        ears[address] = asyncio.create_task(self._listen_to(address, ring))
        finally:
            for ear in ears.values():
                ear.cancel()
            await asyncio.gather(*ears.values(), return_exceptions=True)

    async def _listen_to(self, address: str, ring: Callable[[], None]) -> None:
        while True:
            stub = runtime_pb2_grpc.RuntimeServiceStub(self._channels.get(address))
            with suppress(MeshError):
                async for _ in stub.WatchEngines(runtime_pb2.WatchEnginesRequest()):
                    ring()
            await asyncio.sleep(self._reconnect_s)


def _to_engine(engine: runtime_pb2.Engine) -> Engine:
    failure = None
    if engine.HasField("last_failure"):
        last = engine.last_failure
        failure = FailureRecord(last.code, last.reason, last.message)
    return Engine(engine.engine_id, _PHASES.get(engine.state, Phase.STARTING), failure)
