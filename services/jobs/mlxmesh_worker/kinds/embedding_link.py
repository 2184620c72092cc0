"""Asks generation instances for embeddings."""

from __future__ import annotations

from opentelemetry.context import get_current

from mlxmesh.generation.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from mlxmesh.generation.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mlxmesh_shared.telemetry.tracing import metadata_of
from mlxmesh_worker.instances import Instances


class EmbeddingLink:
    """Any instance does, and another one when it is lost: the same texts have the same vectors."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances

    async def embed(
        self,
        key: str,
        request: EmbedRequest,
        metadata: tuple[tuple[str, str], ...],
        timeout_s: float | None,
    ) -> EmbedResponse:
        """key: spreads calls over the instances. Raises: ServiceUnavailable, and as Embed does."""
        options = (*metadata, *metadata_of(get_current()))
        return await self._instances.ask(
            key,
            lambda channel: EmbeddingServiceStub(channel).Embed(
                request, timeout=timeout_s, metadata=options
            ),
        )
