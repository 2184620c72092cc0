"""The client's methods for shadows: traffic that is repeated at another version."""

from mlxmesh.model.v1 import shadow_pb2 as pb
from mlxmesh.model.v1.shadow_pb2_grpc import ShadowServiceStub
from mlxmesh_client.calls import Calls


class ShadowMethods:
    """One method per RPC of ShadowService."""

    _calls: Calls
    _shadows: ShadowServiceStub

    async def start_shadow(
        self,
        name: str,
        *,
        to_version: int,
        from_version: int = 0,
        percent: float | None = None,
        shadow_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.ShadowRun:
        """Repeats a part of a model's requests at a version, after they were answered.

        from_version: the only version whose requests are repeated. A repeated call with the same
        shadow_id starts one shadow.
        """
        request = pb.StartShadowRequest(
            name=name,
            to_version=to_version,
            from_version=from_version,
            percent=percent,
            shadow_id=shadow_id,
        )
        call = self._shadows.StartShadow
        return (await self._calls.unary(call, request, timeout_s, safe=bool(shadow_id))).shadow

    async def stop_shadow(self, shadow_id: str, *, timeout_s: float | None = None) -> pb.ShadowRun:
        """Ends a shadow; its report is kept."""
        request = pb.StopShadowRequest(shadow_id=shadow_id)
        call = self._shadows.StopShadow
        return (await self._calls.unary(call, request, timeout_s, safe=False)).shadow

    async def list_shadows(
        self, name: str = "", *, timeout_s: float | None = None
    ) -> list[pb.ShadowRun]:
        """Returns the shadows of a model, or of all, the newest first."""
        shadows: list[pb.ShadowRun] = []
        request = pb.ListShadowsRequest(name=name)
        while True:
            call = self._shadows.ListShadows
            page = await self._calls.unary(call, request, timeout_s, safe=True)
            shadows.extend(page.shadows)
            if not page.next_page_token:
                return shadows
            request.page_token = page.next_page_token

    async def get_shadow_report(
        self, shadow_id: str, *, pairs: int | None = None, timeout_s: float | None = None
    ) -> pb.GetShadowReportResponse:
        """Returns what a shadow found, with so many of its latest pairs."""
        request = pb.GetShadowReportRequest(shadow_id=shadow_id, pairs=pairs)
        call = self._shadows.GetShadowReport
        return await self._calls.unary(call, request, timeout_s, safe=True)
