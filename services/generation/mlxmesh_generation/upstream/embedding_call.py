"""Asks upstreams for embeddings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.encoding import EmbedRequest
from mlxmesh_generation.domain.upstream import Upstream
from mlxmesh_generation.upstream.embeddings import (
    check_embeds,
    embedding_body,
    prompt_tokens_of,
    vectors_of,
)
from mlxmesh_generation.upstream.limits import check_healthy, check_switched_on
from mlxmesh_generation.upstream.upstreams import Connection, Upstreams
from mlxmesh_shared.errors import DeadlineExceeded, MeshError, UpstreamUnavailable

UPSTREAM_ENGINE = "upstream"
"""Stands for the engine's id."""
RETRY_WITHIN_S = 2.0
"""A call that failed so soon is repeated once: its connection may have been closed meanwhile."""

Attempt = Callable[[str], AbstractContextManager[object]]


class UpstreamEmbeddings:
    """Shares connections, breakers and places with the generations of upstreams."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams

    async def embed(
        self,
        request: EmbedRequest,
        version: ModelVersion,
        upstream: Upstream,
        attempt: Attempt,
        deadline_s: float | None,
    ) -> tuple[Sequence[Sequence[float]], int]:
        """A vector for each input, and the tokens that the upstream says it has read.

        deadline_s: in time.monotonic(). Raises: FeatureNotSupported, ModelNotLoaded, QueueFull,
        DeadlineExceeded, and what the upstream answers.
        """
        check_switched_on(version)
        check_embeds(request, version, upstream)
        check_healthy(version)
        connection = self._upstreams.of(version, upstream)
        connection.check(flex=request.flex)
        body = embedding_body(request, upstream)
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        try:
            async with asyncio.timeout(left_s), connection.places.holding(flex=request.flex):
                answer = await _ask_twice(connection, body, attempt)
        except TimeoutError:
            raise DeadlineExceeded(f"the upstream of {version} was too slow") from None
        return vectors_of(answer, len(request.inputs)), prompt_tokens_of(answer)


async def _ask_twice(
    connection: Connection, body: Mapping[str, Any], attempt: Attempt
) -> Mapping[str, Any]:
    began_s = time.monotonic()
    try:
        return await _ask(connection, body, attempt)
    except UpstreamUnavailable as error:
        late = time.monotonic() - began_s > RETRY_WITHIN_S
        if late or error.retry_delay_s is not None:
            raise
        return await _ask(connection, body, attempt)


async def _ask(
    connection: Connection, body: Mapping[str, Any], attempt: Attempt
) -> Mapping[str, Any]:
    permit = connection.breaker.admit()
    try:
        with attempt(UPSTREAM_ENGINE):
            answer = await connection.client.embeddings(body)
    except MeshError as error:
        permit.ended_by(error)
        raise
    else:
        permit.succeeded()
        return answer
    finally:
        permit.drop()
