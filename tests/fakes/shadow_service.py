"""A ShadowService that keeps what generation instances report."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mlxmesh.model.v1 import shadow_pb2 as pb
from mlxmesh.model.v1.shadow_pb2_grpc import ShadowServiceServicer
from mlxmesh_shared.errors import MeshError, MethodNotFound


class FakeShadowService(ShadowServiceServicer):
    """Records each batch once, as the real one; every other method is UNIMPLEMENTED."""

    def __init__(self) -> None:
        self.pairs: list[pb.ShadowPair] = []
        self.drops: Counter[int] = Counter()
        self.calls = 0
        self.fail: MeshError | None = None
        """Fails every call, after the batch was recorded."""
        self._last: dict[str, int] = {}

    async def RecordShadowPairs(
        self, request: pb.RecordShadowPairsRequest, context: Any
    ) -> pb.RecordShadowPairsResponse:
        self.calls += 1
        if self._last.get(request.instance_id, 0) < request.batch:
            self._last[request.instance_id] = request.batch
            self.pairs += request.pairs
            self.drops.update(request.drops)
        if self.fail is not None:
            raise self.fail
        return pb.RecordShadowPairsResponse()

    async def _absent(self, request: Any, context: Any) -> Any:
        raise MethodNotFound("this fake has no such method")

    StartShadow = StopShadow = ListShadows = GetShadowReport = _absent
