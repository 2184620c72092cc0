"""The runtimes that the registry knows, and their RuntimeService."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Protocol

from mlxmesh.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from mlxmesh_model.catalogue.models import FailureRecord, Phase, Version
from mlxmesh_model.fleet.placement import Engine, Runtime
from mlxmesh_shared.errors import EngineNotFound, MeshError, NoRuntime
from mlxmesh_shared.host.host_port import split_host_port
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.rpc.channels import ChannelPool, OpenChannel, open_channel

_log = logging.getLogger(__name__)

RUNTIME = "runtime"
_PROBE_TIMEOUT_S = 0.5
_PHASES = {
    runtime_pb2.ENGINE_STATE_READY: Phase.READY,
    runtime_pb2.ENGINE_STATE_FAILED: Phase.FAILED,
}


class Fleet(Protocol):
    """All runtimes, as the reconciler sees them."""

    async def observe(self) -> tuple[Runtime, ...]:
        """The runtimes with their engines; None for engines where nobody can tell just now."""
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
    `stop_timeout_s` is asked for again. A runtime that left the registry (asleep, paused) stays for
    `grace_s`, unless nothing listens at its address any more.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        timeout_s: float = 5.0,
        stop_timeout_s: float = 120.0,
        grace_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        open_: OpenChannel = open_channel,
    ) -> None:
        self._registry = registry
        self._channels = ChannelPool(partial(open_, role=RUNTIME))
        self._timeout_s = timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._reconnect_s = 0.5
        self._grace_s = grace_s
        self._clock = clock
        self._away_since: dict[str, float] = {}
        self._known: dict[str, Instance] = {}

    async def close(self) -> None:
        """Closes the channels."""
        await self._channels.close()

    async def observe(self) -> tuple[Runtime, ...]:
        """The runtimes with their engines; None for engines where nobody can tell just now."""
        present = await self._registry.resolve(RUNTIME)
        absent = await self._absent(present)
        before = {instance.address for instance in self._known.values()}
        self._known = {instance.instance_id: instance for instance in (*present, *absent)}
        for address in before - {instance.address for instance in self._known.values()}:
            await self._channels.discard(address)
        observed = await asyncio.gather(*map(self._observe, present))
        return (*observed, *(Runtime(instance.instance_id) for instance in absent))

    async def _absent(self, present: Iterable[Instance]) -> list[Instance]:
        """The runtimes that left the registry within the grace and may still run."""
        away = self._known.keys() - {instance.instance_id for instance in present}
        taken = {instance.address for instance in present}
        now = self._clock()
        # Counted from the pass that missed them: this process may have slept as long as they did.
        self._away_since = {runtime: self._away_since.get(runtime, now) for runtime in away}
        absent: list[Instance] = []
        for runtime_id, since in self._away_since.items():
            instance = self._known[runtime_id]
            recent = now - since < self._grace_s and instance.address not in taken
            if recent and not await _refuses(instance.address):
                absent.append(instance)
        return absent

    async def _observe(self, instance: Instance) -> Runtime:
        stub = self._stub(instance.instance_id)
        try:
            info = await stub.GetRuntimeInfo(
                runtime_pb2.GetRuntimeInfoRequest(), timeout=self._timeout_s
            )
            engines = await self._engines(stub)
        except MeshError as error:
            _log.warning("%s does not answer: %s", instance.instance_id, error.message)
            return Runtime(instance.instance_id, draining=instance.draining)
        available_bytes = info.memory_available_bytes
        return Runtime(instance.instance_id, available_bytes, engines, instance.draining)

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
        if runtime_id not in self._known:
            raise NoRuntime(f"{runtime_id} is gone; its engines ended with it")
        return runtime_pb2_grpc.RuntimeServiceStub(
            self._channels.get(self._known[runtime_id].address)
        )

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


async def _refuses(address: str) -> bool:
    """Whether nothing listens at an address; a host or process that is asleep leaves it open."""
    host, port = split_host_port(address)
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return True
    except OSError:  # a timeout too
        return False
    writer.close()
    return False


def _to_engine(engine: runtime_pb2.Engine) -> Engine:
    failure = None
    if engine.HasField("last_failure"):
        last = engine.last_failure
        failure = FailureRecord(last.code, last.reason, last.message)
    return Engine(engine.engine_id, _PHASES.get(engine.state, Phase.STARTING), failure)
