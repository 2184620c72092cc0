"""The public methods, and how each is forwarded. Methods missing here are private."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mlxmesh.access.v1 import access_pb2
from mlxmesh.generation.v1 import embedding_pb2, generation_pb2
from mlxmesh.job.v1 import file_pb2, job_pb2
from mlxmesh.model.v1 import (
    adapter_pb2,
    artifact_pb2,
    ensemble_pb2,
    experiment_pb2,
    history_pb2,
    hub_pb2,
    model_pb2,
    profile_pb2,
    rollout_pb2,
    shadow_pb2,
)
from mlxmesh.tool.v1 import tool_pb2
from mlxmesh_shared.tls.method_access import declared_rules

ACCESS = access_pb2.DESCRIPTOR.services_by_name["AccessService"]
GENERATION = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"]
EMBEDDINGS = embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"]
JOBS = job_pb2.DESCRIPTOR.services_by_name["JobService"]
MODEL = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
TOOLS = tool_pb2.DESCRIPTOR.services_by_name["ToolService"]


@dataclass(frozen=True)
class Policy:
    """How a method may be relayed."""

    safe: bool = False
    """Idempotent: it may be retried at another instance before the first response."""
    lasting: bool = False
    """Runs long: without a deadline of the client it gets the longest one."""
    everywhere: bool = False
    """Only instances that have the generation can do it; after a move these may be several. Of a
    stream, the one that the key names is asked first; else all are asked at once.
    """
    hedged: bool = False
    """The client may request a second attempt beside a slow first one."""
    key: Callable[[Any], str] = lambda _: ""
    """From a request: what calls have in common that must meet at one instance."""


@dataclass(frozen=True)
class Route:
    """One public method."""

    path: str
    """As on the wire: /package.Service/Method."""
    backend: str
    """The registry's name of the service that does the work."""
    request_class: type[Message]
    streams: bool
    policy: Policy


_GENERATION: Mapping[str, Policy] = {
    "Generate": Policy(safe=True, hedged=True, key=lambda request: request.request_id),
    "Complete": Policy(safe=True, hedged=True, key=lambda request: request.generation.request_id),
    "AttachGeneration": Policy(safe=True, everywhere=True, key=lambda request: request.request_id),
    "GetGeneration": Policy(safe=True, everywhere=True, key=lambda request: request.request_id),
    "CancelGeneration": Policy(safe=True, everywhere=True, key=lambda request: request.request_id),
    "CountTokens": Policy(safe=True, hedged=True),
    "GetOutputFormat": Policy(safe=True),
}
_EMBEDDINGS: Mapping[str, Policy] = {
    "Embed": Policy(safe=True, hedged=True),
    "Rerank": Policy(safe=True, hedged=True),
}
_MODEL: Mapping[str, Policy] = {
    "PullModel": Policy(lasting=True),
    "RegisterModel": Policy(),
    "RegisterUpstream": Policy(),
    "ImportModel": Policy(lasting=True),
    "GetModel": Policy(safe=True),
    "ListModels": Policy(safe=True),
    "DeleteModel": Policy(),
    "LoadModel": Policy(lasting=True),
    "UnloadModel": Policy(),
    "SetAlias": Policy(),
    "SetModelPolicy": Policy(),
    "SetOutputFormat": Policy(),
    "WatchModels": Policy(safe=True, lasting=True),
}
# Services whose methods' names tell how they are relayed.
_BY_NAME = (
    ("access", ACCESS),
    ("jobs", JOBS),
    ("jobs", file_pb2.DESCRIPTOR.services_by_name["FileService"]),
    ("model", adapter_pb2.DESCRIPTOR.services_by_name["AdapterService"]),
    ("model", artifact_pb2.DESCRIPTOR.services_by_name["ArtifactService"]),
    ("model", ensemble_pb2.DESCRIPTOR.services_by_name["EnsembleService"]),
    ("model", experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"]),
    ("model", history_pb2.DESCRIPTOR.services_by_name["HistoryService"]),
    ("model", hub_pb2.DESCRIPTOR.services_by_name["HubService"]),
    ("model", profile_pb2.DESCRIPTOR.services_by_name["ProfileService"]),
    ("model", rollout_pb2.DESCRIPTOR.services_by_name["RolloutService"]),
    ("model", shadow_pb2.DESCRIPTOR.services_by_name["ShadowService"]),
    ("tools", TOOLS),
)
_SAFE = (
    *("Get", "List", "Query", "Analyze", "Watch", "Read", "Search"),
    *("AppendFile", "FinishFile", "CancelJob"),
)
_LASTING = ("VerifyArtifacts", "Watch", "ReadBatch", "ReadFile")
BACKENDS: Mapping[str, ServiceDescriptor] = {
    "generation": GENERATION,
    "model": MODEL,
    "access": ACCESS,
    "jobs": JOBS,
    "tools": TOOLS,
}
"""The service by which each backend's health is shown, by the backend's registry name."""
PUBLIC_SERVICES = (GENERATION, EMBEDDINGS, MODEL, *(service for _, service in _BY_NAME))


def public_routes() -> tuple[Route, ...]:
    """Every public method of the mesh."""
    routes = [
        *_routes(GENERATION, "generation", _GENERATION),
        *_routes(EMBEDDINGS, "generation", _EMBEDDINGS),
        *_routes(MODEL, "model", _MODEL),
    ]
    for backend, service in _BY_NAME:
        routes += _routes(service, backend, _policies_by_name(service))
    return tuple(routes)


def _policies_by_name(service: ServiceDescriptor) -> Mapping[str, Policy]:
    """Of the methods that the contract opens at the gateway."""
    public = [
        path.rpartition("/")[2]
        for path, rules in declared_rules(service)
        if rules.gateway_roles or rules.gateway_open
    ]
    return {
        name: Policy(safe=name.startswith(_SAFE), lasting=name.startswith(_LASTING))
        for name in public
    }


def _routes(
    service: ServiceDescriptor, backend: str, policies: Mapping[str, Policy]
) -> Iterator[Route]:
    methods: Iterable[Any] = service.methods
    for method in methods:
        policy = policies.get(method.name)
        if policy is not None:
            yield Route(
                path=f"/{service.full_name}/{method.name}",
                backend=backend,
                request_class=GetMessageClass(method.input_type),
                streams=method.server_streaming,
                policy=policy,
            )
