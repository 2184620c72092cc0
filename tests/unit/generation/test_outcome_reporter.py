"""Reporting outcomes: in batches, each until it is acknowledged, and never twice by its number."""

import asyncio
from collections.abc import Sequence

import pytest

from mlxmesh_generation.domain.outcome import Outcome, Status
from mlxmesh_generation.reporting.reporter import BATCH_SIZE, Batch, OutcomeReporter
from mlxmesh_shared.errors import InvalidArgument, ServiceUnavailable


def outcome(number: int = 0) -> Outcome:
    return Outcome(
        request_id=f"r-{number}",
        principal="p",
        model="pocket",
        version=1,
        status=Status.COMPLETED,
        end_ms=1,
    )


class Service:
    """A model service: records a batch once, as long as it is there."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.recorded: list[str] = []
        self.error: Exception | None = None
        self.loses_answers = False
        self.answers = asyncio.Event()
        self.answers.set()
        self._newest = 0
        self._called = asyncio.Condition()

    async def send(self, batch: Batch) -> None:
        async with self._called:
            self.calls.append(batch.number)
            self._called.notify_all()
        if self.error is not None:
            raise self.error
        await self.answers.wait()
        if batch.number > self._newest:
            self._newest = batch.number
            self.recorded.extend(each.request_id for each in batch.outcomes)
        if self.loses_answers:
            raise ServiceUnavailable("the connection broke")

    async def called(self, times: int) -> None:
        async with asyncio.timeout(30), self._called:
            await self._called.wait_for(lambda: len(self.calls) >= times)


def ids(numbers: Sequence[int]) -> list[str]:
    return [f"r-{number}" for number in numbers]


def reporter_of(service: Service, *, max_queued: int = 10_000, flush_s: float = 2.0):
    return OutcomeReporter(service.send, interval_s=0.01, max_queued=max_queued, flush_s=flush_s)


async def until_nothing_waits(reporter: OutcomeReporter) -> None:
    async with asyncio.timeout(30):
        while reporter.waiting:
            await asyncio.sleep(0.005)


async def test_outcomes_of_an_interval_are_one_batch() -> None:
    service = Service()
    reporter = reporter_of(service)
    async with reporter.running():
        for number in range(3):
            reporter.record(outcome(number))
        await until_nothing_waits(reporter)
    assert (service.calls, service.recorded) == ([1], ids(range(3)))


async def test_batches_have_the_contracts_size_and_growing_numbers() -> None:
    service = Service()
    reporter = reporter_of(service)
    for number in range(2 * BATCH_SIZE + 1):
        reporter.record(outcome(number))
    async with reporter.running():
        await until_nothing_waits(reporter)
    assert service.calls == [1, 2, 3]
    assert service.recorded == ids(range(2 * BATCH_SIZE + 1))


async def test_a_batch_keeps_its_number_and_outcomes_until_it_is_acknowledged() -> None:
    service = Service()
    service.loses_answers = True
    reporter = reporter_of(service)
    async with reporter.running():
        reporter.record(outcome(0))
        await service.called(1)
        reporter.record(outcome(1))
        await service.called(3)
        service.loses_answers = False
        await until_nothing_waits(reporter)
    assert set(service.calls[:-1]) == {1}
    assert service.calls[-1] == 2
    assert service.recorded == ids(range(2))


async def test_outcomes_wait_for_a_model_service_that_is_away() -> None:
    service = Service()
    service.error = ServiceUnavailable("nobody is there")
    reporter = reporter_of(service)
    async with reporter.running():
        reporter.record(outcome(0))
        await service.called(2)
        assert reporter.waiting == 1
        service.error = None
        await until_nothing_waits(reporter)
    assert (service.recorded, reporter.dropped) == (ids([0]), 0)


async def test_those_that_do_not_fit_are_dropped_and_counted() -> None:
    service = Service()
    service.answers.clear()
    reporter = reporter_of(service, max_queued=2)
    async with reporter.running():
        reporter.record(outcome(0))
        await service.called(1)  # while the service is slow
        for number in range(1, 6):
            reporter.record(outcome(number))
        assert (reporter.waiting, reporter.dropped) == (3, 3)
        service.answers.set()
        await until_nothing_waits(reporter)
    assert service.recorded == ids(range(3))


async def test_a_refused_batch_is_dropped_and_does_not_block_the_next() -> None:
    service = Service()
    service.error = InvalidArgument("outcomes[0].model is no name", field="outcomes[0].model")
    reporter = reporter_of(service)
    async with reporter.running():
        reporter.record(outcome(0))
        await until_nothing_waits(reporter)
        service.error = None
        reporter.record(outcome(1))
        await until_nothing_waits(reporter)
    assert (service.calls, service.recorded, reporter.dropped) == ([1, 2], ids([1]), 1)


async def test_an_unknown_error_does_not_end_reporting(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    service.error = OSError("the registry's folder is gone")
    reporter = reporter_of(service)
    async with reporter.running():
        reporter.record(outcome(0))
        await service.called(2)
        service.error = None
        await until_nothing_waits(reporter)
    assert service.recorded == ids([0])
    assert "could not be sent" in caplog.text


async def test_the_end_sends_what_is_left() -> None:
    service = Service()
    reporter = OutcomeReporter(service.send, interval_s=600)
    async with reporter.running():
        for number in range(BATCH_SIZE + 1):
            reporter.record(outcome(number))
    assert service.recorded == ids(range(BATCH_SIZE + 1))


async def test_a_batch_that_was_under_way_at_the_end_is_recorded_once() -> None:
    service = Service()
    service.loses_answers = True
    reporter = OutcomeReporter(service.send, interval_s=0.001, flush_s=600)
    async with reporter.running():
        reporter.record(outcome(0))
        await service.called(1)
        service.loses_answers = False
    assert set(service.calls) == {1}
    assert (service.recorded, reporter.waiting) == (ids([0]), 0)


async def test_the_end_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    service.answers.clear()
    reporter = reporter_of(service, flush_s=0.05)
    async with asyncio.timeout(30), reporter.running():
        reporter.record(outcome(0))
    assert reporter.waiting == 1
    assert "the rest is lost" in caplog.text


async def test_without_outcomes_nothing_is_sent() -> None:
    service = Service()
    async with reporter_of(service).running():
        await asyncio.sleep(0.05)
    assert service.calls == []
