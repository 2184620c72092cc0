"""Every port of a running mesh against every role, and against whoever has no right to connect.

Each method of each contract is called at each port. The message is no protobuf, so that a call that
is let in ends as INVALID_ARGUMENT and changes nothing.
"""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import Callable, Iterator
from importlib import import_module, resources
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc import aio

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_gateway.otlp.messages import SERVICES as OTLP
from mlxmesh_launcher.authority import Authority
from mlxmesh_shared.errors import (
    Internal,
    InvalidArgument,
    MethodNotFound,
    PermissionDenied,
    ServiceUnavailable,
    Unauthenticated,
)
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel
from mlxmesh_shared.tls import CertificateFiles, CertificateSource
from mlxmesh_shared.tls.identity import ROLES
from mlxmesh_shared.tls.method_access import declared_rules
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh
from tests.fakes.certificates import expired, issue_all

NO_PROTOBUF = b"\xff\xff"
(
    ACCESS,
    GENERATION,
    MODEL,
    RUNTIME,
    ENGINE,
    TELEMETRY,
    LIVE,
    SYSTEM,
    CONTROL,
    PROCESS,
    LAUNCHER,
    HOSTS,
) = (
    f"mlxmesh.{package}.v1.{name}Service"
    for package, name in (
        ("access", "Access"),
        ("generation", "Generation"),
        ("model", "Model"),
        ("runtime", "Runtime"),
        ("engine", "Engine"),
        ("telemetry", "Telemetry"),
        ("telemetry", "Live"),
        ("telemetry", "System"),
        ("control", "Control"),
        ("control", "Process"),
        ("control", "Launcher"),
        ("control", "Host"),
    )
)
TRANSFER = "mlxmesh.artifact.v1.TransferService"
# What the model service serves beside the catalogue.
TOPICS = {
    f"mlxmesh.model.v1.{name}Service"
    for name in (
        "Adapter",
        "Artifact",
        "Ensemble",
        "Experiment",
        "History",
        "Hub",
        "Profile",
        "Rollout",
        "Shadow",
    )
}
EMBEDDING = "mlxmesh.generation.v1.EmbeddingService"
INFERENCE = "inference.GRPCInferenceService"
JOBS = {"mlxmesh.job.v1.JobService", "mlxmesh.job.v1.FileService"}
TOOLS = "mlxmesh.tool.v1.ToolService"
TRANSLATION = "mlxmesh.job.v1.TranslationService"
OTLP_NAMES = {service.name for service in OTLP.values()}
SERVED = {
    "gateway": {
        ACCESS,
        GENERATION,
        EMBEDDING,
        MODEL,
        *TOPICS,
        *JOBS,
        TOOLS,
        TELEMETRY,
        LIVE,
        SYSTEM,
        CONTROL,
        PROCESS,
        INFERENCE,
        TRANSLATION,
        *OTLP_NAMES,
    },
    "generation": {GENERATION, EMBEDDING, TELEMETRY, CONTROL, PROCESS},
    "model": {MODEL, *TOPICS, TRANSFER, CONTROL, PROCESS},
    "runtime": {RUNTIME, TRANSFER, CONTROL, PROCESS},
    "engine": {ENGINE, CONTROL, PROCESS},
    "launcher": {LAUNCHER, HOSTS, CONTROL},
}
"""What answers at each port."""
SHOWS = {port: port for port in SERVED} | {"launcher": "runtime"}
"""The role of the certificate that each port shows."""


class Method(NamedTuple):
    """A method of a contract, and the roles that may call it."""

    path: str
    service: str
    descriptor: MethodDescriptor
    at_gateway: frozenset[str]
    open_at_gateway: bool
    elsewhere: frozenset[str]


def words(numbers: Iterator[Role.ValueType]) -> frozenset[str]:
    return frozenset(Role.Name(number).removeprefix("ROLE_").lower() for number in numbers)


def every_method() -> list[Method]:
    """Those of every contract that the package has, OpenTelemetry's too."""
    encoded = resources.files("mlxmesh").joinpath("descriptors.binpb").read_bytes()
    names = sorted(OTLP_NAMES)
    for file in FileDescriptorSet.FromString(encoded).file:
        if file.name.startswith("mlxmesh/"):
            import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
            names += [f"{file.package}.{service.name}" for service in file.service]
    services = [descriptor_pool.Default().FindServiceByName(name) for name in names]
    return [
        Method(
            path,
            service.full_name,
            service.methods_by_name[path.rpartition("/")[2]],
            words(iter(rules.gateway_roles)),
            rules.gateway_open,
            words(iter(rules.allowed_roles)),
        )
        for service in services
        for path, rules in declared_rules(service)
    ]


METHODS = every_method()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    running = start_mesh(tmp_path_factory.mktemp("tls"), "--tls", "--http-port", "0")
    yield running
    stop_mesh(running)


@pytest.fixture(scope="module")
def ports(mesh: RunningMesh) -> dict[str, str]:
    """host:port of each gRPC port."""
    record = json.loads((mesh.data_dir / "launcher.json").read_text())
    rows = mesh.status()["instances"]
    return {row["service"]: row["address"] for row in rows} | {"launcher": record["control"]}


