"""The door without a transport: what a public call passes, and which instance it reaches."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc import aio
from opentelemetry import trace
from opentelemetry.context import attach, detach

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.job.v1.job_pb2 import (
    BatchWork,
    GetQueueRequest,
    SubmitJobRequest,
    SubmitJobsRequest,
)
from mlxmesh.model.v1.adapter_pb2 import Adapter, GetAdapterRequest, ListAdaptersResponse
from mlxmesh.model.v1.history_pb2 import GetModelHistoryRequest
from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.door.convert import check_models, without_others
from mlxmesh_gateway.door.door import Door
from mlxmesh_gateway.door.limits import Deadlines
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_gateway.forwarding.backends import Backends
from mlxmesh_gateway.forwarding.forwarder import Forwarder
from mlxmesh_gateway.forwarding.routes import GENERATION, PUBLIC_SERVICES, Route, public_routes
from mlxmesh_gateway.forwarding.traffic import GatewayTraffic
from mlxmesh_shared.errors import (
    Cancelled,
    InvalidArgument,
    MalformedMessage,
    MeshError,
    MethodNotFound,
    ModelNotAllowed,
    ModelNotFound,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
    Unauthenticated,
)
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.channels import SHORT_TIMEOUTS, PeerTimeouts
from mlxmesh_shared.rpc.requests import RequestParser
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.telemetry.sdk import Recorder
from mlxmesh_shared.tls.identity import PeerIdentity
from mlxmesh_shared.tls.method_access import MethodAccess
from tests.fakes.registry import InMemoryRegistry

SERVICE = "/mlxmesh.generation.v1.GenerationService/"
ROUTES = {route.path.removeprefix(SERVICE): route for route in public_routes()}
ANYBODY = Principal(
    kind=Kind.ANONYMOUS,
    identity="",
    role=Role.ROLE_UNSPECIFIED,
    claimed_name="a",
    host="10.0.0.7",
)
COUNT = g.CountTokensRequest(model="pocket", prompt="a")
ATTACH_AND_CANCEL = [
    ("AttachGeneration", g.AttachGenerationRequest),
    ("CancelGeneration", g.CancelGenerationRequest),
]


class FakeMesh:
    """Three instances that respond with their address, unless a test set an error for it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.options: list[dict[str, Any]] = []
        self.errors: dict[str, MeshError] = {}

    def open(
        self,
        address: str,
        *,
        role: str = "",
        window_bytes: int | None = None,
        timeouts: PeerTimeouts = SHORT_TIMEOUTS,
    ) -> Any:
        return FakeChannel(self, address)

    def respond(self, address: str, options: dict[str, Any]) -> bytes:
        self.asked.append(address)
        self.options.append(options)
        if address in self.errors:
            raise self.errors[address]
        return address.encode()


class FakeChannel:
    def __init__(self, mesh: FakeMesh, address: str) -> None:
        self._mesh, self._address = mesh, address

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.READY

    def unary_unary(self, path: str) -> Any:
        async def call(_request: bytes, **options: Any) -> bytes:
            return self._mesh.respond(self._address, options)

        return call

    def unary_stream(self, path: str) -> Any:
        return lambda _request, **options: FakeStream(self._mesh, self._address, options)

    async def close(self, grace: float | None = None) -> None: ...


class FakeStream:
    """One message, then the end."""

    def __init__(self, mesh: FakeMesh, address: str, options: dict[str, Any]) -> None:
        self._mesh, self._address, self._options = mesh, address, options
        self._ended = False

    async def read(self) -> Any:
        if self._ended:
            return aio.EOF
        self._ended = True
        return self._mesh.respond(self._address, self._options)

    def cancel(self) -> None: ...


class Stand:
    def __init__(self, mesh: FakeMesh, backends: Backends) -> None:
        self.mesh = mesh
        self.backends = backends
        forwarder = Forwarder(backends, resume_wait_s=1.0, traffic=GatewayTraffic())
        parser = RequestParser(Validator.for_services(*PUBLIC_SERVICES))
        self.door = Door(parser=parser, forwarder=forwarder, deadlines=Deadlines(300, 3600))

    def order(self, key: str) -> list[str]:
        return [one.instance.address for one in self.backends.by_key("generation", key)]

    async def serve(
        self,
        method: str,
        request: Any,
        *metadata: tuple[str, str | bytes],
        remaining_s: float | None = None,
        principal: Principal = ANYBODY,
    ) -> list[bytes]:
        written: list[bytes] = []

        async def write(message: bytes) -> None:
            written.append(message)

        call = PublicCall(
            route=ROUTES[method],
            principal=principal,
            request=request if isinstance(request, bytes) else request.SerializeToString(),
            metadata=metadata,
            remaining_s=remaining_s,
            write=write,
        )
        response = await self.door.serve(call)
        return written if response is None else [response]


