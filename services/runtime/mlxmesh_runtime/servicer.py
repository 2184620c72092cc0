"""RuntimeService: checks requests, calls `Engines`, replies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh.runtime.v1 import runtime_pb2_grpc as pb_grpc
from mlxmesh_runtime import convert
from mlxmesh_runtime.device import Device, resident_bytes
from mlxmesh_runtime.engine_record import EngineRecord
from mlxmesh_runtime.engines import Engines
from mlxmesh_runtime.files.fetches import Fetches
from mlxmesh_runtime.files.wanted import Wanted
from mlxmesh_runtime.memory_watch import MemoryWatch
from mlxmesh_runtime.rank_reach import check_reach, own_addresses
from mlxmesh_shared.errors import InvalidArgument, NotImplementedYet

DEFAULT_PAGE_SIZE = 100


class RuntimeServicer(pb_grpc.RuntimeServiceServicer):
    """Serves the engines of this host; requests have passed the contract's rules."""

    def __init__(
        self,
        *,
        engines: Engines,
        memory: MemoryWatch,
        device: Device,
        runtime_id: str,
        stop_grace_s: float,
        fetches: Fetches | None = None,
    ) -> None:
        """Without fetches, files are used in place only."""
        self._fetches = fetches
        self._engines = engines
        self._memory = memory
        self._device = device
        self._runtime_id = runtime_id
        self._stop_grace_s = stop_grace_s

    async def StartEngine(
        self, request: pb.StartEngineRequest, context: object
    ) -> pb.StartEngineResponse:
        record = await self._engines.start(convert.spec_from(request))
        return pb.StartEngineResponse(engine=self._engine(record))

    async def StopEngine(
        self, request: pb.StopEngineRequest, context: object
    ) -> pb.StopEngineResponse:
        grace_s = request.grace_ms / 1000 if request.HasField("grace_ms") else self._stop_grace_s
        await self._engines.stop(request.engine_id, grace_s)
        return pb.StopEngineResponse()

    async def GetEngine(
        self, request: pb.GetEngineRequest, context: object
    ) -> pb.GetEngineResponse:
        record = self._engines.get(request.engine_id)
        tail = self._engines.log_tail(request.engine_id)
        return pb.GetEngineResponse(engine=self._engine(record, log_tail=tail))

    async def ListEngines(
        self, request: pb.ListEnginesRequest, context: object
    ) -> pb.ListEnginesResponse:
        size = request.page_size or DEFAULT_PAGE_SIZE
        records = self._engines.page(after_id=_after_id(request.page_token), limit=size + 1)
        page = [self._engine(record) for record in records[:size]]
        has_more = len(records) > size
        return pb.ListEnginesResponse(
            engines=page, next_page_token=_page_token(page[-1]) if has_more else ""
        )

    async def WatchEngines(
        self, request: pb.WatchEnginesRequest, context: object
    ) -> AsyncIterator[pb.WatchEnginesResponse]:
        async for change in self._engines.watch():
            engine = self._engine(change.record) if change.record is not None else None
            yield convert.change_to(change, engine)

    async def FetchAdapter(
        self, request: pb.FetchAdapterRequest, context: object
    ) -> pb.FetchAdapterResponse:
        directory = await self._fetching.fetch(Wanted(request.digest))
        return pb.FetchAdapterResponse(directory=str(directory))

    async def PruneFiles(
        self, request: pb.PruneFilesRequest, context: object
    ) -> pb.PruneFilesResponse:
        needed = [*request.needed_digests, *self._engines.digests]
        pruned = await self._fetching.prune(needed, dry_run=request.dry_run)
        return pb.PruneFilesResponse(files=pruned.files, freed_bytes=pruned.freed_bytes)

    @property
    def _fetching(self) -> Fetches:
        if self._fetches is None:
            raise NotImplementedYet("this runtime fetches no files")
        return self._fetches

    async def GetRuntimeInfo(
        self, request: pb.GetRuntimeInfoRequest, context: object
    ) -> pb.GetRuntimeInfoResponse:
        status = await self._memory.sample()
        return convert.runtime_info_to(self._device, status, runtime_id=self._runtime_id)

    async def HostRank(
        self, request: pb.HostRankRequest, context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.HostRankResponse]:
        check_reach(request.leader, context.peer(), own_addresses())
        spec, place = convert.spec_from(request.engine), convert.place_from(request)
        async for state in self._engines.host_rank(spec, place):
            yield convert.rank_state_to(state)

    def _engine(self, record: EngineRecord, *, log_tail: tuple[str, ...] = ()) -> pb.Engine:
        return convert.engine_to(
            record,
            memory_bytes=resident_bytes(record.pid),
            load=self._engines.load(record.spec.engine_id),
            log_tail=log_tail,
            fetch=self._engines.fetch(record.spec.engine_id),
        )


_TOKEN_PREFIX = "after:"  # noqa: S105


def _page_token(last: pb.Engine) -> str:
    return _TOKEN_PREFIX + last.engine_id


def _after_id(page_token: str) -> str:
    if page_token and not page_token.startswith(_TOKEN_PREFIX):
        raise InvalidArgument(
            "page_token must be the next_page_token of the previous response", field="page_token"
        )
    return page_token.removeprefix(_TOKEN_PREFIX)
