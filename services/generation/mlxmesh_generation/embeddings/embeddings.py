"""Embeds texts and ranks documents: resolves the model, tokenizes, and has engines encode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from mlxmesh_generation.domain.catalogue import ModelKind, ModelVersion, Route
from mlxmesh_generation.domain.encoding import (
    Embedded,
    EmbedRequest,
    EncoderInput,
    Encoding,
    EncodingRequest,
    Reranked,
    RerankRequest,
)
from mlxmesh_generation.domain.upstream import Upstream
from mlxmesh_generation.embeddings.telemetry import EncodingObserver, ObservedRequest
from mlxmesh_generation.embeddings.vectors import relevances, shaped
from mlxmesh_generation.placement.encode_work import EncodedPart, EncodeWork
from mlxmesh_generation.placement.encoders import Encoders, Patience
from mlxmesh_generation.placement.mirror import CatalogueMirror
from mlxmesh_generation.streams.limits import GenerationLimits
from mlxmesh_generation.streams.loads import Loads
from mlxmesh_generation.streams.recovery import ENGINE_WAIT_S
from mlxmesh_generation.streams.telemetry import GenerationTelemetry
from mlxmesh_generation.text.encoder_files import EncoderFiles
from mlxmesh_generation.text.encoder_inputs import EncoderInputs
from mlxmesh_generation.upstream.embedding_call import UpstreamEmbeddings
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

MAX_TOKENS = 1_000_000
"""Of all inputs of one request."""
MAX_VECTOR_BYTES = 16 * 2**20
"""Of all vectors of one response, so that it fits into a message."""
_COMPONENT_BYTES = 4


@dataclass(frozen=True)
class _Received:
    """When a request arrived and must have ended, in time.monotonic()."""

    received_s: float
    timeout_s: float | None

    @property
    def deadline_s(self) -> float | None:
        return None if self.timeout_s is None else self.received_s + self.timeout_s


class Embeddings:
    """Requests count within the same limits as generations."""

    def __init__(
        self,
        *,
        catalogue: CatalogueMirror,
        loads: Loads,
        inputs: EncoderInputs,
        encoders: Encoders,
        upstreams: UpstreamEmbeddings,
        limits: GenerationLimits,
        telemetry: GenerationTelemetry,
        engine_wait_s: float = ENGINE_WAIT_S,
    ) -> None:
        """engine_wait_s: how long a request without a deadline waits for an engine."""
        self._catalogue = catalogue
        self._loads = loads
        self._inputs = inputs
        self._encoders = encoders
        self._upstreams = upstreams
        self._limits = limits
        self._telemetry = telemetry
        self._engine_wait_s = engine_wait_s

    async def embed(self, request: EmbedRequest, timeout_s: float | None) -> Embedded:
        """A vector for each input. Raises: every error of request or mesh."""
        received = _Received(time.monotonic(), timeout_s)
        with self._limits.holding(request.caller, request.message_bytes, flex=request.flex):
            route = await self._route(request)
            with self._observing(request, route, "embeddings", received) as observer:
                if route.version.upstream is not None:
                    return await self._asked(
                        request, route.version, route.version.upstream, observer, received
                    )
                _check_kind(route.version, ModelKind.EMBEDDING)
                _check_dimensions(request, route.version)
                self._loads.check(route)
                tokenizer = await self._loads.tokenizer(
                    route, received.received_s, received.timeout_s
                )
                _check_normalize(request, route.version, tokenizer.encoder)
                inputs = await self._inputs.of_embed(request, tokenizer, route.version)
                encoded = await self._encoded(
                    request, route, inputs, Encoding.VECTOR, observer, received
                )
                return _embedded(request, route.version, encoded.vectors, observer.prompt_tokens)

    async def rerank(self, request: RerankRequest, timeout_s: float | None) -> Reranked:
        """The documents by relevance. Raises: every error of request or mesh."""
        received = _Received(time.monotonic(), timeout_s)
        with self._limits.holding(request.caller, request.message_bytes, flex=request.flex):
            route = await self._route(request)
            with self._observing(request, route, "rerank", received) as observer:
                _check_kind(route.version, ModelKind.RERANK)
                self._loads.check(route)
                tokenizer = await self._loads.tokenizer(
                    route, received.received_s, received.timeout_s
                )
                inputs = await self._inputs.of_rerank(request, tokenizer, route.version)
                encoded = await self._encoded(
                    request, route, inputs, Encoding.SCORE, observer, received
                )
                results = relevances(encoded.scores, request.top_n)
                return Reranked(route.version, results, observer.prompt_tokens)

    async def _route(self, request: EncodingRequest) -> Route:
        """Raises: ModelNotFound, FeatureNotSupported for an ensemble."""
        if await self._catalogue.recipe(request.model) is not None:
            raise FeatureNotSupported(
                f"model: {request.model} is an ensemble, which only generates; name a model",
                field="model",
            )
        return await self._catalogue.route(request.model, request.asker)

    async def _asked(
        self,
        request: EmbedRequest,
        version: ModelVersion,
        upstream: Upstream,
        observer: EncodingObserver,
        received: _Received,
    ) -> Embedded:
        """The answer of an upstream."""
        vectors, observer.prompt_tokens = await self._upstreams.embed(
            request, version, upstream, observer.attempt, received.deadline_s
        )
        # It was told how many components are wanted.
        vectors = shaped(vectors, dimensions=None, normalize=request.normalize)
        return Embedded(version, vectors, observer.prompt_tokens)

    async def _encoded(
        self,
        request: EncodingRequest,
        route: Route,
        inputs: Sequence[EncoderInput],
        encoding: Encoding,
        observer: EncodingObserver,
        received: _Received,
    ) -> EncodedPart:
        """What engines make of the inputs."""
        tokens = sum(len(each.token_ids) for each in inputs)
        if tokens > MAX_TOKENS:
            field = "inputs" if encoding is Encoding.VECTOR else "documents"
            raise InvalidArgument(
                f"{field}: they come to {tokens} tokens together; send at most {MAX_TOKENS:,} in"
                " one request",
                field=field,
            )
        observer.prompt_tokens = tokens
        loading = route.loading
        await self._loads.wait_connected(
            route.version,
            load_timeout_s=loading.timeout_s if loading.on_demand else None,
            deadline_s=received.deadline_s,
        )
        work = EncodeWork(inputs, encoding, request.caller, flex=request.flex)
        wait_s = max(self._engine_wait_s, loading.timeout_s if loading.on_demand else 0.0)
        patience = Patience(received.deadline_s, wait_s)
        return await self._encoders.encode(route.version, work, patience, observer.attempt)

    def _observing(
        self, request: EncodingRequest, route: Route, operation: str, received: _Received
    ) -> AbstractContextManager[EncodingObserver]:
        observed = ObservedRequest(request, route, operation, received.received_s)
        return EncodingObserver(self._telemetry, observed).observing()


def _check_kind(version: ModelVersion, wanted: ModelKind) -> None:
    """Raises: FeatureNotSupported."""
    if version.upstream is None and version.kind is wanted:
        return
    makes = "embeddings" if wanted is ModelKind.EMBEDDING else "scores of documents"
    kind = "unknown" if version.kind is None else version.kind.value
    found = "an upstream" if version.upstream is not None else f"of the kind {kind}"
    raise FeatureNotSupported(
        f"model: {version} makes no {makes}: it is {found}; `mlxmesh models` shows the kinds",
        field="model",
    )


def _check_normalize(request: EmbedRequest, version: ModelVersion, files: EncoderFiles) -> None:
    """Raises: FeatureNotSupported."""
    if request.normalize is False and files.normalizes:
        raise FeatureNotSupported(
            f"normalize: the files of {version} give every vector length 1; leave it out",
            field="normalize",
        )


def _check_dimensions(request: EmbedRequest, version: ModelVersion) -> None:
    """Raises: InvalidArgument."""
    asked, most = request.dimensions, version.dimensions
    if asked is not None and most and asked > most:
        raise _too_many_dimensions(asked, most)
    size = len(request.inputs) * (asked or most) * _COMPONENT_BYTES
    if size > MAX_VECTOR_BYTES:
        fit = MAX_VECTOR_BYTES // ((asked or most) * _COMPONENT_BYTES)
        raise InvalidArgument(
            f"inputs: {len(request.inputs)} vectors of {asked or most} components exceed"
            f" {MAX_VECTOR_BYTES} bytes; send at most {fit} inputs, or ask for fewer dimensions",
            field="inputs",
        )


def _too_many_dimensions(asked: int, most: int) -> InvalidArgument:
    return InvalidArgument(
        f"dimensions: {asked} is more than the {most} that the model has; ask for 1 to {most}",
        field="dimensions",
    )


def _embedded(
    request: EmbedRequest, version: ModelVersion, vectors: Sequence[Sequence[float]], tokens: int
) -> Embedded:
    """Raises: InvalidArgument for more dimensions than the vectors have."""
    asked, most = request.dimensions, len(vectors[0])
    if asked is not None and asked > most:
        raise _too_many_dimensions(asked, most)
    made = shaped(vectors, dimensions=asked, normalize=request.normalize)
    return Embedded(version, made, tokens)
