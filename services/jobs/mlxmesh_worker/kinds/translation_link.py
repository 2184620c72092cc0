"""Asks gateways to read and write what HTTP protocols send."""

from __future__ import annotations

from typing import Any

from opentelemetry.context import get_current

from mlxmesh.job.v1.worker_pb2 import (
    RenderResponseRequest,
    RenderResponseResponse,
    TranslateRequestRequest,
    TranslateRequestResponse,
)
from mlxmesh.job.v1.worker_pb2_grpc import TranslationServiceStub
from mlxmesh_shared.telemetry.tracing import metadata_of
from mlxmesh_worker.instances import Instances

TIMEOUT_S = 30.0


class TranslationLink:
    """Any gateway does: it keeps nothing."""

    def __init__(self, gateways: Instances) -> None:
        self._gateways = gateways

    async def translate(self, key: str, endpoint: str, body_json: str) -> TranslateRequestResponse:
        """Raises: InvalidArgument, ServiceUnavailable, and as the protocol would."""
        request = TranslateRequestRequest(endpoint=endpoint, body_json=body_json)
        return await self._gateways.ask(
            key,
            lambda channel: TranslationServiceStub(channel).TranslateRequest(request, **_options()),
        )

    async def render(self, key: str, request: RenderResponseRequest) -> RenderResponseResponse:
        """Raises: ServiceUnavailable."""
        return await self._gateways.ask(
            key,
            lambda channel: TranslationServiceStub(channel).RenderResponse(request, **_options()),
        )


def _options() -> dict[str, Any]:
    return {"timeout": TIMEOUT_S, "metadata": metadata_of(get_current())}
