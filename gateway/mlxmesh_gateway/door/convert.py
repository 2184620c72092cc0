"""What the door reads in requests and responses: models, and how much a generation may use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from mlxmesh.generation.v1.embedding_pb2 import EmbedRequest, RerankRequest
from mlxmesh.generation.v1.generation_pb2 import (
    AttachGenerationRequest,
    AttachGenerationResponse,
    CompleteRequest,
    Finished,
    GenerateRequest,
    GetGenerationRequest,
    GetGenerationResponse,
    Started,
)
from mlxmesh.job.v1.job_pb2 import SubmitJobRequest, SubmitJobsRequest
from mlxmesh.model.v1.adapter_pb2 import GetAdapterRequest, ListAdaptersResponse
from mlxmesh.model.v1.model_pb2 import (
    GetModelRequest,
    ListModelsResponse,
    PullModelRequest,
    WatchModelsResponse,
)
from mlxmesh_gateway.door.models import check_model, unknown_model
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.forwarding.recording import other_tokens
from mlxmesh_gateway.forwarding.routes import GENERATION, MODEL, Route
from mlxmesh_gateway.forwarding.traffic import ENCODED, prompt_usage
from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_shared.model_patterns import allows

_LIST = f"/{MODEL.full_name}/ListModels"
_LIST_ADAPTERS = "/mlxmesh.model.v1.AdapterService/ListAdapters"
_WATCH = f"/{MODEL.full_name}/WatchModels"
_BACKENDS = ("generation", "model")

Write = Callable[[bytes], Awaitable[None]]


def check_models(principal: Principal, route: Route, request: Message) -> None:
    """Checks the model that a request names against those that a principal may use.

    Raises: ModelNotAllowed; ModelNotFound where the request asks whether there is such a model.
    """
    if not principal.models:
        return
    if isinstance(request, SubmitJobsRequest):
        for job in request.jobs:
            check_models(principal, route, job)
        return
    reference = _reference(request, route)
    if not reference:
        return
    asks = isinstance(request, GetModelRequest | GetAdapterRequest)
    if asks and not allows(principal.models, reference):
        raise unknown_model(reference)
    check_model(principal, reference)


def only_allowed(principal: Principal, route: Route, write: Write) -> Write:
    """A stream's `write` without models that the principal may not use."""
    if not principal.models or route.path != _WATCH:
        return write

    async def write_allowed(encoded: bytes) -> None:
        message = WatchModelsResponse.FromString(encoded)
        name = message.model.name or message.removed_name
        if not name or allows(principal.models, name):
            await write(encoded)

    return write_allowed


def without_others(principal: Principal, route: Route, response: bytes | None) -> bytes | None:
    """A response without models, and adapters of models, that the principal may not use."""
    if response is None or not principal.models:
        return response
    if route.path == _LIST_ADAPTERS:
        return _without_other_adapters(principal, response)
    if route.path != _LIST:
        return response
    message = ListModelsResponse.FromString(response)
    allowed = [one for one in message.models if allows(principal.models, one.name)]
    del message.models[:]
    message.models.extend(allowed)
    return message.SerializeToString()


def _without_other_adapters(principal: Principal, response: bytes) -> bytes:
    message = ListAdaptersResponse.FromString(response)
    allowed = [
        one for one in message.adapters if allows(principal.models, f"{one.model}:{one.name}")
    ]
    del message.adapters[:]
    message.adapters.extend(allowed)
    return message.SerializeToString()


def counting_attached(used: Used, write: Write) -> Write:
    """A stream's `write` that counts the tokens of an attached generation."""

    async def write_counted(encoded: bytes) -> None:
        response = AttachGenerationResponse.FromString(encoded)
        message = response.message
        for one in (response, message):
            if one.HasField("started"):
                _note_started(used, one.started)
        if not used.first_sequence <= message.sequence <= used.last_sequence:
            if message.sequence != used.last_sequence + 1:
                used.first_sequence = message.sequence  # what lies between was not read
            used.first_sequence = used.first_sequence or 1
            used.last_sequence = message.sequence
            used.completion_tokens += len(message.delta.token_ids)
            used.completion_tokens += other_tokens(message.started)
        if message.finished.HasField("total_usage"):
            _note_finished(used, message.finished)
        await write(encoded)

    return write_counted


