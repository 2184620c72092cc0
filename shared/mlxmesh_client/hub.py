"""The client's methods for a hub of models: search, and downloads in the background."""

from collections.abc import AsyncGenerator

from mlxmesh.model.v1 import hub_pb2 as pb
from mlxmesh.model.v1.hub_pb2_grpc import HubServiceStub
from mlxmesh_client.calls import Calls


class HubMethods:
    """One method per RPC of HubService."""

    _calls: Calls
    _hub: HubServiceStub

    async def search_hub(
        self,
        text: str = "",
        *,
        author: str = "",
        sort: pb.HubSort.ValueType = pb.HUB_SORT_UNSPECIFIED,
        model_format: pb.HubFormat.ValueType = pb.HUB_FORMAT_MLX,
        page_size: int = 0,
        page_token: str = "",
        timeout_s: float | None = None,
    ) -> pb.SearchHubResponse:
        """Returns a page of models of the hub, by default of those for MLX."""
        request = pb.SearchHubRequest(
            text=text,
            author=author,
            sort=sort,
            format=model_format,
            page_size=page_size,
            page_token=page_token,
        )
        return await self._calls.unary(self._hub.SearchHub, request, timeout_s, safe=True)

    async def get_hub_model(
        self, repo_id: str, *, revision: str = "", timeout_s: float | None = None
    ) -> pb.HubModel:
        """Returns one model of the hub with its files, and what of it can be served here."""
        request = pb.GetHubModelRequest(repo_id=repo_id, revision=revision)
        call = self._hub.GetHubModel
        return (await self._calls.unary(call, request, timeout_s, safe=True)).model

    async def start_download(
        self,
        repo_id: str,
        *,
        revision: str = "",
        name: str = "",
        file: str = "",
        dtype: str = "",
        load: bool = False,
        timeout_s: float | None = None,
    ) -> pb.Download:
        """Begins a download in the background, or goes on with the one of the same source and name.

        load: whether to load the version once it is there.
        """
        request = pb.StartDownloadRequest(
            repo_id=repo_id, revision=revision, name=name, file=file, dtype=dtype, load=load
        )
        call = self._hub.StartDownload
        return (await self._calls.unary(call, request, timeout_s, safe=True)).download

    async def list_downloads(
        self, *, limit: int | None = None, timeout_s: float | None = None
    ) -> list[pb.Download]:
        """Returns downloads, the newest first; those that completed for a week."""
        found: list[pb.Download] = []
        request = pb.ListDownloadsRequest()
        while True:
            page = await self._calls.unary(self._hub.ListDownloads, request, timeout_s, safe=True)
            found.extend(page.downloads)
            if not page.next_page_token or (limit is not None and len(found) >= limit):
                return found[:limit]
            request.page_token = page.next_page_token

    async def pause_download(
        self, download_id: str, *, timeout_s: float | None = None
    ) -> pb.Download:
        """Pauses a download; what is on disk stays."""
        request = pb.PauseDownloadRequest(download_id=download_id)
        call = self._hub.PauseDownload
        return (await self._calls.unary(call, request, timeout_s, safe=True)).download

    async def resume_download(
        self, download_id: str, *, timeout_s: float | None = None
    ) -> pb.Download:
        """Goes on with a download that was paused or failed."""
        request = pb.ResumeDownloadRequest(download_id=download_id)
        call = self._hub.ResumeDownload
        return (await self._calls.unary(call, request, timeout_s, safe=True)).download

    async def delete_download(self, download_id: str, *, timeout_s: float | None = None) -> None:
        """Cancels a download and removes what it has on disk; a completed model stays."""
        request = pb.DeleteDownloadRequest(download_id=download_id)
        await self._calls.unary(self._hub.DeleteDownload, request, timeout_s, safe=False)

    def watch_downloads(
        self, *, timeout_s: float | None = None
    ) -> AsyncGenerator[pb.WatchDownloadsResponse]:
        """Yields every download, then those that change; progress at most twice a second each."""
        request = pb.WatchDownloadsRequest()
        return self._calls.stream(self._hub.WatchDownloads, request, timeout_s, safe=True)
