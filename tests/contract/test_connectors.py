"""What every connector must do: one suite, each connector, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mlxmesh_shared.errors import BackEndFailed, InvalidArgument, ServiceUnavailable
from mlxmesh_worker.connectors.a1111.over_http import A1111Http
from mlxmesh_worker.connectors.comfyui.over_http import ComfyUIHttp
from mlxmesh_worker.connectors.comfyui.over_websocket import ComfyUIWebSocket
from mlxmesh_worker.connectors.loading import connector_names, load_connectors
from mlxmesh_worker.connectors.openai.over_http import OpenAIHttp
from mlxmesh_worker.connectors.port import Connector, Target
from mlxmesh_worker.connectors.simulation.over_grpc import SimulationGrpc
from mlxmesh_worker.connectors.simulation.over_http import SimulationHttp
from mlxmesh_worker.connectors.simulation.over_websocket import SimulationWebSocket
from tests.fakes.a1111_server import Options as A1111Options
from tests.fakes.a1111_server import a1111_server
from tests.fakes.comfyui_server import Options as ComfyUIOptions
from tests.fakes.comfyui_server import comfyui_server
from tests.fakes.comfyui_workflows import workflow
from tests.fakes.connector_reports import FakeReports
from tests.fakes.openai_upstream import Script, running_upstream
from tests.fakes.ports import free_port
from tests.fakes.simulation_grpc import grpc_simulation
from tests.fakes.simulation_server import simulation_server
from tests.fakes.waiting import until

SOON_S = 0.02


@dataclass
class Rig:
    """A connector and its back end."""

    connector: Connector
    operation: str
    quick: Mapping[str, Any]
    slow: Mapping[str, Any]
    """Work of many seconds that reports progress."""
    wrong: Mapping[str, Any]
    field: str
    """What is wrong in it."""
    stopped: Callable[[], bool]
    """Whether slow work was stopped, and nothing runs."""
    effects: Callable[[], int]
    """How often quick work was done."""
    fail: Callable[[int], None]
    """Makes the request that begins work fail with a status."""
    sicken: Callable[[], object]
    """Makes its next health check fail."""
    files: int = 0
    slow_down: Callable[[], None] = lambda: None
    """Makes the next work slow, if its arguments do not."""


def target(url: str) -> Target:
    return Target(name="rig", address=url)


@asynccontextmanager
async def simulation(kind: type[Any]) -> AsyncIterator[Rig]:
    async with simulation_server() as server:
        connector = kind(target(server.url))
        yield Rig(
            connector=connector,
            operation="simulate",
            quick={"outputs": 1},
            slow={"duration_s": 60, "steps": 3_000},
            wrong={"steps": 0},
            field="arguments.steps",
            stopped=lambda: server.simulation.events["cancelled"] == 1,
            effects=lambda: server.simulation.events["effect"],
            fail=lambda status: server.faults.add("/v1/", status=status, headers=RETRY),
            sicken=lambda: server.faults.add("/health", status=404),
            files=1,
        )


@asynccontextmanager
async def simulation_by_grpc(kind: type[Any]) -> AsyncIterator[Rig]:
    async with grpc_simulation() as server:
        connector = kind(target(server.address))
        yield Rig(
            connector=connector,
            operation="simulate",
            quick={"outputs": 1},
            slow={"duration_s": 60, "steps": 3_000},
            wrong={"steps": 0},
            field="arguments.steps",
            stopped=lambda: server.simulation.events["cancelled"] == 1,
            effects=lambda: server.simulation.events["effect"],
            fail=lambda status: setattr(server, "fail", status),
            sicken=server.sicken,
            files=1,
        )


@asynccontextmanager
async def comfyui(kind: type[Any]) -> AsyncIterator[Rig]:
    options = ComfyUIOptions()
    async with comfyui_server(options) as server:
        connector = kind(target(server.url), interval_s=SOON_S)
        slow = workflow(steps=3_000)
        options.step_s = 0.02
        quick = workflow(steps=1)
        yield Rig(
            connector=connector,
            operation="prompt",
            quick={"prompt": quick},
            slow={"prompt": slow},
            wrong={"prompt": {"3": {"class_type": "KSampler"}}},
            field="arguments.prompt.3.inputs",
            stopped=lambda: not server.running and not server.queue and not server.executed,
            effects=lambda: len(server.executed),
            fail=lambda status: server.faults.add("/prompt", status=status, headers=RETRY),
            sicken=lambda: server.faults.add("/system_stats", status=500),
            files=1,
        )


@asynccontextmanager
async def a1111(kind: type[Any]) -> AsyncIterator[Rig]:
    async with a1111_server(A1111Options(step_s=0.02)) as server:
        connector = kind(target(server.url), interval_s=SOON_S)
        yield Rig(
            connector=connector,
            operation="txt2img",
            quick={"prompt": "a boat", "steps": 1},
            slow={"prompt": "a boat", "steps": 150},
            wrong={"prompt": "a boat", "width": 100},
            field="arguments.width",
            stopped=lambda: bool(server.interrupted) and server.current is None,
            effects=lambda: len(server.finished),
            fail=lambda status: server.faults.add("/sdapi/v1/t", status=status, headers=RETRY),
            sicken=lambda: server.faults.add("/sdapi/v1/memory", status=200, text="<html>"),
            files=1,
        )


@asynccontextmanager
async def openai(kind: type[Any]) -> AsyncIterator[Rig]:
    async with running_upstream() as server:
        connector = kind(target(server.url))
        quick = server.script
        slow = replace(quick, pieces=[str(number) for number in range(3_000)], pause_s=0.02)
        body = {"model": "far-model", "messages": [{"role": "user", "content": "Hi"}]}

        def play(script: Script) -> None:
            server.script = script

        yield Rig(
            connector=connector,
            operation="chat",
            quick=body,
            slow=body,
            wrong={**body, "messages": []},
            field="arguments.messages",
            stopped=lambda: server.closed_early == 1 and server.open == 0,
            effects=lambda: len(server.paths),
            fail=lambda status: play(replace(quick, status=status, headers=RETRY)),
            sicken=lambda: play(replace(quick, models_status=404)),
            slow_down=lambda: play(slow),
        )


RETRY = {"Retry-After": "7"}
RIGS: dict[str, tuple[Callable[[Any], AbstractAsyncContextManager[Rig]], type[Any]]] = {
    "simulation_http": (simulation, SimulationHttp),
    "simulation_grpc": (simulation_by_grpc, SimulationGrpc),
    "simulation_websocket": (simulation, SimulationWebSocket),
    "comfyui_http": (comfyui, ComfyUIHttp),
    "comfyui_websocket": (comfyui, ComfyUIWebSocket),
    "a1111_http": (a1111, A1111Http),
    "openai_http": (openai, OpenAIHttp),
}


# Those that begin their work by a request; a WebSocket that is refused is opened again.
ASKING = sorted({*RIGS} - {"simulation_websocket"})


@pytest.fixture(params=sorted(RIGS))
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    make, kind = RIGS[request.param]
    async with make(kind) as made:
        yield made
        await made.connector.close()


async def cancelled(running: asyncio.Task[Any]) -> float:
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    return time.monotonic() - began


def test_every_installed_connector_is_in_this_suite() -> None:
    assert connector_names() == sorted(RIGS)


async def test_it_is_what_its_entry_point_loads(rig: Rig) -> None:
    name = rig.connector.name
    loaded = load_connectors([name])[name]
    assert isinstance(rig.connector, loaded)  # pyright: ignore[reportArgumentType]
    assert loaded.operations == rig.connector.operations
    assert rig.operation == rig.connector.operations[0]


async def test_health(rig: Rig) -> None:
    await rig.connector.probe()
    rig.sicken()
    with pytest.raises(ServiceUnavailable):
        await rig.connector.probe()


@pytest.mark.parametrize("name", sorted(RIGS))
async def test_a_back_end_that_is_not_there(name: str) -> None:
    connector = RIGS[name][1](Target(name="gone", address=f"127.0.0.1:{free_port()}"))
    with pytest.raises(ServiceUnavailable) as raised:
        await connector.probe()
    assert "gone" in raised.value.message
    await connector.close()


async def test_arguments_are_checked(rig: Rig) -> None:
    rig.connector.check(rig.operation, rig.quick)
    with pytest.raises(InvalidArgument) as raised:
        rig.connector.check(rig.operation, rig.wrong)
    assert raised.value.field == rig.field
    assert rig.field in raised.value.message
    with pytest.raises(InvalidArgument, match=rig.operation) as raised:
        rig.connector.check("nonsense", rig.quick)
    assert raised.value.field == "operation"


async def test_what_check_refuses_run_refuses_too(rig: Rig) -> None:
    reports = FakeReports()
    with pytest.raises(InvalidArgument):
        await rig.connector.run(reports.task(rig.operation, rig.wrong), reports)
    assert rig.effects() == 0


async def test_work_is_done(rig: Rig) -> None:
    reports = FakeReports()
    outcome = await rig.connector.run(reports.task(rig.operation, rig.quick), reports)
    assert rig.effects() == 1
    assert json.loads(json.dumps(dict(outcome.result))) == outcome.result
    assert [made.media_type for made in outcome.files] == ["image/png"] * rig.files
    assert {made.file_id for made in outcome.files} == set(reports.files)
    assert all(made.size_bytes == len(reports.files[made.file_id]) for made in outcome.files)


async def test_progress_is_reported(rig: Rig) -> None:
    rig.slow_down()
    reports = FakeReports()
    running = asyncio.create_task(rig.connector.run(reports.task(rig.operation, rig.slow), reports))
    await until(lambda: len(reports.told) >= 2)
    assert all(0 <= told.fraction <= 1 for told in reports.told)
    await cancelled(running)


async def test_cancelled_work_is_stopped_at_the_back_end(rig: Rig) -> None:
    rig.slow_down()
    reports = FakeReports()
    running = asyncio.create_task(rig.connector.run(reports.task(rig.operation, rig.slow), reports))
    await until(lambda: len(reports.told) >= 2)
    assert await cancelled(running) < 5
    await until(rig.stopped)


# A1111 and OpenAI keep no work.
@pytest.mark.parametrize("rig", sorted({*RIGS} - {"a1111_http", "openai_http"}), indirect=True)
async def test_a_repeated_attempt_finds_its_work(rig: Rig) -> None:
    reports = FakeReports()
    first = await rig.connector.run(reports.task(rig.operation, rig.quick), reports)
    second = await rig.connector.run(reports.task(rig.operation, rig.quick, attempt=2), reports)
    assert rig.effects() == 1
    assert len(second.files) == len(first.files)


@pytest.mark.parametrize("rig", ASKING, indirect=True)
@pytest.mark.parametrize(
    ("status", "error"),
    [(400, InvalidArgument), (401, ServiceUnavailable), (503, ServiceUnavailable)],
)
async def test_refusals(rig: Rig, status: int, error: type[Exception]) -> None:
    rig.fail(status)
    reports = FakeReports()
    with pytest.raises(error):
        await rig.connector.run(reports.task(rig.operation, rig.quick), reports)


@pytest.mark.parametrize("rig", sorted({*ASKING} - {"simulation_grpc"}), indirect=True)
async def test_a_back_end_that_is_full_says_when(rig: Rig) -> None:
    rig.fail(429)
    reports = FakeReports()
    with pytest.raises(ServiceUnavailable) as raised:
        await rig.connector.run(reports.task(rig.operation, rig.quick), reports)
    assert raised.value.retry_delay_s == 7


# That of OpenAI-compatible servers counts as unavailable.
@pytest.mark.parametrize("rig", sorted({*ASKING} - {"openai_http"}), indirect=True)
async def test_a_broken_back_end(rig: Rig) -> None:
    rig.fail(500)
    reports = FakeReports()
    with pytest.raises(BackEndFailed):
        await rig.connector.run(reports.task(rig.operation, rig.quick), reports)


async def test_closing_without_use() -> None:
    for _, kind in RIGS.values():
        connector = kind(Target(name="unused", address="127.0.0.1:1"))
        await connector.close()
