"""The simulation's connectors, and what its server records, over real sockets and processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_shared.errors import BackEndFailed, InvalidArgument, ServiceUnavailable
from mlxmesh_worker.connectors.port import Connector, Outcome, Target
from mlxmesh_worker.connectors.simulation.over_grpc import SimulationGrpc
from mlxmesh_worker.connectors.simulation.over_http import SimulationHttp
from mlxmesh_worker.connectors.simulation.over_websocket import SimulationWebSocket
from tests.fakes.connector_reports import FakeReports
from tests.fakes.simulation_grpc import grpc_simulation
from tests.fakes.simulation_server import SimulationServer, simulation_server
from tests.fakes.waiting import until

ROOT = Path(__file__).parents[4]


class Rig:
    def __init__(self, url: str, kind: Callable[[Target], Connector]) -> None:
        self.reports = FakeReports()
        self.connector = kind(Target(name="simulation", address=url))

    def start(self, attempt: int = 1, job: str = "job-1", **work: Any) -> asyncio.Task[Outcome]:
        task = self.reports.task("simulate", work, attempt=attempt, job=job)
        return asyncio.create_task(self.connector.run(task, self.reports))


@pytest.fixture
async def server() -> AsyncIterator[SimulationServer]:
    async with simulation_server() as served:
        yield served


@pytest.fixture(params=[SimulationHttp, SimulationWebSocket])
async def rig(request: pytest.FixtureRequest, server: SimulationServer) -> AsyncIterator[Rig]:
    made = Rig(server.url, request.param)
    yield made
    await made.connector.close()


async def test_the_result_and_its_files(rig: Rig, server: SimulationServer) -> None:
    outcome = await rig.start(value="a", outputs=2, output_bytes=100_000)
    assert outcome.result == {"attempt": 1, "effect": 1, "value": "a"}
    assert [len(content) for content in rig.reports.files.values()] == [100_000] * 2
    assert server.simulation.effects() == {"job-1": 1}


async def test_steps(rig: Rig) -> None:
    await rig.start(duration_s=0.3, steps=10)
    done = [told.done for told in rig.reports.told]
    assert done == sorted(done)
    assert rig.reports.told[-1].total == 10


async def test_a_repeated_attempt_gets_the_recorded_result(
    rig: Rig, server: SimulationServer
) -> None:
    first = await rig.start(value="a")
    assert (await rig.start(2, value="b")).result == first.result
    assert server.simulation.events == {"effect": 1, "repeated": 1}


async def test_a_later_attempt_takes_the_work_over(rig: Rig, server: SimulationServer) -> None:
    first = rig.start(duration_s=0.5)
    await until(lambda: server.simulation.jobs)
    second = rig.start(2, duration_s=0.5)
    await until(lambda: server.simulation.jobs["job-1"].attempt == 2)
    with pytest.raises(BackEndFailed, match="attempt 2"):
        await first
    assert (await second).result["attempt"] == 2
    assert server.simulation.events["effect"] == 1


async def test_an_older_attempt_neither_begins_nor_cancels(
    rig: Rig, server: SimulationServer
) -> None:
    second = rig.start(2, duration_s=0.5)
    await until(lambda: server.simulation.jobs)
    with pytest.raises(BackEndFailed, match="attempt 2"):
        await rig.start(1, duration_s=0.5)
    assert server.simulation.cancel("job-1", 1)["state"] == "fenced"
    assert (await second).result["effect"] == 1


async def test_a_cancelled_attempt_has_no_effect_and_a_later_one_has(
    rig: Rig, server: SimulationServer
) -> None:
    running = rig.start(duration_s=60, steps=1_000)
    await until(lambda: rig.reports.told)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert server.simulation.effects() == {}
    await rig.start(2)
    assert server.simulation.effects() == {"job-1": 2}


async def test_some_attempts_fail(rig: Rig, server: SimulationServer) -> None:
    results = await asyncio.gather(
        *(rig.start(job=f"job-{number}", failure_rate=0.3) for number in range(100)),
        return_exceptions=True,
    )
    failed = [result for result in results if isinstance(result, BackEndFailed)]
    assert 10 < len(failed) < 60
    assert server.simulation.events == {"effect": 100 - len(failed), "failed": len(failed)}


async def test_no_files_beyond_the_limit(rig: Rig) -> None:
    with pytest.raises(InvalidArgument) as raised:
        rig.connector.check("simulate", {"outputs": 65})
    assert raised.value.field == "arguments.outputs"


async def test_a_socket_that_breaks_is_opened_again(server: SimulationServer) -> None:
    rig = Rig(server.url.replace("http", "ws"), SimulationWebSocket)
    running = rig.start(duration_s=1, steps=50)
    await until(lambda: len(rig.reports.told) > 3)
    await server.drop_sockets()
    assert (await running).result["effect"] == 1
    assert server.simulation.events == {"began": 1, "effect": 1}
    await rig.connector.close()


async def test_a_lost_answer_is_no_second_effect(server: SimulationServer) -> None:
    rig = Rig(server.url, SimulationHttp)
    server.faults.add("/v1/jobs", drop=True)
    with pytest.raises(ServiceUnavailable):
        await rig.start()
    await rig.start(2)
    assert server.simulation.effects() == {"job-1": 2}
    await rig.connector.close()


def whole(line: str) -> bool:
    return line.endswith("}")


async def test_a_grpc_stream_that_breaks_is_opened_again() -> None:
    async with grpc_simulation() as server:
        rig = Rig(server.address, SimulationGrpc)
        server.breaks_after = 3
        outcome = await rig.start(duration_s=0.4, steps=20, outputs=1, output_bytes=200_000)
        assert outcome.result["effect"] == 1
        assert server.simulation.events == {"began": 1, "effect": 1}
        assert [len(content) for content in rig.reports.files.values()] == [200_000]
        await rig.connector.close()


async def test_grpc_fences_too() -> None:
    async with grpc_simulation() as server:
        rig = Rig(server.address, SimulationGrpc)
        await rig.start(2)
        with pytest.raises(BackEndFailed, match="attempt 2"):
            await rig.start(1)
        await rig.connector.close()


@asynccontextmanager
async def process(record: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.simulation_server"),
        *("--port", "0", "--record", str(record)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert started.stdout is not None
        yield started, (await started.stdout.readline()).decode().strip()
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def test_a_killed_server_goes_on_where_it_stopped(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    async with process(record) as (started, url):
        rig = Rig(url, SimulationHttp)
        await rig.start(outputs=1, output_bytes=50)
        running = rig.start(3, job="job-2", duration_s=60)
        await until(lambda: '"began"' in record.read_text())
        started.kill()
        with pytest.raises(ServiceUnavailable):
            await running
        await rig.connector.close()
    with record.open("a") as torn:
        torn.write('{"event": "eff')
    async with process(record) as (_, url):
        rig = Rig(url, SimulationHttp)
        again = await rig.start(2, outputs=1, output_bytes=50)
        assert again.result["effect"] == 1
        assert len(rig.reports.files["file-1"]) == 50
        with pytest.raises(BackEndFailed, match="attempt 3"):
            await rig.start(2, job="job-2")
        await rig.start(4, job="job-2")
        await rig.connector.close()
    events = [
        (line["event"], line["job_id"], line["attempt"])
        for line in map(json.loads, filter(whole, record.read_text().splitlines()))
    ]
    assert [event for event in events if event[0] == "effect"] == [
        ("effect", "job-1", 1),
        ("effect", "job-2", 4),
    ]
