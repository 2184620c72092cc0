"""What a caller gets when something is wrong: a clear status, and nothing that is secret."""

import asyncio
import gc
import logging
import random
import time
import types
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc import aio

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_shared.errors import (
    Internal,
    InvalidArgument,
    MalformedMessage,
    MeshError,
    MessageTooLarge,
    MethodNotFound,
    QueueFull,
    TooManyRequests,
)
from mlxmesh_shared.rpc.server import ServerOptions, remaining_s

from .conftest import SERVICE, Context, Serve, complete, generate


def raises(error: BaseException) -> Callable[[Any, Context], Any]:
    async def act(_request: Any, _context: Context) -> None:
        raise error

    return act


async def test_a_good_call_passes(serve: Serve) -> None:
    served = await serve()

    answers = [answer.sequence async for answer in served.stub.Generate(generate())]

    assert answers == [1, 2, 3]
    assert (await served.stub.Complete(complete())).text == "done"


@pytest.mark.parametrize(
    "encoded",
    [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x12\x03\xed\xa0\x80", b"\x08"],
    ids=["random", "truncated", "not UTF-8", "a lone surrogate", "no value"],
)
@pytest.mark.parametrize("method", ["Complete", "Generate"])
async def test_malformed_bytes(serve: Serve, encoded: bytes, method: str) -> None:
    served = await serve()
    path = f"/{SERVICE}/{method}"

    if method == "Complete":
        nested = b"\x0a" + bytes([len(encoded)]) + encoded
        with pytest.raises(MalformedMessage):
            await served.channel.unary_unary(path)(nested)
    else:
        with pytest.raises(MalformedMessage):
            await anext(aiter(served.channel.unary_stream(path)(encoded)))

    assert served.servicer.requests == []


async def test_random_bytes_never_reach_a_handler_as_an_error(serve: Serve) -> None:
    served = await serve()
    call = served.channel.unary_unary(f"/{SERVICE}/Complete")
    noise = random.Random(7)

    for _ in range(200):
        with pytest.raises(InvalidArgument):
            await call(noise.randbytes(noise.randrange(1, 60)))

    assert (await served.stub.Complete(complete())).text == "done"


async def test_rules_name_the_field(serve: Serve) -> None:
    served = await serve()
    request = complete()
    request.generation.sampling.top_p = 7

    with pytest.raises(InvalidArgument) as caught:
        await served.stub.Complete(request)

    assert caught.value.field == "generation.sampling.top_p"
    assert served.servicer.requests == []


async def test_an_unknown_exception_is_opaque(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve()
    cause = KeyError("the secret prompt")
    error = ValueError("the secret prompt")
    error.__cause__ = cause
    served.servicer.act = raises(error)

    with pytest.raises(Internal) as unary:
        await served.stub.Complete(complete("the secret prompt"))
    with pytest.raises(Internal):
        async for _ in served.stub.Generate(generate("the secret prompt")):
            pass

    assert unary.value.message.startswith("internal error; see the log of generation, id ")
    short_id = unary.value.message[-8:]
    assert short_id in caplog.text
    assert "KeyError" in caplog.text
    assert "conftest.py" in caplog.text
    assert "secret" not in caplog.text


async def test_the_raw_status_has_no_secrets_either(serve: Serve) -> None:
    served = await serve()
    served.servicer.act = raises(ValueError("the secret prompt"))
    async with aio.insecure_channel(served.server.address) as plain:
        call = plain.unary_unary(f"/{SERVICE}/Complete")(complete("x").SerializeToString())

        assert await call.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in await call.details()
        assert b"secret" not in b"".join(
            value if isinstance(value, bytes) else value.encode()
            for _, value in await call.trailing_metadata()
        )


async def test_a_stream_that_fails_midway_has_the_same_status(serve: Serve) -> None:
    served = await serve()
    served.servicer.act = raises(QueueFull("full", retry_delay_s=1.5))
    answers = aiter(served.stub.Generate(generate()))

    assert [(await anext(answers)).sequence, (await anext(answers)).sequence] == [1, 2]
    with pytest.raises(QueueFull) as caught:
        await anext(answers)
    assert caught.value.retry_delay_s == 1.5


async def test_the_first_error_of_a_task_group_counts(serve: Serve) -> None:
    served = await serve()
    served.servicer.act = raises(ExceptionGroup("tasks", [QueueFull("full"), ValueError("x")]))

    with pytest.raises(QueueFull):
        await served.stub.Complete(complete())


async def test_an_untranslated_answer_of_a_peer_keeps_its_code(serve: Serve) -> None:
    served = await serve()
    served.servicer.act = raises(
        aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata(), "secret")
    )

    with pytest.raises(MeshError) as caught:
        await served.stub.Complete(complete())

    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert "secret" not in caught.value.message


async def test_unknown_methods_and_services(serve: Serve) -> None:
    served = await serve()

    for path in (f"/{SERVICE}/Nothing", "/no.such.Service/Method", "/", "/a"):
        with pytest.raises(MethodNotFound):
            await served.channel.unary_unary(path)(b"")
        with pytest.raises(MethodNotFound):
            async for _ in served.channel.stream_stream(path)(iter([b"x"])):
                pass


async def test_a_message_that_is_too_large(serve: Serve) -> None:
    served = await serve(ServerOptions(max_message_bytes=10_000))

    with pytest.raises(MessageTooLarge, match="at most 10000") as caught:
        await served.stub.Complete(complete("x" * 10_000))
    # So large that gRPC itself refuses it, without our details.
    with pytest.raises(MessageTooLarge):
        await served.stub.Complete(complete("x" * 100_000))

    assert not caught.value.retryable
    assert (await served.stub.Complete(complete())).text == "done"


async def test_metadata_that_is_too_large(serve: Serve) -> None:
    served = await serve()

    with pytest.raises(MeshError) as caught:
        await served.stub.Complete(complete(), metadata=[("x", "y" * 20_000)])

    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not caught.value.retryable
    assert (await served.stub.Complete(complete())).text == "done"


async def test_too_many_calls_at_once(serve: Serve) -> None:
    served = await serve(ServerOptions(max_concurrent_rpcs=2))
    go_on = asyncio.Event()

    async def wait(_request: Any, _context: Context) -> None:
        await go_on.wait()

    served.servicer.act = wait
    running = [asyncio.ensure_future(served.stub.Complete(complete())) for _ in range(2)]
    while len(served.servicer.requests) < 2:
        await asyncio.sleep(0.01)

    with pytest.raises(TooManyRequests) as caught:
        await served.stub.Complete(complete())
    go_on.set()

    assert 0.1 <= (caught.value.retry_delay_s or 0) <= 60
    assert [(await call).text for call in running] == ["done", "done"]
    assert (await served.stub.Complete(complete())).text == "done"


async def test_a_client_that_goes_away_cancels_its_handler(serve: Serve) -> None:
    served = await serve()
    begun = asyncio.Event()
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def wait(_request: Any, _context: Context) -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            ended.set_result("cleaned up")

    served.servicer.act = wait
    call = served.stub.Generate(generate())
    assert (await anext(aiter(call))).sequence == 1
    async with asyncio.timeout(30):
        # A handler that is cancelled before it waits has nothing to clean up.
        await begun.wait()
        call.cancel()
        assert await ended == "cleaned up"


async def test_a_handler_waiting_to_write_is_cleaned_up_too(serve: Serve) -> None:
    served = await serve()
    ended = asyncio.Event()

    async def flood(_request: Any, context: Context) -> None:
        try:
            while True:
                await context.write(pb.GenerateResponse(delta=pb.Delta(text="x" * 100_000)))
        finally:
            ended.set()

    served.servicer.act = flood
    call = served.stub.Generate(generate())
    await anext(aiter(call))
    await asyncio.sleep(0.2)
    call.cancel()

    async with asyncio.timeout(30):
        await ended.wait()


async def test_remaining_time(serve: Serve) -> None:
    served = await serve()
    seen: list[float | None] = []

    async def look(_request: Any, context: Context) -> None:
        seen.append(remaining_s(context))

    served.servicer.act = look
    await served.stub.Complete(complete())
    await served.stub.Complete(complete(), timeout=60)

    assert seen[0] is None
    assert seen[1] is not None
    assert 50 < seen[1] < 61


async def test_access_records_have_no_payload(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve()
    with caplog.at_level(logging.INFO, "mlxmesh.access"):
        await served.stub.Complete(complete("the secret prompt"))
        with pytest.raises(InvalidArgument):
            await served.stub.Complete(pb.CompleteRequest())
        # A record is written once the status is on its way.
        async with asyncio.timeout(30):
            while len(caplog.records) < 2:
                await asyncio.sleep(0.01)

    records = [getattr(record, "fields", {}) for record in caplog.records]
    assert [record["code"] for record in records] == ["OK", "INVALID_ARGUMENT"]
    assert all(record["method"] == f"/{SERVICE}/Complete" for record in records)
    assert "secret" not in str(records)


async def aborts(_request: Any, context: Context) -> None:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")


async def answers(_request: Any, _context: Context) -> None:
    pass


@pytest.mark.parametrize("method", ["Complete", "Generate"])
@pytest.mark.parametrize("act", [aborts, answers, raises(QueueFull("full", retry_delay_s=1))])
async def test_an_answer_to_a_caller_that_just_left_is_no_error(
    serve: Serve, caplog: pytest.LogCaptureFixture, method: str, act: Callable[[Any, Context], Any]
) -> None:
    served = await serve()

    async def act_once_it_left(request: Any, context: Context) -> None:
        call.cancel()
        # gRPC learns of it on a thread of its own, this loop only later.
        time.sleep(0.1)  # noqa: ASYNC251
        await act(request, context)

    served.servicer.act = act_once_it_left
    caplog.set_level(logging.INFO)
    call: Any = getattr(served.stub, method)(complete() if method == "Complete" else generate())
    with pytest.raises(asyncio.CancelledError):
        await (call if method == "Complete" else read_all(call))

    served.servicer.act = answers
    assert (await served.stub.Complete(complete())).text == "done"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def read_all(call: Any) -> None:
    async for _ in call:
        pass


async def test_compressed_messages_are_refused(serve: Serve) -> None:
    served = await serve()

    with pytest.raises(MeshError) as caught:
        await served.stub.Complete(complete(), compression=grpc.Compression.Gzip)

    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED
    assert served.servicer.requests == []


async def test_a_large_list_is_refused_by_name_before_it_is_parsed(serve: Serve) -> None:
    served = await serve()
    chat = pb.GenerateRequest.DESCRIPTOR.fields_by_name["chat"].number
    empties = b"\x0a\x00" * 2**20  # two MiB of messages
    encoded = bytes([chat << 3 | 2, 0x80, 0x80, 0x80, 1]) + empties

    with pytest.raises(InvalidArgument) as caught:
        _ = [each async for each in served.channel.unary_stream(f"/{SERVICE}/Generate")(encoded)]

    assert caught.value.field == "chat.messages"


async def test_an_infrastructure_request_is_small(serve: Serve) -> None:
    served = await serve()
    check = served.channel.unary_unary("/grpc.health.v1.Health/Check")

    with pytest.raises(MessageTooLarge):
        await check(b"\x0a\x80\x80\x08" + b"x" * 2**17)

    assert await check(b"")


async def test_large_requests_of_running_calls_are_bounded(serve: Serve) -> None:
    served = await serve(ServerOptions(max_held_bytes=400_000))
    go_on = asyncio.Event()

    async def wait(_request: Any, _context: Context) -> None:
        await go_on.wait()

    served.servicer.act = wait
    first = asyncio.ensure_future(served.stub.Complete(complete("x" * 150_000)))
    while not served.servicer.requests:
        await asyncio.sleep(0.01)

    with pytest.raises(TooManyRequests) as caught:
        await served.stub.Complete(complete("x" * 150_000))

    assert caught.value.retry_delay_s == 1
    small = asyncio.ensure_future(served.stub.Complete(complete()))
    go_on.set()
    assert (await first).text == (await small).text == "done"
    assert (await served.stub.Complete(complete("x" * 150_000))).text == "done"


def frames_with(variable: str) -> list[str]:
    """The functions that run or wait, and have this variable."""
    frames = [each for each in gc.get_objects() if isinstance(each, types.FrameType)]
    return [each.f_code.co_qualname for each in frames if variable in each.f_code.co_varnames]


async def test_a_refused_request_is_not_kept_in_memory(serve: Serve) -> None:
    served = await serve()
    call = served.channel.unary_unary(f"/{SERVICE}/Complete")
    gc.collect()
    gc.disable()  # or it might find in time what should not be there at all
    try:
        for _ in range(5):
            with pytest.raises(MalformedMessage):
                await call(b"\xff" * 100)
        async with asyncio.timeout(30):
            while frames_with("encoded"):  # of calls whose status is on its way
                await asyncio.sleep(0.1)
    finally:
        gc.enable()
