"""Batches of pairs: numbered, repeated until acknowledged, never mixed."""

import asyncio

import pytest

from mlxmesh_generation.shadowing.pair import DropReason, Pair
from mlxmesh_generation.shadowing.reporter import MAX_PAIRS, Batch, PairReporter
from mlxmesh_shared.errors import MeshError, NotFound, ServiceUnavailable

PAIR = Pair(
    request_id="r",
    from_version=1,
    end_ms=1,
    equal=True,
    first_difference=3,
    edit_distance=0,
    primary_tokens=3,
    shadow_tokens=3,
    primary_ttft_ms=1,
    shadow_ttft_ms=1,
    primary_tokens_per_second=9,
    shadow_tokens_per_second=9,
)


class Service:
    def __init__(self) -> None:
        self.sent: list[Batch] = []
        self.errors: list[MeshError] = []

    async def send(self, batch: Batch) -> None:
        self.sent.append(batch)
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.sent) < count:
                await asyncio.sleep(0.001)


@pytest.fixture
def service() -> Service:
    return Service()


async def test_each_shadow_has_batches_of_its_own_with_growing_numbers(service: Service) -> None:
    reporter = PairReporter(service.send, interval_s=0)
    async with reporter.running():
        reporter.record_pair("one", PAIR)
        reporter.record_drop("one", DropReason.NO_ROOM)
        reporter.record_drop("one", DropReason.NO_ROOM)
        reporter.record_drop("two", DropReason.FAILED)
        await service.until(2)
    one, two = service.sent
    assert (one.number, one.shadow_id, list(one.pairs)) == (1, "one", [PAIR])
    assert one.drops == {DropReason.NO_ROOM: 2}
    assert (two.number, two.shadow_id, two.drops) == (2, "two", {DropReason.FAILED: 1})


async def test_a_batch_that_fails_is_sent_again_unchanged(service: Service) -> None:
    service.errors = [ServiceUnavailable("x"), ServiceUnavailable("x")]
    reporter = PairReporter(service.send, interval_s=0)
    async with reporter.running():
        reporter.record_pair("one", PAIR)
        await service.until(1)
        reporter.record_pair("one", PAIR)
        await service.until(4)
    first, second, third, fourth = service.sent
    assert first is second is third
    assert (fourth.number, len(fourth.pairs)) == (2, 1)


async def test_a_batch_that_is_refused_is_not_sent_again(service: Service) -> None:
    service.errors = [NotFound("no such shadow")]
    reporter = PairReporter(service.send, interval_s=0)
    async with reporter.running():
        reporter.record_pair("one", PAIR)
        await service.until(1)
        reporter.record_pair("two", PAIR)
        await service.until(2)
    assert [batch.shadow_id for batch in service.sent] == ["one", "two"]


async def test_a_batch_has_at_most_what_the_contract_allows(service: Service) -> None:
    reporter = PairReporter(service.send, interval_s=0)
    for _ in range(MAX_PAIRS + 1):
        reporter.record_pair("one", PAIR)
    async with reporter.running():
        await service.until(2)
    assert [len(batch.pairs) for batch in service.sent] == [MAX_PAIRS, 1]


async def test_the_end_sends_what_is_left(service: Service) -> None:
    reporter = PairReporter(service.send, interval_s=60)
    async with reporter.running():
        reporter.record_pair("one", PAIR)
    assert len(service.sent) == 1


async def test_pairs_that_too_many_wait_before_are_counted_as_dropped(service: Service) -> None:
    reporter = PairReporter(service.send, max_queued=1)
    async with reporter.running():
        reporter.record_pair("one", PAIR)
        reporter.record_pair("one", PAIR)
    [batch] = service.sent
    assert (len(batch.pairs), batch.drops) == (1, {DropReason.NO_ROOM: 1})
