"""Spans, metrics and outcomes of requests for vectors and scores."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from mlxmesh_generation.domain.catalogue import Route
from mlxmesh_generation.domain.encoding import EncodingRequest
from mlxmesh_generation.domain.outcome import Outcome, Status
from mlxmesh_generation.streams.outcomes import status_of
from mlxmesh_generation.streams.telemetry import (
    PROVIDER,
    GenerationTelemetry,
    Labels,
    labels_of,
    note_error,
)
from mlxmesh_shared.errors import Cancelled, Internal, MeshError
from mlxmesh_shared.telemetry import attributes
from mlxmesh_shared.telemetry.tracing import metadata_of

_NS = 10**9


@dataclass(frozen=True)
class ObservedRequest:
    """A request that was resolved."""

    request: EncodingRequest
    route: Route
    operation: str
    """embeddings or rerank: gen_ai.operation.name."""
    received_s: float
    """In time.monotonic()."""


class EncodingObserver:
    """Observes one request, in a span from its arrival to its end."""

    def __init__(self, owner: GenerationTelemetry, observed: ObservedRequest) -> None:
        self.prompt_tokens = 0
        """To be set once it is known."""
        self._owner = owner
        self._observed = observed
        self._span = self._begun()
        self._context = trace.set_span_in_context(self._span, Context())

    @contextmanager
    def attempt(self, engine_id: str) -> Generator[tuple[tuple[str, str], ...]]:
        """Observes one call to an engine or an upstream; gives the metadata of the call."""
        span = self._owner.tracer.start_span("encode", self._context, SpanKind.CLIENT)
        span.set_attribute(attributes.ENGINE_ID, engine_id)
        try:
            yield metadata_of(trace.set_span_in_context(span, Context()))
        except MeshError as error:
            note_error(span, error)
            raise
        finally:
            span.end()

    @contextmanager
    def observing(self) -> Generator[EncodingObserver]:
        """Until the body ends; its error is the request's."""
        error: MeshError | None = None
        try:
            yield self
        except MeshError as failure:
            error = failure
            raise
        except BaseException as failure:
            left = not isinstance(failure, Exception)
            error = Cancelled("its caller left") if left else Internal("it failed")
            raise
        finally:
            self._end(error)

    def _begun(self) -> Span:
        observed, route = self._observed, self._observed.route
        name = route.version.name
        of_request: Labels = {
            attributes.OPERATION: observed.operation,
            attributes.REQUEST_MODEL: name,
            attributes.REQUEST_ID: observed.request.request_id,
            attributes.MODEL_VERSION: route.version.version,
            **labels_of(route.assignment),
        }
        trace.get_current_span().set_attributes(of_request)
        more: Labels = {
            attributes.PROVIDER: PROVIDER,
            attributes.RESPONSE_MODEL: str(route.version),
        }
        since_ns = round((time.monotonic() - observed.received_s) * _NS)
        return self._owner.tracer.start_span(
            f"{observed.operation} {name}",
            attributes=of_request | more,
            start_time=time.time_ns() - since_ns,
        )

    def _end(self, error: MeshError | None) -> None:
        self._span.set_attribute(attributes.INPUT_TOKENS, self.prompt_tokens)
        if error is not None:
            note_error(self._span, error)
        self._measure(error)
        self._span.end()
        self._owner.record(self._outcome(error))

    def _measure(self, error: MeshError | None) -> None:
        observed, owner = self._observed, self._owner
        labels: Labels = {
            attributes.OPERATION: observed.operation,
            attributes.PROVIDER: PROVIDER,
            attributes.REQUEST_MODEL: observed.route.version.name,
            attributes.MODEL_VERSION: observed.route.version.version,
        }
        failure: Labels = {} if error is None else {attributes.ERROR_TYPE: error.reason}
        if not observed.request.flex:  # its times would hide those that a caller waits for
            duration_s = time.monotonic() - observed.received_s
            owner.durations.record(duration_s, labels | failure, self._context)
        tokens = labels | {attributes.TOKEN_TYPE: "input"}
        owner.usage.record(self.prompt_tokens, tokens, self._context)

    def _outcome(self, error: MeshError | None) -> Outcome:
        request, route = self._observed.request, self._observed.route
        price = route.price.of_flex() if request.flex and route.price else route.price
        cost = 0.0
        if price is not None and error is None:
            cost = price.cost(
                prompt_tokens=self.prompt_tokens,
                cached_tokens=0,
                completion_tokens=0,
                device_ms=0.0,
            )
        return Outcome(
            request_id=request.request_id,
            principal=request.principal,
            model=route.version.name,
            version=route.version.version,
            status=Status.COMPLETED if error is None else status_of(error),
            end_ms=time.time_ns() // 1_000_000,
            assignment=route.assignment,
            error_reason="" if error is None else error.reason,
            prompt_tokens=self.prompt_tokens,
            duration_ms=(time.monotonic() - self._observed.received_s) * 1000,
            cost=cost,
        )
