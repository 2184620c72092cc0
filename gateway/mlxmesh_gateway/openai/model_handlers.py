"""GET /v1/models and /v1/models/{model}."""

from __future__ import annotations

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.model_handlers import GET_MODEL, every_model
from mlxmesh_gateway.openai.convert import model_object, model_objects


async def list_models(exchange: Exchange) -> None:
    """Every model that the catalogue has, and its aliases."""
    models = await every_model(exchange.calls)
    data = [one for model in models for one in model_objects(model)]
    await exchange.respond(200, {"object": "list", "data": data})


async def get_model(exchange: Exchange) -> None:
    """One model, by its name, or by the reference of a version or an alias."""
    reference = exchange.path_params["model"]
    request = pb.GetModelRequest(model=reference)
    response = await exchange.calls.unary(GET_MODEL, request, pb.GetModelResponse)
    await exchange.respond(200, model_object(response.model, reference))
