"""Usage: recorded once, and summed in every way, in both kinds of database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import policy_pb2
from tests.integration.access.conftest import Service, Services

KEY = pb.USAGE_GROUP_KEY
USER = pb.USAGE_GROUP_USER
TEAM = pb.USAGE_GROUP_TEAM
MODEL = pb.USAGE_GROUP_MODEL
HOUR = pb.USAGE_GROUP_HOUR
DAY = pb.USAGE_GROUP_DAY
NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
AMOUNTS = pb.UsageAmounts(
    requests=2, errors=1, prompt_tokens=30, cached_tokens=10, completion_tokens=5, device_s=0.25
)


def at(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def record(user: str = "ada", hour: datetime = NOON, **fields: Any) -> policy_pb2.UsageRecord:
    values: dict[str, Any] = {
        "principal": f"user:{user}",
        "user": user,
        "team": "blue",
        "model": "pocket",
        "model_version": 1,
        "hour": at(hour),
        "amounts": AMOUNTS,
    }
    return policy_pb2.UsageRecord(**{**values, **fields})


async def report(service: Service, batch: str, *records: policy_pb2.UsageRecord) -> bool:
    request = policy_pb2.ReportUsageRequest(batch_id=batch, records=records)
    return (await service.policies.ReportUsage(request)).repeated


async def rows(client: Any, *groups: Any, **fields: Any) -> list[pb.UsageRow]:
    return list((await client.QueryUsage(group_by=groups, **fields)).rows)


async def test_a_repeated_batch_counts_once(service: Service) -> None:
    assert not await report(service, "b1", record(), record())
    assert await report(service, "b1", record(), record())
    assert not await report(service, "b2", record())
    [total] = await rows(service.admin)
    assert total == pb.UsageRow(
        amounts=pb.UsageAmounts(
            requests=6,
            errors=3,
            prompt_tokens=90,
            cached_tokens=30,
            completion_tokens=15,
            device_s=0.75,
        )
    )


async def test_a_batch_counts_once_after_a_restart(services: Services) -> None:
    service, stop = await services.start()
    await report(service, "b1", record())
    await stop()
    service, _ = await services.start()
    assert await report(service, "b1", record())
    [total] = await rows(service.admin)
    assert total.amounts == AMOUNTS


async def test_a_batch_sent_to_two_services_at_once_counts_once(services: Services) -> None:
    stands = [(await services.start())[0] for _ in range(2)]
    sent = [report(stand, f"b{number}", record()) for number in range(20) for stand in stands]
    repeated = await asyncio.gather(*sent)
    assert sum(repeated) == 20
    [total] = await rows(stands[0].admin)
    assert total.amounts.requests == 40


async def test_the_largest_batch(service: Service) -> None:
    records = [record(model=f"m{number}") for number in range(4095)]
    await report(service, "b1", *records, record(model="m0"))
    [total] = await rows(service.admin)
    assert total.amounts.requests == 2 * 4096


async def fill(service: Service) -> None:
    later = NOON + timedelta(hours=1)
    tomorrow = NOON + timedelta(days=1)
    key: dict[str, Any] = {"principal": "key:k_1", "key_id": "k_1"}
    await report(
        service,
        "b1",
        record(),
        record(hour=later),
        record("bob", team="red", **key),
        record("bob", team="red", hour=tomorrow, model="big", model_version=2, **key),
        record("", team="", principal="spiffe://mlxmesh/client"),
    )
    service.clock.advance(3 * 86_400)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([], [((), 10)]),
        ([KEY], [(("", ""), 2), (("", "ada"), 4), (("k_1", "bob"), 4)]),
        ([USER], [(("",), 2), (("ada",), 4), (("bob",), 4)]),
        ([TEAM], [(("",), 2), (("blue",), 4), (("red",), 4)]),
        ([MODEL], [(("big", 2), 2), (("pocket", 1), 8)]),
        ([HOUR], [(("14 12",), 6), (("14 13",), 2), (("15 12",), 2)]),
        ([DAY], [(("14 00",), 8), (("15 00",), 2)]),
        ([DAY, USER], [(("14 00", ""), 2), (("14 00", "ada"), 4), (("14 00", "bob"), 2),
                       (("15 00", "bob"), 2)]),
        ([USER, DAY, USER], [(("", "14 00"), 2), (("ada", "14 00"), 4), (("bob", "14 00"), 2),
                             (("bob", "15 00"), 2)]),
        ([USER, HOUR, DAY], [(("", "14 12"), 2), (("ada", "14 12"), 2), (("ada", "14 13"), 2),
                             (("bob", "14 12"), 2), (("bob", "15 12"), 2)]),
    ],
)  # fmt: skip
async def test_usage_is_summed_by_what_is_asked_for(
    service: Service, groups: list[Any], expected: list[Any]
) -> None:
    await fill(service)
    found = await rows(service.admin, *groups)
    assert [(shown(row, groups), row.amounts.requests) for row in found] == expected
    paged: list[pb.UsageRow] = []
    token = ""
    while True:
        page = await service.admin.QueryUsage(group_by=groups, page_size=1, page_token=token)
        paged += page.rows
        token = page.next_page_token
        if not token:
            break
    assert paged == found


def shown(row: pb.UsageRow, groups: list[Any]) -> tuple[Any, ...]:
    """What a row was summed by; the rest must be empty."""
    columns: dict[Any, tuple[Any, ...]] = {
        KEY: (row.key_id, row.user),
        USER: (row.user,),
        TEAM: (row.team,),
        MODEL: (row.model, row.model_version),
        HOUR: (row.time.ToDatetime().strftime("%d %H"),) if row.HasField("time") else (),
    }
    columns[DAY] = columns[HOUR]
    asked = list(dict.fromkeys(HOUR if group == DAY else group for group in groups))
    ignored = {USER} if KEY in asked else set[Any]()
    for group in (KEY, USER, TEAM, MODEL):
        if group not in asked and group not in ignored and not (group == KEY and USER in asked):
            assert not any(columns[group]), group
    return tuple(value for group in asked for value in columns[group])


@pytest.mark.parametrize(
    ("fields", "requests"),
    [
        ({"user": "ada"}, 4),
        ({"key_id": "k_1"}, 4),
        ({"model": "big"}, 2),
        ({"user": "ada", "model": "big"}, 0),
        ({"from": at(NOON + timedelta(minutes=59))}, 10),
        ({"from": at(NOON + timedelta(minutes=60))}, 4),
        ({"to": at(NOON + timedelta(minutes=1))}, 6),
        ({"to": at(NOON)}, 0),
        ({"from": at(NOON), "to": at(NOON + timedelta(hours=2))}, 8),
    ],
)
async def test_filters(service: Service, fields: dict[str, Any], requests: int) -> None:
    await fill(service)
    [total] = await rows(service.admin, **fields)
    assert total.amounts.requests == requests


async def test_by_default_the_last_thirty_days_are_summed(service: Service) -> None:
    now = datetime.fromtimestamp(service.clock.now_ms / 1000, UTC)
    await report(service, "b", record(hour=now - timedelta(days=30)))
    await report(service, "c", record(hour=now - timedelta(days=31)))
    [total] = await rows(service.admin)
    assert total.amounts.requests == 2


async def test_a_client_gets_its_own_usage(service: Service) -> None:
    await service.add_users("ada", "bob")
    await fill(service)
    for fields in ({}, {"user": "bob"}):
        [row] = await rows(service.user("ada"), USER, **fields)
        assert (row.user, row.amounts.requests) == ("ada", 4)
    [total] = await rows(service.user("ada"), key_id="k_1")
    assert total.amounts == pb.UsageAmounts()


async def test_a_certificate_gets_the_usage_of_its_principal(service: Service) -> None:
    await fill(service)
    client = service.certificate("spiffe://mlxmesh/client")
    [total] = await rows(client)
    assert total.amounts.requests == 2


async def test_a_key_shows_when_it_was_used_last_to_the_minute(service: Service) -> None:
    await service.add_users("ada")
    key_id = (await service.add_key("ada")).key.key_id
    times = [NOON + timedelta(minutes=5, seconds=40), NOON + timedelta(minutes=3)]
    for number, time in enumerate(times):
        fields = {"key_id": key_id, "last_used": at(time)}
        await report(service, f"b{number}", record(**fields), record(**fields))
    [key] = (await service.user("ada").ListKeys()).keys
    assert key.last_used.ToDatetime(UTC) == NOON + timedelta(minutes=5)


async def test_usage_of_a_removed_user_stays(service: Service) -> None:
    await service.add_users("ada")
    await report(service, "b", record())
    await service.admin.DeleteUser(name="ada")
    [row] = await rows(service.admin, USER)
    assert (row.user, row.amounts.requests) == ("ada", 2)
