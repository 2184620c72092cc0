"""Starting and stopping: no process and no record is ever left, and the same models come back."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mlxmesh_client import MeshClient
from mlxmesh_launcher.detach import stop_detached
from tests.e2e.running_mesh import (
    MLXMESH,
    RunningMesh,
    mlxmesh,
    processes_of,
    start_mesh,
    stop_mesh,
    wait_until_serving,
)

POCKET_MINI = Path(__file__).parents[2] / "deploy" / "demo-model" / "pocket-mini"
STORY = [("user", "Tell me a long story about a fox.")]


def records_of(data_dir: Path) -> list[Path]:
    return [*data_dir.glob("registry/*/*.json"), *data_dir.glob("launcher.json")]


def test_up_status_down(tmp_path: Path) -> None:
    mesh = start_mesh(tmp_path)
    wait_until_serving(mesh)
    rows = mesh.status()["instances"]
    assert {row["service"] for row in rows} == {
        "gateway", "generation", "model", "runtime", "engine",
    }  # fmt: skip
    processes = [psutil.Process(row["pid"]) for row in rows]
    stop_mesh(mesh)
    assert records_of(tmp_path) == []
    # Those that have ended are taken off the list by the system.
    assert psutil.wait_procs(processes, timeout=60)[1] == []


CALLS = 200


@pytest.mark.skipif(sys.platform != "linux", reason="there gRPC is tuned, and /proc tells")
def test_the_event_engine_of_grpc_has_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    mesh = start_mesh(tmp_path)
    try:
        pid = mesh.pid("gateway")
        before, begun_s = wakes_of_event_engine(pid), time.monotonic()
        asyncio.run(count_tokens(mesh.address))
        wakes, took_s = wakes_of_event_engine(pid) - before, time.monotonic() - begun_s
    finally:
        stop_mesh(mesh)
    # Its timers alone make some 40 a second; if it did the reading, there were 8 for each call.
    assert wakes < 2 * CALLS + 80 * took_s


async def count_tokens(address: str) -> None:
    async with MeshClient(address) as client:
        for _ in range(CALLS):
            await client.count_tokens("pocket", prompt="Hi there")


def wakes_of_event_engine(pid: int) -> int:
    """How often its threads have slept and were woken."""
    tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if named(task)]
    lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))


def named(task: Path) -> bool:
    return (task / "comm").read_text().strip() == "event_engine"


def test_a_second_up_is_refused_and_says_where_the_first_is(tmp_path: Path) -> None:
    mesh = start_mesh(tmp_path)
    second = mlxmesh("up", "--detach", "--data-dir", str(tmp_path), "--grpc-port", "0")
    assert second.returncode == 1
    assert mesh.address in second.stderr
    assert "mlxmesh down" in second.stderr
    stop_mesh(mesh)


def test_ctrl_c_in_the_foreground_stops_everything(tmp_path: Path) -> None:
    command = [*MLXMESH, "up", "--data-dir", str(tmp_path), "--grpc-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "serving on" in line:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 0
    assert processes_of(tmp_path) == []
    assert records_of(tmp_path) == []


def test_json_in_the_foreground_is_one_document_once_it_serves(tmp_path: Path) -> None:
    command = [*MLXMESH, "up", "--json", "--data-dir", str(tmp_path), "--grpc-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        document = ""
        for line in process.stdout:
            document += line
            if line == "}\n":
                break
        state = json.loads(mlxmesh("status", "--json", "--data-dir", str(tmp_path)).stdout)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
        assert process.wait(60) == 0
    told = json.loads(document)
    assert told["address"] in [row["address"] for row in state["instances"]]
    assert (told["pid"], told["data_dir"]) == (process.pid, str(tmp_path))


def test_a_killed_launcher_leaves_no_process(tmp_path: Path) -> None:
    mesh = start_mesh(tmp_path)
    processes = processes_of(tmp_path)
    (launcher,) = [p for p in processes if "mlxmesh_launcher" in p.cmdline()]
    launcher.kill()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
    # The same directory starts again.
    stop_mesh(start_mesh(tmp_path))
    assert mesh.data_dir == tmp_path


@pytest.mark.parametrize("service", ["gateway", "generation", "model", "runtime"])
async def test_a_killed_service_comes_back_with_the_same_models(
    mesh: RunningMesh, service: str
) -> None:
    os.kill(mesh.pid(service), signal.SIGKILL)
    await asyncio.to_thread(wait_until_serving, mesh)
    async with MeshClient(mesh.address) as client:
        answer = await client.complete("pocket", prompt="Hi", max_tokens=4, timeout_s=30)
    assert answer.token_ids


async def test_down_lets_a_running_answer_finish(tmp_path: Path) -> None:
    mesh = start_mesh(tmp_path)
    async with MeshClient(mesh.address) as client:
        events = client.generate("pocket", messages=STORY, max_tokens=1500, ignore_eos=True)
        before = len((await anext(events)).token_ids)
        stopping = asyncio.create_task(asyncio.to_thread(stop_mesh, mesh))
        while list(tmp_path.glob("registry/gateway/*.json")):
            await asyncio.sleep(0.01)
        while_draining = sum([len(event.token_ids) async for event in events])
        await stopping
    assert before + while_draining == 1500
    assert while_draining > 0


def test_down_while_the_mesh_starts_stops_the_start(tmp_path: Path) -> None:
    command = [*MLXMESH, "up", "--detach", "--data-dir", str(tmp_path), "--grpc-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as starting:
        while not (tmp_path / "launcher.json").exists():
            assert starting.poll() is None
            time.sleep(0.02)
        # What `mlxmesh down` does, without its imports: meanwhile the mesh might have started.
        assert asyncio.run(stop_detached(tmp_path))
        assert starting.wait(60) == 1
    assert processes_of(tmp_path) == []
    assert records_of(tmp_path) == []


def test_a_remembered_model_that_is_gone_does_not_keep_the_mesh_down(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(POCKET_MINI, model)
    stop_mesh(start_mesh(tmp_path / "data", "--model", str(model)))
    shutil.rmtree(model)
    mesh = start_mesh(tmp_path / "data")
    assert mesh.command("unload", "model").returncode == 0
    stop_mesh(mesh)
