"""Who may call what: every method and every route has a line in the table, and behaves so."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from starlette.routing import Route

from mlxmesh_gateway.access.authenticator import AccessAuthenticator
from mlxmesh_gateway.access.authorizer import RoleAuthorizer
from mlxmesh_gateway.access.policies import Key, Policies, PolicyChange, User
from mlxmesh_gateway.access.requirement import Requirement
from mlxmesh_gateway.access.watch import PolicyWatch
from mlxmesh_gateway.assembly import services_of_port
from mlxmesh_gateway.door.entrance import Entrance, NoQuotas
from mlxmesh_gateway.door.evidence import Evidence
from mlxmesh_gateway.edges import edge_routes
from mlxmesh_gateway.http.app import create_app
from mlxmesh_gateway.http.door import HttpDoor
from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.http.endpoint import credential_of
from mlxmesh_gateway.http.exchange import UnknownFields
from mlxmesh_gateway.http.served import ServedRequests
from mlxmesh_shared.errors import MethodNotFound, PermissionDenied, Unauthenticated
from mlxmesh_shared.resilience.admission import CallAdmission
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from mlxmesh_shared.tls.identity import NOBODY, ROLES, PeerIdentity, identity_of, spiffe_id
from mlxmesh_shared.tls.method_access import MethodAccess
from tests.fakes.door import FakeDoor
from tests.fakes.policy_service import NoPolicySource

from .conftest import Stand
from .who_may_call import METHODS, PROCESSES, ROUTES, table

MEMBER, ADMIN = "mm_member", "mm_admin"
KEYS = {"client": MEMBER, "admin": ADMIN}
EVERY_METHOD = table(METHODS)
EVERY_ROUTE = table(ROUTES)
SERVED = {path for path, roles in EVERY_METHOD.items() if "nobody" not in roles}


def policies(*, users: bool) -> Policies:
    result = Policies()
    if users:
        keys = tuple(
            Key(
                key_id=f"k_{role}",
                sha256=sha256(secret.encode()).digest(),
                user="ada",
                is_admin=role == "admin",
            )
            for role, secret in KEYS.items()
        )
        ada = User(name="ada", is_admin=True)
        change = PolicyChange(
            revision=1, whole=True, keys=keys, users=(ada,), authentication_required=True
        )
        result.apply(change)
    return result


async def entrance(*, users: bool, tls: bool, listen: str = "127.0.0.1:1") -> Entrance:
    known = policies(users=users)
    watch = PolicyWatch(NoPolicySource(), known)
    await watch.settle()
    requirement = Requirement(
        known, undecided=lambda: watch.is_undecided, setting="auto", listens=[listen], tls=tls
    )
    return Entrance(
        authenticator=AccessAuthenticator(known, watch, requirement),
        access=RoleAuthorizer(MethodAccess(services_of_port(), at_gateway=True), requirement),
        quotas=NoQuotas(),
        admission=CallAdmission(ConcurrencyLimiter(10_000)),
    )


async def may(
    into: Entrance,
    method: str,
    *,
    secret: str = "",
    certificate: PeerIdentity = NOBODY,
    host: str = "10.0.0.7",
) -> bool:
    evidence = Evidence(certificate=certificate, credential=secret, host=host)
    try:
        await into.admit(method, evidence)
    except (PermissionDenied, Unauthenticated, MethodNotFound):
        return False
    return True


def test_every_method_of_the_port_has_a_line() -> None:
    served = {
        f"/{service.full_name}/{method.name}"
        for service in services_of_port()
        for method in service.methods_by_name.values()
    }
    assert set(EVERY_METHOD) == served


@pytest.mark.parametrize("tls", [False, True])
async def test_a_key_may_call_what_its_role_may(tls: bool) -> None:
    into = await entrance(users=True, tls=tls)
    for method, roles in EVERY_METHOD.items():
        assert await may(into, method) == ("open" in roles), method
        for role, secret in KEYS.items():
            allowed = bool({role, "open"} & roles)
            assert await may(into, method, secret=secret) == allowed, (method, role)


@pytest.mark.parametrize("users", [False, True])
@pytest.mark.parametrize("listen", ["127.0.0.1:1", "0.0.0.0:1"])
async def test_a_certificate_may_call_what_its_role_may(users: bool, listen: str) -> None:
    into = await entrance(users=users, tls=True, listen=listen)
    for method, roles in EVERY_METHOD.items():
        assert await may(into, method) == ("open" in roles), method
        for role in ROLES:
            certificate = identity_of(spiffe_id(role))
            allowed = bool({role, "open"} & roles)
            assert await may(into, method, certificate=certificate) == allowed, (method, role)


async def test_on_loopback_without_users_everything_is_open() -> None:
    into = await entrance(users=False, tls=False)
    for method in SERVED:
        assert await may(into, method, host="127.0.0.1"), method
        assert await may(into, method, host="127.0.0.1", secret="sk-any"), method


async def test_beyond_loopback_without_users_only_this_host_is_let_in() -> None:
    into = await entrance(users=False, tls=False, listen="0.0.0.0:1")
    for method in SERVED:
        is_open = "open" in EVERY_METHOD[method]
        assert await may(into, method, host="127.0.0.1"), method
        assert await may(into, method) == is_open, method


async def test_without_tls_this_hosts_processes_may_call_what_only_processes_may() -> None:
    into = await entrance(users=True, tls=False)
    processes = frozenset(PROCESSES.split())
    for method, roles in EVERY_METHOD.items():
        allowed = roles <= processes or "open" in roles
        assert await may(into, method, host="127.0.0.1") == allowed, method


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        yield Stand(stack, tmp_path)


async def test_a_whole_gateway_behaves_so(stand: Any) -> None:
    """Over real connections, with services behind it; all but what would end the gateway."""
    await stand.generation()
    await stand.models()
    access = await stand.access()
    await access.add_user("ada", admin=True)
    await access.add_key(MEMBER)
    await access.add_key(ADMIN, admin=True)
    channel = await stand.channel(await stand.gateway())
    processes = frozenset(PROCESSES.split())
    for method, roles in EVERY_METHOD.items():
        here = {"open"} | (roles if roles <= processes else frozenset())
        for role, secret in {"": "", **KEYS}.items():
            if method.endswith("/Drain") and role in roles:
                continue
            metadata = (("authorization", f"Bearer {secret}"),) if secret else ()
            code = await _code(channel, method, metadata)
            if "nobody" in roles:
                assert code is grpc.StatusCode.UNIMPLEMENTED, method
            else:
                refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
                assert (code not in refused) == bool(roles & (here | {role})), (method, role, code)


async def _code(channel: Any, method: str, metadata: Any) -> grpc.StatusCode:
    """How a call with an empty request begins; streams that stay silent have begun."""
    call = channel.unary_stream(method)(b"", metadata=metadata, timeout=60)
    reading = asyncio.ensure_future(call.read())
    try:
        # A refusal comes no later than this answer, or soon after it.
        await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        async with asyncio.timeout(0.5):
            await asyncio.shield(reading)
            return grpc.StatusCode.OK
    except TimeoutError:
        return grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def app(*, users: bool, tls: bool = False) -> Any:
    into = await entrance(users=users, tls=tls)
    door = HttpDoor(into, FakeDoor(), max_body_bytes=2**20, max_held_bytes=2**24)
    parts = EdgeParts(door=door, served=ServedRequests(), unknown_fields=UnknownFields())

    async def check_reader(request: Any) -> None:
        await door.check_known(
            dict(request.headers),
            credential=credential_of(request.scope),
            certificate=NOBODY,
            host="10.0.0.7",
        )

    async def page(_accept: str) -> tuple[bytes, str]:
        return b"", "text/plain"

    return create_app(page, edge_routes(parts), check_reader=check_reader)


def routes_of(served: Any) -> dict[str, Route]:
    return {
        f"{verb} {route.path}": route
        for route in served.routes
        if isinstance(route, Route)
        for verb in (route.methods or {"GET"}) - {"HEAD"}
    }


async def test_every_route_has_a_line_and_behaves_so() -> None:
    served = await app(users=True)
    assert set(routes_of(served)) == set(EVERY_ROUTE)
    for name, roles in EVERY_ROUTE.items():
        assert await _is_let_in(served, name, "") == ("open" in roles), name
        assert not await _is_let_in(served, name, "mm_wrong") or "open" in roles, name
        for role, secret in KEYS.items():
            allowed = bool({role, "open", "known"} & roles)
            assert await _is_let_in(served, name, secret) == allowed, (name, role)


async def test_without_users_every_route_is_open_on_loopback() -> None:
    served = await app(users=False)
    for name in EVERY_ROUTE:
        assert await _is_let_in(served, name, ""), name
        assert await _is_let_in(served, name, "sk-any"), name


async def _is_let_in(served: Any, name: str, secret: str) -> bool:
    verb, path = name.split()
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    transport = httpx2.ASGITransport(served, client=("10.0.0.7", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://10.0.0.7") as client:
        url = re.sub(r"\{[^}]*\}", "pocket", path)
        body: Any = {"json": {}} if verb == "POST" else {}
        answer = await client.request(verb, url, headers=headers, **body)
    return answer.status_code not in (401, 403, 503, 529)
