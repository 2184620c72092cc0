"""What a relayed call's span tells of it."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.context import attach, detach

from mlxmesh.generation.v1.generation_pb2 import (
    ChatInput,
    CompleteRequest,
    CompleteResponse,
    CountTokensRequest,
    GenerateRequest,
    GenerateResponse,
    Started,
)
from mlxmesh.model.v1.model_pb2 import ListModelsRequest
from mlxmesh_gateway.forwarding.recording import Recording
from mlxmesh_gateway.forwarding.telemetry import (
    describe_answer,
    describe_caller,
    describe_request,
    describe_stream,
)
from mlxmesh_shared.telemetry.sdk import Recorder

GENERATE = GenerateRequest(model="pocket:stable", prompt="secret", request_id="mine")
CHAT = GenerateRequest(model="pocket", chat=ChatInput())
LABELLED = GenerateRequest(model="pocket", prompt="x", labels={"team": "search", "run.id": "7"})
OF_GENERATE = {
    "gen_ai.operation.name": "text_completion",
    "gen_ai.request.model": "pocket:stable",
    "mlxmesh.request_id": "mine",
}
OF_CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "pocket"}


@pytest.fixture
def span() -> Iterator[Any]:
    span = Recorder({}).telemetry.tracer.start_span("call")
    token = attach(trace.set_span_in_context(span))
    yield span
    detach(token)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (GENERATE, OF_GENERATE),
        (CompleteRequest(generation=GENERATE), OF_GENERATE),
        (CHAT, OF_CHAT),
        (CountTokensRequest(model="pocket", chat=ChatInput()), OF_CHAT),
        (
            LABELLED,
            {
                "gen_ai.operation.name": "text_completion",
                "gen_ai.request.model": "pocket",
                "mlxmesh.label.team": "search",
                "mlxmesh.label.run.id": "7",
            },
        ),
        (ListModelsRequest(), {}),
    ],
)
def test_a_request_is_told_by_model_id_and_labels_alone(
    span: Any, request_: Message, told: dict[str, str]
) -> None:
    describe_request(request_)
    assert dict(span.attributes) == told


def test_a_known_principal_is_an_attribute(span: Any) -> None:
    describe_caller("")
    assert dict(span.attributes) == {}
    describe_caller("#team-a")
    assert dict(span.attributes) == {"mlxmesh.principal": "#team-a"}


def test_a_stream_tells_the_id_that_generation_chose(span: Any) -> None:
    recording = Recording()
    describe_stream(recording)
    assert dict(span.attributes) == {}
    started = Started(
        request_id="gen-1", model_version=3, arm="canary", rollout_id="ro-1", experiment_id="ex-1"
    )
    recording.add(GenerateResponse(sequence=1, started=started).SerializeToString())
    describe_stream(recording)
    assert dict(span.attributes) == {
        "mlxmesh.request_id": "gen-1",
        "mlxmesh.model.version": 3,
        "mlxmesh.arm": "canary",
        "mlxmesh.rollout.id": "ro-1",
        "mlxmesh.experiment.id": "ex-1",
        "mlxmesh.resumptions": 0,
    }


def test_a_long_stream_still_knows_its_id() -> None:
    recording = Recording()
    for number in range(1, 1500):
        started = {"started": Started(request_id="gen-1")} if number == 1 else {}
        recording.add(GenerateResponse(sequence=number, **started).SerializeToString())  # pyright: ignore[reportArgumentType]
    assert recording.started.request_id == "gen-1"


def test_a_whole_answer_tells_its_id_too(span: Any) -> None:
    answer = CompleteResponse(text="secret", started=Started(request_id="gen-2"))
    describe_answer("/mlxmesh.generation.v1.GenerationService/CountTokens", b"")
    assert dict(span.attributes) == {}
    path = "/mlxmesh.generation.v1.GenerationService/Complete"
    describe_answer(path, answer.SerializeToString())
    assert dict(span.attributes) == {"mlxmesh.request_id": "gen-2"}


def test_nothing_is_read_where_nothing_is_recorded() -> None:
    describe_answer("/mlxmesh.generation.v1.GenerationService/Complete", b"\xff")
    describe_request(GENERATE)