def count_snapshot(used: Used, encoded: bytes) -> None:
    """Counts what a GetGeneration returned."""
    response = GetGenerationResponse.FromString(encoded)
    if response.HasField("started"):
        _note_started(used, response.started)
    outputs = (response, *response.other_outputs)
    used.snapshot_tokens = sum(len(output.token_ids) for output in outputs)
    used.snapshot_tokens += other_tokens(response.started)
    if response.finished.HasField("total_usage"):
        _note_finished(used, response.finished)
        used.snapshot_tokens = used.total_tokens or used.snapshot_tokens


def _note_started(used: Used, started: Started) -> None:
    created_ns = started.create_time.ToNanoseconds()
    if used.created_ns and created_ns and used.created_ns != created_ns:
        used.first_sequence = used.last_sequence = 0  # those were of another generation
    used.created_ns = created_ns or used.created_ns
    used.model, used.model_version = started.model, started.model_version
    used.adapter = started.adapter.name
    used.prompt_tokens, used.cached_tokens = prompt_usage(started)


def _note_finished(used: Used, finished: Finished) -> None:
    used.total_tokens = finished.total_usage.completion_tokens
    if finished.steps:  # of an ensemble, whose members have prompts of their own
        used.prompt_tokens = finished.total_usage.prompt_tokens
        used.cached_tokens = finished.total_usage.cached_tokens
    used.device_ms = finished.device_ms


def generation_of(request: Message) -> GenerateRequest | None:
    """The generation that a request asks for; None for other requests."""
    if isinstance(request, CompleteRequest):
        return request.generation
    return request if isinstance(request, GenerateRequest) else None


def most_tokens(request: Message) -> int | None:
    """The most that a request may generate, 0 if it does not say; None for one that is not metered.

    Requests that encode texts are metered too, and generate nothing.
    """
    if isinstance(request, EmbedRequest | RerankRequest):
        return 0
    generation = generation_of(request)
    return None if generation is None else generation.max_tokens * (generation.n or 1)


def metered_model(request: Message) -> str:
    """The model that a request generates or encodes with; empty for other requests."""
    asked = generation_of(request) or request
    is_metered = isinstance(asked, GenerateRequest | EmbedRequest | RerankRequest)
    return asked.model if is_metered else ""


def read_id(request: Message) -> str:
    """The request_id of the generation that a request reads; empty for other requests."""
    reads = isinstance(request, AttachGenerationRequest | GetGenerationRequest)
    return request.request_id if reads else ""


def is_generation(method: str) -> bool:
    """Whether a method begins a generation, or encodes texts."""
    return method in _GENERATIONS


_GENERATIONS = frozenset(
    (*(f"/{GENERATION.full_name}/{name}" for name in ("Generate", "Complete")), *ENCODED)
)


def _reference(request: Message, route: Route) -> str:
    if isinstance(request, SubmitJobRequest):
        return _with_adapter(request.generation) or request.embedding.model
    if route.backend not in _BACKENDS:
        return ""
    asked: Any = generation_of(request) or request
    if isinstance(asked, GenerateRequest):
        return _with_adapter(asked)
    if isinstance(request, PullModelRequest):
        return request.name or request.repo_id.rpartition("/")[2]
    return getattr(asked, "model", "") or getattr(asked, "name", "")


def _with_adapter(generation: GenerateRequest) -> str:
    """The model of a generation; with an adapter model:adapter, which a key may be limited to."""
    bare = not {"@", ":"} & set(generation.model)
    has_adapter = bare and generation.model and generation.adapter
    return f"{generation.model}:{generation.adapter}" if has_adapter else generation.model
