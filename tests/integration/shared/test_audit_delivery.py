"""Entries for the audit log reach the access service once each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from mlxmesh_shared.audit_delivery import BATCH, AuditDelivery, AuditEntry, audit_request
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.channels import ChannelPool, open_channel
from mlxmesh_tools.storage.audit_rows import Entry
from tests.fakes.recording_access import RecordingAccess
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.serving import serving
from tests.fakes.waiting import until


def entry(number: int) -> AuditEntry:
    return AuditEntry(time_ms=number, actor="a", action="host.joined", target="host:b")


class Waiting:
    """Entries that wait; one is added after each look, as by another task."""

    def __init__(self, entries: Sequence[AuditEntry], failures: int = 0) -> None:
        self.entries = list(entries)
        self.added = 0
        self.failures = failures
        """So many next removals fail."""

    async def audit_entries(self, limit: int) -> Sequence[AuditEntry]:
        oldest = self.entries[:limit]
        if oldest and not self.added:
            self.added += 1
            self.entries.append(entry(1000))
        return oldest

    async def audit_delivered(self, batch: Sequence[AuditEntry]) -> None:
        if self.failures:
            self.failures -= 1
            raise IllegalState("the disk is full")
        self.entries = self.entries[len(batch) :]


class Shared(Waiting):
    """Nothing is removed before both have looked."""

    removals = 0

    async def audit_delivered(self, batch: Sequence[AuditEntry]) -> None:
        self.removals += 1


async def deliver(
    outbox: Waiting, access: RecordingAccess, done: Callable[[], object], *, processes: int = 1
) -> list[int]:
    """Delivers until the condition holds; the times of the entries that were recorded."""
    registry = InMemoryRegistry()
    channels = ChannelPool(lambda address: open_channel(address, role="access"))
    deliveries = [
        AuditDelivery(outbox, registry, channels, source="tests", retry_s=0.01)
        for _ in range(processes)
    ]
    delivering = [asyncio.create_task(each.run()) for each in deliveries]
    async with serving(access.server()) as address:
        await registry.register(Instance("access", "access-1", address, 1))
        await until(done, 60)
        for task in delivering:
            task.cancel()
        await asyncio.gather(*delivering, return_exceptions=True)
        await channels.close()
    entries = [each for request in access.recorded.values() for each in request.entries]
    return [each.time.ToMilliseconds() for each in entries]


async def test_an_entry_whose_answer_is_lost_is_recorded_once() -> None:
    outbox, access = Waiting([entry(1), entry(2)]), RecordingAccess(lost_answers=2)
    recorded = await deliver(outbox, access, lambda: entry(2) not in outbox.entries)
    assert recorded[:2] == [1, 2]
    assert access.calls == len(recorded) + 2


async def test_an_entry_that_cannot_be_removed_is_recorded_once() -> None:
    outbox, access = Waiting([entry(1)], failures=2), RecordingAccess()
    recorded = await deliver(outbox, access, lambda: entry(1) not in outbox.entries)
    assert recorded[0] == 1
    assert access.calls == len(recorded)


async def test_more_entries_than_are_read_at_once() -> None:
    times = [*range(1, BATCH + 1)]
    outbox = Waiting([entry(at) for at in times])
    recorded = await deliver(outbox, RecordingAccess(), lambda: not outbox.entries)
    assert recorded == [*times, 1000]


async def test_two_processes_with_the_same_outbox_record_its_entries_once() -> None:
    """As two tools services with one database, of which one has seen an entry more."""
    outbox = Shared([entry(1), entry(2)])
    recorded = await deliver(outbox, RecordingAccess(), lambda: outbox.removals == 2, processes=2)
    assert recorded == [1, 2, 1000]


def test_the_ids_of_requests_stay_the_same() -> None:
    # Those of entries that an older version has delivered, and not removed.
    facts = {"time_ms": 1, "actor": "a", "action": "host.joined", "target": "host:b"}
    of_hosts = audit_request("hosts", AuditEntry(**facts, details="d"))
    assert of_hosts.batch_id == "hosts-0f38aa9f90426e016cbdcb4ae4d74f30eeaba910"
    of_tools = audit_request("tools", Entry(**facts, details="d", number=7))
    assert of_tools.batch_id == "tools-cea2b69bdea2758aa35eb06f88b3f2d6a9a7cdf6"


@pytest.mark.parametrize("other", [entry(2), entry(1)])
def test_a_request_has_an_id_of_its_own(other: AuditEntry) -> None:
    same = audit_request("a", entry(1)).batch_id == audit_request("a", other).batch_id
    assert same == (other == entry(1))
