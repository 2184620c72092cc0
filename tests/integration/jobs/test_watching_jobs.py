"""WatchJobs: the newest jobs of a caller, then each after its changes, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh_shared.errors import InvalidArgument
from tests.fakes.job_worker import WAIT_S, completed

from .conftest import Client, Service, Services


class Watched:
    """Collects what a watch sends."""

    def __init__(self, client: Client, **fields: Any) -> None:
        self.responses: list[pb.WatchJobsResponse] = []
        self._call = client.WatchJobs(interval_ms=100, **fields)
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for response in self._call:
            self.responses.append(response)

    @property
    def jobs(self) -> dict[str, pb.Job]:
        """The last that was sent of each job."""
        return {job.job_id: job for response in self.responses for job in response.jobs}

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                if self._task.done():
                    self._task.result()
                await asyncio.sleep(0.01)

    async def until_state(self, job_id: str, state: str) -> None:
        wanted = pb.JobState.Value(f"JOB_STATE_{state}")
        await self.until(lambda: job_id in self.jobs and self.jobs[job_id].state == wanted)

    async def close(self) -> None:
        self._call.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_the_newest_jobs_come_first_and_then_every_change(service: Service) -> None:
    await service.ada.submit("j1")
    await service.ada.submit("j2")
    watched = Watched(service.ada, newest=1)
    await watched.until(lambda: watched.responses)
    assert list(watched.jobs) == ["j2"]
    worker = await service.worker()
    assignment = await worker.next()
    await watched.until_state(assignment.id.job_id, "RUNNING")
    await worker.report(completed(assignment))
    await watched.until_state(assignment.id.job_id, "COMPLETED")
    assert not any(job.WhichOneof("result") for job in watched.jobs.values())
    changes = [one.change for one in watched.responses]
    assert changes == sorted(changes)
    await watched.close()


async def test_callers_see_their_own_and_admins_all(service: Service) -> None:
    ada, admin = Watched(service.ada), Watched(service.admin)
    await ada.until(lambda: ada.responses)
    await service.bob.submit("of-bob")
    await service.ada.submit("of-ada")
    await admin.until(lambda: {*admin.jobs} == {"of-bob", "of-ada"})
    await ada.until(lambda: ada.jobs)
    assert {*ada.jobs} == {"of-ada"}
    await ada.close()
    await admin.close()


async def test_a_watch_resumes_after_a_change(service: Service) -> None:
    await service.ada.submit("j1")
    watched = Watched(service.ada)
    await watched.until(lambda: "j1" in watched.jobs)
    last = watched.responses[-1].change
    await watched.close()
    await service.ada.submit("j2")
    resumed = Watched(service.ada, after_change=last)
    await resumed.until(lambda: resumed.jobs)
    assert list(resumed.jobs) == ["j2"]
    await resumed.close()


async def test_a_number_of_another_database_begins_anew(service: Service) -> None:
    await service.ada.submit("j1")
    watched = Watched(service.ada, after_change=2**40)
    await watched.until(lambda: "j1" in watched.jobs)
    await watched.close()


async def test_changes_at_another_jobs_service_are_seen(services: Services) -> None:
    first, _ = await services.start()
    second, _ = await services.start()
    watched = Watched(first.ada)
    await watched.until(lambda: watched.responses)
    await second.ada.submit("elsewhere")
    await watched.until(lambda: "elsewhere" in watched.jobs)
    await watched.close()


@pytest.mark.parametrize("interval_ms", [1, 99])
async def test_a_short_interval_is_refused(service: Service, interval_ms: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        async for _ in service.ada.WatchJobs(interval_ms=interval_ms):
            pass
    assert caught.value.field == "interval_ms"
