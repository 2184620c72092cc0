"""A1111's connector and a fake web UI over real sockets."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_shared.errors import BackEndFailed, InvalidArgument, OutputTooLarge, ServiceUnavailable
from mlxmesh_worker.connectors.a1111.over_http import A1111Http
from mlxmesh_worker.connectors.files import MAX_FILE_BYTES
from mlxmesh_worker.connectors.port import Outcome, Target
from tests.fakes.a1111_server import FakeA1111, Options, a1111_server
from tests.fakes.connector_reports import FakeReports
from tests.fakes.waiting import until

PNG = b"\x89PNG\r\n\x1a\n" + bytes(500)
WEBP = b"RIFF\x00\x00\x00\x00WEBP" + bytes(500)


class Rig:
    def __init__(self, server: FakeA1111, job: str = "job-1") -> None:
        self.server = server
        self.reports = FakeReports()
        self.connector = A1111Http(Target(name="images", address=server.url), interval_s=0.02)
        self.attempt = 0
        self.job = job

    def start(self, operation: str = "txt2img", **arguments: Any) -> asyncio.Task[Outcome]:
        self.attempt += 1
        asked = {"prompt": "a boat", "steps": 3, **arguments}
        task = self.reports.task(operation, asked, attempt=self.attempt, job=self.job)
        return asyncio.create_task(self.connector.run(task, self.reports))


@pytest.fixture
async def server() -> AsyncIterator[FakeA1111]:
    async with a1111_server(Options(step_s=0.001)) as served:
        yield served


@pytest.fixture
async def rig(server: FakeA1111) -> AsyncIterator[Rig]:
    made = Rig(server)
    yield made
    await made.connector.close()


@pytest.fixture
async def other(server: FakeA1111) -> AsyncIterator[Rig]:
    made = Rig(server, "job-2")
    yield made
    await made.connector.close()


async def ended(running: asyncio.Task[Any]) -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_images_of_a_text(rig: Rig) -> None:
    rig.server.options.image = WEBP
    outcome = await rig.start(batch_size=2, n_iter=3, checkpoint="dreams.safetensors", clip_skip=2)
    assert [made.name for made in outcome.files] == [f"image-{n}.webp" for n in range(1, 7)]
    assert {made.media_type for made in outcome.files} == {"image/webp"}
    assert outcome.result["info"]["prompt"] == "a boat"
    sent = rig.server.requests[0]
    assert sent["override_settings"] == {
        "sd_model_checkpoint": "dreams.safetensors",
        "CLIP_stop_at_last_layers": 2,
    }
    assert sent["save_images"] is False
    assert "checkpoint" not in sent


async def test_images_of_an_input_file_and_of_base64(rig: Rig) -> None:
    rig.reports.inputs.update(sketch=PNG, mask=WEBP)
    inline = base64.b64encode(PNG).decode()
    url = f"data:image/png;base64,{inline}"
    await rig.start("img2img", init_images=["sketch", inline, url], mask="mask")
    sent = rig.server.requests[0]
    assert sent["init_images"] == [inline, inline, url]
    assert base64.b64decode(sent["mask"]) == WEBP


async def test_an_input_file_that_the_job_does_not_have(rig: Rig) -> None:
    with pytest.raises(InvalidArgument, match="no input file sketch") as raised:
        await rig.start("img2img", init_images=["sketch"])
    assert raised.value.field == "arguments.init_images.0"


async def test_no_address_that_the_back_end_would_fetch(rig: Rig) -> None:
    with pytest.raises(InvalidArgument) as raised:
        rig.connector.check("img2img", {"prompt": "", "init_images": ["http://10.0.0.1/a.png"]})
    assert raised.value.field == "arguments.init_images.0"
    assert "10.0.0.1" not in raised.value.message


async def test_each_attempt_has_the_same_seed(rig: Rig, other: Rig) -> None:
    await rig.start()
    await rig.start()
    await other.start()
    await other.start(seed=7)
    seeds = [sent["seed"] for sent in rig.server.requests]
    assert seeds[0] == seeds[1] != seeds[2]
    assert seeds[3] == 7
    assert all(0 <= seed < 2**32 for seed in seeds)


async def test_progress(rig: Rig) -> None:
    rig.server.options.step_s = 0.02
    await rig.start(steps=20)
    fractions = [told.fraction for told in rig.reports.told]
    assert fractions == sorted(fractions)
    assert 0 < fractions[-1] <= 1


async def test_a_task_that_waits_says_so(rig: Rig, other: Rig) -> None:
    rig.server.options.step_s = 0.02
    first = other.start(steps=40)
    await until(lambda: rig.server.current)
    second = rig.start()
    await until(lambda: rig.reports.told)
    assert rig.reports.told[0].text == "waits"
    await first
    await second


async def test_a_running_task_is_interrupted_when_it_is_cancelled(rig: Rig) -> None:
    rig.server.options.step_s = 0.02
    running = rig.start(steps=150)
    await until(lambda: rig.server.current)
    await ended(running)
    await until(lambda: rig.server.interrupted == ["mlxmesh-job-1-1"])


async def test_a_waiting_task_is_interrupted_once_it_runs(rig: Rig, other: Rig) -> None:
    rig.server.options.step_s = 0.02
    first = other.start(steps=20)
    await until(lambda: rig.server.current)
    second = rig.start(steps=150)
    await until(lambda: rig.server.pending)
    await ended(second)
    # Not before: the other one is not ours.
    await first
    assert rig.server.finished == ["mlxmesh-job-2-1"]
    await until(lambda: rig.server.interrupted == ["mlxmesh-job-1-1"])


async def test_without_the_web_ui_nothing_is_interrupted(rig: Rig) -> None:
    rig.server.options = Options(step_s=0.01, nowebui=True)
    running = rig.start(steps=20)
    await until(lambda: rig.server.current)
    await ended(running)
    await until(lambda: rig.server.finished)
    assert not rig.server.interrupted
    assert len((await rig.start()).files) == 1


async def test_cancelled_before_it_was_asked(rig: Rig) -> None:
    hold = asyncio.Event()

    async def remember(state: Any) -> None:
        hold.set()
        await asyncio.Event().wait()

    rig.reports.remember = remember
    running = rig.start()
    await hold.wait()
    await ended(running)
    assert not rig.server.requests


async def test_a_later_attempt_ends_the_work_of_an_earlier_one(rig: Rig) -> None:
    rig.server.options.step_s = 0.02
    rig.reports.leaves_work = True
    first = rig.start(steps=150)
    await until(lambda: rig.server.current)
    await ended(first)
    assert rig.server.current == "mlxmesh-job-1-1"
    assert len((await rig.start(steps=5)).files) == 1
    assert rig.server.interrupted == ["mlxmesh-job-1-1"]
    assert rig.server.finished == ["mlxmesh-job-1-2"]


async def test_what_it_refuses(rig: Rig) -> None:
    with pytest.raises(InvalidArgument, match="status 400: Sampler not found"):
        await rig.start(sampler_name="Eulr")


async def test_a_refusal_with_the_place_of_the_error(rig: Rig) -> None:
    text = '{"detail": [{"loc": ["body", "steps"], "msg": "value is not a valid integer"}]}'
    rig.server.faults.add("/sdapi/v1/txt2img", status=422, text=text)
    with pytest.raises(InvalidArgument, match=r"body\.steps: value is not a valid integer"):
        await rig.start()


async def test_out_of_memory(rig: Rig) -> None:
    rig.server.options.out_of_memory = True
    with pytest.raises(BackEndFailed, match="OutOfMemoryError: CUDA out of memory"):
        await rig.start()


async def test_an_image_above_the_limit(rig: Rig) -> None:
    rig.server.options.image = bytes(MAX_FILE_BYTES + 10)
    with pytest.raises(OutputTooLarge):
        await rig.start()


async def test_images_that_are_not_in_base64(rig: Rig) -> None:
    rig.server.faults.add("/sdapi/v1/txt2img", status=200, text='{"images": ["?"]}')
    with pytest.raises(BackEndFailed, match="base64"):
        await rig.start()


async def test_an_answer_without_images(rig: Rig) -> None:
    rig.server.faults.add("/sdapi/v1/txt2img", status=200, text='{"info": "{"}')
    with pytest.raises(BackEndFailed, match="without images"):
        await rig.start()


async def test_a_connection_that_breaks(rig: Rig) -> None:
    rig.server.faults.add("/sdapi/v1/txt2img", drop_after=True)
    with pytest.raises(ServiceUnavailable):
        await rig.start()
    assert len((await rig.start()).files) == 1


async def test_a_name_and_a_password(server: FakeA1111, tmp_path: Path) -> None:
    server.options.auth = "ada:pass:word"
    key = tmp_path / "key"
    key.write_text("ada:pass:word\n")
    connector = A1111Http(Target(name="images", address=f"{server.url}#key=file:{key}"))
    await connector.probe()
    key.write_text("ada:wrong")
    with pytest.raises(ServiceUnavailable, match="refuses the key") as raised:
        await connector.probe()
    assert "wrong" not in raised.value.message
    await connector.close()
