"""A shared poll: one read for all watchers, and none without them."""

import asyncio

from mlxmesh_gateway.live.shared_poll import SharedPoll
from mlxmesh_shared.errors import Internal, MeshError, ServiceUnavailable
from tests.fakes.waiting import until


class Reads:
    """Counts reads; each returns its number."""

    def __init__(self) -> None:
        self.count = 0
        self.error: MeshError | None = None

    async def __call__(self) -> int:
        self.count += 1
        if self.error is not None:
            raise self.error
        return self.count


def ignore(_: object) -> None:
    pass


async def test_without_watchers_nothing_is_read() -> None:
    reads = Reads()
    poll = SharedPoll(reads)
    await asyncio.sleep(0.05)
    assert (reads.count, poll.is_running) == (0, False)


async def test_watchers_share_each_read() -> None:
    reads, first, second = Reads(), list[int](), list[int]()
    poll = SharedPoll(reads)
    with poll.watched(0.01, first.append, ignore), poll.watched(0.01, second.append, ignore):
        await until(lambda: len(first) >= 3)
        assert first == second == list(range(1, len(first) + 1))
        assert reads.count in (len(first), len(first) + 1)
    assert not poll.is_running


async def test_a_later_watcher_gets_the_last_value_at_once() -> None:
    reads, first, second = Reads(), list[int](), list[int]()
    poll = SharedPoll(reads)
    with poll.watched(60, first.append, ignore):
        await until(lambda: first)
        with poll.watched(60, second.append, ignore):
            assert second == first == [1]


async def test_a_faster_watcher_shortens_the_interval() -> None:
    reads, slow, fast = Reads(), list[int](), list[int]()
    poll = SharedPoll(reads)
    with poll.watched(60, slow.append, ignore):
        await until(lambda: slow)
        with poll.watched(0.01, fast.append, ignore):
            await until(lambda: len(slow) >= 3)


async def test_it_stops_with_its_last_watcher_and_begins_again() -> None:
    reads, values = Reads(), list[int]()
    poll = SharedPoll(reads)
    with poll.watched(0.001, values.append, ignore):
        await until(lambda: values)
    stopped = reads.count
    await asyncio.sleep(0.03)
    assert reads.count == stopped
    with poll.watched(60, values.append, ignore):
        await until(lambda: reads.count == stopped + 1)


async def test_a_failed_read_is_told_and_tried_again() -> None:
    reads, values, errors = Reads(), list[int](), list[MeshError]()
    reads.error = ServiceUnavailable("away")
    poll = SharedPoll(reads)
    with poll.watched(0.005, values.append, errors.append):
        await until(lambda: errors)
        reads.error = None
        await until(lambda: values)
    assert {type(error) for error in errors} == {ServiceUnavailable}


async def test_an_unexpected_error_ends_no_watch() -> None:
    values, errors, results = list[int](), list[MeshError](), iter([ValueError("x"), 5])

    async def read() -> int:
        result = next(results, 6)
        if isinstance(result, ValueError):
            raise result
        return result

    poll = SharedPoll(read)
    with poll.watched(0.005, values.append, errors.append):
        await until(lambda: values)
    assert [type(error) for error in errors] == [Internal]
