"""AdapterService: each method checks, calls and replies."""

from pathlib import Path
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.model.v1 import adapter_pb2 as pb
from mlxmesh.model.v1 import adapter_pb2_grpc
from mlxmesh_model.adapters.additions import Additions
from mlxmesh_model.adapters.convert import to_adapter
from mlxmesh_model.adapters.store import Adapters
from mlxmesh_model.paging import from_page_token, to_page_token
from mlxmesh_shared.errors import InvalidArgument

_Context = ServicerContext[Any, Any]
_DEFAULT_PAGE_SIZE = 100


class AdapterServicer(adapter_pb2_grpc.AdapterServiceServicer):
    """Adapters over gRPC; the contract documents each method."""

    def __init__(self, adapters: Adapters, additions: Additions) -> None:
        self._adapters = adapters
        self._additions = additions

    async def AddAdapter(
        self, request: pb.AddAdapterRequest, context: _Context
    ) -> pb.AddAdapterResponse:
        directory = Path(request.directory)
        if not directory.is_absolute():
            raise InvalidArgument("directory must be absolute", field="directory")
        added = await self._additions.add(
            request.model, request.name, directory, replace=request.replace
        )
        return pb.AddAdapterResponse(adapter=to_adapter(added))

    async def GetAdapter(
        self, request: pb.GetAdapterRequest, context: _Context
    ) -> pb.GetAdapterResponse:
        adapter = await self._adapters.get(request.model, request.name)
        return pb.GetAdapterResponse(adapter=to_adapter(adapter))

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: _Context
    ) -> pb.ListAdaptersResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        model, _, name = from_page_token(request.page_token).partition(":")
        found = await self._adapters.list(model=request.model, after=(model, name), limit=size + 1)
        page = found[:size]
        token = to_page_token(page[-1].label) if len(found) > size else ""
        return pb.ListAdaptersResponse(adapters=map(to_adapter, page), next_page_token=token)

    async def RemoveAdapter(
        self, request: pb.RemoveAdapterRequest, context: _Context
    ) -> pb.RemoveAdapterResponse:
        await self._additions.remove(request.model, request.name)
        return pb.RemoveAdapterResponse()
