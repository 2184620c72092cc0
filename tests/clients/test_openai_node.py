"""OpenAI's client for Node, unmodified, at a whole mesh."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running_mesh import RunningMesh

HERE = Path(__file__).parent / "openai_node"
# As with compiled examples, a copy keeps what npm installs.
COPY = Path.home() / ".cache" / "mlxmesh" / "node" / "openai"
INSTALL = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")


def done(*command: str) -> str:
    result = subprocess.run(
        command, cwd=COPY, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def seen(mesh: RunningMesh) -> dict[str, Any]:
    shutil.copytree(HERE, COPY, dirs_exist_ok=True)
    done(*INSTALL)
    url = f"http://{mesh.http}/v1"
    return json.loads(done("node", "client.mjs", url, "pocket", "Once upon a time"))


@pytest.mark.tools
@pytest.mark.timeout(600)
def test_openais_node_client(seen: dict[str, Any]) -> None:
    whole, streamed = seen["whole"], seen["streamed"]
    assert whole["text"]
    assert whole["finish_reason"] in ("stop", "length")
    assert whole["id"].startswith("chatcmpl-")
    assert streamed["text"] == whole["text"]
    for usage in (whole["usage"], streamed["usage"]):
        assert 0 < usage["completion_tokens"] <= 40
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert seen["cancelled"]["chunks"] >= 3
    assert seen["unknown_model"] == {
        "name": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
        "param": "model",
    }
    for case, code, param in (
        ("illegal", "invalid_field", "temperature"),
        ("unsupported", "feature_not_supported", "modalities"),
    ):
        assert seen[case] == {
            "name": "BadRequestError",
            "status": 400,
            "code": code,
            "param": param,
        }
    assert len(seen["called"]) == 2
    for output in seen["called"]:
        assert output["finish_reason"] == "tool_calls"
        ((name, arguments),) = output["calls"]
        assert name == "measure"
        assert arguments in ({"unit": "c"}, {"unit": "f"})
    assert {"pocket", "pocket-mini"} <= set(seen["models"])
    responses, background = seen["responses"], seen["in_background"]
    assert responses["text"]
    assert responses["text"] == responses["streamed"] == background["text"]
    assert responses["events"][:2] == ["response.created", "response.in_progress"]
    assert responses["events"][-1] in ("response.completed", "response.incomplete")
    assert 0 < responses["usage"]["output_tokens"] <= 40
    assert background["numbers"] == list(range(2, 2 + len(background["numbers"])))
    assert background["cancelled"] == "cancelled"
    assert seen["unknown_response"]["name"] == "NotFoundError"
