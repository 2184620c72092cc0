"""How a service process ends: by signal, with its parent, or with one line that says why."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

SERVICE = """
import asyncio, sys
from mlxmesh_shared.process.startup import run_service, wait_for_stop

async def main():
    asyncio.get_running_loop().call_soon(lambda: print("ready", flush=True))
    await wait_for_stop()
    await asyncio.sleep(0.3)
    print("drained", flush=True)

sys.exit(run_service(main))
"""

Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start() -> AsyncGenerator[Start, None]:
    started: list[Process] = []

    async def start(program: str, **env: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdin=PIPE, stdout=PIPE, stderr=PIPE,
            env={**os.environ, **env},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ready(process: Process) -> None:
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"


async def end_of(process: Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_starts_the_drain_and_a_second_does_not_cut_it_short(
    start: Start, number: signal.Signals
) -> None:
    process = await start(SERVICE)
    await ready(process)

    process.send_signal(number)
    await asyncio.sleep(0.1)
    process.send_signal(signal.SIGTERM)

    assert await end_of(process) == (0, "drained\n", "")


async def test_the_end_of_the_parent_starts_the_drain(start: Start) -> None:
    process = await start(SERVICE, MLXMESH_EXIT_WITH_PARENT="1")
    await ready(process)

    assert process.stdin is not None
    process.stdin.close()

    assert await end_of(process) == (0, "drained\n", "")


async def test_a_child_leaves_interrupts_to_its_parent(start: Start) -> None:
    process = await start(SERVICE, MLXMESH_EXIT_WITH_PARENT="1")
    await ready(process)

    process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.8)
    assert process.returncode is None
    process.send_signal(signal.SIGTERM)

    assert await end_of(process) == (0, "drained\n", "")


async def test_without_the_variable_the_end_of_stdin_means_nothing(start: Start) -> None:
    process = await start(SERVICE)
    await ready(process)

    assert process.stdin is not None
    process.stdin.close()
    await asyncio.sleep(0.8)

    assert process.returncode is None


FAILS = """
import sys
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.settings import GatewaySettings, load_settings

async def main():
    load_settings(GatewaySettings, sys.argv[1:], env={"MLXMESH_GATEWAY_LISEN": "x"})

async def main2():
    raise IllegalState("stop the other one first")

sys.exit(run_service(main) * 10 + run_service(main2))
"""


async def test_an_expected_error_is_one_line(start: Start) -> None:
    process = await start(FAILS)

    code, _, err = await end_of(process)

    assert code == 11
    assert err.splitlines() == [
        "unknown variable MLXMESH_GATEWAY_LISEN; did you mean MLXMESH_GATEWAY_LISTEN?",
        "stop the other one first",
    ]


FAILS_IN_A_TASK = """
import asyncio, sys
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.process.startup import run_service

async def fail(error):
    raise error

async def main():
    error = KeyError("a bug") if "bug" in sys.argv else IllegalState("stop the other one first")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail(error))

sys.exit(run_service(main))
"""


async def test_an_expected_error_in_a_task_is_one_line_too(start: Start) -> None:
    code, _, err = await end_of(await start(FAILS_IN_A_TASK))
    assert (code, err) == (1, "stop the other one first\n")


async def test_a_bug_in_a_task_keeps_its_trace(start: Start) -> None:
    code, _, err = await end_of(await start(FAILS_IN_A_TASK.replace('"bug" in sys.argv', "True")))
    assert code == 1
    assert "KeyError: 'a bug'" in err


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import time
from mlxmesh_shared.process.startup import die_with_parent
die_with_parent()
print("ready", flush=True)
time.sleep(60)
'''])
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
async def test_a_child_dies_with_a_killed_parent(start: Start) -> None:
    process = await start(PARENT)
    await ready(process)

    process.kill()

    # The child holds the same pipes: they end when it does.
    code, _, _ = await end_of(process)
    assert code == -signal.SIGKILL
