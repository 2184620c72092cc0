"""The registered runtimes, observed and controlled by RuntimeService."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import Protocol

from mlxmesh.runtime.v1 import runtime_pb2_grpc
from mlxmesh_model.catalogue.models import Version
from mlxmesh_model.replicas import convert
from mlxmesh_model.replicas.placement import Engine, Runtime
from mlxmesh_shared.errors import EngineNotFound, MeshError, NoRuntime
from mlxmesh_shared.host.host_port import split_host_port
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.rpc.channels import (
    WATCH_TIMEOUTS,
    ChannelPool,
    OpenChannel,
    open_channel,
)

_log = logging.getLogger(__name__)

RUNTIME = "runtime"
_PROBE_TIMEOUT_S = 0.5
_OBSERVE_TIMEOUT_S = 3.0
_PRUNE_TIMEOUT_S = 60.0


class Runtimes(Protocol):
    """All runtimes, as the reconciler sees them."""

    async def observe(self) -> tuple[Runtime, ...]:
        """The runtimes with their engines; engines is None while a runtime does not respond."""
        ...

    async def start(
        self, runtime_id: str, engine_id: str, version: Version, draft: Version | None = None
    ) -> Engine:
        """Starts an engine of a version; a repeated call has no effect. draft: its draft model.

        Raises: MeshError.
        """
        ...

    async def stop(self, runtime_id: str, engine_id: str) -> None:
        """Drains and stops an engine; returns when it has stopped. Raises: MeshError."""
        ...


class GrpcRuntimes:
    """The runtimes found in the registry and called by gRPC.

    The grace period of a stopped engine is a setting of its runtime; a stop that takes longer than
    `stop_timeout_s` is retried. A runtime that is absent from the registry (suspended, paused) is
    kept for `grace_s`, unless its address refuses connections.
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
        self._watch_channels = ChannelPool(partial(open_, role=RUNTIME, timeouts=WATCH_TIMEOUTS))
        self._timeout_s = timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._reconnect_s = 0.5
        self._grace_s = grace_s
        self._clock = clock
        self._absent_since: dict[str, float] = {}
        self._known: dict[str, Instance] = {}

    async def close(self) -> None:
        """Closes the channels."""
        await self._channels.close()
        await self._watch_channels.close()

    async def observe(self) -> tuple[Runtime, ...]:
        """The runtimes with their engines; engines is None while a runtime does not respond."""
        present = await self._registry.resolve(RUNTIME)
        absent = await self._absent(present)
        before = {instance.address for instance in self._known.values()}
        self._known = {instance.instance_id: instance for instance in (*present, *absent)}
        for address in before - {instance.address for instance in self._known.values()}:
            await self._channels.discard(address)
            await self._watch_channels.discard(address)
        observed = await asyncio.gather(*map(self._observe, present))
        return (*observed, *(Runtime(instance.instance_id) for instance in absent))

    async def _absent(self, present: Iterable[Instance]) -> list[Instance]:
        """The runtimes that are absent from the registry for less than the grace period."""
        missing = self._known.keys() - {instance.instance_id for instance in present}
        reused = {instance.address for instance in present}
        now = self._clock()
        # Measured from the pass that first missed them: this process may have been suspended too.
        self._absent_since = {runtime: self._absent_since.get(runtime, now) for runtime in missing}
        absent: list[Instance] = []
        for runtime_id, since in self._absent_since.items():
            instance = self._known[runtime_id]
            recent = now - since < self._grace_s and instance.address not in reused
            if recent and not await _refuses_connections(instance.address):
                absent.append(instance)
        return absent

    async def _observe(self, instance: Instance) -> Runtime:
        stub = runtime_pb2_grpc.RuntimeServiceStub(self._watch_channels.get(instance.address))
        timeout_s = min(self._timeout_s, _OBSERVE_TIMEOUT_S)
        try:
            info = await stub.GetRuntimeInfo(convert.info_request(), timeout=timeout_s)
            engines = await self._engines(stub)
        except MeshError as error:
            _log.warning("%s does not respond: %s", instance.instance_id, error.message)
            return Runtime(instance.instance_id, draining=instance.draining)
        host, _ = split_host_port(instance.address)
        return convert.to_runtime(
            instance.instance_id, info, engines, draining=instance.draining, host=host
        )

    async def _engines(self, stub: runtime_pb2_grpc.RuntimeServiceStub) -> dict[str, Engine]:
        engines: dict[str, Engine] = {}
        token = ""
        while True:
            request = convert.list_request(token)
            page = await stub.ListEngines(request, timeout=_OBSERVE_TIMEOUT_S)
            found = map(convert.to_engine, page.engines)
            engines.update((engine.engine_id, engine) for engine in found)
            token = page.next_page_token
            if not token:
                return engines

    async def start(
        self, runtime_id: str, engine_id: str, version: Version, draft: Version | None = None
    ) -> Engine:
        """Starts an engine of a version; a repeated call has no effect. draft: its draft model.

        Raises: MeshError.
        """
        request = convert.start_request(engine_id, version, draft)
        response = await self._stub(runtime_id).StartEngine(request, timeout=self._timeout_s)
        return convert.to_engine(response.engine)

    async def stop(self, runtime_id: str, engine_id: str) -> None:
        """Drains and stops an engine; returns when it has stopped. Raises: MeshError."""
        request = convert.stop_request(engine_id)
        with suppress(EngineNotFound):
            await self._stub(runtime_id).StopEngine(request, timeout=self._stop_timeout_s)

    async def prune(self, needed_digests: Collection[str], *, dry_run: bool) -> tuple[int, int]:
        """Has every runtime remove the fetched files of other versions and adapters; returns their
        number and bytes. One that does not answer keeps its files.
        """

        async def of(instance: Instance) -> tuple[int, int]:
            stub = runtime_pb2_grpc.RuntimeServiceStub(self._channels.get(instance.address))
            request = convert.prune_request(needed_digests, dry_run=dry_run)
            try:
                pruned = await stub.PruneFiles(request, timeout=_PRUNE_TIMEOUT_S)
            except MeshError as error:
                _log.warning("%s keeps its files: %s", instance.instance_id, error.message)
                return 0, 0
            return pruned.files, pruned.freed_bytes

        found = await asyncio.gather(*map(of, await self._registry.resolve(RUNTIME)))
        return sum(files for files, _ in found), sum(size for _, size in found)

    def _stub(self, runtime_id: str) -> runtime_pb2_grpc.RuntimeServiceStub:
        if runtime_id not in self._known:
            raise NoRuntime(f"{runtime_id} is not registered; its engines stopped with it")
        return runtime_pb2_grpc.RuntimeServiceStub(
            self._channels.get(self._known[runtime_id].address)
        )

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Calls `on_change` when a runtime registers, deregisters or reports a change of its
        engines; runs until cancelled.
        """
        watches: dict[str, asyncio.Task[None]] = {}
        try:
            async for instances in self._registry.watch(RUNTIME):
                on_change()
                present = {instance.address for instance in instances}
                for address in watches.keys() - present:
                    watches.pop(address).cancel()
                for address in present:
                    if address not in watches or watches[address].done():
                        watch = self._watch_engines(address, on_change)
                        watches[address] = asyncio.create_task(watch)
        finally:
            for task in watches.values():
                task.cancel()
            await asyncio.gather(*watches.values(), return_exceptions=True)

    async def _watch_engines(self, address: str, on_change: Callable[[], None]) -> None:
        while True:
            stub = runtime_pb2_grpc.RuntimeServiceStub(self._watch_channels.get(address))
            with suppress(MeshError):
                async for _ in stub.WatchEngines(convert.watch_request()):
                    on_change()
            on_change()
            await asyncio.sleep(self._reconnect_s)


async def _refuses_connections(address: str) -> bool:
    """Whether nothing listens at an address; a suspended host or process keeps its port open."""
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
