"""`mlxmesh downloads`, `mlxmesh models search` and `mlxmesh pull --background`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.model.v1 import hub_pb2 as pb
from mlxmesh.model.v1.hub_pb2_grpc import HubServiceServicer, add_HubServiceServicer_to_server
from mlxmesh_shared.errors import DownloadNotFound, MethodNotFound
from tests.command_line import mlxmesh
from tests.fakes.public_services import FakeGeneration, FakeModels
from tests.fakes.scripted_generation import serving_on_a_thread

NAME = pb.DESCRIPTOR.services_by_name["HubService"].full_name
MIB = 2**20


class FakeHubService(HubServiceServicer):
    """Downloads that a test set; each watch sends them, and then what `news` has."""

    def __init__(self) -> None:
        self.downloads: dict[str, pb.Download] = {}
        self.news: list[pb.WatchDownloadsResponse] = []
        self.searches: list[pb.SearchHubRequest] = []
        self.found: list[pb.HubModel] = []

    def put(self, download_id: str, state: pb.DownloadState.ValueType, **fields: Any) -> None:
        self.downloads[download_id] = pb.Download(
            download_id=download_id,
            source=pb.StartDownloadRequest(repo_id="mlx/pocket", name="pocket"),
            state=state,
            create_time=Timestamp(seconds=1_790_000_000),
            **fields,
        )

    def _find(self, download_id: str) -> pb.Download:
        if download_id not in self.downloads:
            raise DownloadNotFound("there is no such download", field="download_id")
        return self.downloads[download_id]

    async def SearchHub(self, request: Any, context: Any) -> pb.SearchHubResponse:
        self.searches.append(request)
        return pb.SearchHubResponse(models=self.found)

    async def StartDownload(self, request: Any, context: Any) -> pb.StartDownloadResponse:
        started = pb.Download(download_id="d-1", source=request, state=pb.DOWNLOAD_STATE_WAITING)
        self.downloads["d-1"] = started
        return pb.StartDownloadResponse(download=started)

    async def ListDownloads(self, request: Any, context: Any) -> pb.ListDownloadsResponse:
        return pb.ListDownloadsResponse(downloads=self.downloads.values())

    async def PauseDownload(self, request: Any, context: Any) -> pb.PauseDownloadResponse:
        download = self._find(request.download_id)
        download.state = pb.DOWNLOAD_STATE_PAUSED
        return pb.PauseDownloadResponse(download=download)

    async def ResumeDownload(self, request: Any, context: Any) -> pb.ResumeDownloadResponse:
        download = self._find(request.download_id)
        download.state = pb.DOWNLOAD_STATE_WAITING
        return pb.ResumeDownloadResponse(download=download)

    async def DeleteDownload(self, request: Any, context: Any) -> pb.DeleteDownloadResponse:
        del self.downloads[self._find(request.download_id).download_id]
        return pb.DeleteDownloadResponse()

    async def WatchDownloads(
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.WatchDownloadsResponse]:
        yield pb.WatchDownloadsResponse(downloads=self.downloads.values())
        for message in self.news:
            yield message

    async def GetHubModel(self, request: Any, context: Any) -> Any:
        raise MethodNotFound("commands do not call it")


@pytest.fixture
def hub() -> FakeHubService:
    return FakeHubService()


@pytest.fixture
def address(hub: FakeHubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the services, which run on a thread."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path / "no mesh"))
    for name in ("MLXMESH_API_KEY", "MLXMESH_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    service = (add_HubServiceServicer_to_server, hub)
    serving = serving_on_a_thread(FakeGeneration(), FakeModels(), service, names=(NAME,))
    with serving as address:
        yield address


def run(address: str, *arguments: str) -> Result:
    return mlxmesh(*arguments, "--address", address)


def shown(address: str, *arguments: str) -> Any:
    result = run(address, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_download_is_started_in_the_background(address: str, hub: FakeHubService) -> None:
    result = run(address, "pull", "mlx/pocket", "--name", "p", "--background", "--load")
    assert result.exit_code == 0, result.output
    assert "mlxmesh downloads watch d-1" in result.stdout
    source = hub.downloads["d-1"].source
    assert (source.repo_id, source.name, source.load) == ("mlx/pocket", "p", True)


def test_load_is_about_the_background(address: str) -> None:
    result = run(address, "pull", "mlx/pocket", "--load")
    assert result.exit_code == 2
    assert "--background" in result.output


def test_downloads_are_listed(address: str, hub: FakeHubService) -> None:
    assert "mlxmesh pull" in run(address, "downloads", "list").stdout
    failure = Failure(code=14, reason="HUB_UNAVAILABLE", message="the hub is away")
    hub.put("d-1", pb.DOWNLOAD_STATE_RUNNING, done_bytes=MIB, total_bytes=4 * MIB)
    hub.put("d-2", pb.DOWNLOAD_STATE_FAILED, failure=failure)
    listed = run(address, "downloads", "list").stdout
    for part in ("d-1", "mlx/pocket", "running", "1.0 MB", "4.2 MB", "failed", "the hub is away"):
        assert part in listed
    states = [each["state"] for each in shown(address, "downloads", "list")["downloads"]]
    assert states == ["running", "failed"]


def test_a_download_is_paused_resumed_and_cancelled(address: str, hub: FakeHubService) -> None:
    hub.put("d-1", pb.DOWNLOAD_STATE_RUNNING)
    assert "is paused" in run(address, "downloads", "pause", "d-1").stdout
    assert shown(address, "downloads", "resume", "d-1")["state"] == "waiting"
    assert "is cancelled" in run(address, "downloads", "cancel", "d-1").stdout
    gone = run(address, "downloads", "pause", "d-1")
    assert gone.exit_code == 1
    assert "no such download" in gone.output


def test_watching_ends_with_the_downloads(address: str, hub: FakeHubService) -> None:
    hub.put("d-1", pb.DOWNLOAD_STATE_RUNNING, total_bytes=4 * MIB)
    done = pb.Download()
    done.CopyFrom(hub.downloads["d-1"])
    done.state, done.done_bytes = pb.DOWNLOAD_STATE_COMPLETED, 4 * MIB
    hub.news = [pb.WatchDownloadsResponse(downloads=[done])]
    result = run(address, "downloads", "watch", "--json")
    assert result.exit_code == 0, result.output
    states = [json.loads(line)["state"] for line in result.stdout.splitlines()]
    assert states == ["running", "completed"]
    assert run(address, "downloads", "watch").exit_code == 0


def test_watching_tells_of_a_failure(address: str, hub: FakeHubService) -> None:
    failure = Failure(code=8, reason="DISK_FULL", message="the disk is full")
    hub.put("d-1", pb.DOWNLOAD_STATE_FAILED, failure=failure)
    result = run(address, "downloads", "watch", "d-1")
    assert result.exit_code == 1
    assert "the disk is full" in result.output
    unknown = run(address, "downloads", "watch", "d-9")
    assert unknown.exit_code == 1
    assert "no download d-9" in unknown.output


def test_models_are_searched(address: str, hub: FakeHubService) -> None:
    assert "--format all" in run(address, "models", "search", "nothing").stdout
    hub.found = [
        pb.HubModel(
            repo_id="mlx-community/Pocket-4bit",
            licence="mit",
            downloads=1234,
            quantization="4-bit",
            size_bytes=3_000_000,
            fit=pb.FIT_AFTER_UNLOADING,
            installed_name="pocket",
            installed_version=2,
        )
    ]
    found = run(
        address,
        *("models", "search", "pocket", "--author", "mlx-community", "--sort", "likes"),
        *("--format", "gguf", "-n", "5"),
    ).stdout
    for part in ("Pocket-4bit", "3.0 MB", "4-bit", "1,234", "after unloading", "pocket@2"):
        assert part in found
    assert hub.searches[-1] == pb.SearchHubRequest(
        text="pocket",
        author="mlx-community",
        sort=pb.HUB_SORT_LIKES,
        format=pb.HUB_FORMAT_GGUF,
        page_size=5,
    )
    assert shown(address, "models", "search", "pocket")["models"][0]["fit"] == "after_unloading"
