"""An access service with real SQL and real gRPC in this process, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import access_pb2_grpc, policy_pb2_grpc
from mlxmesh_access.assembly import SERVICE_NAMES, Access, open_access
from mlxmesh_access.schema import ACCESS
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import AccessSettings
from mlxmesh_shared.sql.schema import Schema
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.clock import FakeClock
from tests.fakes.databases import sqlite_with_tables
from tests.fakes.sign_in_rig import CHEAP

PASSWORD = "correct horse battery"  # a fake one


def url_text(url: DatabaseUrl) -> str:
    """A database as a setting names it."""
    return f"sqlite:///{url.path}" if isinstance(url, SqliteFile) else str(url)


class Client:
    """Calls methods as a gateway would for one caller."""

    def __init__(
        self, stub: Any, *, principal: str, role: str, user: str = "", authentication: str = ""
    ) -> None:
        self._stub = stub
        self._metadata = (
            ("mlxmesh-owner", principal),
            ("mlxmesh-role", role),
            ("mlxmesh-user", user),
            ("mlxmesh-authentication", authentication),
        )

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """The method of the stub: takes the fields of its request, raises a MeshError."""
        request_class = getattr(pb, f"{method}Request")

        async def call(**fields: Any) -> Any:
            request = request_class(**fields)
            return await getattr(self._stub, method)(request, metadata=self._metadata)

        return call


class Service:
    """A running access service; a test may stop it and start another on the same database."""

    def __init__(self, access: Access, address: str, clock: FakeClock, channel: Any) -> None:
        self.access = access
        self.address = address
        self.clock = clock
        self.stub = access_pb2_grpc.AccessServiceStub(channel)
        self.policies = policy_pb2_grpc.PolicyServiceStub(channel)
        self.admin = Client(self.stub, principal="spiffe://mlxmesh/admin", role="admin")
        self.nobody = Client(self.stub, principal="anonymous", role="")
        self.anonymous_admin = Client(self.stub, principal="#", role="admin")
        self.anonymous_admin_of_open_gateway = Client(
            self.stub, principal="#", role="admin", authentication="off"
        )

    def user(self, name: str, *, key_id: str = "", admin: bool = False) -> Client:
        """A user, by a session or by a key."""
        principal = f"key:{key_id}" if key_id else f"user:{name}"
        role = "admin" if admin else "client"
        return Client(self.stub, principal=principal, role=role, user=name)

    def certificate(self, principal: str) -> Client:
        """A client with a certificate, which is no user."""
        return Client(self.stub, principal=principal, role="client")

    async def add_users(self, *names: str, **fields: Any) -> None:
        """Adds an admin, if there is no user yet, and members."""
        if not (await self.admin.ListUsers(page_size=1)).users:
            await self.admin.CreateUser(name="root", password=PASSWORD, role=pb.ACCESS_ROLE_ADMIN)
        for name in names:
            await self.admin.CreateUser(name=name, password=PASSWORD, **fields)

    async def add_key(self, user: str, **fields: Any) -> pb.CreateKeyResponse:
        """Adds a key of a user."""
        return await self.admin.CreateKey(name="a key", user=user, **fields)


class Services:
    """Starts services on one database."""

    def __init__(self, stack: AsyncExitStack, url: DatabaseUrl, tmp_path: Path) -> None:
        self.url = url
        self.clock = FakeClock()
        self._stack = stack
        self._tmp_path = tmp_path

    async def start(self, **settings: Any) -> tuple[Service, Callable[[], Any]]:
        """A service, and what stops it."""
        stack = AsyncExitStack()
        self._stack.push_async_callback(stack.aclose)
        chosen = AccessSettings(
            data_dir=self._tmp_path, database_url=url_text(self.url), **settings
        )
        access = await open_access(stack, chosen, clock=self.clock, password_cost=CHEAP)
        server = MeshServer(services=access.services(), service_names=SERVICE_NAMES)
        address = await server.start()
        stack.push_async_callback(server.drain, 0, 0)
        channel = await stack.enter_async_context(open_channel(address))
        return Service(access, address, self.clock, channel), stack.aclose


@pytest.fixture
def schema() -> Schema:
    return ACCESS


@pytest.fixture
async def services(database: DatabaseUrl, tmp_path: Path) -> AsyncGenerator[Services]:
    async with AsyncExitStack() as stack:
        yield Services(stack, database, tmp_path)


@pytest.fixture
async def service(services: Services) -> Service:
    service, _ = await services.start()
    return service


@pytest.fixture
async def sqlite_service(tmp_path: Path) -> AsyncGenerator[Service]:
    """A service where the kind of database does not matter."""
    async with AsyncExitStack() as stack:
        services = Services(stack, sqlite_with_tables(tmp_path / "access.db", ACCESS), tmp_path)
        service, _ = await services.start()
        yield service


def names(found: Sequence[Any], attribute: str = "name") -> list[str]:
    """One attribute of each."""
    return [getattr(one, attribute) for one in found]
