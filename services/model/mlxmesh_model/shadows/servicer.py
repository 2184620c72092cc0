"""ShadowService: each method checks, calls and replies."""

from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.model.v1 import shadow_pb2 as pb
from mlxmesh.model.v1 import shadow_pb2_grpc
from mlxmesh_model.paging import number_of_page_token
from mlxmesh_model.shadows import convert
from mlxmesh_model.shadows.store import Shadows

_Context = ServicerContext[Any, Any]

_DEFAULT_PAGE_SIZE = 100
_DEFAULT_PAIRS = 20


class ShadowServicer(shadow_pb2_grpc.ShadowServiceServicer):
    """Shadows over gRPC; the contract documents each method."""

    def __init__(self, shadows: Shadows) -> None:
        self._shadows = shadows

    async def StartShadow(
        self, request: pb.StartShadowRequest, context: _Context
    ) -> pb.StartShadowResponse:
        run = await self._shadows.start(convert.to_plan(request), request.shadow_id)
        return pb.StartShadowResponse(shadow=convert.to_run(run))

    async def StopShadow(
        self, request: pb.StopShadowRequest, context: _Context
    ) -> pb.StopShadowResponse:
        run = await self._shadows.stop(request.shadow_id)
        return pb.StopShadowResponse(shadow=convert.to_run(run))

    async def ListShadows(
        self, request: pb.ListShadowsRequest, context: _Context
    ) -> pb.ListShadowsResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        before = number_of_page_token(request.page_token)
        found = await self._shadows.page(model=request.name, before=before, limit=size + 1)
        page = found[:size]
        return pb.ListShadowsResponse(
            shadows=map(convert.to_run, page),
            next_page_token=str(page[-1].number) if len(found) > size else "",
        )

    async def GetShadowReport(
        self, request: pb.GetShadowReportRequest, context: _Context
    ) -> pb.GetShadowReportResponse:
        report = await self._shadows.report(request.shadow_id)
        pairs = request.pairs if request.HasField("pairs") else _DEFAULT_PAIRS
        return convert.to_report(report, pairs=pairs)

    async def RecordShadowPairs(
        self, request: pb.RecordShadowPairsRequest, context: _Context
    ) -> pb.RecordShadowPairsResponse:
        await self._shadows.record(request.shadow_id, convert.to_batch(request))
        return pb.RecordShadowPairsResponse()
