"""Jobs for back ends: where they run, what they report, and what is left to a later attempt."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlxmesh.job.v1 import job_pb2, worker_pb2
from mlxmesh_shared.errors import InvalidArgument, ServiceUnavailable
from mlxmesh_shared.registry.port import Instance
from mlxmesh_worker.connectors.port import Outcome, Reports, Target, Task
from mlxmesh_worker.connectors.simulation.over_http import SimulationHttp
from tests.fakes.job_service import OWNER, FakeJob
from tests.fakes.simulation_server import simulation_server
from tests.fakes.waiting import until
from tests.integration.worker.harness import Rig, running_rig, running_worker


@dataclass
class Machines:
    """All back ends of the test's connector, and what they were asked."""

    sick: set[str] = field(default_factory=set[str])
    illegal: set[str] = field(default_factory=set[str])
    """Addresses that the connector does not take."""
    running: Counter[str] = field(default_factory=Counter[str])
    most: Counter[str] = field(default_factory=Counter[str])
    ran: list[tuple[str, Task]] = field(default_factory=list[tuple[str, Task]])
    cancelled: list[bool] = field(default_factory=list[bool])
    """Whether the work was left, for each run that was cancelled."""
    may_end: asyncio.Event = field(default_factory=asyncio.Event)


class Painter:
    """Satisfies Connector."""

    name: ClassVar[str] = "paint_http"
    operations: ClassVar[Sequence[str]] = ("paint", "copy")

    def __init__(self, machines: Machines, target: Target) -> None:
        if target.address in machines.illegal:
            raise InvalidArgument("its address is illegal")
        self._machines = machines
        self._address = target.address

    async def probe(self) -> None:
        if self._address in self._machines.sick:
            raise ServiceUnavailable("it is sick")

    def check(self, operation: str, arguments: Mapping[str, Any]) -> None:
        if operation not in self.operations:
            raise InvalidArgument(f"there is no operation {operation}", field="operation")

    async def run(self, task: Task, reports: Reports) -> Outcome:
        machines = self._machines
        machines.ran.append((self._address, task))
        machines.running[self._address] += 1
        machines.most[self._address] = max(
            machines.most[self._address], machines.running[self._address]
        )
        try:
            if not task.state:
                await reports.remember({"prompt": f"{task.job_id}-{task.attempt}"})
            await reports.progress(fraction=0.5, unit="steps", text="painting")
            await machines.may_end.wait()
            if task.operation == "copy":
                copied = reports.read(task.inputs[0])
                return Outcome(result={}, files=[await reports.store("a.png", "image/png", copied)])
            return Outcome(result={"colour": task.arguments.get("colour", "none")})
        except asyncio.CancelledError:
            machines.cancelled.append(reports.leaves_work)
            raise
        finally:
            machines.running[self._address] -= 1

    async def close(self) -> None:
        pass


@dataclass(frozen=True)
class PainterType:
    """Satisfies ConnectorType."""

    machines: Machines
    name: ClassVar[str] = Painter.name
    operations: ClassVar[Sequence[str]] = Painter.operations

    def __call__(self, target: Target) -> Painter:
        return Painter(self.machines, target)


@pytest.fixture
async def rig(tmp_path: Path, tokenizer_dir: Path) -> AsyncIterator[Rig]:
    async with running_rig(tmp_path, tokenizer_dir) as running:
        yield running


@pytest.fixture
def machines() -> Machines:
    return Machines()


def connectors(machines: Machines) -> dict[str, Any]:
    return {Painter.name: PainterType(machines)}


def submit(rig: Rig, job_id: str = "job-1", timeout_ms: int = 0, **fields: Any) -> FakeJob:
    work = job_pb2.ConnectorWork(connector=Painter.name, **fields)
    kind = job_pb2.JOB_KIND_CONNECTOR
    return rig.jobs.submit(job_id, kind, connector=work, timeout_ms=timeout_ms)


SETTINGS: dict[str, Any] = {"back_ends": "paint_http=one:1,paint_http=two:2"}


