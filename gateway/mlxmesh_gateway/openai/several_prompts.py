"""The streams of several generations as one stream of chunks."""

from __future__ import annotations

from collections.abc import Sequence

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import LAST_EVENT_ID
from mlxmesh_gateway.openai.answers import Chunks, Origin
from mlxmesh_gateway.openai.errors import ErrorBody
from mlxmesh_gateway.openai.generation_handlers import (
    GENERATE,
    REQUEST_ID,
    write_error,
)
from mlxmesh_gateway.openai.parts import Part, origin_of
from mlxmesh_gateway.openai.shapes import Shape
from mlxmesh_gateway.openai.together import all_of
from mlxmesh_gateway.openai.usage import Usage, total, usage
from mlxmesh_shared.errors import InvalidArgument, MeshError


async def stream_several(
    exchange: Exchange, parts: Sequence[Part], *, include_usage: bool, error_body: ErrorBody
) -> None:
    """Responds with the events of all; they have no ids, because they cannot be resumed."""
    if LAST_EVENT_ID in exchange.headers:
        raise InvalidArgument(
            f"{LAST_EVENT_ID} needs a request with one prompt", field=LAST_EVENT_ID
        )
    streams = _Streams(exchange, parts[0][0], include_usage=include_usage)
    exchange.keep_alive()
    try:
        usages = await all_of(streams.run(generation, shape) for generation, shape in parts)
        for data in streams.last(parts[0][1], total(usages)):
            await exchange.event(data)
    except MeshError as error:
        await write_error(exchange, error, error_body)
    await exchange.end_events()


class _Streams:
    """The streams of the generations of one request, whose chunks have one id."""

    def __init__(
        self, exchange: Exchange, request: pb.GenerateRequest, *, include_usage: bool
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._include_usage = include_usage
        self._origin: Origin | None = None

    async def run(self, generation: pb.GenerateRequest, shape: Shape) -> Usage:
        """Writes the chunks of one generation; returns its token counts."""
        chunks: Chunks | None = None
        counts = Usage(0, 0, 0)

        async def write(encoded: bytes) -> None:
            nonlocal chunks, counts
            message = pb.GenerateResponse.FromString(encoded)
            if chunks is None:
                chunks = self._chunks(shape, message.started)
            if message.finished.HasField("total_usage"):
                counts = usage(message.finished)
            for data in _data(chunks, message):
                await self._exchange.event(data)

        await self._exchange.calls.stream(GENERATE, generation, write)
        return counts

    def last(self, shape: Shape, counts: Usage) -> Sequence[str]:
        """The events after all chunks."""
        return self._chunks(shape, pb.Started()).last(counts)

    def _chunks(self, shape: Shape, started: pb.Started) -> Chunks:
        if self._origin is None:
            self._origin = origin_of(started, self._request)
            self._exchange.response_headers.append((REQUEST_ID, started.request_id))
        return Chunks(shape, self._origin, include_usage=self._include_usage)


def _data(chunks: Chunks, message: pb.GenerateResponse) -> Sequence[str]:
    if message.HasField("delta"):
        data = chunks.delta(message.delta)
        return [] if data is None else [data]
    if message.HasField("finished"):
        return [chunks.end(message.finished)]
    if message.HasField("started"):
        return chunks.first()
    return chunks.prompt(message.prompt_logprobs)
