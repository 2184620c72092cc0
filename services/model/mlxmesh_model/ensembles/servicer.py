"""EnsembleService: each method checks, calls and replies."""

from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.model.v1 import ensemble_pb2 as pb
from mlxmesh.model.v1 import ensemble_pb2_grpc
from mlxmesh_model.ensembles import convert
from mlxmesh_model.ensembles.store import Ensembles
from mlxmesh_model.paging import from_page_token, to_page_token

_Context = ServicerContext[Any, Any]
_DEFAULT_PAGE_SIZE = 100


class EnsembleServicer(ensemble_pb2_grpc.EnsembleServiceServicer):
    """Ensembles over gRPC; the contract documents each method."""

    def __init__(self, ensembles: Ensembles) -> None:
        self._ensembles = ensembles

    async def SetEnsemble(
        self, request: pb.SetEnsembleRequest, context: _Context
    ) -> pb.SetEnsembleResponse:
        recipe = convert.from_recipe(request.recipe)
        text = convert.recipe_text(request.recipe)
        model = await self._ensembles.set(request.name, recipe, text)
        return pb.SetEnsembleResponse(ensemble=convert.to_ensemble(model))

    async def GetEnsemble(
        self, request: pb.GetEnsembleRequest, context: _Context
    ) -> pb.GetEnsembleResponse:
        model = await self._ensembles.get(request.name)
        return pb.GetEnsembleResponse(ensemble=convert.to_ensemble(model))

    async def ListEnsembles(
        self, request: pb.ListEnsemblesRequest, context: _Context
    ) -> pb.ListEnsemblesResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        after = from_page_token(request.page_token)
        found = await self._ensembles.list(after=after, limit=size + 1)
        page = found[:size]
        token = to_page_token(page[-1].name) if len(found) > size else ""
        return pb.ListEnsemblesResponse(
            ensembles=map(convert.to_ensemble, page), next_page_token=token
        )

    async def DeleteEnsemble(
        self, request: pb.DeleteEnsembleRequest, context: _Context
    ) -> pb.DeleteEnsembleResponse:
        await self._ensembles.delete(request.name)
        return pb.DeleteEnsembleResponse()
