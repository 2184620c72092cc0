"""Entries for the audit log reach the access service once each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mlxmesh_shared.audit_delivery import BATCH, AuditDelivery, AuditEntry, audit_request
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.channels import ChannelPool, open_channel
from mlxmesh_tools.storage.audit_rows import Entry
from tests.fakes.recording_access import RecordingAccess
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.serving import serving


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


async def deliver(outbox: Waiting, access: RecordingAccess, *, left: int) -> list[list[int]]:
    """Delivers until so many entries are left; the times of those recorded, by batch."""
    registry = InMemoryRegistry()
    channels = ChannelPool(lambda address: open_channel(address, role="access"))
    delivery = AuditDelivery(outbox, registry, channels, source="tests", retry_s=0.01)
    delivering = asyncio.create_task(delivery.run())
    async with serving(access.server()) as address:
        await registry.register(Instance("access", "access-1", address, 1))
        async with asyncio.timeout(60):
            while len(outbox.entries) != left or not outbox.added:
                await asyncio.sleep(0.01)
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
        await channels.close()
    return [
        [each.time.ToMilliseconds() for each in batch.entries] for batch in access.recorded.values()
    ]


async def test_a_batch_whose_answer_is_lost_is_repeated_without_later_entries() -> None:
    access = RecordingAccess(lost_answers=2)
    assert await deliver(Waiting([entry(1), entry(2)]), access, left=1) == [[1, 2]]
    assert access.calls == 3


async def test_a_batch_that_cannot_be_removed_is_recorded_once() -> None:
    access = RecordingAccess()
    assert await deliver(Waiting([entry(1)], failures=2), access, left=1) == [[1]]
    assert access.calls == 1


async def test_many_entries_go_in_batches() -> None:
    times = [*range(1, BATCH + 1)]
    recorded = await deliver(Waiting([entry(at) for at in times]), RecordingAccess(), left=0)
    assert recorded == [times, [1000]]


def test_the_ids_of_batches_stay_the_same() -> None:
    # Those of batches that an older version has delivered, and not removed.
    facts = {"time_ms": 1, "actor": "a", "action": "host.joined", "target": "host:b"}
    of_hosts = audit_request("hosts", [AuditEntry(**facts, details="d")])
    assert of_hosts.batch_id == "hosts-0f38aa9f90426e016cbdcb4ae4d74f30eeaba910"
    of_tools = audit_request("tools", [Entry(**facts, details="d", number=7)])
    assert of_tools.batch_id == "tools-cea2b69bdea2758aa35eb06f88b3f2d6a9a7cdf6"


@pytest.mark.parametrize("other", [entry(2), entry(1)])
def test_a_batch_has_an_id_of_its_own(other: AuditEntry) -> None:
    same = audit_request("a", [entry(1)]).batch_id == audit_request("a", [other]).batch_id
    assert same == (other == entry(1))
