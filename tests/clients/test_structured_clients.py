"""instructor, LangChain and lm-evaluation-harness, unmodified, at the OpenAI edge."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm import load

from tests.e2e.running_mesh import RunningMesh

pytestmark = [pytest.mark.tools, pytest.mark.timeout(600)]
VENVS = Path.home() / ".cache/mlxmesh/venvs"
HERE = Path(__file__).parent
POCKET = HERE.parents[1] / "deploy/demo-model/pocket"
TIMEOUT_S = 300
PAIRS = [
    ("Once upon a time", " there was a garden."),
    ("Once upon a time", " there was a fox in it, and it slept."),
    ("The fox said:", " I am not hungry"),
    ("Is the sky green?", " no"),
    ("Is the sky green?", " yes"),
    ("Zürich and Genève", " são cidades"),
]


def told(session: str, venv: str, *arguments: str, lines: str = "") -> Any:
    """What a session of a client in its own environment printed."""
    result = subprocess.run(
        [VENVS / venv / "bin/python", HERE / session, *arguments],
        input=lines,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def is_place(found: dict[str, Any]) -> bool:
    return isinstance(found["city"], str) and found["floor"] in (1, 2, 3)


def test_instructor_and_langchain_get_what_they_ask_for(mesh: RunningMesh) -> None:
    found = told("structured_session.py", "structured", f"http://{mesh.http}/v1")
    for place in found["instructor"].values():
        assert is_place(place)
    chain = found["langchain"]
    assert is_place(chain["json_schema"])
    assert is_place(chain["function_calling"])
    assert chain["streamed"]
    assert all(map(is_place, chain["streamed"]))
    assert chain["answer"]["calls"] == []


def test_log_likelihoods_are_those_of_the_model_in_process(mesh: RunningMesh) -> None:
    rows = told(
        "lm_eval_session.py",
        "lm-eval",
        f"http://{mesh.http}/v1",
        str(POCKET),
        lines=json.dumps(PAIRS),
    )
    model: Any = load(str(POCKET))[0]
    model.set_dtype(mx.float32)  # as the engine computes on a CPU, whatever the checkpoint has
    assert len(rows) == len(PAIRS)
    for row in rows:
        logprob, greedy = in_process(model, row["context"], row["continuation"])
        assert row["logprob"] == pytest.approx(logprob, abs=1e-3)
        assert row["greedy"] == greedy


def in_process(model: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    tokens = [*context, *continuation]
    logits = model(mx.array([tokens[:-1]]))[0].astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    rows = logprobs[len(context) - 1 :]
    chosen = mx.array(continuation)[:, None]
    total: Any = mx.take_along_axis(rows, chosen, axis=-1).sum().item()
    greedy = mx.argmax(rows, axis=-1).tolist() == continuation
    return float(total), greedy
