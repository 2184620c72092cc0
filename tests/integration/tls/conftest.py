"""Servers of every contract over real mTLS, and an authority for each test."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc import aio

from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.tls import CertificateSource, ServerTls
from tests.fakes.certificates import issue_all, source

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
EXECUTE = "/mlxmesh.engine.v1.EngineService/Execute"
LOAD_MODEL = "/mlxmesh.model.v1.ModelService/LoadModel"
WHO = b"who am I?"
"""Answered by the caller's certificate."""


def all_services() -> list[ServiceDescriptor]:
    """Every service of every contract, whatever is added to them."""
    encoded = resources.files("mlxmesh").joinpath("descriptors.binpb").read_bytes()
    pool = descriptor_pool.Default()
    contracts = [
        file
        for file in FileDescriptorSet.FromString(encoded).file
        if file.name.startswith("mlxmesh/")
    ]
    for file in contracts:
        import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
    return [
        pool.FindServiceByName(f"{file.package}.{service.name}")
        for file in contracts
        for service in file.service
    ]


async def _one(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    yield b"answer"


async def _echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield context.auth_context()["x509_pem_cert"][0] if request == WHO else request


def answering(service: ServiceDescriptor) -> grpc.GenericRpcHandler:
    """Answers every method of a service: with one message, or with each as it came."""
    handlers = {
        method.name: (
            grpc.stream_stream_rpc_method_handler(_echo)
            if method.client_streaming
            else grpc.unary_stream_rpc_method_handler(_one)
        )
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


Serve = Callable[..., Awaitable[MeshServer]]
Connect = Callable[..., Awaitable[aio.Channel]]


@pytest.fixture
def tls_dir(tmp_path: Path) -> Path:
    """An authority, and a certificate of every role."""
    issue_all(tmp_path / "tls")
    return tmp_path / "tls"


@pytest.fixture
async def stack() -> AsyncGenerator[AsyncExitStack, None]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
def serve(stack: AsyncExitStack, tls_dir: Path) -> Serve:
    """Starts a server of every contract, as `role`."""

    async def start(
        role: str = "generation", *, certificates: CertificateSource | None = None, **tls: Any
    ) -> MeshServer:
        services = all_services()
        server = MeshServer(
            services=(),
            service_names=[service.full_name for service in services],
            generic_handlers=[answering(service) for service in services],
            options=ServerOptions(),
            tls=ServerTls(certificates or source(tls_dir, role), **tls),
        )
        await server.start()
        await server.set_serving()
        stack.push_async_callback(server.drain, grace_s=0, settle_s=0)
        return server

    return start


@pytest.fixture
def connect(stack: AsyncExitStack, tls_dir: Path) -> Connect:
    """Opens a channel to a server of the role `to`, as another role."""

    async def open_(
        server: MeshServer,
        role: str = "gateway",
        *,
        to: str = "generation",
        certificates: CertificateSource | None = None,
    ) -> aio.Channel:
        channel = open_channel(
            server.address, role=to, certificates=certificates or source(tls_dir, role)
        )
        return await stack.enter_async_context(channel)

    return open_


async def call(channel: aio.Channel, path: str = GENERATE, request: bytes = b"") -> list[bytes]:
    """All that a method answers. Raises: MeshError."""
    return [message async for message in channel.unary_stream(path)(request, timeout=10)]
