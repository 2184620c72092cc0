"""The table of public methods agrees with the contracts."""

from mlxmesh.artifact.v1 import transfer_pb2
from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.model.v1 import model_pb2
from mlxmesh.runtime.v1 import runtime_pb2
from mlxmesh_gateway.forwarding.routes import PUBLIC_SERVICES, public_routes
from mlxmesh_shared.tls.method_access import declared_rules


def test_public_is_what_the_contracts_open_to_a_role_at_the_gateway() -> None:
    services = [
        *engine_pb2.DESCRIPTOR.services_by_name.values(),
        *transfer_pb2.DESCRIPTOR.services_by_name.values(),
        *runtime_pb2.DESCRIPTOR.services_by_name.values(),
        *PUBLIC_SERVICES,
    ]
    opened = {
        path
        for service in services
        for path, rules in declared_rules(service)
        if rules.gateway_roles or rules.gateway_open
    }

    assert {route.path for route in public_routes()} == opened


def test_a_route_knows_its_request_and_where_it_goes() -> None:
    (route,) = (route for route in public_routes() if route.path.endswith("/LoadModel"))

    assert route.backend == "model"
    assert route.request_class is model_pb2.LoadModelRequest
    assert route.streams
    assert route.policy.lasting


def test_what_changes_something_is_never_done_twice() -> None:
    safe = {route.path.rpartition("/")[2] for route in public_routes() if route.policy.safe}

    assert safe == {
        "GetSignInOptions",
        "GetUser",
        "ListAuditEntries",
        "ListKeys",
        "ListQuotas",
        "ListUsers",
        "QueryUsage",
        "AppendFile",
        "FinishFile",
        "GetFile",
        "ListFiles",
        "ReadFile",
        "CancelJob",
        "GetJob",
        "GetQueue",
        "ListJobs",
        "ListQueues",
        "ListWorkers",
        "ListServers",
        "ListToolCalls",
        "ListTools",
        "ReadBatch",
        "WatchJob",
        "WatchJobs",
        "AnalyzeExperiment",
        "GetAdapter",
        "ListAdapters",
        "GetEnsemble",
        "GetExperiment",
        "GetHubModel",
        "ListDownloads",
        "SearchHub",
        "WatchDownloads",
        "GetModelHistory",
        "GetProfile",
        "GetRollout",
        "GetShadowReport",
        "ListArtifacts",
        "ListEnsembles",
        "ListExperiments",
        "ListProfiles",
        "ListRollouts",
        "ListShadows",
        "AttachGeneration",
        "CancelGeneration",
        "Complete",
        "CountTokens",
        "Embed",
        "Generate",
        "GetGeneration",
        "GetModel",
        "GetOutputFormat",
        "ListModels",
        "Rerank",
        "WatchExperiment",
        "WatchModels",
        "WatchRollout",
    }
