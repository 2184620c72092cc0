"""The steps of a public call, without a transport."""

from typing import Any

import pytest

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_gateway.door.call import Incoming, PublicCall
from mlxmesh_gateway.door.limits import Deadlines, Metadata
from mlxmesh_gateway.door.principal import Principal, authenticate
from mlxmesh_gateway.door.routes import BACKENDS, GENERATION, public_routes
from mlxmesh_gateway.door.steps import CallPreparation, admit, authorize
from mlxmesh_shared.errors import (
    InvalidArgument,
    MalformedMessage,
    MethodNotFound,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
)
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from mlxmesh_shared.rpc.requests import RequestParser
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.tls.identity import PeerIdentity
from mlxmesh_shared.tls.method_access import MethodAccess

SERVICE = "/mlxmesh.generation.v1.GenerationService/"
ROUTES = {route.path: route for route in public_routes()}
PEER = "ipv4:10.0.0.7:5000"


def principal(role: str = "", claim: str = "a") -> Principal:
    identity = PeerIdentity(
        f"spiffe://mlxmesh/{role}" if role else "",
        Role.Value(f"ROLE_{role.upper()}") if role else Role.ROLE_UNSPECIFIED,
    )
    return authenticate(identity, [("mlxmesh-caller", claim)], peer=PEER)


async def prepare(
    request: Any,
    method: str = "Generate",
    metadata: Metadata = (),
    remaining_s: float | None = None,
) -> PublicCall:
    parser = RequestParser(Validator.for_services(*BACKENDS.values()))
    encoded = request if isinstance(request, bytes) else request.SerializeToString()
    incoming = Incoming(
        route=ROUTES[SERVICE + method],
        request=encoded,
        principal=principal(),
        metadata=metadata,
        remaining_s=remaining_s,
    )
    return await CallPreparation(parser, Deadlines(default_s=300, max_s=3600)).prepare(incoming)


def generate(**fields: Any) -> g.GenerateRequest:
    return g.GenerateRequest(model="pocket", prompt="a", **fields)


def test_authorize_checks_the_roles_that_the_contract_declares() -> None:
    access = MethodAccess([GENERATION], at_gateway=True)

    def check(caller: Principal, method: str = "Generate") -> None:
        authorize(access, SERVICE + method, caller, peer=lambda: PEER)

    check(principal("client"))
    with pytest.raises(PermissionDenied, match="the role engine"):
        check(principal("engine"))
    with pytest.raises(Unauthenticated):
        check(principal())
    with pytest.raises(MethodNotFound):
        check(principal("client"), "NoSuchMethod")


def test_a_mesh_without_certificates_authorizes_every_principal() -> None:
    authorize(None, SERVICE + "Generate", principal(), peer=lambda: PEER)


def test_admit_counts_slots_by_the_id_of_the_principal() -> None:
    limiter = ConcurrencyLimiter(2, per_caller=1)
    refused: list[int] = []
    with admit(limiter, principal(claim="a"), on_refused=refused.append):
        with (
            pytest.raises(TooManyRequests) as error,
            admit(limiter, principal("client", claim="a"), on_refused=refused.append),
        ):
            pytest.fail("a caller has one slot")
        assert error.value.retry_delay_s
        assert limiter.held == 1
    assert (refused, limiter.held) == ([1], 0)


def test_a_slot_is_released_when_the_call_fails() -> None:
    limiter = ConcurrencyLimiter(1)
    with pytest.raises(ValueError, match="failed"), admit(limiter, principal()):
        raise ValueError("failed")
    assert limiter.held == 0


async def test_a_prepared_call_has_what_its_relay_needs() -> None:
    request = generate(request_id="id")
    call = await prepare(request, metadata=(("x-request-id", "x"), ("authorization", "secret")))
    assert (call.method, call.request) == (SERVICE + "Generate", request.SerializeToString())
    assert call.size_bytes == len(call.request)
    assert (call.request_id, call.key, call.hedge_after_s) == ("id", "#a id", None)
    assert call.metadata == (
        ("x-request-id", "x"),
        ("mlxmesh-caller", "a"),
        ("mlxmesh-owner", "#a"),
    )


async def test_only_a_request_id_makes_a_key() -> None:
    assert (await prepare(generate())).key == ""
    attach = g.AttachGenerationRequest(request_id="id")
    cancel = g.CancelGenerationRequest(request_id="id")
    # The same key as Generate, so that the same instance comes first.
    assert (await prepare(attach, "AttachGeneration")).key == "#a id"
    assert (await prepare(cancel, "CancelGeneration")).key == "#a id"


@pytest.mark.parametrize(
    ("remaining_s", "most_s"), [(None, 300.0), (2.0, 2.0), (9999.0, 3600.0), (-1.0, 0.0)]
)
async def test_the_deadline_is_set_within_the_limits(
    remaining_s: float | None, most_s: float
) -> None:
    call = await prepare(generate(), remaining_s=remaining_s)
    assert max(0.0, most_s - 60) <= call.remaining_s() <= most_s


async def test_rules_are_checked_before_anything_is_relayed() -> None:
    with pytest.raises(InvalidArgument, match="model"):
        await prepare(g.GenerateRequest(prompt="a"))
    with pytest.raises(MalformedMessage):
        await prepare(b"\xff")


async def test_a_second_attempt_is_read_from_metadata_and_excludes_a_request_id() -> None:
    hedged = (("mlxmesh-hedge-ms", "50"),)
    assert (await prepare(generate(), metadata=hedged)).hedge_after_s == 0.05
    with pytest.raises(InvalidArgument, match="request_id") as error:
        await prepare(generate(request_id="id"), metadata=hedged)
    assert error.value.field == "mlxmesh-hedge-ms"
