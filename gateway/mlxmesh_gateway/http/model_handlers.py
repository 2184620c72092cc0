"""What the handlers of several protocols ask of the catalogue."""

from __future__ import annotations

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh_gateway.http.door import HttpCalls

LIST_MODELS = "/mlxmesh.model.v1.ModelService/ListModels"
GET_MODEL = "/mlxmesh.model.v1.ModelService/GetModel"
_PAGE_SIZE = 1000


async def every_model(calls: HttpCalls) -> list[pb.Model]:
    """Every model that the caller may use, by name. Raises: MeshError."""
    models: list[pb.Model] = []
    token = ""
    while True:
        request = pb.ListModelsRequest(page_size=_PAGE_SIZE, page_token=token)
        page = await calls.unary(LIST_MODELS, request, pb.ListModelsResponse)
        models += page.models
        token = page.next_page_token
        if not token:
            return models