async def test_a_job_runs_at_a_back_end(rig: Rig, machines: Machines) -> None:
    machines.may_end.set()
    async with running_worker(rig, connectors=connectors(machines), **SETTINGS):
        job = submit(rig, arguments_json='{"colour": "red"}')
        await rig.ended(job)
    ((_, task),) = machines.ran
    assert (task.operation, task.attempt, task.job_id) == ("paint", 1, "job-1")
    assert json.loads(job.results[0].connector.result_json) == {"colour": "red"}
    assert (job.progress[-1].fraction, job.progress[-1].text) == (0.5, "painting")
    (session,) = rig.jobs.sessions.values()
    assert [each.name for each in session.hello.connectors] == ["paint_http"]
    assert list(session.hello.connectors[0].operations) == ["paint", "copy"]
    told = [(each.address, each.healthy, list(each.operations)) for each in session.back_ends]
    assert told == [("one:1", True, ["paint", "copy"]), ("two:2", True, ["paint", "copy"])]


async def test_files_are_read_and_stored_for_the_owner(rig: Rig, machines: Machines) -> None:
    machines.may_end.set()
    content = bytes(range(256)) * 10_000  # more than two pieces
    rig.service.files.add("file-in", content)
    async with running_worker(rig, connectors=connectors(machines), **SETTINGS):
        job = submit(rig, operation="copy", input_file_ids={"image": "file-in"})
        await rig.ended(job)
    (made,) = job.results[0].connector.files
    assert (made.name, made.media_type, made.size_bytes) == ("a.png", "image/png", len(content))
    assert rig.service.files.contents[made.file_id] == content
    assert rig.service.files.files[made.file_id].job_id == "job-1"
    created, read = rig.service.files.metadata
    assert read["mlxmesh-owner"] == OWNER.owner, "the owner must have the file"
    assert "mlxmesh-role" not in created, "only a worker writes files of jobs"


@pytest.mark.parametrize(
    "fields",
    [
        {"operation": "sing"},
        {"arguments_json": "[]"},
        {"arguments_json": "{"},
        {"operation": "copy", "input_file_ids": {"image": "file-none"}},
    ],
)
async def test_work_that_is_wrong_is_the_jobs_fault(
    rig: Rig, machines: Machines, fields: dict[str, Any]
) -> None:
    machines.may_end.set()
    async with running_worker(rig, connectors=connectors(machines), **SETTINGS):
        job = submit(rig, **fields)
        await rig.ended(job, "failed")
    assert job.failures[0].fault == worker_pb2.FAULT_JOB


async def test_jobs_are_spread_over_healthy_back_ends(rig: Rig, machines: Machines) -> None:
    settings = {"back_ends": "paint_http=one:1,paint_http=two:2,paint_http=sick:3"}
    machines.sick.add("sick:3")
    async with running_worker(
        rig, connectors=connectors(machines), slots_per_connector=2, **settings
    ) as worker:
        jobs = [submit(rig, f"job-{number}") for number in range(12)]
        await until(lambda: machines.running.total() == 4)
        await until(lambda: next(iter(rig.jobs.sessions.values())).busy == ("paint_http",))
        assert list(worker.back_ends.busy()) == ["paint_http"]
        machines.may_end.set()
        await asyncio.gather(*map(rig.ended, jobs))
    assert machines.most == {"one:1": 2, "two:2": 2}
    ran = Counter(address for address, _ in machines.ran)
    assert min(ran.values()) >= 4
    assert {job.attempt for job in jobs} == {1}


async def test_jobs_wait_for_a_back_end_that_the_registry_lists(
    rig: Rig, machines: Machines
) -> None:
    machines.may_end.set()
    async with running_worker(rig, connectors=connectors(machines)):
        await until(lambda: rig.jobs.sessions != {})
        job = submit(rig)
        await asyncio.sleep(0.3)
        assert job.attempt == 0, "nobody takes it"
        await rig.registry.register(Instance("paint_http", "host-a", "three:3", 0))
        await rig.ended(job)
    assert [address for address, _ in machines.ran] == ["three:3"]


