"""The synchronous path, against a scripted server (grpcio-testing)."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import grpc_testing
import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_client import GenerationEvent, Outputs
from mlxmesh_client.sync import generate_events, generate_text
from mlxmesh_shared.errors import InvalidArgument, ModelNotFound, ServiceUnavailable
from mlxmesh_shared.rpc.error_status import to_status

SERVICE = g.DESCRIPTOR.services_by_name["GenerationService"]
GENERATE = SERVICE.methods_by_name["Generate"]


class Server:
    """Answers one call, message by message, while a thread reads it."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.channel = grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())
        self._pool = pool

    def read(self, **options: Any) -> "Future[list[str]]":
        return self._pool.submit(lambda: list(generate_text(self.channel, "pocket", **options)))

    def read_events(self, **options: Any) -> "Future[list[GenerationEvent]]":
        return self._pool.submit(lambda: list(generate_events(self.channel, "pocket", **options)))

    def take(self) -> tuple[g.GenerateRequest, Any]:
        _, request, call = self.channel.take_unary_stream(GENERATE)
        return request, call


@pytest.fixture
def server() -> Iterator[Server]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield Server(pool)


def delta(text: str) -> g.GenerateResponse:
    return g.GenerateResponse(delta=g.Delta(text=text))


def test_the_text_comes_in_pieces(server: Server) -> None:
    answer = server.read(prompt="Hi", max_tokens=3)
    request, call = server.take()
    for message in (
        g.GenerateResponse(started=g.Started()),
        delta("Hel"),
        delta(""),
        delta("lo"),
        g.GenerateResponse(finished=g.Finished(total_usage=g.Usage())),
    ):
        call.send_response(message)
    call.terminate((), grpc.StatusCode.OK, "")

    assert answer.result(10) == ["Hel", "lo"]
    assert (request.model, request.prompt, request.max_tokens) == ("pocket", "Hi", 3)


def test_a_status_becomes_its_error(server: Server) -> None:
    answer = server.read(prompt="Hi")
    _, call = server.take()
    status = to_status(ModelNotFound("no model pocket", field="model"))
    call.terminate(status.trailing_metadata, status.code, status.details)

    with pytest.raises(ModelNotFound, match="no model pocket") as caught:
        answer.result(10)
    assert caught.value.field == "model"


def test_a_stream_cut_short_is_an_error(server: Server) -> None:
    answer = server.read(prompt="Hi")
    _, call = server.take()
    call.send_response(delta("Hel"))
    call.terminate((), grpc.StatusCode.OK, "")

    with pytest.raises(ServiceUnavailable, match="before the generation did"):
        answer.result(10)


def test_a_bad_argument_never_leaves(server: Server) -> None:
    with pytest.raises(InvalidArgument):
        server.read().result(10)


def test_events_have_every_output(server: Server) -> None:
    answer = server.read_events(prompt="Hi", n=2)
    request, call = server.take()
    for message in (
        g.GenerateResponse(started=g.Started(request_id="r")),
        g.GenerateResponse(delta=g.Delta(index=1, text="b", reasoning_text="Hm")),
        g.GenerateResponse(finished=g.Finished(index=1)),
        delta("a"),
        g.GenerateResponse(finished=g.Finished(total_usage=g.Usage(completion_tokens=2))),
    ):
        call.send_response(message)
    call.terminate((), grpc.StatusCode.OK, "")

    outputs = Outputs()
    for event in answer.result(10):
        outputs.add(event)
    assert request.n == 2
    assert [outputs[index].text for index in range(2)] == ["a", "b"]
    assert outputs[1].reasoning_text == "Hm"


def test_the_end_of_one_output_is_not_the_end(server: Server) -> None:
    answer = server.read_events(prompt="Hi", n=2)
    _, call = server.take()
    call.send_response(g.GenerateResponse(finished=g.Finished(index=1)))
    call.terminate((), grpc.StatusCode.OK, "")

    with pytest.raises(ServiceUnavailable, match="before the generation did"):
        answer.result(10)


def test_a_text_is_that_of_one_output(server: Server) -> None:
    with pytest.raises(InvalidArgument) as caught:
        server.read(prompt="Hi", n=2).result(10)
    assert caught.value.field == "n"
