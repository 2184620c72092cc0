"""Downloads in the background: begun, paused, resumed, deleted, interrupted and failed."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager

import pytest

from mlxmesh.model.v1 import hub_pb2 as pb
from mlxmesh.model.v1 import model_pb2
from mlxmesh.telemetry.v1 import events_pb2
from mlxmesh_shared.errors import DownloadNotFound, IllegalState, InvalidArgument
from tests.fakes.hub import FakeHub, serving_hub
from tests.fakes.limited_disk import LimitedDisk
from tests.fakes.model_directory import write_model

MIB = 2**20
REPO_ID = "mlx/pocket"
WAITING, RUNNING, PAUSED, FAILED, COMPLETED = (
    pb.DOWNLOAD_STATE_WAITING,
    pb.DOWNLOAD_STATE_RUNNING,
    pb.DOWNLOAD_STATE_PAUSED,
    pb.DOWNLOAD_STATE_FAILED,
    pb.DOWNLOAD_STATE_COMPLETED,
)


@pytest.fixture
def hub(tmp_path, mesh) -> Generator[FakeHub]:
    with serving_hub() as hub:
        hub.add(REPO_ID, write_model(tmp_path / "at-the-hub", rows=3 * MIB // 16))
        mesh.hub_endpoint = hub.endpoint
        yield hub


@pytest.fixture
async def service(mesh, hub, database):
    mesh.database = database
    return await mesh.service()


async def start(service, repo_id: str = REPO_ID, **fields) -> pb.Download:
    request = pb.StartDownloadRequest(repo_id=repo_id, **fields)
    return (await service.hub.StartDownload(request)).download


async def shown(service, download_id: str) -> pb.Download:
    response = await service.hub.ListDownloads(pb.ListDownloadsRequest())
    return next(each for each in response.downloads if each.download_id == download_id)


async def until(service, download: pb.Download, reached: Callable[[pb.Download], bool]):
    async with asyncio.timeout(30):
        while not reached(last := await shown(service, download.download_id)):
            await asyncio.sleep(0.02)
    return last


async def ended(service, download: pb.Download, state: pb.DownloadState.ValueType) -> pb.Download:
    return await until(service, download, lambda each: each.state == state)


def halfway(download: pb.Download) -> bool:
    return download.state == RUNNING and download.done_bytes >= MIB


async def pause(service, download: pb.Download) -> pb.Download:
    request = pb.PauseDownloadRequest(download_id=download.download_id)
    return (await service.hub.PauseDownload(request)).download


async def resume(service, download: pb.Download) -> pb.Download:
    request = pb.ResumeDownloadRequest(download_id=download.download_id)
    return (await service.hub.ResumeDownload(request)).download


async def delete(service, download: pb.Download) -> None:
    await service.hub.DeleteDownload(pb.DeleteDownloadRequest(download_id=download.download_id))


async def pull(service, began: asyncio.Event | None = None) -> list[model_pb2.PullModelResponse]:
    messages: list[model_pb2.PullModelResponse] = []
    async for message in service.stub.PullModel(model_pb2.PullModelRequest(repo_id=REPO_ID)):
        messages.append(message)
        if began is not None:
            began.set()
    return messages


def bytes_on_disk(service) -> int:
    """Of models; what the store remembers of checksums is not counted."""
    found = [path for path in (service.tmp_path / "models").rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in found if "git" not in path.parts)


async def test_a_download_registers_a_version(mesh, service, hub):
    download = await start(service)
    assert (download.state, download.source.name, download.source.revision) == (
        WAITING, "pocket", "main",
    )  # fmt: skip
    done = await ended(service, download, COMPLETED)
    assert (done.version, done.attempt, done.bytes_per_second) == (1, 1, 0)
    assert done.done_bytes == done.total_bytes > 3 * MIB
    assert done.HasField("end_time")
    assert not done.HasField("failure")
    assert (await service.version()).state == model_pb2.VERSION_STATE_AVAILABLE
    assert [each for each in mesh.events if isinstance(each, events_pb2.ModelPulled)]


async def test_it_is_loaded_when_that_was_asked_for(mesh, service, hub):
    await mesh.host()
    await ended(service, await start(service, load=True), COMPLETED)
    await service.until("pocket@1", lambda v: v.state == model_pb2.VERSION_STATE_READY)


async def test_without_load_it_is_not(mesh, service, hub):
    await mesh.host()
    await ended(service, await start(service), COMPLETED)
    assert not (await service.version()).desired_replicas


async def test_a_pause_keeps_the_bytes_and_a_resume_continues(service, hub):
    hub.gate.clear()
    download = await start(service)
    await until(service, download, halfway)
    paused = await pause(service, download)
    assert (paused.state, paused.bytes_per_second) == (PAUSED, 0)
    assert (await pause(service, download)).state == PAUSED
    hub.gate.set()
    hub.ranges_seen.clear()
    await service.until("pocket@1", lambda v: v.state == model_pb2.VERSION_STATE_FAILED)
    assert (await shown(service, download.download_id)).state == PAUSED
    assert (await resume(service, download)).state == WAITING
    done = await ended(service, download, COMPLETED)
    assert done.attempt == 2
    assert [seen.split("=")[0] for seen in hub.ranges_seen] == ["model.safetensors bytes"]


async def test_deleting_removes_what_is_on_disk(service, hub):
    hub.gate.clear()
    download = await start(service)
    await until(service, download, halfway)
    await delete(service, download)
    assert not (await service.hub.ListDownloads(pb.ListDownloadsRequest())).downloads
    with pytest.raises(DownloadNotFound, match="list the downloads"):
        await pause(service, download)
    async with asyncio.timeout(30):
        while bytes_on_disk(service):
            await asyncio.sleep(0.02)
    assert not (await service.stub.ListModels(model_pb2.ListModelsRequest())).models


async def test_deleting_a_completed_one_keeps_the_model(service, hub):
    done = await ended(service, await start(service), COMPLETED)
    await delete(service, done)
    again = await ended(service, await start(service), COMPLETED)
    assert again.download_id != done.download_id
    assert again.version == 1


async def test_deleting_a_paused_one_and_beginning_again(service, hub):
    hub.gate.clear()
    download = await start(service)
    await until(service, download, halfway)
    await pause(service, download)
    await delete(service, download)
    hub.gate.set()
    done = await ended(service, await start(service), COMPLETED)
    assert (await service.version("pocket")).version == done.version


async def test_beginning_the_same_again_goes_on_with_it(service, hub):
    hub.gate.clear()
    download = await start(service)
    await until(service, download, halfway)
    assert (await start(service)).download_id == download.download_id
    assert (await start(service, name="other")).download_id != download.download_id
    await pause(service, download)
    resumed = await start(service, load=True)
    assert (resumed.download_id, resumed.state) == (download.download_id, WAITING)
    assert resumed.source.load
    hub.gate.set()
    await ended(service, download, COMPLETED)


async def test_two_at_once_the_oldest_first(service, hub):
    hub.gate.clear()
    downloads = [await start(service, name=f"pocket-{n}") for n in range(4)]
    for download in downloads[:2]:
        await ended(service, download, RUNNING)
    states = [(await shown(service, each.download_id)).state for each in downloads]
    assert states == [RUNNING, RUNNING, WAITING, WAITING]
    await pause(service, downloads[0])
    await ended(service, downloads[2], RUNNING)
    hub.gate.set()
    for download in downloads[1:]:
        await ended(service, download, COMPLETED)
    assert (await shown(service, downloads[0].download_id)).state == PAUSED


async def test_a_broken_line_is_tried_again(service, hub):
    hub.break_after_bytes, hub.breaks_left = MIB // 2, 5  # more than one pull tries
    done = await ended(service, await start(service), COMPLETED)
    assert done.attempt >= 2
    assert done.version == 1


async def test_a_hub_that_is_away_is_waited_for(service, hub):
    hub.api_status = 503
    download = await start(service)
    waiting = await until(service, download, lambda each: each.HasField("failure"))
    assert waiting.failure.reason == "HUB_UNAVAILABLE"
    failed = await ended(service, download, FAILED)
    assert failed.attempt == 10
    hub.api_status = 200
    assert not (await resume(service, download)).HasField("failure")
    await ended(service, download, COMPLETED)


async def test_a_full_disk_says_so_and_the_download_can_be_resumed(mesh, hub, database):
    mesh.database, mesh.disk = database, LimitedDisk(2 * MIB, told_bytes=10 * MIB)
    service = await mesh.service()
    download = await start(service)
    failed = await ended(service, download, FAILED)
    assert (failed.failure.reason, failed.attempt) == ("DISK_FULL", 1)
    assert "free" in failed.failure.message
    mesh.disk.left_bytes = 10 * MIB
    hub.ranges_seen.clear()
    await resume(service, download)
    done = await ended(service, download, COMPLETED)
    assert done.attempt == 2
    assert [seen.split("=")[0] for seen in hub.ranges_seen] == ["model.safetensors bytes"]


@pytest.mark.parametrize(
    ("repo_id", "fields", "reason"),
    [
        ("mlx/nowhere", {}, "SOURCE_NOT_FOUND"),
        (REPO_ID, {"file": "x.gguf"}, "SOURCE_NOT_FOUND"),
        ("mlx/pickled", {}, "INVALID_FIELD"),
    ],
)
async def test_what_cannot_be_pulled_fails_at_once(service, hub, repo_id, fields, reason):
    hub.models["mlx/pickled"] = {"pytorch_model.bin": b"x"}
    failed = await ended(service, await start(service, repo_id, **fields), FAILED)
    assert (failed.failure.reason, failed.attempt) == (reason, 1)
    assert not failed.version
    with pytest.raises(IllegalState, match="cannot pause"):
        await pause(service, failed)


async def test_a_pull_of_the_same_at_the_same_time_is_waited_for(service, hub):
    hub.gate.clear()
    began = asyncio.Event()
    pulling = asyncio.create_task(pull(service, began))
    await began.wait()
    download = await start(service)
    waiting = await until(service, download, lambda each: each.HasField("failure"))
    assert "another call is pulling it" in waiting.failure.message
    hub.gate.set()
    assert (await pulling)[-1].version.version == 1
    done = await ended(service, download, COMPLETED)
    assert (done.version, len((await service.model()).versions)) == (1, 1)


async def test_a_download_keeps_pulls_of_the_same_away(service, hub):
    hub.gate.clear()
    download = await start(service)
    await until(service, download, halfway)
    with pytest.raises(IllegalState, match="another call is pulling it"):
        await pull(service)
    hub.gate.set()
    await ended(service, download, COMPLETED)
    assert (await pull(service))[-1].version.version == 1


async def test_a_restart_continues_it(mesh, service, hub):
    hub.gate.clear()
    download = await start(service, load=True)
    await until(service, download, halfway)
    paused = await start(service, name="other")
    await pause(service, paused)
    service = await mesh.service()
    hub.gate.set()
    done = await ended(service, download, COMPLETED)
    assert (done.attempt, done.source.load) == (2, True)
    assert (await shown(service, paused.download_id)).state == PAUSED


@asynccontextmanager
async def watching(service) -> AsyncGenerator[list[pb.WatchDownloadsResponse]]:
    messages: list[pb.WatchDownloadsResponse] = []
    call = service.hub.WatchDownloads(pb.WatchDownloadsRequest())

    async def collect() -> None:
        async for message in call:
            messages.append(message)

    task = asyncio.create_task(collect())
    try:
        async with asyncio.timeout(30):
            while not messages:
                await asyncio.sleep(0.01)
        yield messages
    finally:
        call.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_watcher_sees_every_state_and_little_progress(service, hub):
    hub.bytes_per_second = 2 * MIB
    async with watching(service) as messages:
        assert not messages[0].downloads
        download = await start(service)
        await ended(service, download, COMPLETED)
        await delete(service, download)
        async with asyncio.timeout(30):
            while not messages[-1].removed_ids:
                await asyncio.sleep(0.01)
    assert list(messages[-1].removed_ids) == [download.download_id]
    seen = [message.downloads[0] for message in messages if message.downloads]
    states = [each.state for each in seen]
    assert states[0] in (WAITING, RUNNING)
    assert states[-1] == COMPLETED
    running = [each for each in seen if each.state == RUNNING]
    done = [each.done_bytes for each in running]
    assert done == sorted(done)
    assert any(each.bytes_per_second > 0 for each in running)


async def test_a_watcher_gets_what_there_is(service, hub):
    done = await ended(service, await start(service), COMPLETED)
    async with watching(service) as messages:
        assert [each.download_id for each in messages[0].downloads] == [done.download_id]


async def test_pages(service, hub):
    hub.gate.clear()
    ids = [(await start(service, name=f"pocket-{n}")).download_id for n in range(3)]
    request = pb.ListDownloadsRequest(page_size=2)
    page = await service.hub.ListDownloads(request)
    request.page_token = page.next_page_token
    rest = await service.hub.ListDownloads(request)
    assert [each.download_id for each in (*page.downloads, *rest.downloads)] == ids[::-1]
    assert not rest.next_page_token
    with pytest.raises(InvalidArgument) as refused:
        await service.hub.ListDownloads(pb.ListDownloadsRequest(page_token="x"))
    assert refused.value.field == "page_token"
    hub.gate.set()


async def test_illegal_requests(service, hub):
    with pytest.raises(InvalidArgument) as refused:
        await start(service, dtype="float16")
    assert refused.value.field == "dtype"
    unknown = pb.Download(download_id="d-unknown")
    for call in (pause, resume, delete):
        with pytest.raises(DownloadNotFound):
            await call(service, unknown)
    done = await ended(service, await start(service), COMPLETED)
    with pytest.raises(IllegalState, match="cannot resume"):
        await resume(service, done)
