"""HubService: each method checks, calls and replies."""

import secrets
from collections.abc import AsyncGenerator
from typing import Any, cast

from grpc.aio import ServicerContext

from mlxmesh.model.v1 import hub_pb2 as pb
from mlxmesh.model.v1 import hub_pb2_grpc
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.hub import convert
from mlxmesh_model.hub.download import Download, State
from mlxmesh_model.hub.queries import position
from mlxmesh_model.hub.search import HubSearch
from mlxmesh_model.hub.store import DownloadStore
from mlxmesh_shared.page_tokens import from_page_token, to_page_token
from mlxmesh_shared.rpc.caller import forwarded_caller

_Context = ServicerContext[Any, Any]

_DEFAULT_PAGE_SIZE = 100
_NEWEST = (1 << 62, "")


class HubServicer(hub_pb2_grpc.HubServiceServicer):
    """Search and downloads over gRPC; the contract documents each method."""

    def __init__(self, *, search: HubSearch, downloads: DownloadStore, catalogue: Store) -> None:
        self._search = search
        self._downloads = downloads
        self._catalogue = catalogue

    async def SearchHub(
        self, request: pb.SearchHubRequest, context: _Context
    ) -> pb.SearchHubResponse:
        found, cursor = await self._search.search(convert.from_search(request))
        return pb.SearchHubResponse(models=map(convert.to_hub_model, found), next_page_token=cursor)

    async def GetHubModel(
        self, request: pb.GetHubModelRequest, context: _Context
    ) -> pb.GetHubModelResponse:
        found = await self._search.describe(request.repo_id, request.revision or "main")
        return pb.GetHubModelResponse(model=convert.to_hub_model(found))

    async def StartDownload(
        self, request: pb.StartDownloadRequest, context: _Context
    ) -> pb.StartDownloadResponse:
        wanted = convert.from_start(request)
        await self._catalogue.check_name(wanted.name)
        download = await self._downloads.start(
            f"d-{secrets.token_hex(6)}",
            wanted,
            load=request.load,
            principal=forwarded_caller(context).principal,
        )
        return pb.StartDownloadResponse(download=convert.to_download(download))

    async def ListDownloads(
        self, request: pb.ListDownloadsRequest, context: _Context
    ) -> pb.ListDownloadsResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        before = cast("tuple[int, str]", from_page_token(request.page_token, _NEWEST))
        found = await self._downloads.page(before=before, limit=size + 1)
        page = found[:size]
        token = to_page_token(position(page[-1])) if len(found) > size else ""
        return pb.ListDownloadsResponse(
            downloads=map(convert.to_download, page), next_page_token=token
        )

    async def PauseDownload(
        self, request: pb.PauseDownloadRequest, context: _Context
    ) -> pb.PauseDownloadResponse:
        download = await self._downloads.change(request.download_id, Download.paused)
        return pb.PauseDownloadResponse(download=convert.to_download(download))

    async def ResumeDownload(
        self, request: pb.ResumeDownloadRequest, context: _Context
    ) -> pb.ResumeDownloadResponse:
        download = await self._downloads.change(request.download_id, Download.resumed)
        return pb.ResumeDownloadResponse(download=convert.to_download(download))

    async def DeleteDownload(
        self, request: pb.DeleteDownloadRequest, context: _Context
    ) -> pb.DeleteDownloadResponse:
        await self._downloads.ask_to_delete(request.download_id)
        return pb.DeleteDownloadResponse()

    async def WatchDownloads(
        self, request: pb.WatchDownloadsRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchDownloadsResponse]:
        known: dict[str, Download] | None = None
        with self._downloads.subscribe() as changed:
            while True:
                changed.clear()
                found = {
                    each.download_id: each
                    for each in await self._downloads.all()
                    if each.state is not State.DELETING
                }
                before = known or {}
                news = [each for each in found.values() if before.get(each.download_id) != each]
                removed = before.keys() - found.keys()
                if news or removed or known is None:
                    yield pb.WatchDownloadsResponse(
                        downloads=map(convert.to_download, news), removed_ids=sorted(removed)
                    )
                known = found
                await changed.wait()
