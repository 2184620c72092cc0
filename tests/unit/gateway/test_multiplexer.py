"""Many streams on one relay: what each receives, and what the instance is told."""

import asyncio
from collections.abc import Iterable

import pytest
from grpc import StatusCode, aio

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.generation.v1.generation_pb2 import RelayRequest, RelayResponse, StreamOutput
from mlxmesh_gateway.forwarding.multiplexer import (
    CARRIED,
    CREDIT_AFTER,
    WINDOW_MESSAGES,
    Multiplexer,
    RelayedStream,
    rpc_error,
)
from mlxmesh_gateway.forwarding.statuses import is_gone, service_status
from mlxmesh_shared.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    MeshError,
    QueueFull,
    ServiceUnavailable,
)

GENERATE, ATTACH, RESUME = CARRIED


class Stand:
    """A multiplexer and what it wants sent."""

    def __init__(self) -> None:
        self.wakes = 0
        self.multiplexer = Multiplexer(self._wake)

    def _wake(self) -> None:
        self.wakes += 1

    def open(self, request: bytes = b"", timeout: float | None = None) -> RelayedStream:
        return self.multiplexer.open(GENERATE, request, timeout=timeout)

    def receive(self, *outputs: StreamOutput) -> None:
        self.multiplexer.receive(RelayResponse(outputs=outputs))

    def send(self, stream_id: int, messages: Iterable[bytes]) -> None:
        for message in messages:
            self.receive(StreamOutput(stream_id=stream_id, message=message))

    def requests(self) -> list[RelayRequest]:
        found: list[RelayRequest] = []
        while (request := self.multiplexer.take_request()) is not None:
            found.append(request)
        return found


@pytest.fixture
async def stand() -> Stand:
    return Stand()


async def failure_of(stream: RelayedStream) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await stream.read()
    return caught.value


async def test_each_stream_reads_its_own_messages_in_order(stand: Stand) -> None:
    first, second = stand.open(), stand.open()
    stand.receive(
        StreamOutput(stream_id=1, message=b"a"),
        StreamOutput(stream_id=2, message=b"x", ended=True),
    )
    stand.receive(StreamOutput(stream_id=1, message=b"b", ended=True))

    assert [await first.read(), await first.read(), await first.read()] == [b"a", b"b", aio.EOF]
    assert [await second.read(), await second.read()] == [b"x", aio.EOF]


async def test_a_reader_waits_for_its_message(stand: Stand) -> None:
    stream = stand.open()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    assert not reading.done()
    stand.send(1, [b"a"])
    assert await reading == b"a"


@pytest.mark.parametrize(
    ("path", "field"), [(GENERATE, "generate"), (ATTACH, "attach"), (RESUME, "resume")]
)
async def test_an_open_carries_what_a_call_has(stand: Stand, path: str, field: str) -> None:
    stand.multiplexer.open(path, b"request", timeout=1.5, metadata=[("mlxmesh-owner", "#me")])

    [request] = stand.requests()
    [opened] = request.open
    assert opened.WhichOneof("request") == field
    assert getattr(opened, field) == b"request"
    assert (opened.stream_id, opened.timeout_ms, opened.credit) == (1, 1500, WINDOW_MESSAGES)
    assert dict(opened.metadata) == {"mlxmesh-owner": "#me"}


async def test_a_stream_without_a_deadline_opens_without_one(stand: Stand) -> None:
    stand.open()
    assert not stand.requests()[0].open[0].HasField("timeout_ms")


async def test_many_streams_open_in_few_messages_of_limited_size(stand: Stand) -> None:
    for _ in range(20):
        stand.open(b"x" * 100)
    assert [len(request.open) for request in stand.requests()] == [8, 8, 4]
    for _ in range(4):
        stand.open(b"x" * 20_000)
    assert [len(request.open) for request in stand.requests()] == [2, 2]


async def test_a_reader_returns_credit_for_several_messages_at_once(stand: Stand) -> None:
    stream = stand.open()
    stand.requests()
    stand.send(1, [b"a"] * WINDOW_MESSAGES)
    for _ in range(CREDIT_AFTER - 1):
        await stream.read()
    assert stand.requests() == []
    await stream.read()

    [request] = stand.requests()
    assert [(each.stream_id, each.messages) for each in request.credit] == [(1, CREDIT_AFTER)]


async def test_the_credit_of_all_streams_travels_with_that_of_one(stand: Stand) -> None:
    streams = [stand.open() for _ in range(3)]
    stand.requests()
    for number, stream, count in zip((1, 2), streams, (3, CREDIT_AFTER), strict=False):
        stand.send(number, [b"a"] * count)
        for _ in range(count):
            await stream.read()
    [request] = stand.requests()
    given = [(each.stream_id, each.messages) for each in request.credit]
    assert given == [(1, 3), (2, CREDIT_AFTER)]


