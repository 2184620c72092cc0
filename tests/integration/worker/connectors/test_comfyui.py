"""ComfyUI's connectors and a fake ComfyUI over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mlxmesh_shared.errors import BackEndFailed, InvalidArgument, OutputTooLarge, ServiceUnavailable
from mlxmesh_worker.connectors.comfyui import run as comfyui_run
from mlxmesh_worker.connectors.comfyui.over_http import ComfyUIHttp
from mlxmesh_worker.connectors.comfyui.over_websocket import ComfyUIWebSocket
from mlxmesh_worker.connectors.files import MAX_FILE_BYTES
from mlxmesh_worker.connectors.port import Outcome, Target
from tests.fakes.comfyui_server import FakeComfyUI, comfyui_server
from tests.fakes.comfyui_workflows import workflow
from tests.fakes.connector_reports import FakeReports
from tests.fakes.waiting import until

JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(2_000)
KINDS: list[type[ComfyUIHttp]] = [ComfyUIHttp, ComfyUIWebSocket]


class Rig:
    def __init__(self, server: FakeComfyUI, kind: type[ComfyUIHttp]) -> None:
        self.server = server
        self.reports = FakeReports()
        self.connector = kind(Target(name="images", address=server.url), interval_s=0.05)
        self.attempt = 0

    def start(self, prompt: dict[str, Any], **more: Any) -> asyncio.Task[Outcome]:
        self.attempt += 1
        task = self.reports.task("prompt", {"prompt": prompt, **more}, attempt=self.attempt)
        return asyncio.create_task(self.connector.run(task, self.reports))

    async def left(self, running: asyncio.Task[Outcome]) -> None:
        """The worker dies: it says nothing to the back end."""
        self.reports.leaves_work = True
        await ended(running)
        self.reports.leaves_work = False


@pytest.fixture
async def server() -> AsyncIterator[FakeComfyUI]:
    async with comfyui_server() as served:
        yield served


@pytest.fixture(params=KINDS)
async def rig(request: pytest.FixtureRequest, server: FakeComfyUI) -> AsyncIterator[Rig]:
    made = Rig(server, request.param)
    yield made
    await made.connector.close()


async def ended(running: asyncio.Task[Any]) -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def idle(server: FakeComfyUI) -> bool:
    return not server.running and not server.queue


# --- Work


async def test_all_images_of_all_output_nodes(rig: Rig) -> None:
    rig.server.options.batch = 3
    prompt = workflow()
    prompt["10"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["3", 0], "filename_prefix": "b"},
    }
    prompt["11"] = {"class_type": "ShowText", "inputs": {"text": "a caption"}}
    outcome = await rig.start(prompt)
    assert len(outcome.files) == 6
    assert outcome.result["texts"] == {"11": ["a caption"]}
    assert {output["node"] for output in outcome.result["outputs"]} == {"9", "10"}
    assert outcome.result["prompt_id"] == rig.reports.remembered[0]["prompt_id"]


async def test_only_the_targets(rig: Rig) -> None:
    prompt = workflow()
    prompt["11"] = {"class_type": "ShowText", "inputs": {"text": "a caption"}}
    outcome = await rig.start(prompt, targets=["11"])
    assert outcome.result["texts"] == {"11": ["a caption"]}
    assert not outcome.files


async def test_previews_are_stored_only_without_saved_images(rig: Rig) -> None:
    prompt = workflow()
    prompt["10"] = {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}
    assert len((await rig.start(prompt)).files) == 1
    prompt.pop("9")
    rig.reports.remembered.clear()
    assert (await rig.start(prompt)).files[0].name.startswith("ComfyUI_temp")


async def test_the_media_type_is_that_of_the_content(rig: Rig) -> None:
    rig.server.options.image = JPEG
    outcome = await rig.start(workflow())
    assert outcome.files[0].media_type == "image/jpeg"
    assert list(rig.reports.files.values()) == [JPEG]


async def test_input_files_are_uploaded(rig: Rig) -> None:
    rig.reports.inputs["sketch"] = PNG
    prompt = workflow()
    prompt["5"] = {"class_type": "LoadImage", "inputs": {"image": {"input_file": "sketch"}}}
    await rig.start(prompt)
    assert rig.server.loaded == ["mlxmesh/job-1-sketch.png"]
    assert rig.server.inputs == {"mlxmesh/job-1-sketch.png": PNG}


async def test_an_input_file_that_the_job_does_not_have(rig: Rig) -> None:
    prompt = workflow()
    prompt["5"] = {"class_type": "LoadImage", "inputs": {"image": {"input_file": "sketch"}}}
    with pytest.raises(InvalidArgument, match="no input file sketch") as raised:
        await rig.start(prompt)
    assert raised.value.field == "arguments.prompt.5.inputs.image"


# --- Progress


async def test_progress_counts_nodes_and_steps(server: FakeComfyUI) -> None:
    rig = Rig(server, ComfyUIWebSocket)
    server.options.step_s = 0.02
    await rig.start(workflow(steps=20))
    steps = [told for told in rig.reports.told if told.text == "KSampler" and told.total]
    assert [told.total for told in steps] == [20] * len(steps)
    assert [told.done for told in steps] == sorted(told.done for told in steps)
    assert all(told.unit == "steps" for told in steps)
    # Two of four nodes came before it.
    assert all(0.5 <= told.fraction <= 0.75 for told in steps)
    await rig.connector.close()


async def test_a_prompt_that_waits_says_so(rig: Rig) -> None:
    rig.server.options.step_s = 0.02
    other = Rig(rig.server, ComfyUIHttp)
    first = other.start(workflow(steps=1_000))
    await until(lambda: rig.server.running)
    second = rig.start(workflow())
    await until(lambda: rig.reports.told)
    assert rig.reports.told[0].text == "waits for 1 other prompts"
    await ended(second)
    await ended(first)
    await other.connector.close()


async def test_a_socket_that_breaks_is_opened_again(server: FakeComfyUI) -> None:
    rig = Rig(server, ComfyUIWebSocket)
    server.options.step_s = 0.02
    running = rig.start(workflow(steps=60))
    await until(lambda: len(rig.reports.told) > 3)
    await server.drop_sockets()
    before = len(rig.reports.told)
    await until(lambda: server.connections == 2)
    await until(lambda: len(rig.reports.told) > before + 3)
    assert len((await running).files) == 1
    await rig.connector.close()


async def test_without_a_socket_the_history_tells_the_end(server: FakeComfyUI) -> None:
    rig = Rig(server, ComfyUIWebSocket)
    server.faults.add("/ws", status=404, times=1_000)
    assert len((await rig.start(workflow())).files) == 1
    await rig.connector.close()


async def test_a_history_that_is_written_after_the_last_event(rig: Rig) -> None:
    rig.server.options.history_delay_s = 0.3
    assert len((await rig.start(workflow())).files) == 1


# --- What ComfyUI refuses, and what fails


async def test_a_wrong_value_is_named(rig: Rig) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await rig.start(workflow(sampler_name="eulr"))
    assert "node 3 (KSampler): Value not in list: sampler_name: 'eulr'" in raised.value.message


async def test_a_node_that_is_not_installed(rig: Rig) -> None:
    prompt = workflow()
    prompt["5"]["class_type"] = "EmptyLatnetImage"
    with pytest.raises(InvalidArgument, match="Node 'EmptyLatnetImage' not found"):
        await rig.start(prompt)


async def test_a_workflow_without_outputs(rig: Rig) -> None:
    prompt = workflow()
    prompt.pop("9")
    with pytest.raises(InvalidArgument, match="Prompt has no outputs"):
        await rig.start(prompt)


async def test_a_workflow_that_would_run_in_part_only(rig: Rig) -> None:
    rig.server.options.step_s = 0.05
    prompt = workflow(steps=100)
    prompt["10"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}}
    with pytest.raises(InvalidArgument, match=r"node 10 .* filename_prefix"):
        await rig.start(prompt)
    await until(lambda: idle(rig.server))
    assert not rig.server.executed


async def test_a_node_that_fails(rig: Rig) -> None:
    prompt = workflow()
    prompt["8"] = {"class_type": "Breaks", "inputs": {"after": ["3", 0]}}
    prompt["9"]["inputs"]["images"] = ["8", 0]
    with pytest.raises(BackEndFailed) as raised:
        await rig.start(prompt)
    assert "node 8 (Breaks): RuntimeError: it was asked to break" in raised.value.message
    assert "secret.py" not in raised.value.message
    # Another attempt runs it again, under another id.
    with pytest.raises(BackEndFailed):
        await rig.start(prompt)
    assert len(set(rig.server.started)) == 2


async def test_somebody_else_interrupts_it(rig: Rig) -> None:
    rig.server.options.step_s = 0.02
    running = rig.start(workflow(steps=1_000))
    await until(lambda: rig.server.running)
    rig.server.interrupt = True
    with pytest.raises(BackEndFailed, match="interrupted"):
        await running
    rig.server.options.step_s = 0
    assert len((await rig.start(workflow())).files) == 1


async def test_a_file_above_the_limit(rig: Rig) -> None:
    rig.server.options.image = bytes(MAX_FILE_BYTES + 1)
    with pytest.raises(OutputTooLarge):
        await rig.start(workflow())


# --- Cancellation at each stage


@pytest.mark.parametrize("versions", ["new", "old", "oldest"])
async def test_a_running_prompt_is_interrupted(rig: Rig, versions: str) -> None:
    rig.server.options.cancels_jobs = versions == "new"
    rig.server.options.interrupts_by_id = versions != "oldest"
    rig.server.options.step_s = 0.02
    running = rig.start(workflow(steps=1_000))
    await until(lambda: rig.server.running)
    await ended(running)
    await until(lambda: idle(rig.server))
    assert not rig.server.executed


@pytest.mark.parametrize("versions", ["new", "old", "oldest"])
async def test_a_waiting_prompt_is_deleted_and_no_other_is_touched(rig: Rig, versions: str) -> None:
    rig.server.options.cancels_jobs = versions == "new"
    rig.server.options.interrupts_by_id = versions != "oldest"
    rig.server.options.step_s = 0.02
    other = Rig(rig.server, ComfyUIHttp)
    first = other.start(workflow(steps=50))
    await until(lambda: rig.server.running)
    second = rig.start(workflow())
    await until(lambda: rig.server.queue)
    await ended(second)
    assert not rig.server.queue
    assert len((await first).files) == 1
    assert len(rig.server.started) == 1
    await other.connector.close()


async def test_cancelled_while_it_is_submitted(rig: Rig) -> None:
    rig.server.options.step_s = 0.02
    rig.server.faults.add("/prompt", delay_s=0.3)
    running = rig.start(workflow(steps=1_000))
    await until(lambda: not rig.server.faults.pending)
    await ended(running)
    # It arrived, and was taken back.
    await until(lambda: idle(rig.server))
    assert not rig.server.executed


async def test_cancelled_before_it_is_submitted(rig: Rig) -> None:
    rig.reports.inputs["sketch"] = PNG
    rig.server.faults.add("/upload", delay_s=30)
    prompt = workflow()
    prompt["5"] = {"class_type": "LoadImage", "inputs": {"image": {"input_file": "sketch"}}}
    running = rig.start(prompt)
    await until(lambda: not rig.server.faults.pending)
    await ended(running)
    assert not rig.server.started


async def test_cancelled_while_it_is_downloaded(rig: Rig) -> None:
    rig.server.faults.add("/view", delay_s=30)
    running = rig.start(workflow())
    await until(lambda: not rig.server.faults.pending)
    await ended(running)
    assert not rig.reports.files


# --- Attempts after one that ended at each stage


async def test_found_while_it_runs(rig: Rig) -> None:
    rig.server.options.step_s = 0.02
    running = rig.start(workflow(steps=40))
    await until(lambda: rig.server.running)
    await rig.left(running)
    assert len((await rig.start(workflow(steps=40))).files) == 1
    assert len(rig.server.started) == 1


async def test_found_while_it_waits(rig: Rig) -> None:
    rig.server.options.step_s = 0.01
    other = Rig(rig.server, ComfyUIHttp)
    first = other.start(workflow(steps=40))
    await until(lambda: rig.server.running)
    second = rig.start(workflow(steps=1))
    await until(lambda: rig.server.queue)
    await rig.left(second)
    assert len((await rig.start(workflow(steps=1))).files) == 1
    await first
    assert len(rig.server.started) == 2
    await other.connector.close()


async def test_found_after_it_ended(rig: Rig) -> None:
    rig.server.faults.add("/view", delay_s=30)
    running = rig.start(workflow())
    await until(lambda: not rig.server.faults.pending)
    await rig.left(running)
    assert len((await rig.start(workflow())).files) == 1
    assert len(rig.server.started) == 1


async def test_found_although_its_answer_was_lost(rig: Rig) -> None:
    rig.server.faults.add("/prompt", drop_after=True)
    assert len((await rig.start(workflow())).files) == 1
    assert len(rig.server.started) == 1


async def test_submitted_again_if_it_never_arrived(rig: Rig) -> None:
    rig.server.faults.add("/prompt", drop=True)
    with pytest.raises(ServiceUnavailable):
        await rig.start(workflow())
    assert len((await rig.start(workflow())).files) == 1
    assert rig.server.started == [rig.reports.remembered[0]["prompt_id"]]


async def test_a_prompt_that_arrives_late_is_not_submitted_twice(rig: Rig) -> None:
    rig.server.faults.add("/prompt", delay_s=comfyui_run.ARRIVAL_S / 2)
    running = rig.start(workflow())
    await until(lambda: not rig.server.faults.pending)
    await rig.left(running)
    assert len((await rig.start(workflow())).files) == 1
    assert len(rig.server.started) == 1


async def test_a_comfyui_that_was_restarted(rig: Rig) -> None:
    rig.server.options.step_s = 0.02
    running = rig.start(workflow(steps=1_000))
    await until(lambda: rig.server.running)
    rig.server.restart()
    with pytest.raises(BackEndFailed, match="restarted"):
        await running


async def test_a_version_that_chooses_its_own_ids(rig: Rig) -> None:
    rig.server.options.takes_ids = False
    rig.server.faults.add("/view", delay_s=30)
    running = rig.start(workflow())
    await until(lambda: not rig.server.faults.pending)
    await rig.left(running)
    assert len((await rig.start(workflow())).files) == 1
    assert rig.server.started == [rig.reports.remembered[-1]["prompt_id"]]


async def test_a_fenced_attempt_leaves_the_work_to_the_next(rig: Rig) -> None:
    rig.server.options.step_s = 0.02
    first = rig.start(workflow(steps=40))
    await until(lambda: rig.server.running)
    second = rig.start(workflow(steps=40))
    await rig.left(first)
    assert len((await second).files) == 1
    assert len(rig.server.started) == 1


# --- Faults


async def test_short_failures_are_passed_over(rig: Rig) -> None:
    for path in ("/history", "/queue", "/history", "/view"):
        rig.server.faults.add(path, status=503, times=2 if path != "/view" else 0)
    rig.server.options.step_s = 0.01
    assert len((await rig.start(workflow(steps=20))).files) == 1


async def test_an_answer_that_is_no_json(rig: Rig) -> None:
    rig.server.faults.add("/prompt", status=200, text="<html>")
    with pytest.raises(BackEndFailed, match="without JSON"):
        await rig.start(workflow())
