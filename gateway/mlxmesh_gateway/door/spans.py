"""Describes public calls on their spans."""

from typing import Any

from google.protobuf.message import Message
from opentelemetry import trace

from mlxmesh.generation.v1.generation_pb2 import (
    CompleteRequest,
    CompleteResponse,
    CountTokensRequest,
    GenerateRequest,
)
from mlxmesh_shared.telemetry import attributes


def describe_request(request: Message) -> None:
    """Sets the operation, model and request_id; these fields of a legal request are not secret."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    asked: Any = request.generation if isinstance(request, CompleteRequest) else request
    if isinstance(asked, GenerateRequest | CountTokensRequest):
        operation = "chat" if asked.HasField("chat") else "text_completion"
        span.set_attribute(attributes.OPERATION, operation)
        span.set_attribute(attributes.REQUEST_MODEL, asked.model)
    if request_id := getattr(asked, "request_id", ""):
        span.set_attribute(attributes.REQUEST_ID, request_id)


def describe_answer(path: str, answer: bytes) -> None:
    """Sets the request_id of the generation that a Complete was."""
    span = trace.get_current_span()
    if span.is_recording() and path.endswith("/Complete"):
        started = CompleteResponse.FromString(answer).started
        span.set_attribute(attributes.REQUEST_ID, started.request_id)