@asynccontextmanager
async def opened() -> AsyncGenerator[Stand]:
    registry, mesh = InMemoryRegistry(), FakeMesh()
    for number in range(3):
        await registry.register(Instance("generation", f"g-{number}", f"host:{number}", pid=number))

    async def ignore(_service: str, _known: bool) -> None: ...

    backends = Backends(registry, ["generation"], on_change=ignore, open_=mesh.open)
    await backends.start()
    try:
        yield Stand(mesh, backends)
    finally:
        await backends.close()


async def test_the_model_of_a_refused_call_is_not_told() -> None:
    """It is the text of a client, and logs take it from the span."""
    span: Any = Recorder({}).telemetry.tracer.start_span("call")
    token = attach(trace.set_span_in_context(span))
    keyed = replace(ANYBODY, kind=Kind.KEY, identity="key:k_1", models=("qwen*",))
    try:
        async with opened() as stand:
            with pytest.raises(ModelNotAllowed):
                await stand.serve("CountTokens", COUNT, principal=keyed)
    finally:
        detach(token)
    assert dict(span.attributes) == {"mlxmesh.principal": "key:k_1#a"}


@pytest.mark.parametrize("reference", ["pocket", "pocket@2", "pocket:stable", "qwen@1"])
def test_the_history_of_a_model_is_for_those_who_may_use_it(reference: str) -> None:
    keyed = replace(ANYBODY, kind=Kind.KEY, identity="key:k_1", models=("qwen*",))
    route = route_named("GetModelHistory")
    request = GetModelHistoryRequest(model=reference)
    check_models(ANYBODY, route, request)
    if reference.startswith("qwen"):
        check_models(keyed, route, request)
        return
    with pytest.raises(ModelNotAllowed):
        check_models(keyed, route, request)


@pytest.mark.parametrize(
    ("pattern", "fields", "allowed"),
    [
        ("pocket", {"adapter": "french"}, True),
        ("pocket:french", {"adapter": "french"}, True),
        ("pocket:french", {"adapter": "german"}, False),
        ("pocket:french", {}, False),
        ("pocket:french", {"model": "pocket:french"}, True),
        ("pocket:french", {"model": "pocket@1", "adapter": "french"}, False),
        ("other", {"adapter": "french"}, False),
    ],
)
def test_a_key_may_be_limited_to_an_adapter(
    pattern: str, fields: dict[str, str], allowed: bool
) -> None:
    given: dict[str, Any] = {"model": "pocket", **fields}
    generation = g.GenerateRequest(**given)
    calls = [
        ("Generate", generation),
        ("Complete", g.CompleteRequest(generation=generation)),
        ("SubmitJob", SubmitJobRequest(generation=generation)),
    ]
    for method, request in calls:
        if allowed:
            check_models(of_models(pattern), route_named(method), request)
            continue
        with pytest.raises(ModelNotAllowed):
            check_models(of_models(pattern), route_named(method), request)


def test_a_key_sees_only_the_adapters_that_it_may_use() -> None:
    adapters = [Adapter(model=model, name=name) for model in ("a", "b") for name in ("x", "y")]
    encoded = ListAdaptersResponse(adapters=adapters).SerializeToString()

    def seen(*patterns: str) -> list[str]:
        left = without_others(of_models(*patterns), route_named("ListAdapters"), encoded)
        found = ListAdaptersResponse.FromString(left or b"").adapters
        return [f"{each.model}:{each.name}" for each in found]

    assert seen() == ["a:x", "a:y", "b:x", "b:y"]
    assert seen("a") == ["a:x", "a:y"]
    assert seen("b:y") == ["b:y"]
    with pytest.raises(ModelNotFound):
        check_models(of_models("a"), route_named("GetAdapter"), GetAdapterRequest(model="b"))


def route_named(method: str) -> Route:
    [route] = [each for each in public_routes() if each.path.endswith(f"/{method}")]
    return route


def of_models(*models: str) -> Principal:
    return replace(ANYBODY, kind=Kind.KEY, identity="key:k_1", models=models)


@pytest.mark.parametrize("work", ["generation", "embedding"])
def test_the_model_of_a_job_is_checked_before_it_is_stored(work: str) -> None:
    job = SubmitJobRequest()
    getattr(job, work).model = "chat@2"
    both = SubmitJobsRequest(jobs=[SubmitJobRequest(batch=BatchWork(input_file_id="f")), job])
    for request, method in ((job, "SubmitJob"), (both, "SubmitJobs")):
        check_models(of_models("chat"), route_named(method), request)
        with pytest.raises(ModelNotAllowed, match="may use pocket"):
            check_models(of_models("pocket"), route_named(method), request)


def test_the_name_of_a_queue_is_no_model() -> None:
    check_models(of_models("pocket"), route_named("GetQueue"), GetQueueRequest(name="chat"))


def test_the_history_of_an_ensemble_is_for_those_who_may_use_it() -> None:
    request = GetModelHistoryRequest(model="chat")
    check_models(of_models("chat"), route_named("GetModelHistory"), request)
    with pytest.raises(ModelNotAllowed, match="may use pocket"):
        check_models(of_models("pocket"), route_named("GetModelHistory"), request)


