"""Outcomes recorded once and read as history, in both kinds of database."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import history_pb2 as pb
from mlxmesh.model.v1.history_pb2_grpc import (
    HistoryServiceStub,
    add_HistoryServiceServicer_to_server,
)
from mlxmesh_model.catalogue import queries
from mlxmesh_model.catalogue.models import Artifact
from mlxmesh_model.catalogue.routing import Arm, Split, Subject
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.history import history
from mlxmesh_model.history.history import History
from mlxmesh_model.history.maintenance import BATCH_RETENTION_S, HistoryMaintenance
from mlxmesh_model.history.periods import DAY_S, HOUR_S
from mlxmesh_model.history.servicer import HistoryServicer
from mlxmesh_model.outcomes.recorder import Recorder
from mlxmesh_shared.errors import InvalidArgument, ModelNotFound
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.sql.urls import DatabaseUrl

ARTIFACT = Artifact("/models/pocket", "d" * 64, "llama", 2**40, 2**41, "4-bit", 4096, 1024)
NOW_S = 20_000 * DAY_S + 15 * HOUR_S + 600
PERIODS = pb.HISTORY_RESOLUTION_HOUR
DAYS = pb.HISTORY_RESOLUTION_DAY
TOTAL = pb.HISTORY_RESOLUTION_TOTAL


def at(time_s: float) -> Timestamp:
    time = Timestamp()
    time.FromNanoseconds(round(time_s * 10**9))
    return time


def ended(seconds_ago: float = 0, **fields: Any) -> pb.Outcome:
    given = {"request_id": "r", "model": "pocket", "version": 1} | fields
    given.setdefault("status", pb.OUTCOME_STATUS_COMPLETED)
    return pb.Outcome(end_time=at(NOW_S - seconds_ago), **given)


class Service:
    """A HistoryService over a catalogue."""

    def __init__(self, url: DatabaseUrl) -> None:
        self.url = url
        self.now_s = float(NOW_S)

    async def open(self, stack: AsyncExitStack) -> "Service":
        self.store = await Store.open(self.url)
        stack.push_async_callback(self.store.close)
        self.recorder = Recorder(self.store, [history.count], clock=lambda: self.now_s)
        servicer = HistoryServicer(self.recorder, History(self.store), clock=lambda: self.now_s)
        server = MeshServer(
            services=[(add_HistoryServiceServicer_to_server, servicer)],
            service_names=["mlxmesh.model.v1.HistoryService"],
        )
        address = await server.start()
        stack.push_async_callback(server.drain, 0, 0)
        channel = open_channel(address)
        stack.push_async_callback(channel.close)
        self.stub = HistoryServiceStub(channel)
        return self

    async def record(self, *outcomes: pb.Outcome, batch: int = 1, instance: str = "g-1") -> None:
        request = pb.RecordOutcomesRequest(instance_id=instance, batch=batch, outcomes=outcomes)
        await self.stub.RecordOutcomes(request)

    async def history(self, model: str = "pocket", **fields: Any) -> Sequence[pb.HistoryPeriod]:
        request = pb.GetModelHistoryRequest(model=model, **fields)
        return (await self.stub.GetModelHistory(request)).periods

    async def requests(self, **fields: Any) -> int:
        return sum(period.requests for period in await self.history(**fields))

    def maintenance(self, *, hourly_days: int = 2, daily_days: int = 30) -> HistoryMaintenance:
        return HistoryMaintenance(
            self.store,
            hourly_days=hourly_days,
            daily_days=daily_days,
            clock=lambda: self.now_s,
        )

    async def register(self, versions: int = 1) -> None:
        for number in range(versions):
            await self.store.register("pocket", replace(ARTIFACT, digest=f"{number:064x}"))


@pytest.fixture
async def service(database: DatabaseUrl) -> AsyncGenerator[Service]:
    async with AsyncExitStack() as stack:
        yield await Service(database).open(stack)


async def test_a_period_tells_what_ended_in_it(service: Service) -> None:
    await service.record(
        ended(
            prompt_tokens=10,
            cached_tokens=4,
            completion_tokens=20,
            ttft_ms=100,
            tpot_ms=10,
            device_ms=250,
            cost=0.5,
        ),
        ended(prompt_tokens=1, ttft_ms=300, device_ms=0.5, cost=0.25),
        ended(status=pb.OUTCOME_STATUS_FAILED),
        ended(status=pb.OUTCOME_STATUS_REFUSED),
        ended(status=pb.OUTCOME_STATUS_CANCELLED),
    )
    [period] = await service.history()
    assert (period.version, period.requests) == (1, 5)
    assert (period.errors, period.refused, period.cancelled) == (1, 1, 1)
    assert (period.prompt_tokens, period.cached_tokens, period.completion_tokens) == (11, 4, 20)
    assert (period.device_s, period.cost) == (0.2505, 0.75)
    assert (period.start_time, period.end_time) == (at(NOW_S - 600), at(NOW_S + 3000))
    assert (period.ttft.count, period.tpot.count) == (2, 1)
    assert period.ttft.p50_ms == pytest.approx(100, rel=1 / 32)
    assert period.ttft.p95_ms == period.ttft.p99_ms == pytest.approx(300, rel=1 / 32)
    assert period.tpot.p50_ms == pytest.approx(10, rel=1 / 32)


async def test_a_repeated_batch_counts_once(service: Service) -> None:
    for batch in (1, 1, 2, 1, 2):
        await service.record(ended(), batch=batch)
    await service.record(ended(), batch=1, instance="g-2")
    assert await service.requests() == 3


async def test_two_model_services_merge_concurrent_batches(database: DatabaseUrl) -> None:
    async with AsyncExitStack() as stack:
        services = [await Service(database).open(stack) for _ in range(2)]

        async def report(sender: int) -> None:
            for batch in range(1, 11):
                outcomes = [ended(ttft_ms=each, completion_tokens=3) for each in (1, 10, 100)]
                # Both get it, as when the answer of the first was lost.
                calls = [
                    each.record(*outcomes, batch=batch, instance=f"g-{sender}") for each in services
                ]
                await asyncio.gather(*calls)

        await asyncio.gather(*map(report, range(3)))
        for each in services:
            [period] = await each.history()
            assert (period.requests, period.completion_tokens) == (90, 270)
            assert period.ttft.count == 90
            assert period.ttft.p50_ms == pytest.approx(10, rel=1 / 32)


async def test_versions_are_apart_and_references_choose_among_them(service: Service) -> None:
    await service.register(versions=3)
    await service.store.set_alias("pocket", "stable", 2)
    await service.record(*(ended(version=each) for each in (1, 2, 2, 3)))

    async def found(model: str) -> list[tuple[int, int]]:
        return [(each.version, each.requests) for each in await service.history(model)]

    assert await found("pocket") == [(1, 1), (2, 2), (3, 1)]
    assert await found("pocket@3") == [(3, 1)]
    assert await found("pocket:stable") == [(2, 2)]
    arms = (Arm("stable", 2, 90), Arm("canary", 3, 10))
    async with service.store.changing("pocket") as (session, _):
        split = Split(arms, "salt", Subject.SESSION, rollout_id="ro-1")
        await queries.put_split(session, "pocket", "stable", split)
    assert await found("pocket:stable") == [(2, 2), (3, 1)]


async def test_resolutions(service: Service) -> None:
    await service.record(*(ended(hours * HOUR_S) for hours in (0, 0, 1, 15, 16, 30)))
    since: dict[str, Any] = {"start_time": at(NOW_S - 2 * DAY_S)}

    async def counts(**fields: Any) -> list[tuple[int, int]]:
        periods = await service.history(**since | fields)
        return [(each.start_time.seconds - NOW_S + 600, each.requests) for each in periods]

    hours = [(-30 * HOUR_S, 1), (-16 * HOUR_S, 1), (-15 * HOUR_S, 1), (-HOUR_S, 1), (0, 2)]
    assert await counts(resolution=PERIODS) == hours
    assert await counts() == hours
    days = [(-39 * HOUR_S, 2), (-15 * HOUR_S, 4)]
    assert await counts(resolution=DAYS) == days
    assert await counts(start_time=at(NOW_S - 3 * DAY_S)) == days
    [total] = await service.history(resolution=TOTAL, **since)
    assert total.requests == 6
    # Without a start it is the last day.
    assert await service.requests(resolution=PERIODS) == 5


async def test_a_range_has_the_hours_that_it_touches(service: Service) -> None:
    await service.record(*(ended(hours * HOUR_S) for hours in (0, 1, 2, 3)))
    now, hour_ago, before = at(NOW_S - 600), at(NOW_S - HOUR_S), at(NOW_S - 2 * HOUR_S + 60)
    assert await service.requests(start_time=before, end_time=hour_ago) == 2
    assert await service.requests(start_time=before, end_time=now) == 2


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"start_time": at(NOW_S + 1)}, "start_time"),
        ({"start_time": at(NOW_S), "end_time": at(NOW_S)}, "start_time"),
        ({"end_time": Timestamp(seconds=2**50)}, "end_time"),
        ({"start_time": Timestamp(seconds=-5)}, "start_time"),
        ({"start_time": Timestamp(seconds=5, nanos=2 * 10**9)}, "start_time"),
        ({"resolution": 9}, "resolution"),
    ],
)
async def test_illegal_ranges_are_refused(
    service: Service, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await service.history(**fields)
    assert refused.value.field == field


async def test_a_deleted_model_keeps_its_history_until_it_expires(service: Service) -> None:
    await service.register()
    await service.record(ended())
    await service.store.delete(ModelReference("pocket"))
    assert await service.requests() == 1
    assert await service.requests(model="pocket@1") == 1
    with pytest.raises(ModelNotFound):
        await service.history("pocket@2")
    service.now_s += 40 * DAY_S
    maintenance = service.maintenance()
    await maintenance.roll_up()
    await maintenance.prune()
    with pytest.raises(ModelNotFound):
        await service.history()


async def test_a_model_without_history_has_no_periods(service: Service) -> None:
    with pytest.raises(ModelNotFound):
        await service.history()
    await service.register()
    assert await service.history() == []
    with pytest.raises(ModelNotFound):
        await service.history("pocket:nope")


async def test_old_hours_become_days_and_later_outcomes_join_them(service: Service) -> None:
    maintenance = service.maintenance(hourly_days=2)
    old = 4 * DAY_S
    since: dict[str, Any] = {"start_time": at(NOW_S - 10 * DAY_S)}
    await service.record(*(ended(old + hour * HOUR_S, ttft_ms=5, cost=0.5) for hour in range(4)))
    await service.record(ended(), batch=2)
    await maintenance.roll_up()
    await service.record(ended(old, ttft_ms=50), batch=3)  # a clock was wrong
    await maintenance.roll_up()
    [day, hour] = await service.history(resolution=PERIODS, **since)
    assert (day.requests, day.cost, day.ttft.count) == (5, 2.0, 5)
    assert day.end_time.seconds - day.start_time.seconds == DAY_S
    assert day.ttft.p50_ms == pytest.approx(5, rel=1 / 32)
    assert day.ttft.p99_ms == pytest.approx(50, rel=1 / 32)
    assert (hour.requests, hour.end_time.seconds - hour.start_time.seconds) == (1, HOUR_S)
    assert await service.requests(resolution=TOTAL, **since) == 6


async def test_many_hours_are_rolled_up_in_parts(service: Service) -> None:
    first_s = 20 * DAY_S
    outcomes = [ended(first_s + hour * HOUR_S, version=v) for hour in range(300) for v in (1, 2, 3)]
    await service.record(*outcomes)
    await service.maintenance(hourly_days=2).roll_up()
    everything: dict[str, Any] = {"start_time": at(NOW_S - 60 * DAY_S)}
    periods = await service.history(resolution=PERIODS, **everything)
    assert {p.end_time.seconds - p.start_time.seconds for p in periods} == {DAY_S}
    assert sum(period.requests for period in periods) == 900


async def test_batches_of_instances_that_are_gone_are_forgotten(service: Service) -> None:
    await service.record(ended(), batch=7)
    service.now_s += BATCH_RETENTION_S - 1
    await service.record(ended(), batch=1, instance="g-2")
    await service.maintenance().prune()
    await service.record(ended(), batch=7)
    service.now_s += 2
    await service.maintenance().prune()
    async with service.store.transactions.write() as session:
        rows = await session.fetch("SELECT instance_id FROM outcome_batches")
    assert [row["instance_id"] for row in rows] == ["g-2"]
