"""Each answer is in the history exactly once, also when the model service is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from mlxmesh.generation.v1.generation_pb2 import CompleteResponse
from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh, wait_until_serving


def history(mesh: RunningMesh, *arguments: str) -> list[dict[str, Any]]:
    result = mesh.command("history", "pocket", "--json", *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["periods"]


def total(mesh: RunningMesh) -> dict[str, Any]:
    periods = history(mesh, "--by", "total")
    assert len(periods) <= 1
    return periods[0] if periods else {"requests": "0"}


def wait_for_requests(mesh: RunningMesh, count: int, timeout_s: float = 60) -> dict[str, Any]:
    deadline_s = time.monotonic() + timeout_s
    while int((found := total(mesh))["requests"]) < count and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert int(found["requests"]) == count
    return found


def ask(mesh: RunningMesh, times: int, *, n: int = 1) -> Sequence[CompleteResponse]:
    async def work() -> Sequence[CompleteResponse]:
        async with MeshClient(mesh.address) as client:
            calls = [
                client.complete("pocket", prompt=f"Once {at}", max_tokens=8, n=n)
                for at in range(times)
            ]
            return await asyncio.gather(*calls)

    return asyncio.run(work())


def longest(answer: CompleteResponse) -> int:
    """The tokens of its longest output."""
    outputs = (answer, *answer.other_outputs)
    return max(output.finished.usage.completion_tokens for output in outputs)


def test_every_answer_counts_once_whatever_happens_to_the_model_service(mesh: RunningMesh) -> None:
    answers = [*ask(mesh, 4), *ask(mesh, 2, n=3)]
    found = wait_for_requests(mesh, 6)
    tokens = sum(each.finished.total_usage.completion_tokens for each in answers)
    device_s = sum(each.finished.device_ms for each in answers) / 1000
    assert int(found["completion_tokens"]) == tokens
    assert abs(found["device_s"] - device_s) < 1e-4
    assert (found["errors"], found["refused"], found["cancelled"]) == ("0", "0", "0")
    longer = [each for each in answers if longest(each) > 1]
    assert longer
    assert (found["ttft"]["count"], found["tpot"]["count"]) == ("6", str(len(longer)))

    # Killed while a batch is about to be sent, and again while it is away.
    for _ in range(2):
        ask(mesh, 2)
        os.kill(mesh.pid("model"), signal.SIGKILL)
        ask(mesh, 2)
        wait_until_serving(mesh)
    wait_for_requests(mesh, 14)
    time.sleep(3)  # a batch that is sent again must not count again
    assert int(total(mesh)["requests"]) == 14

    [hour, *_] = history(mesh)
    assert hour["version"] == 1
    shown = mesh.command("history", "pocket", "--by", "day", "--since", "2d")
    assert shown.returncode == 0
    assert "requests" in shown.stdout
    assert " 14 " in shown.stdout


def test_illegal_questions_are_refused_by_name(mesh: RunningMesh) -> None:
    unknown = mesh.command("history", "no-such-model")
    assert unknown.returncode != 0
    assert "there is no model no-such-model" in unknown.stderr
    reversed_range = mesh.command("history", "pocket", "--since", "1h", "--until", "2h")
    assert reversed_range.returncode != 0
    assert "start_time must be before end_time" in reversed_range.stderr
    resolution = mesh.command("history", "pocket", "--by", "week")
    assert resolution.returncode == 2
    assert "must be hour, day or total" in resolution.stderr
