"""The OpenAPI document: every route is in it, and the application behaves as it says."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from starlette.routing import Route
from starlette.testclient import TestClient

from mlxmesh_gateway.forwarding.routes import public_routes
from mlxmesh_gateway.http.endpoint import Endpoint
from tests.fakes.http_edges import edges_app

APP = edges_app()
METHOD = "^/mlxmesh"
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


def test_every_route_of_an_edge_is_in_the_document_and_has_a_summary() -> None:
    document = TestClient(APP).get("/openapi.json").json()
    for route in APP.routes:
        if isinstance(route, Route) and isinstance(route.endpoint, Endpoint):
            path = route.path.replace(":path}", "}")
            for verb in (route.methods or set()) - {"HEAD"}:
                assert document["paths"][path][verb.lower()]["summary"], (verb, path)


def test_every_public_method_is_in_the_document() -> None:
    document = TestClient(APP).get("/openapi.json").json()
    for route in public_routes():
        assert set(document["paths"][route.path]) >= {"post"}
    schemas = document["components"]["schemas"]
    sampling = schemas["mlxmesh.common.v1.Sampling"]["properties"]
    assert (sampling["temperature"]["minimum"], sampling["temperature"]["maximum"]) == (0, 10)
    assert sampling["seed"]["type"] == "string"


@schema.exclude(path_regex=METHOD).parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_sent_no_route_fails(case: schemathesis.Case) -> None:
    response = case.call()
    if response.status_code != 501:
        case.validate_response(response, checks=[not_a_server_error])