async def test_a_back_end_with_an_illegal_address_hides_no_other(
    rig: Rig, machines: Machines
) -> None:
    machines.may_end.set()
    machines.illegal.add("one:1")
    await rig.registry.register(Instance("paint_http", "host-a", "one:1", 0))
    await rig.registry.register(Instance("paint_http", "host-b", "two:2", 0))
    async with running_worker(rig, connectors=connectors(machines)):
        await rig.ended(submit(rig))
    assert [address for address, _ in machines.ran] == ["two:2"]


async def test_a_later_attempt_goes_on_at_the_same_back_end(rig: Rig, machines: Machines) -> None:
    async with AsyncExitStack() as stack:
        worker = running_worker(rig, connectors=connectors(machines), **SETTINGS)
        await stack.enter_async_context(worker)
        job = submit(rig)
        await until(lambda: job.back_end_state != "" and job.progress != [])
        await stack.aclose()
        rig.jobs.end_session(job.session)
    assert machines.cancelled == [True], "the work is left to the next attempt"
    machines.may_end.set()
    async with running_worker(rig, "worker-2", connectors=connectors(machines), **SETTINGS):
        await rig.ended(job)
    (first, began), (second, goes_on) = machines.ran
    assert first == second
    assert dict(began.state) == {}
    assert dict(goes_on.state) == {"prompt": "job-1-1"}
    assert (goes_on.attempt, len(job.results)) == (2, 1)


async def test_a_cancelled_job_stops_the_back_end(rig: Rig, machines: Machines) -> None:
    async with running_worker(rig, connectors=connectors(machines), **SETTINGS):
        job = submit(rig)
        await until(lambda: machines.running.total() == 1)
        rig.jobs.cancel("job-1")
        await rig.ended(job, "cancelled")
    assert machines.cancelled == [False]


async def test_an_attempt_that_takes_too_long_stops_the_back_end(
    rig: Rig, machines: Machines
) -> None:
    rig.jobs.retries = False
    async with running_worker(rig, connectors=connectors(machines), **SETTINGS):
        job = submit(rig, timeout_ms=200)
        await rig.ended(job, "failed")
    assert job.failures[0].fault == worker_pb2.FAULT_TIMEOUT
    assert machines.cancelled == [False]


async def test_an_unknown_connector_in_the_settings_is_refused(rig: Rig) -> None:
    with pytest.raises(InvalidArgument, match="the connector nobody; there are paint_http"):
        async with running_worker(rig, connectors=connectors(Machines()), back_ends="nobody=one:1"):
            pass


async def test_a_queue_that_no_job_can_name_is_refused(rig: Rig) -> None:
    with pytest.raises(InvalidArgument, match="queues has Night; a name is"):
        async with running_worker(rig, queues="night,Night"):
            pass


async def test_the_simulation_has_one_effect_for_a_job_over_a_killed_worker(rig: Rig) -> None:
    types: dict[str, Any] = {"simulation_http": SimulationHttp}
    async with simulation_server() as server, AsyncExitStack() as stack:
        settings = {"back_ends": f"simulation_http={server.url}"}
        await stack.enter_async_context(running_worker(rig, connectors=types, **settings))
        work = job_pb2.ConnectorWork(
            connector="simulation_http",
            arguments_json=json.dumps({"duration_s": 1, "steps": 4, "value": "x"}),
        )
        job = rig.jobs.submit("job-1", job_pb2.JOB_KIND_CONNECTOR, connector=work)
        await until(lambda: server.simulation.events["began"] == 1)
        await stack.aclose()
        rig.jobs.end_session(job.session)
        async with running_worker(rig, "worker-2", connectors=types, **settings):
            await rig.ended(job)
        assert server.simulation.events["effect"] == 1
        assert server.simulation.events["cancelled"] == 0
    assert len(job.results) == 1
