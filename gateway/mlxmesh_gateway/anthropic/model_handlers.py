"""GET /v1/models and /v1/models/{model}."""

from __future__ import annotations

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh_gateway.anthropic.convert import model_object, references
from mlxmesh_gateway.anthropic.headers import check_headers
from mlxmesh_gateway.anthropic.paging import page_of, read_query
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.model_handlers import GET_MODEL, every_model


async def list_models(exchange: Exchange) -> None:
    """A page of the models and aliases that the catalogue has, by name."""
    check_headers(exchange)
    query, unknown = read_query(exchange.query)
    exchange.tell_ignored(unknown)
    models = {
        reference: model
        for model in await every_model(exchange.calls)
        for reference in references(model)
    }
    page = page_of(sorted(models), query)
    await exchange.respond(
        200,
        {
            "data": [model_object(models[one], one) for one in page.ids],
            "has_more": page.has_more,
            "first_id": page.ids[0] if page.ids else None,
            "last_id": page.ids[-1] if page.ids else None,
        },
    )


async def get_model(exchange: Exchange) -> None:
    """One model, by its name, or by the reference of a version or an alias."""
    check_headers(exchange)
    reference = exchange.path_params["model"]
    request = pb.GetModelRequest(model=reference)
    response = await exchange.calls.unary(GET_MODEL, request, pb.GetModelResponse)
    await exchange.respond(200, model_object(response.model, reference))
