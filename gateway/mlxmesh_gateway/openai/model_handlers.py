"""GET /v1/models and /v1/models/{model}."""

from __future__ import annotations

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.openai.convert import model_object

LIST_MODELS = "/mlxmesh.model.v1.ModelService/ListModels"
GET_MODEL = "/mlxmesh.model.v1.ModelService/GetModel"
_PAGE_SIZE = 1000


async def list_models(exchange: Exchange) -> None:
    """Every model that the catalogue has."""
    models: list[pb.Model] = []
    token = ""
    while True:
        request = pb.ListModelsRequest(page_size=_PAGE_SIZE, page_token=token)
        page = await exchange.calls.unary(LIST_MODELS, request, pb.ListModelsResponse)
        models += page.models
        token = page.next_page_token
        if not token:
            break
    await exchange.respond(200, {"object": "list", "data": [model_object(one) for one in models]})


async def get_model(exchange: Exchange) -> None:
    """One model."""
    request = pb.GetModelRequest(model=exchange.path_params["model"])
    response = await exchange.calls.unary(GET_MODEL, request, pb.GetModelResponse)
    await exchange.respond(200, model_object(response.model))