async def test_an_ensemble_is_allowed_by_its_own_name() -> None:
    """Its models answer for it, whoever may not call them."""
    request = g.CountTokensRequest(model="chat", prompt="Hi")
    async with opened() as stand:
        assert await stand.serve("CountTokens", request, principal=of_models("chat"))
        with pytest.raises(ModelNotAllowed):
            await stand.serve("CountTokens", request, principal=of_models("pocket"))


async def test_an_illegal_request_reaches_no_instance() -> None:
    async with opened() as stand:
        with pytest.raises(InvalidArgument, match="model"):
            await stand.serve("CountTokens", g.CountTokensRequest(prompt="a"))
        with pytest.raises(MalformedMessage):
            await stand.serve("CountTokens", b"\xff")
    assert stand.mesh.asked == []


async def test_a_service_gets_the_principal_and_no_metadata_that_is_not_listed() -> None:
    sent = (("x-request-id", "x"), ("authorization", "secret"), ("mlxmesh-owner", "forged"))
    async with opened() as stand:
        await stand.serve("CountTokens", COUNT, *sent)
    assert stand.mesh.options[0]["metadata"] == (
        ("x-request-id", "x"),
        ("mlxmesh-caller", "a"),
        ("mlxmesh-owner", "#a"),
        ("mlxmesh-role", "client"),
        ("mlxmesh-user", ""),
        ("mlxmesh-host", "10.0.0.7"),
    )


@pytest.mark.parametrize(
    ("remaining_s", "max_s"), [(None, 300.0), (100.0, 100.0), (9999.0, 3600.0), (-1.0, 0.0)]
)
async def test_a_service_gets_the_deadline_within_the_limits(
    remaining_s: float | None, max_s: float
) -> None:
    async with opened() as stand:
        await stand.serve("CountTokens", COUNT, remaining_s=remaining_s)
    assert max(0.0, max_s - 60) <= stand.mesh.options[0]["timeout"] <= max_s


async def test_a_second_attempt_cannot_be_combined_with_a_request_id() -> None:
    request = g.GenerateRequest(model="pocket", prompt="a", request_id="id")
    async with opened() as stand:
        with pytest.raises(InvalidArgument, match="request_id") as raised:
            await stand.serve("Generate", request, ("mlxmesh-hedge-ms", "50"))
    assert raised.value.field == "mlxmesh-hedge-ms"
    assert stand.mesh.asked == []


async def test_a_call_that_the_instance_cancelled_may_be_retried() -> None:
    async with opened() as stand:
        stand.mesh.errors = {f"host:{number}": Cancelled("cancelled") for number in range(3)}
        with pytest.raises(ServiceUnavailable, match="try again"):
            await stand.serve("CountTokens", COUNT)


async def test_only_the_hashed_instance_is_asked_to_attach_when_it_responds() -> None:
    ids = [f"id-{number}" for number in range(8)]
    requests = [g.AttachGenerationRequest(request_id=one) for one in ids]
    async with opened() as stand:
        hashed = [stand.order(f"#a {one}")[0] for one in ids]
        responses = [await stand.serve("AttachGeneration", one) for one in requests]
    assert stand.mesh.asked == hashed
    assert responses == [[address.encode()] for address in hashed]
    assert len(set(hashed)) > 1


async def test_all_are_asked_to_cancel_and_one_success_suffices() -> None:
    async with opened() as stand:
        order = stand.order("#a id")
        stand.mesh.errors = {order[0]: NotFound("no such generation")}
        request = g.CancelGenerationRequest(request_id="id")
        assert await stand.serve("CancelGeneration", request) == [order[1].encode()]
    assert sorted(stand.mesh.asked) == sorted(order)


@pytest.mark.parametrize(("method", "request_class"), ATTACH_AND_CANCEL)
async def test_the_others_are_asked_when_the_hashed_instance_has_no_such_generation(
    method: str, request_class: Any
) -> None:
    unknown, request = NotFound("no such generation"), request_class(request_id="id")
    async with opened() as stand:
        order = stand.order("#a id")
        stand.mesh.errors = dict.fromkeys(order[:2], unknown)
        assert await stand.serve(method, request) == [order[2].encode()]
        assert stand.mesh.asked[0] == order[0]
        stand.mesh.asked.clear()
        stand.mesh.errors = dict.fromkeys(order, unknown)
        with pytest.raises(NotFound):
            await stand.serve(method, request)
    assert stand.mesh.asked[0] == order[0]
    assert sorted(stand.mesh.asked) == sorted(order)


def test_roles_are_checked_without_a_context_of_grpc() -> None:
    access = MethodAccess([GENERATION], at_gateway=True)

    def check(role: Role.ValueType, method: str = "Generate") -> None:
        access.check_identity(SERVICE + method, PeerIdentity("id", role), lambda: "10.0.0.7")

    check(Role.ROLE_CLIENT)
    with pytest.raises(PermissionDenied, match="the role engine"):
        check(Role.ROLE_ENGINE)
    with pytest.raises(Unauthenticated):
        check(Role.ROLE_UNSPECIFIED)
    with pytest.raises(MethodNotFound):
        check(Role.ROLE_CLIENT, "NoSuchMethod")
