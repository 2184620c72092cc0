"""The progress of a prompt, from the events of ComfyUI."""

from typing import Any

import pytest

from mlxmesh_worker.connectors.comfyui.progress import PromptProgress

NODES = {"1": "CheckpointLoaderSimple", "2": "KSampler", "3": "VAEDecode", "4": "SaveImage"}
ID = "a-prompt"


def progress(*events: tuple[str, dict[str, Any]]) -> PromptProgress:
    made = PromptProgress(ID, NODES)
    for event, data in events:
        made.take(event, {"prompt_id": ID, **data})
    return made


def test_nodes_and_steps() -> None:
    found = progress(
        ("execution_start", {}),
        ("execution_cached", {"nodes": ["1"]}),
        ("executing", {"node": "2"}),
        ("progress", {"node": "2", "value": 5, "max": 20}),
    )
    assert found.fraction == pytest.approx(0.25 + 0.25 / 4)
    assert (found.done, found.total, found.text, found.ended) == (5, 20, "KSampler", False)


def test_the_states_of_all_nodes() -> None:
    nodes = {
        "1": {"state": "finished", "value": 1, "max": 1},
        "2": {"state": "running", "value": 10, "max": 20},
        "2.1": {"state": "finished", "value": 1, "max": 1},
    }
    found = progress(("progress_state", {"nodes": nodes}))
    assert found.fraction == pytest.approx(0.25 + 0.5 / 4)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("execution_success", {}),
        ("execution_error", {"exception_message": "x"}),
        ("execution_interrupted", {}),
        ("executing", {"node": None}),
    ],
)
def test_the_end(event: str, data: dict[str, Any]) -> None:
    assert progress((event, data)).ended


def test_events_of_other_prompts_are_ignored() -> None:
    found = PromptProgress(ID, NODES)
    assert not found.take("execution_success", {"prompt_id": "another"})
    assert not found.take("status", {"status": {"exec_info": {"queue_remaining": 0}}})
    assert not found.ended


def test_after_a_reconnect_the_node_comes_without_its_prompt() -> None:
    found = PromptProgress(ID, NODES)
    assert found.take("executing", {"node": "2"})
    assert found.text == "KSampler"


@pytest.mark.parametrize(
    "data",
    [
        {"value": None, "max": None},
        {"value": 5, "max": 0},
        {"value": "5", "max": "20"},
        {"value": 30, "max": 20},
    ],
)
def test_odd_steps(data: dict[str, Any]) -> None:
    found = progress(("executing", {"node": "2"}), ("progress", data))
    assert 0 <= found.fraction <= 1
    assert found.done <= max(found.total, 0)
