"""The engine as a process spawned by a runtime."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlxmesh.engine.v1 import engine_pb2, engine_pb2_grpc
from mlxmesh_engine.forward.blas import prepare_blas
from mlxmesh_shared.rpc.channels import open_channel

START_TIMEOUT_S = 60
# Root may raise its own limits: without CAP_SYS_RESOURCE (24) it may not. No effect on others.
LIMITED = """
import ctypes, os, resource, sys
if sys.platform == "linux":
    PR_CAPBSET_DROP = 24
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, 24, 0, 0, 0)
resource.setrlimit(resource.RLIMIT_NOFILE, {limits})
os.execv(sys.argv[1], sys.argv[1:])
"""


class Process:
    """A spawned engine and its reports on stdout."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.outputs: list[dict[str, Any]] = []

    async def address(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            while line := await self.process.stdout.readline():
                self.outputs.append(json.loads(line))
                if "address" in self.outputs[-1]:
                    return self.outputs[-1]["address"]
        raise AssertionError(f"it ended: {await self.errors()}")

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 30)

    async def errors(self) -> str:
        assert self.process.stderr is not None
        return (await asyncio.wait_for(self.process.stderr.read(), 30)).decode()


@contextlib.asynccontextmanager
async def engine(*arguments: str, before: str = "", **environment: str) -> AsyncIterator[Process]:
    """before: Python to run in the process first."""
    program = ("-c", before, sys.executable) if before else ()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        "-m",
        "mlxmesh_engine",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"MLXMESH_EXIT_WITH_PARENT": "1"} | environment,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def open_files(pid: int) -> tuple[int, int]:
    return psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)


def submit(max_tokens: int) -> engine_pb2.ExecuteRequest:
    return engine_pb2.ExecuteRequest(
        submit=engine_pb2.Submit(
            sequence_id=1, prompt_token_ids=[5, 6, 7], max_tokens=max_tokens, ignore_eos=True
        )
    )


async def test_it_loads_serves_and_ends_with_its_parent(tiny_model: Path) -> None:
    async with engine("--model-dir", str(tiny_model), "--engine-id", "engine-7") as spawned:
        address = await spawned.address()
        assert spawned.outputs[0] == {"phase": "loading"}
        channel = open_channel(address)
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "mlxmesh.engine.v1.EngineService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = engine_pb2_grpc.EngineServiceStub(channel)
        info = await stub.GetEngineInfo(engine_pb2.GetEngineInfoRequest())
        assert (info.engine_id, info.blas) == ("engine-7", prepare_blas())
        call = stub.Execute()
        await call.write(submit(12))
        await call.done_writing()
        tokens = [
            token
            async for response in call
            for output in response.outputs
            for token in output.token_ids
        ]
        assert len(tokens) == 12
        await channel.close()
        assert spawned.process.stdin is not None
        spawned.process.stdin.close()
        assert await spawned.ended() == 0, await spawned.errors()


async def test_sigterm_lets_running_sequences_finish(tiny_model: Path) -> None:
    async with engine("--model-dir", str(tiny_model)) as spawned:
        channel = open_channel(await spawned.address())
        call = engine_pb2_grpc.EngineServiceStub(channel).Execute()
        await call.write(submit(500))
        tokens = 0
        stopped = False
        while tokens < 500:
            response: Any = await asyncio.wait_for(call.read(), 30)
            tokens += sum(len(output.token_ids) for output in response.outputs)
            # The first response has only the engine's load: the sequence may be on its way.
            if tokens and not stopped:
                spawned.process.send_signal(signal.SIGTERM)
                stopped = True
        assert await spawned.ended() == 0, await spawned.errors()
        await channel.close()


async def test_a_failed_start_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    async with engine("--model-dir", str(tmp_path)) as spawned:
        assert await spawned.ended() == 1
        errors = (await spawned.errors()).splitlines()
        assert len(errors) == 1
        assert "has no config.json" in errors[0]


async def test_it_reports_to_its_parent_why_it_can_never_serve(
    tiny_model: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text()) | {"num_hidden_layers": 3}
    (broken / "config.json").write_text(json.dumps(config))
    async with engine("--model-dir", str(broken)) as spawned:
        with pytest.raises(AssertionError, match="it ended"):
            await spawned.address()
        assert await spawned.ended() != 0
    [failed] = [outputs for outputs in spawned.outputs if outputs["phase"] == "failed"]
    assert failed["permanent"] is True
    for part in (
        "mlx-lm cannot load broken",
        "layers.2.input_layernorm",
        "layers.2.self_attn.v_proj",
    ):
        assert part in failed["message"]


async def test_without_openblas_a_failed_start_is_also_one_line(
    tmp_path: Path,
) -> None:
    async with engine("--model-dir", str(tmp_path), XDG_CACHE_HOME="/dev/null") as spawned:
        assert await spawned.ended() == 1
        assert len((await spawned.errors()).splitlines()) == 1


@pytest.mark.parametrize(("limits", "warned"), [((256, 1024), True), ((256, 3000), False)])
async def test_a_low_limit_of_open_files_does_not_prevent_a_start(
    tiny_model: Path, limits: tuple[int, int], warned: bool
) -> None:
    """The import of mlx-lm sets limits of 2048 and 4096, and fails if they are not allowed."""
    arguments = ("--model-dir", str(tiny_model))
    async with engine(*arguments, before=LIMITED.format(limits=limits)) as spawned:
        assert await spawned.address()
        if sys.platform == "linux":
            assert open_files(spawned.process.pid) == (limits[1], limits[1])
        assert spawned.process.stdin is not None
        spawned.process.stdin.close()
        assert ("may open only 1024 files" in await spawned.errors()) is warned


async def test_without_a_model_the_error_says_how_to_name_one() -> None:
    async with engine() as spawned:
        assert await spawned.ended() == 1
        assert "--model-dir" in await spawned.errors()
