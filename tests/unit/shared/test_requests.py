"""Limits of reading and parsing: what many or large requests of one client cost the others."""

import asyncio
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from grpc import aio

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MalformedMessage,
    MeshError,
    MessageTooLarge,
    TooManyRequests,
)
from mlxmesh_shared.host.allocator import return_free_memory
from mlxmesh_shared.rpc.requests import (
    FairLock,
    HeldBytes,
    RequestParser,
    RequestReader,
    finish_in_thread,
)
from mlxmesh_shared.rpc.requests import parser as parser_module
from mlxmesh_shared.rpc.requests.parser import check_size
from mlxmesh_shared.rules import Validator

MIB = 2**20


class Call:
    """A call whose request comes when the test says so."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self.came: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_read = False

    def peer(self) -> str:
        return self._peer

    async def read(self) -> Any:
        self.is_read = True
        return await self.came


Read = Callable[[Call], asyncio.Task[bytes]]


def reading(reader: RequestReader) -> Read:
    def read(call: Call) -> asyncio.Task[bytes]:
        context: Any = call
        return asyncio.create_task(reader.read(context))

    return read


async def pause() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def failure(task: asyncio.Task[bytes]) -> MeshError:
    with pytest.raises(MeshError) as caught:
        async with asyncio.timeout(30):
            await task
    return caught.value


async def test_one_connection_leaves_half_of_the_places_to_others() -> None:
    read = reading(RequestReader(max_reading=4))
    greedy = [Call("greedy") for _ in range(10)]
    tasks = [read(call) for call in greedy]
    await pause()
    assert sum(call.is_read for call in greedy) == 2

    other = Call("other")
    task = read(other)
    await pause()
    other.came.set_result(b"x")
    assert await task == b"x"

    for call in greedy:
        call.came.set_result(b"y")
    assert await asyncio.gather(*tasks) == [b"y"] * 10


async def test_what_does_not_come_to_its_end_makes_room_for_those_that_wait() -> None:
    read = reading(RequestReader(max_reading=2))
    stuck = [Call("one"), Call("two")]
    tasks = [read(call) for call in stuck]
    await pause()
    newcomer = Call("three")
    newcomer.came.set_result(b"x")

    async with asyncio.timeout(30):
        assert await read(newcomer) == b"x"

    assert isinstance(await failure(tasks[0]), TooManyRequests)
    stuck[1].came.set_result(b"late, and nobody waited")
    assert await tasks[1]


async def test_connections_that_wait_take_turns() -> None:
    read = reading(RequestReader(max_reading=2))
    holders = [Call("a"), Call("b")]
    tasks = [read(call) for call in holders]
    await pause()
    many, one = [Call("many") for _ in range(5)], Call("one")
    tasks += [read(call) for call in many]
    await pause()
    tasks.append(read(one))
    await pause()

    holders[0].came.set_result(b"")
    await pause()
    assert many[0].is_read
    assert not one.is_read
    many[0].came.set_result(b"")
    await pause()
    assert one.is_read
    for call in (*holders, *many, one):
        if not call.came.done():
            call.came.set_result(b"")
    await asyncio.gather(*tasks)


async def test_a_full_queue_refuses_the_newest_of_whoever_has_most_in_it() -> None:
    read = reading(RequestReader(max_reading=2, max_waiting=3))
    holders = [Call("a"), Call("b")]
    tasks = [read(call) for call in holders]
    await pause()
    greedy = [Call("greedy") for _ in range(3)]
    waiting = [read(call) for call in greedy]
    await pause()

    one_more = read(Call("greedy"))
    assert isinstance(await failure(one_more), TooManyRequests)
    other = Call("other")
    of_other = read(other)
    assert isinstance(await failure(waiting[2]), TooManyRequests)

    for call in (*holders, *greedy[:2], other):
        call.came.set_result(b"")
    await asyncio.gather(*tasks, *waiting[:2], of_other)


async def test_a_request_that_never_ends_times_out_though_nobody_waits() -> None:
    task = reading(RequestReader(timeout_s=0.2))(Call("slow"))

    assert isinstance(await failure(task), DeadlineExceeded)


async def test_a_call_without_a_request() -> None:
    call = Call("empty")
    call.came.set_result(aio.EOF)

    assert isinstance(await failure(reading(RequestReader())(call)), MalformedMessage)


async def test_who_gives_up_waiting_costs_no_place() -> None:
    reader = RequestReader(max_reading=2)
    read = reading(reader)
    holders = [Call("a"), Call("b")]
    tasks = [read(call) for call in holders]
    await pause()
    gone = read(Call("c"))
    await pause()
    holders[0].came.set_result(b"")
    gone.cancel()
    holders[1].came.set_result(b"")
    await asyncio.gather(*tasks)

    again = [Call("d"), Call("e")]
    for call in again:
        call.came.set_result(b"")
    async with asyncio.timeout(30):
        assert await asyncio.gather(*map(read, again)) == [b"", b""]


def test_bytes_of_all_callers_and_of_one() -> None:
    held = HeldBytes(100)
    held.acquire("a", 50)
    with pytest.raises(TooManyRequests) as caught:
        held.acquire("a", 1)
    assert caught.value.retry_delay_s == 1
    held.acquire("b", 50)
    with pytest.raises(TooManyRequests):
        held.acquire("c", 1)

    held.release("a", 50)
    held.acquire("c", 50)
    held.release("b", 50)
    held.release("c", 50)
    assert held.held_bytes == 0


def test_memory_is_returned_after_a_burst_of_large_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    returned = threading.Event()
    monkeypatch.setattr(parser_module, "return_free_memory", returned.set)
    monkeypatch.setattr(parser_module, "_CALL_ENDS_S", 0.0)
    held = HeldBytes(256 * MIB)
    held.acquire("a", MIB)
    held.release("a", MIB)
    assert not returned.wait(0.2)

    held.acquire("a", 60 * MIB)
    held.acquire("b", 60 * MIB)
    held.release("a", 60 * MIB)
    assert not returned.wait(0.2)
    held.release("b", 60 * MIB)
    assert returned.wait(10)


def test_returning_memory_needs_nothing_of_the_platform() -> None:
    return_free_memory()


async def test_callers_acquire_the_lock_in_turn_with_pauses_between() -> None:
    lock, order = FairLock(), list[str]()

    async def work(caller: str) -> None:
        async with lock.held_by(caller):
            order.append(caller)
            await asyncio.sleep(0.01)

    await asyncio.gather(*(work(caller) for caller in ("a", "a", "a", "b", "c")))

    assert order == ["a", "b", "c", "a", "a"]


async def test_a_turn_that_fails_ends() -> None:
    lock = FairLock()
    for _ in range(2):
        with pytest.raises(ValueError, match="nothing"):
            async with lock.held_by("a"):
                raise ValueError("nothing")


async def test_a_turn_lasts_as_long_as_its_thread_though_its_call_is_cancelled() -> None:
    may_end, began = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(began.set)
        may_end.wait(10)

    async def in_turn() -> None:
        async with lock.held_by("a"):
            await finish_in_thread(work)

    lock = FairLock()
    gone = asyncio.create_task(in_turn())
    await began.wait()
    gone.cancel()
    await pause()
    gone.cancel()
    began.clear()
    other = asyncio.create_task(in_turn())
    await asyncio.sleep(0.2)
    assert not began.is_set()
    assert not gone.done()

    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await gone
    async with asyncio.timeout(30):
        await other


async def test_a_cancelled_call_is_not_told_what_its_thread_raised() -> None:
    may_end, began = threading.Event(), threading.Event()

    def fail() -> None:
        began.set()
        may_end.wait(10)
        raise ValueError("nobody asks any more")

    task = asyncio.create_task(finish_in_thread(fail))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_request_that_fails_is_freed_without_the_garbage_collector(no_gc: None) -> None:
    class Large:
        pass

    def fail(_request: Large) -> None:
        raise ValueError("refused")

    request = Large()
    freed = weakref.ref(request)
    with pytest.raises(ValueError, match="refused"):
        await finish_in_thread(fail, request)
    del request
    async with asyncio.timeout(30):
        while freed() is not None:  # by the thread's own references
            await asyncio.sleep(0.001)


async def test_large_requests_of_cancelled_calls_are_parsed_one_at_a_time() -> None:
    parsing = most = 0
    lock, may_end = threading.Lock(), threading.Event()

    class Slow(RequestParser):
        """Counts how many threads are in it."""

        def parse_now(self, cls: Any, encoded: bytes) -> Any:
            nonlocal parsing, most
            with lock:
                parsing += 1
                most = max(most, parsing)
            may_end.wait(10)
            with lock:
                parsing -= 1
            return super().parse_now(cls, encoded)

    parser = Slow(Validator([GenerateRequest.DESCRIPTOR]))
    encoded = GenerateRequest(model="m", prompt="x" * 100_000).SerializeToString()
    calls: list[asyncio.Task[Any]] = []
    for _ in range(4):
        calls.append(asyncio.create_task(parser.parse(GenerateRequest, encoded, lambda: "a")))
        while not most:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        calls[-1].cancel()
    await asyncio.sleep(0.05)
    may_end.set()
    await asyncio.gather(*calls, return_exceptions=True)

    assert most == 1


async def test_large_requests_leave_the_event_loop_alone() -> None:
    parser = RequestParser(Validator([GenerateRequest.DESCRIPTOR]))
    many = GenerateRequest(model="m")
    for _ in range(10_000):
        many.chat.messages.add(role=1, content="words " * 10)
    encoded, beats = many.SerializeToString(), 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    beating = asyncio.create_task(beat())
    parsed = await parser.parse(GenerateRequest, encoded, lambda: "a")
    beating.cancel()

    assert len(parsed.chat.messages) == 10_000
    assert beats > 1


async def test_what_is_too_much_or_malformed_is_said() -> None:
    parser = RequestParser(Validator([GenerateRequest.DESCRIPTOR]))
    empties = b"\x0a\x00" * 10_001
    count = len(empties)
    size = bytes([count & 0x7F | 0x80, count >> 7 & 0x7F | 0x80, count >> 14])
    tag = bytes([GenerateRequest.DESCRIPTOR.fields_by_name["chat"].number << 3 | 2])
    with pytest.raises(InvalidArgument) as caught:
        await parser.parse(GenerateRequest, tag + size + empties, lambda: "a")
    assert caught.value.field == "chat.messages"
    with pytest.raises(MalformedMessage):
        await parser.parse(GenerateRequest, b"\xff\xff", lambda: "a")
    with pytest.raises(MalformedMessage):
        await parser.parse(GenerateRequest, b"\xff" * 2000, lambda: "a")
    with pytest.raises(MessageTooLarge):
        check_size(bytes(11), 10)
