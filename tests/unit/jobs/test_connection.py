"""What a worker may get, and what is sent to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlxmesh_jobs.domain.jobs import AttemptId, Claim, Kind, Owner, Progress, Update
from mlxmesh_jobs.workers.attempts import Attempts
from mlxmesh_jobs.workers.connection import MAX_UNSTORED, Connection
from mlxmesh_jobs.workers.messages import Hello, Report
from mlxmesh_jobs.workers.outbox import Outbox

OWNER = Owner(owner="#", principal="anonymous", share="host")


def claim(name: str, connector: str = "") -> Claim:
    return Claim(
        id=AttemptId(name, 1),
        kind=Kind.GENERATION,
        queue="generation",
        owner=OWNER,
        request=b"",
        timeout_ms=0,
        connector=connector,
        outputs=0,
        back_end_state="",
        started=b"",
    )


def connection(*, slots: int = 4, connectors: Any = ()) -> Connection:
    hello = Hello(
        worker_id="w1",
        session="s",
        host="h",
        slots=slots,
        kinds=frozenset({Kind.GENERATION}),
        connectors=dict.fromkeys(connectors, ()),
        queues=frozenset(),
        running=frozenset(),
    )
    attempts = Attempts(stall_timeout_s=None)
    return Connection(1, hello, attempts, clock=lambda: 0.0, wake=lambda: None)


def report(number: int = 1, **fields: Any) -> Report:
    return Report(number=number, **{"free_slots": 4, "assignments": 0, **fields})


def test_slots_of_a_connector_limit_what_a_worker_gets_of_it() -> None:
    made = connection(slots=64, connectors=["paint_http", "draw_http"])
    made.receive(report(free_slots=64, connector_slots={"paint_http": 3}))
    assert made.capability.connectors == {"paint_http", "draw_http"}
    assert made.capability.limits == {("paint_http", 3)}
    made.give([claim("a", "paint_http"), claim("b", "draw_http"), claim("c", "paint_http")])
    assert made.capability.limits == {("paint_http", 1)}
    # It has received the first two when it sends this.
    made.receive(report(2, free_slots=62, assignments=2, connector_slots={"paint_http": 2}))
    assert made.capability.limits == {("paint_http", 1)}
    made.give([claim("d", "paint_http")])
    assert (made.capability.connectors, made.capability.limits) == ({"draw_http"}, set())


def test_nothing_is_free_before_the_first_report() -> None:
    made = connection()
    assert made.free == 0
    made.receive(report())
    assert made.free == 4


def test_assignments_on_their_way_use_slots() -> None:
    made = connection()
    made.receive(report())
    made.give([claim("a"), claim("b")])
    assert made.free == 2
    made.receive(report(2, free_slots=4))  # it has not received them yet
    assert made.free == 2
    made.receive(report(3, free_slots=2, assignments=2))
    assert made.free == 2
    made.drop([AttemptId("a", 1), AttemptId("b", 1)])
    made.receive(report(4, free_slots=4, assignments=2))
    assert made.free == 4


def test_a_worker_may_take_fewer_than_its_slots() -> None:
    made = connection(slots=8)
    made.receive(report(free_slots=1))
    assert made.free == 1


def test_a_leaving_or_closed_one_takes_nothing() -> None:
    made = connection()
    made.receive(report(leaving=True))
    made.receive(report(2))
    assert made.free == 0
    assert made.has_left
    other = connection()
    other.receive(report())
    other.close()
    assert other.free == 0


def test_busy_connectors_are_left_out() -> None:
    made = connection(connectors=["a_http", "b_http"])
    made.receive(report(busy_connectors=frozenset({"a_http"})))
    assert made.capability.connectors == {"b_http"}
    made.receive(report(2))
    assert made.capability.connectors == {"a_http", "b_http"}


async def test_a_stream_is_not_read_while_too_much_is_unstored() -> None:
    made = connection()
    update = Update(id=AttemptId("a", 1), news=Progress())
    made.receive(report(updates=[update] * MAX_UNSTORED))
    assert made.waits_for_room
    updates, number = await made.unstored()
    assert (len(updates), number) == (MAX_UNSTORED, 1)
    assert not made.waits_for_room
    await made.has_room()


async def test_what_was_not_sent_yet_is_one_message() -> None:
    outbox = Outbox()
    outbox.assign([claim("a")])
    outbox.confirm(3)
    outbox.confirm(2)
    outbox.cancel([AttemptId("b", 1)])
    outbox.fence([AttemptId("c", 1)])
    orders = await outbox.take()
    assert orders is not None
    assert [each.id.job_id for each in orders.assignments] == ["a"]
    assert (orders.confirmed, len(orders.cancellations), len(orders.fenced)) == (3, 1, 1)
    waiting = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.close()
    assert await waiting is None


async def test_the_end_comes_after_what_is_still_to_be_sent() -> None:
    outbox = Outbox()
    outbox.confirm(1)
    outbox.close(ValueError("the reason"))
    outbox.close(ValueError("another one"))
    assert await outbox.take()
    with pytest.raises(ValueError, match="the reason"):
        await outbox.take()


async def test_a_number_is_confirmed_once() -> None:
    made = connection()
    made.confirm(2)
    orders = await made.outbox.take()
    assert orders is not None
    made.confirm(2)
    made.close()
    assert await made.outbox.take() is None