async def test_a_reader_that_keeps_up_never_runs_out_of_credit(stand: Stand) -> None:
    stream = stand.open()
    credit = stand.requests()[0].open[0].credit
    for _ in range(100):
        assert credit > 0
        stand.send(1, [b"a"])
        assert await stream.read() == b"a"
        given = sum(each.messages for request in stand.requests() for each in request.credit)
        credit += given - 1


async def test_a_silent_reader_holds_no_more_than_its_window(stand: Stand) -> None:
    silent, other = stand.open(), stand.open()
    stand.requests()
    stand.send(1, [b"a"] * WINDOW_MESSAGES)
    stand.send(2, [b"b"])
    assert await other.read() == b"b"
    # An instance that sends more than it may loses the stream, which goes on elsewhere.
    stand.send(1, [b"a"])

    assert [each.cancel_stream_ids for each in stand.requests()] == [[1]]
    assert [await silent.read() for _ in range(WINDOW_MESSAGES)] == [b"a"] * WINDOW_MESSAGES
    error = await failure_of(silent)
    assert isinstance(error, Internal)
    assert service_status(error) is None


async def test_a_cancelled_stream_is_told_once_and_hears_nothing_more(stand: Stand) -> None:
    stream = stand.open()
    stand.requests()
    stream.cancel()
    stream.cancel()
    stand.receive(StreamOutput(stream_id=1, message=b"late", ended=True))

    assert [each.cancel_stream_ids for each in stand.requests()] == [[1]]
    assert isinstance(await failure_of(stream), Cancelled)


async def test_a_stream_cancelled_before_it_was_sent_is_never_sent(stand: Stand) -> None:
    stand.open().cancel()
    assert stand.requests() == []


async def test_a_thousand_cancellations_are_one_message(stand: Stand) -> None:
    streams = [stand.open() for _ in range(1000)]
    stand.requests()
    for stream in streams:
        stream.cancel()
    [request] = stand.requests()
    assert len(request.cancel_stream_ids) == 1000


async def test_an_ended_stream_is_not_cancelled(stand: Stand) -> None:
    stream = stand.open()
    stand.requests()
    stand.receive(StreamOutput(stream_id=1, ended=True))
    stream.cancel()
    assert await stream.read() is aio.EOF
    assert stand.requests() == []


async def test_a_failure_is_the_services_own_status(stand: Stand) -> None:
    stream = stand.open()
    failure = Failure(
        code=8, reason="QUEUE_FULL", message="full", field="model", retry_delay_ms=1500
    )
    stand.receive(StreamOutput(stream_id=1, message=b"a", ended=True, failure=failure))

    assert await stream.read() == b"a"
    error = await failure_of(stream)
    assert isinstance(error, QueueFull)
    assert (error.message, error.field, error.retry_delay_s) == ("full", "model", 1.5)
    status = service_status(error)
    assert status is not None
    assert status[:2] == (StatusCode.RESOURCE_EXHAUSTED, "full")
    assert not is_gone(error)


async def test_a_reason_that_is_new_here_is_passed_on(stand: Stand) -> None:
    stream = stand.open()
    failure = Failure(code=9, reason="TOO_NEW", message="new")
    stand.receive(StreamOutput(stream_id=1, ended=True, failure=failure))

    status = service_status(await failure_of(stream))
    assert status is not None
    assert "TOO_NEW" in str(status[2][0][1])


async def test_the_end_of_the_relay_is_the_loss_of_its_streams(stand: Stand) -> None:
    first, second = stand.open(), stand.open()
    stand.send(1, [b"a"])
    stand.multiplexer.end(rpc_error(StatusCode.UNAVAILABLE, "reset"))

    assert await first.read() == b"a"
    for stream in (first, second):
        error = await failure_of(stream)
        assert isinstance(error, ServiceUnavailable)
        assert is_gone(error)
    # Nothing of the old relay is sent on the next one.
    assert stand.requests() == []
    stand.open()
    assert [each.stream_id for each in stand.requests()[0].open] == [3]


async def test_a_deadline_ends_the_stream_here_too(stand: Stand) -> None:
    stream = stand.open(timeout=0.01)
    stand.requests()
    error = await failure_of(stream)
    assert isinstance(error, DeadlineExceeded)
    assert not is_gone(error)
    assert [each.cancel_stream_ids for each in stand.requests()] == [[1]]


async def test_output_of_an_unknown_stream_is_dropped(stand: Stand) -> None:
    stand.receive(StreamOutput(stream_id=7, message=b"a", ended=True))
    assert stand.requests() == []
