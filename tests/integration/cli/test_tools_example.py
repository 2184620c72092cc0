"""The Python example that lets the model call a function, at a scripted mesh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from mlxmesh.generation.v1 import generation_pb2 as g
from tests.fakes.scripted_generation import ScriptedGeneration, serving

EXAMPLE = Path(__file__).parents[3] / "docs/examples/python/tools.py"


def run(fake: ScriptedGeneration) -> subprocess.CompletedProcess[str]:
    with serving(fake) as address:
        env = {**os.environ, "MLXMESH_ADDRESS": address, "MLXMESH_EXAMPLE_MODEL": "pocket"}
        return subprocess.run(
            [sys.executable, EXAMPLE, "How warm?"],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def ended(reason: g.FinishReason.ValueType) -> g.Finished:
    return g.Finished(finish_reason=reason, total_usage=g.Usage())


def calls() -> tuple[g.Delta, g.Delta, g.Finished]:
    first = g.ToolCall(id="c-1", name="get_weather", arguments='{"city": ')
    second = g.ToolCall(arguments='"Oslo"}')
    reasoning = g.Delta(reasoning_text="I need it.", tool_calls=[first])
    return reasoning, g.Delta(tool_calls=[second]), ended(g.FINISH_REASON_TOOL_CALLS)


def test_the_result_of_a_call_goes_back_to_the_model() -> None:
    fake = ScriptedGeneration()
    fake.say(*calls())
    fake.say_then(g.Delta(text="It is 4 degrees."), ended(g.FINISH_REASON_STOP))

    result = run(fake)

    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "It is 4 degrees."
    first, second = fake.requests
    assert [tool.name for tool in first.tools] == ["get_weather"]
    _, said, told = second.chat.messages
    (call,) = said.tool_calls
    assert (call.id, json.loads(call.arguments)) == ("c-1", {"city": "Oslo"})
    assert said.reasoning_text == "I need it."
    assert (told.role, told.tool_call_id) == (g.ROLE_TOOL, "c-1")
    assert json.loads(told.content)["celsius"] == 4


def test_a_model_that_only_calls_is_left() -> None:
    fake = ScriptedGeneration()
    fake.say(*calls())

    result = run(fake)

    assert result.returncode == 1
    assert "did not stop calling" in result.stderr
    assert len(fake.requests) == 5
