"""Usage: sums, batches, and whose files they are."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_gateway.access.usage.convert import batch_id_of, report
from mlxmesh_gateway.access.usage.folder import UsageFolder
from mlxmesh_gateway.access.usage.ledger import MAX_RECORDS, Batch, Ledger, Records, UsageKey
from mlxmesh_gateway.access.usage.reporter import MAX_BATCHES, UsageReporter
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_shared.errors import InvalidArgument, ServiceUnavailable

NOW_S = 1_800_000_123.0
ADA = Principal(
    kind=Kind.KEY,
    identity="key:k_1",
    role=Role.ROLE_CLIENT,
    claimed_name="laptop",
    host="10.0.0.1",
    user="ada",
    team="red",
    key_id="k_1",
)


def used(**fields: Any) -> Used:
    return Used(model="pocket", model_version=2, device_ms=10, **fields)


def records(count: int) -> Records:
    ledger = Ledger()
    for number in range(count):
        ledger.add(ADA, Used(model=f"m-{number}"), NOW_S)
    return ledger.take()


def test_calls_are_summed_by_principal_model_and_hour() -> None:
    ledger = Ledger()
    ledger.add(ADA, used(prompt_tokens=3, cached_tokens=1, completion_tokens=5), NOW_S)
    ledger.add(ADA, used(prompt_tokens=4, completion_tokens=6, messages=9), NOW_S + 1)
    failed = used()
    failed.failed = True
    ledger.add(ADA, failed, NOW_S + 3600)
    taken = ledger.take()
    first, second = sorted(taken)
    assert first == UsageKey("key:k_1", "ada", "k_1", "red", "pocket", 2, 1_800_000_000)
    assert second.hour_s == first.hour_s + 3600
    amounts = taken[first]
    assert (amounts.requests, amounts.errors) == (2, 0)
    assert (amounts.prompt_tokens, amounts.cached_tokens) == (7, 1)
    assert (amounts.completion_tokens, amounts.device_ms) == (11, 20)
    assert amounts.last_used_s == NOW_S + 1
    assert taken[second].errors == 1
    assert not ledger.take()


def test_a_batch_takes_what_the_contract_allows_and_returns_the_rest() -> None:
    batch = Batch("b")
    rest = batch.add(records(MAX_RECORDS + 2))
    assert (len(batch.records), len(rest)) == (MAX_RECORDS, 2)
    assert batch_id_of(report(batch)) == "b"


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x12\x00"])
def test_other_files_are_no_batches(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a batch"):
        batch_id_of(content)


def encoded(batch_id: str) -> bytes:
    return report(Batch(batch_id, records(1)))


def test_a_dead_gateways_batches_are_adopted_and_a_living_ones_are_not(tmp_path: Path) -> None:
    first, second = UsageFolder(tmp_path, "g-1"), UsageFolder(tmp_path, "g-2")
    first.write("b-1", encoded("b-1"))
    assert second.adopt() == []
    first.close()
    assert second.adopt() == [("b-1", encoded("b-1"))]
    assert second.adopt() == []
    (kept,) = tmp_path.rglob("*.binpb")
    assert kept.parent.name == "g-2"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    second.remove("b-1")
    second.close()
    assert [path.name for path in tmp_path.rglob("*")] == ["gateway-usage"]


def test_a_file_that_is_no_batch_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "gateway-usage" / "g-0"
    folder.mkdir(parents=True)
    (folder / "b.binpb").write_bytes(b"\xff")
    assert UsageFolder(tmp_path, "g-1").adopt() == []
    assert not list(tmp_path.rglob("*.binpb"))


class Service:
    """Takes batches, unless it has an error."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.batches: list[bytes] = []

    async def send(self, encoded: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.batches.append(encoded)


async def test_what_cannot_be_delivered_waits_and_what_is_refused_is_dropped(
    tmp_path: Path,
) -> None:
    service, ledger = Service(), Ledger()
    service.error = ServiceUnavailable("away")
    folder = UsageFolder(tmp_path, "g-1")
    reporter = UsageReporter(ledger, folder, service.send, may_send=lambda: True)
    ledger.add(ADA, used(), NOW_S)
    await reporter.close()
    assert len(list(tmp_path.rglob("*.binpb"))) == 1
    service.error = InvalidArgument("illegal")
    reporter = UsageReporter(ledger, folder, service.send, may_send=lambda: True)
    ledger.add(ADA, used(), NOW_S)
    await reporter.close()
    assert reporter.dropped == 1
    assert service.batches == []
    assert len(list(tmp_path.rglob("*.binpb"))) == 1  # the first one still waits


async def test_what_is_being_delivered_at_the_end_is_delivered_once(tmp_path: Path) -> None:
    service, ledger = Service(), Ledger()
    sending, go_on = asyncio.Event(), asyncio.Event()

    async def send(encoded: bytes) -> None:
        sending.set()
        await go_on.wait()
        await service.send(encoded)

    folder = UsageFolder(tmp_path, "g-1")
    reporter = UsageReporter(ledger, folder, send, may_send=lambda: True, interval_s=60)
    ledger.add(ADA, used(), NOW_S)
    async with asyncio.timeout(30):
        running = asyncio.create_task(reporter.run())
        await sending.wait()
        ledger.add(ADA, used(), NOW_S)
        closing = asyncio.create_task(reporter.close())
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(closing, running)
    assert len(set(service.batches)) == len(service.batches) == 2
    assert not list(tmp_path.rglob("*.binpb"))


async def test_undelivered_batches_are_bounded(tmp_path: Path) -> None:
    service, ledger = Service(), Ledger()
    service.error = ServiceUnavailable("away")
    folder = UsageFolder(tmp_path, "g-1")
    reporter = UsageReporter(ledger, folder, service.send, may_send=lambda: False)
    per_batch = MAX_RECORDS
    for number in range((MAX_BATCHES + 3) * per_batch):
        ledger.add(ADA, Used(model=f"m-{number}"), NOW_S)
    await reporter.close()
    assert len(list(tmp_path.rglob("*.binpb"))) <= MAX_BATCHES + 1
    assert reporter.dropped > 0
