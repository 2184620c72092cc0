"""What a launcher tells of its services that the registry cannot: those that are down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from mlxmesh_cli.mesh.location import SERVICES, settings_flags
from mlxmesh_cli.screen.output import to_dict
from mlxmesh_client import MeshClient
from mlxmesh_launcher.record import read_record
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry import Instance, Registry, open_registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.health import health
from mlxmesh_shared.settings import MeshSettings, load_settings
from mlxmesh_shared.tls import CertificateFiles, CertificateSource

if TYPE_CHECKING:
    from mlxmesh.control.v1.launcher_pb2 import SupervisedService
    from mlxmesh_shared.tls import CertificateSource

TIMEOUT_S = 3.0


async def services_down(
    data_dir: Path, registered_pids: Collection[int], certificates: CertificateSource | None
) -> list[dict[str, Any]]:
    """A row, as of `overview`, for each service of the launcher that is not registered."""
    from mlxmesh.control.v1 import launcher_pb2 as pb
    from mlxmesh.control.v1.launcher_pb2_grpc import LauncherServiceStub

    record = read_record(data_dir)
    if record is None or not record.control:
        return []
    try:
        # The launcher has a runtime's certificate.
        async with open_channel(
            record.control, role="runtime", certificates=certificates
        ) as channel:
            answer = await LauncherServiceStub(channel).ListServices(
                pb.ListServicesRequest(), timeout=TIMEOUT_S
            )
    except MeshError:
        return []
    return [row_of(one) for one in answer.services if one.pid not in registered_pids]


def row_of(service: SupervisedService) -> dict[str, Any]:
    """The row of a service that runs nowhere, or does not serve yet."""
    return {
        "service": service.name,
        "instance_id": service.name,
        "address": "",
        "pid": service.pid,
        "state": "starting" if service.pid else "restarting",
        "restart_in_ms": service.restart_in_ms,
        "failures": service.failures,
        "last_exit": service.last_exit,
    }


GATEWAY_TIMEOUT_S = 5.0


async def overview(data_dir: Path, tls: CertificateFiles | None = None) -> dict[str, Any]:
    """`{"instances": [...], "models": [...], "problems": [...]}`, as `mlxmesh status --json` prints
    it; a problem is a sentence about what nobody answered.
    """
    certificates = CertificateSource(tls) if tls is not None else None
    registry = open_registry(load_settings(MeshSettings, settings_flags(data_dir)), certificates)
    try:
        instances = await _instances(registry)
    finally:
        await registry.close()
    gateways = [one.address for one in instances if one.service == "gateway"]
    states, models, seen, down = await asyncio.gather(
        asyncio.gather(*(_state(instance, certificates) for instance in instances)),
        _ask(gateways, tls, lambda client: client.list_models()),
        _ask(gateways, tls, lambda client: client.mesh_status()),
        services_down(data_dir, {one.pid for one in instances}, certificates),
    )
    rows = [_row(instance, state) for instance, state in zip(instances, states, strict=True)]
    return {
        "instances": [row | _seen(row, seen or []) for row in rows] + down,
        "models": models or [],
        "problems": _problems(gateways, models, seen),
    }


async def gateway_overview(client: MeshClient) -> dict[str, Any]:
    """As `overview`, but only from one gateway; rows have no pid. Raises: MeshError."""
    instances, models = await asyncio.gather(client.mesh_status(), client.list_models())
    rows = [_reported_row(to_dict(one)) for one in instances]
    return {"instances": rows, "models": [to_dict(model) for model in models], "problems": []}


def _reported_row(one: dict[str, Any]) -> dict[str, Any]:
    """The row of an instance that a gateway reports."""
    keys = ("service", "instance_id", "address", "outstanding", "breaker", "load")
    fields = {key: one[key] for key in keys if key in one}
    state = "not_asked" if one["health"] == "unspecified" else one["health"]
    return {**one["metadata"], **fields, "pid": 0, "state": state}


def _problems(gateways: list[str], models: object, seen: object) -> list[str]:
    """What is not shown since nobody answered."""
    if not gateways:
        return ["no gateway is registered: calls and models cannot be shown"]
    if seen is None:
        return [f"no gateway answers within {GATEWAY_TIMEOUT_S:g} s; see `mlxmesh logs gateway`"]
    if models is None:
        limit = f"within {GATEWAY_TIMEOUT_S:g} s"
        return [f"the model service does not answer {limit}; see `mlxmesh logs model`"]
    return []


async def _state(instance: Instance, certificates: CertificateSource | None) -> str:
    return await health(instance.address, role=instance.service, certificates=certificates)


async def _instances(registry: Registry) -> list[Instance]:
    return [instance for name in SERVICES for instance in await registry.resolve(name)]


def _row(instance: Instance, state: str) -> dict[str, Any]:
    return {
        **instance.metadata,
        "service": instance.service,
        "instance_id": instance.instance_id,
        "address": instance.address,
        "pid": instance.pid,
        "state": state,
    }


async def _ask(
    gateways: list[str],
    tls: CertificateFiles | None,
    question: Callable[[MeshClient], Awaitable[Sequence[Message]]],
) -> list[dict[str, Any]] | None:
    """The answer of the first gateway that has one; None when none has."""
    for address in gateways:
        try:
            async with MeshClient(address, tls=tls, timeout_s=GATEWAY_TIMEOUT_S) as client:
                return [to_dict(message) for message in await question(client)]
        except MeshError:
            continue
    return None


def _seen(row: dict[str, Any], seen: list[dict[str, Any]]) -> dict[str, Any]:
    """What the gateway adds to a row: calls there, breaker, and the load of an engine."""
    for one in seen:
        if (one["service"], one["instance_id"]) == (row["service"], row["instance_id"]):
            return {key: one[key] for key in ("outstanding", "breaker", "load") if key in one}
    return {}
