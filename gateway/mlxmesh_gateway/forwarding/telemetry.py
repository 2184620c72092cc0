"""The telemetry of relayed calls: attributes of their spans, and counts."""

from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import Message
from opentelemetry import trace

from mlxmesh.generation.v1.embedding_pb2 import EmbedRequest, RerankRequest
from mlxmesh.generation.v1.generation_pb2 import (
    CompleteRequest,
    CompleteResponse,
    CountTokensRequest,
    GenerateRequest,
    Started,
)
from mlxmesh_gateway.forwarding.backends import Backends
from mlxmesh_gateway.forwarding.recording import Recording
from mlxmesh_shared.telemetry import attributes
from mlxmesh_shared.telemetry.instruments import Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Metrics, observe_breakers

RELAYED_MESSAGES = Instrument(
    "mlxmesh.gateway.relayed.messages",
    Kind.COUNTER,
    "{message}",
    "Messages of streams relayed to clients",
)
RESUMPTIONS = Instrument(
    "mlxmesh.gateway.resumptions",
    Kind.COUNTER,
    "{resumption}",
    "Resumptions of streams that lost their generation instance",
)


UNKNOWN_FIELDS = Instrument(
    "mlxmesh.gateway.unknown_fields",
    Kind.COUNTER,
    "{request}",
    "HTTP requests with fields that no protocol has, which were ignored",
)


@dataclass
class RelayCounts:
    """Of all streams since the start."""

    messages: int = 0
    resumptions: int = 0


def observe_gateway(metrics: Metrics, counts: RelayCounts, backends: Backends) -> None:
    """Exports the gateway's counts and breakers."""
    metrics.observe_value(RELAYED_MESSAGES, lambda: counts.messages)
    metrics.observe_value(RESUMPTIONS, lambda: counts.resumptions)
    observe_breakers(
        metrics, lambda: ((one.instance.service, one.breaker) for one in backends.endpoints())
    )


class CountsRequests(Protocol):
    """A number of requests since the start."""

    requests: int


def observe_unknown_fields(metrics: Metrics, counts: CountsRequests) -> None:
    """Exports how many HTTP requests had unknown fields."""
    metrics.observe_value(UNKNOWN_FIELDS, lambda: counts.requests)


def describe_caller(principal_id: str) -> None:
    """Describes the caller on the call's span; empty for one that is not known."""
    span = trace.get_current_span()
    if principal_id and span.is_recording():
        span.set_attribute(attributes.PRINCIPAL, principal_id)


def describe_request(request: Message) -> None:
    """Describes a request on the call's span, which also gives logs its model.

    To be called for legal requests that are not refused: nothing of those is secret here.
    """
    span = trace.get_current_span()
    if not span.is_recording():
        return
    asked: Any = request.generation if isinstance(request, CompleteRequest) else request
    if isinstance(asked, GenerateRequest | CountTokensRequest):
        operation = "chat" if asked.HasField("chat") else "text_completion"
        span.set_attribute(attributes.OPERATION, operation)
        span.set_attribute(attributes.REQUEST_MODEL, asked.model)
    if isinstance(asked, EmbedRequest | RerankRequest):
        operation = "embeddings" if isinstance(asked, EmbedRequest) else "rerank"
        span.set_attribute(attributes.OPERATION, operation)
        span.set_attribute(attributes.REQUEST_MODEL, asked.model)
    if isinstance(asked, GenerateRequest):
        labels = {attributes.LABEL + key: value for key, value in asked.labels.items()}
        span.set_attributes(labels)
    if request_id := getattr(asked, "request_id", ""):
        span.set_attribute(attributes.REQUEST_ID, request_id)


def describe_stream(recording: Recording) -> None:
    """Describes the outcome of a Generate on the call's span."""
    span = trace.get_current_span()
    if span.is_recording() and recording:
        _describe_started(span, recording.started)
        span.set_attribute(attributes.RESUMPTIONS, recording.resumptions)


def describe_answer(path: str, answer: bytes) -> None:
    """Describes which generation a Complete was on the call's span."""
    span = trace.get_current_span()
    if span.is_recording() and path.endswith("/Complete"):
        _describe_started(span, CompleteResponse.FromString(answer).started)


def _describe_started(span: trace.Span, started: Started) -> None:
    """Names the generation, the version that answers, and its arm."""
    known = {
        attributes.REQUEST_ID: started.request_id,
        attributes.MODEL_VERSION: started.model_version,
        attributes.ADAPTER: started.adapter.name,
        attributes.ARM: started.arm,
        attributes.ROLLOUT_ID: started.rollout_id,
        attributes.EXPERIMENT_ID: started.experiment_id,
    }
    span.set_attributes({name: value for name, value in known.items() if value})
