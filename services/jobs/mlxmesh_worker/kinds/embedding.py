"""Embeddings, which the generation service has engines or upstreams make."""

from __future__ import annotations

import asyncio
from typing import Any

from mlxmesh_worker.convert import owner_metadata
from mlxmesh_worker.kinds import convert
from mlxmesh_worker.kinds.embedding_link import EmbeddingLink
from mlxmesh_worker.work import Assignment, Reports

_LOOK_INTERVAL_S = 10.0


class Embeddings:
    """Makes the embeddings of attempts."""

    def __init__(self, link: EmbeddingLink, *, look_interval_s: float = _LOOK_INTERVAL_S) -> None:
        self._link = link
        self._look_interval_s = look_interval_s

    async def embed(self, assignment: Assignment, work: Any, reports: Reports) -> Any:
        """The EmbedResponse for an EmbeddingWork. Raises: MeshError, as Embed does."""
        call = asyncio.ensure_future(
            self._link.embed(
                assignment.key.job_id,
                convert.embed_request(work),
                owner_metadata(assignment.message.owner),
                assignment.timeout_s,
            )
        )
        try:
            while True:
                await asyncio.wait((call,), timeout=self._look_interval_s)
                if call.done():
                    return call.result()
                # The connection is watched: its instance is there, and the call runs or waits.
                reports.progress(text="embeds")
        finally:
            call.cancel()


class EmbeddingRunner:
    """Satisfies Runner."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings

    async def run(self, assignment: Assignment, reports: Reports) -> Any:
        made = await self._embeddings.embed(assignment, assignment.message.embedding, reports)
        return convert.embedding_result(made)
