"""Arguments are checked, and errors name the field but not its value."""

from typing import Any

import pytest

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_worker.connectors.a1111.arguments import OPERATIONS as A1111
from mlxmesh_worker.connectors.arguments import parse
from mlxmesh_worker.connectors.comfyui.arguments import OPERATIONS as COMFYUI
from mlxmesh_worker.connectors.openai.arguments import OPERATIONS as OPENAI
from mlxmesh_worker.connectors.simulation.work import Simulate

SIMULATION = {"simulate": Simulate}


@pytest.mark.parametrize(
    ("operations", "operation", "arguments", "field"),
    [
        (SIMULATION, "simulate", {"duration_s": -1}, "duration_s"),
        (SIMULATION, "simulate", {"duration_s": float("nan")}, "duration_s"),
        (SIMULATION, "simulate", {"failure_rate": 1.5}, "failure_rate"),
        (SIMULATION, "simulate", {"output_bytes": 10**9}, "output_bytes"),
        (SIMULATION, "simulate", {"durations": 1}, "durations"),
        (A1111, "txt2img", {}, "prompt"),
        (A1111, "txt2img", {"prompt": "", "steps": 0}, "steps"),
        (A1111, "txt2img", {"prompt": "", "width": 65}, "width"),
        (A1111, "txt2img", {"prompt": "", "seed": 2**32}, "seed"),
        (A1111, "txt2img", {"prompt": "", "init_images": ["a"]}, "init_images"),
        (A1111, "txt2img", {"prompt": "", "save_images": True}, "save_images"),
        (A1111, "img2img", {"prompt": ""}, "init_images"),
        (A1111, "img2img", {"prompt": "", "init_images": []}, "init_images"),
        (A1111, "img2img", {"prompt": "", "init_images": ["a"], "mask": "http://x"}, "mask"),
        (COMFYUI, "prompt", {}, "prompt"),
        (COMFYUI, "prompt", {"prompt": {}}, "prompt"),
        (COMFYUI, "prompt", {"prompt": {"1": {"inputs": {}}}}, "prompt.1.class_type"),
        (COMFYUI, "prompt", {"prompt": {"1": {"class_type": "A"}}}, "prompt.1.inputs"),
        (OPENAI, "chat", {"messages": [{}]}, "model"),
        (OPENAI, "chat", {"model": "m", "messages": [{}], "n": 0}, "n"),
        (OPENAI, "completion", {"model": "m"}, "prompt"),
        (OPENAI, "embedding", {"model": "m"}, "input"),
        (OPENAI, "image", {"model": "m", "prompt": ""}, "prompt"),
    ],
)
def test_illegal(operations: Any, operation: str, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        parse(operations, operation, arguments)
    assert raised.value.field == f"arguments.{field}"
    assert raised.value.message.startswith(f"arguments.{field}: ")


def test_values_are_not_quoted() -> None:
    with pytest.raises(InvalidArgument) as raised:
        parse(A1111, "txt2img", {"prompt": ["a secret prompt"], "steps": 0})
    assert "secret" not in raised.value.message
    assert "(1 more)" in raised.value.message


def test_an_operation_that_is_not_there() -> None:
    with pytest.raises(InvalidArgument, match="there are txt2img, img2img"):
        parse(A1111, "txt2video", {})