async def outcome(channel: aio.Channel, method: Method) -> str:
    """What comes of a call: allowed, refused, or absent."""
    while True:
        try:
            return await _outcome(channel, method)
        except Internal:
            # gRPC's client says INTERNAL when it is told the end of a call while it still sends.
            assert method.descriptor.client_streaming


async def _outcome(channel: aio.Channel, method: Method) -> str:
    if method.descriptor.client_streaming:
        call = channel.stream_stream(method.path)(iter([NO_PROTOBUF]), timeout=60)
    else:
        call = channel.unary_stream(method.path)(NO_PROTOBUF, timeout=60)
    try:
        async for _ in call:
            pass
    except InvalidArgument:
        return "allowed"
    except (PermissionDenied, Unauthenticated):
        return "refused"
    except MethodNotFound:
        return "absent"
    return "answered"


def expected(port: str, method: Method, role: str) -> str:
    allowed = method.at_gateway if port == "gateway" else method.elsewhere
    if port == "gateway" and method.open_at_gateway:
        return "allowed"
    # A gateway does not have the methods of its services that it relays for nobody.
    relayed = bool(allowed) or port != "gateway"
    if method.service not in SERVED[port] or not relayed:
        return "absent"
    return "allowed" if role in allowed else "refused"


@pytest.mark.parametrize("role", [*ROLES, "consul"])
async def test_a_role_may_call_at_each_port_what_the_contract_lists_it_for(
    mesh: RunningMesh, ports: dict[str, str], role: str
) -> None:
    tls_dir = mesh.data_dir / "tls"
    if role == "consul":
        Authority(tls_dir).issue("consul")
    certificates = CertificateSource(CertificateFiles.of_role(tls_dir, role))
    found: dict[tuple[str, str], str] = {}
    for port, address in ports.items():
        async with open_channel(
            address, role=SHOWS[port], certificates=certificates, timeouts=LONG_TIMEOUTS
        ) as channel:
            for method in METHODS:
                found[port, method.path] = await outcome(channel, method)

    assert set(ports) == set(SERVED)
    assert found == {
        (port, method.path): expected(port, method, role) for port in SERVED for method in METHODS
    }


def test_clients_call_only_the_gateway_and_admins_change_nothing_behind_it() -> None:
    """As the contracts state; but an admin may start and stop processes."""
    # A host that joins has no certificate yet; its server is none of the mesh's ports.
    of_clients = {method.path for method in METHODS if "client" in method.elsewhere}
    assert of_clients == {"/mlxmesh.control.v1.JoinService/Join"}
    names = {method.descriptor.name for method in METHODS if "admin" in method.elsewhere}
    changing = {name for name in names if not name.startswith(("Get", "List", "Watch"))}
    invitations = {"CreateInvitation", "RevokeInvitation", "RemoveHost"}
    assert changing == {"Drain", "Restart", "StartService"} | invitations


def foreign(tls_dir: Path, work: Path) -> CertificateFiles:
    issue_all(work / "foreign")
    files = CertificateFiles.of_role(work / "foreign", "admin")
    return CertificateFiles(tls_dir / "ca.crt", files.certificate, files.key)


Intruder = Callable[[Path, Path], CertificateFiles | None]
INTRUDERS: dict[str, Intruder] = {
    "in the clear": lambda _tls, _work: None,
    "without a certificate": lambda tls, _work: CertificateFiles(tls / "ca.crt"),
    "with one that has expired": lambda _tls, work: expired(work, "admin"),
    "of another authority": foreign,
}


@pytest.fixture(params=INTRUDERS)
def intruder(
    request: pytest.FixtureRequest, mesh: RunningMesh, tmp_path: Path
) -> CertificateFiles | None:
    """The files of somebody who has no right to connect."""
    work = tmp_path / "tls"
    shutil.copytree(mesh.data_dir / "tls", work)
    return INTRUDERS[request.param](mesh.data_dir / "tls", work)


async def test_an_intruder_gets_no_connection_at_any_grpc_port(
    ports: dict[str, str], intruder: CertificateFiles | None
) -> None:
    certificates = CertificateSource(intruder) if intruder is not None else None
    for port, address in ports.items():
        role = SHOWS[port] if certificates is not None else ""
        async with open_channel(address, role=role, certificates=certificates) as channel:
            # Health is open to every certificate of the mesh, so this is about the connection.
            with pytest.raises(ServiceUnavailable):
                await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60)


async def test_an_intruder_gets_no_answer_at_the_http_port(
    mesh: RunningMesh, intruder: CertificateFiles | None
) -> None:
    record = json.loads((mesh.data_dir / "launcher.json").read_text())
    scheme = "http" if intruder is None else "https"
    async with httpx2.AsyncClient(verify=context_of(intruder)) as client:
        for page in ("/metrics", "/healthz"):
            with pytest.raises(httpx2.TransportError):
                await client.get(f"{scheme}://{record['http']}{page}")

    admin = mesh.tls("admin")
    async with httpx2.AsyncClient(verify=context_of(admin)) as client:
        assert (await client.get(f"https://{record['http']}/healthz")).status_code == 200


def context_of(files: CertificateFiles | None) -> ssl.SSLContext | bool:
    if files is None:
        return True
    context = ssl.create_default_context(cafile=files.ca)
    if files.certificate is not None:
        context.load_cert_chain(files.certificate, files.key)
    return context
