"""Work and results of jobs, as messages."""

from __future__ import annotations

import json
from hashlib import sha256

from mlxmesh.generation.v1.embedding_pb2 import EmbedInput, EmbedRequest, EmbedResponse
from mlxmesh.generation.v1.generation_pb2 import (
    SERVICE_TIER_FLEX,
    CompleteResponse,
    Finished,
    GenerateRequest,
    Started,
)
from mlxmesh.job.v1.job_pb2 import (
    ConnectorResult,
    EmbeddingResult,
    EmbeddingVector,
    EmbeddingWork,
    OutputFile,
    RequestResult,
)
from mlxmesh.job.v1.worker_pb2 import (
    AttemptResult,
    GenerationEnd,
    RenderResponseRequest,
    RenderResponseResponse,
    RequestWork,
    UsedAmounts,
)
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.error_status import to_failure
from mlxmesh_worker.connectors.port import Outcome


def used_of(started: Started | None, finished: Finished | None, tokens: int = 0) -> UsedAmounts:
    """What a generation used.

    tokens: those of one that did not end.
    """
    used = UsedAmounts(completion_tokens=tokens)
    if started is not None:
        used.model, used.model_version = started.ensemble or started.model, started.model_version
        used.prompt_tokens = started.prompt_tokens
        used.cached_tokens = started.cached_tokens
    if finished is not None:
        used.prompt_tokens = finished.total_usage.prompt_tokens
        used.cached_tokens = finished.total_usage.cached_tokens
        used.completion_tokens = finished.total_usage.completion_tokens
        used.device_ms = round(finished.device_ms)
    return used


def generation_result(started: Started | None, finished: Finished, messages: int) -> AttemptResult:
    """messages: how many the job's stream has."""
    return AttemptResult(
        generation=GenerationEnd(messages=messages),
        cost=finished.cost,
        used=used_of(started, finished),
    )


def embed_request(work: EmbeddingWork) -> EmbedRequest:
    """The request of a job."""
    return EmbedRequest(
        model=work.model,
        inputs=[EmbedInput(text=text) for text in work.inputs],
        dimensions=work.dimensions or None,
        purpose=work.purpose,
        truncate=work.truncate,
        normalize=work.normalize if work.HasField("normalize") else None,
        service_tier=SERVICE_TIER_FLEX,
    )


def embeddings(made: EmbedResponse) -> EmbeddingResult:
    """Embeddings of a model."""
    return EmbeddingResult(
        vectors=[EmbeddingVector(values=each.values) for each in made.embeddings],
        model=f"{made.model}@{made.model_version}",
        prompt_tokens=made.prompt_tokens,
    )


def embedding_result(made: EmbedResponse) -> AttemptResult:
    """The result of a job of the kind embedding."""
    return AttemptResult(embedding=embeddings(made), used=_used_by(made))


def _used_by(made: EmbedResponse) -> UsedAmounts:
    return UsedAmounts(
        model=made.model, model_version=made.model_version, prompt_tokens=made.prompt_tokens
    )


def embedded(work: RequestWork, result: EmbeddingResult) -> RenderResponseRequest:
    """Asks for the body of a response with embeddings."""
    return RenderResponseRequest(endpoint=work.endpoint, body_json=work.body_json, embedding=result)


def embedded_result(
    rendered: RenderResponseResponse, request_id: str, made: EmbedResponse
) -> AttemptResult:
    """The result of a request of a batch that was answered with embeddings."""
    result = RequestResult(
        status_code=rendered.status_code,
        body_json=rendered.body_json,
        request_id=request_id,
        prompt_tokens=made.prompt_tokens,
    )
    return AttemptResult(request=result, used=_used_by(made))


def job_request(translated: GenerateRequest, job_id: str) -> GenerateRequest:
    """The request of a job: one that every attempt repeats exactly."""
    request = GenerateRequest()
    request.CopyFrom(translated)
    request.request_id = job_id
    request.service_tier = SERVICE_TIER_FLEX
    if not request.sampling.HasField("seed"):
        request.sampling.seed = int.from_bytes(sha256(job_id.encode()).digest()[:4])
    return request


def answered(work: RequestWork, response: CompleteResponse) -> RenderResponseRequest:
    """Asks for the body of a response."""
    return RenderResponseRequest(
        endpoint=work.endpoint, body_json=work.body_json, generation=response
    )


def refused(work: RequestWork, error: MeshError) -> RenderResponseRequest:
    """Asks for the body of an error."""
    return RenderResponseRequest(
        endpoint=work.endpoint, body_json=work.body_json, failure=to_failure(error)
    )


def refused_result(rendered: RenderResponseResponse) -> AttemptResult:
    """The result of a request that was wrong."""
    return AttemptResult(
        request=RequestResult(status_code=rendered.status_code, body_json=rendered.body_json)
    )


def request_result(
    rendered: RenderResponseResponse, request_id: str, started: Started | None, finished: Finished
) -> AttemptResult:
    """The result of a request that was answered."""
    used = used_of(started, finished)
    result = RequestResult(
        status_code=rendered.status_code,
        body_json=rendered.body_json,
        request_id=request_id,
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
    )
    return AttemptResult(request=result, cost=finished.cost, used=used)


def connector_result(outcome: Outcome) -> AttemptResult:
    """What a back end returned."""
    result = ConnectorResult(
        result_json=json.dumps(outcome.result, separators=(",", ":")),
        files=[
            OutputFile(
                file_id=made.file_id,
                name=made.name,
                media_type=made.media_type,
                size_bytes=made.size_bytes,
            )
            for made in outcome.files
        ],
    )
    return AttemptResult(connector=result)
