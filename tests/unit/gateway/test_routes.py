"""The table of public methods agrees with the contracts."""

from mlxmesh.model.v1 import model_pb2
from mlxmesh_gateway.routes import BACKENDS, public_routes

INTERNAL = {
    "/mlxmesh.model.v1.ModelService/GetTokenizer",
    "/mlxmesh.generation.v1.GenerationService/ResumeGeneration",
}


def test_every_method_of_a_public_service_is_public_or_known_to_be_internal() -> None:
    in_contracts = {
        f"/{service.full_name}/{method.name}"
        for service in BACKENDS.values()
        for method in service.methods
    }

    assert {route.path for route in public_routes()} == in_contracts - INTERNAL


def test_a_route_knows_its_request_and_where_it_goes() -> None:
    (route,) = (route for route in public_routes() if route.path.endswith("/LoadModel"))

    assert route.backend == "model"
    assert route.request_class is model_pb2.LoadModelRequest
    assert route.streams
    assert route.policy.lasting


def test_what_changes_the_catalogue_is_never_done_twice() -> None:
    safe = {route.path.rpartition("/")[2] for route in public_routes() if route.policy.safe}

    assert safe == {
        "AttachGeneration",
        "CancelGeneration",
        "Complete",
        "CountTokens",
        "Generate",
        "GetModel",
        "ListModels",
        "WatchModels",
    }
