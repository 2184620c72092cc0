"""The state that `mlxmesh status` shows: from the registry, the launcher and a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from mlxmesh_cli.mesh.credentials import CredentialFile
from mlxmesh_cli.mesh.location import SERVICES, settings_flags
from mlxmesh_cli.mesh.sign_in import signed_in_client
from mlxmesh_cli.mesh.supervisor import launcher_of
from mlxmesh_cli.screen.output import to_dict
from mlxmesh_client import MeshClient
from mlxmesh_launcher.record import read_record
from mlxmesh_shared.errors import DeadlineExceeded, MeshError, ServiceUnavailable
from mlxmesh_shared.registry import Instance, Registry, open_registry
from mlxmesh_shared.rpc.health import health
from mlxmesh_shared.settings import MeshSettings, load_settings
from mlxmesh_shared.tls import CertificateFiles, CertificateSource

if TYPE_CHECKING:
    from mlxmesh.control.v1.launcher_pb2 import SupervisedService
    from mlxmesh_shared.tls import CertificateSource

TIMEOUT_S = 3.0
GATEWAY_TIMEOUT_S = 5.0

Answer = list[dict[str, Any]] | MeshError
"""A gateway's response as JSON data, or why there is none."""


async def services_down(
    data_dir: Path, registered_pids: Collection[int], tls: CertificateFiles | None
) -> list[dict[str, Any]]:
    """A row for each supervised service that is not registered."""
    from mlxmesh.control.v1 import launcher_pb2 as pb

    record = read_record(data_dir)
    if record is None or not record.control:
        return []
    try:
        async with launcher_of(record, tls) as launcher:
            answer = await launcher.ListServices(pb.ListServicesRequest(), timeout=TIMEOUT_S)
    except MeshError:
        return []
    return [row_of(one) for one in answer.services if one.pid not in registered_pids]


def row_of(service: SupervisedService) -> dict[str, Any]:
    """The row of a service that is starting or waiting for its restart."""
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


async def overview(data_dir: Path, tls: CertificateFiles | None = None) -> dict[str, Any]:
    """`{"instances": [...], "models": [...], "problems": [...]}`, as printed by --json.

    A problem is a sentence that says what is missing and why.
    """
    certificates = CertificateSource(tls) if tls is not None else None
    registry = open_registry(load_settings(MeshSettings, settings_flags(data_dir)), certificates)
    try:
        instances = await _instances(registry)
    finally:
        await registry.close()
    gateways = [one.address for one in instances if one.service == "gateway"]
    file = CredentialFile.of_data_dir(data_dir)

    def open_(gateway: str) -> AbstractAsyncContextManager[MeshClient]:
        return signed_in_client(gateway, tls, file, timeout_s=GATEWAY_TIMEOUT_S)

    states, models, reported, down = await asyncio.gather(
        asyncio.gather(*(_state(instance, certificates) for instance in instances)),
        _query(gateways, open_, lambda client: client.list_models()),
        _query(gateways, open_, lambda client: client.mesh_status()),
        services_down(data_dir, {one.pid for one in instances}, tls),
    )
    rows = [_row(instance, state) for instance, state in zip(instances, states, strict=True)]
    return {
        "instances": [row | _reported(row, _rows(reported)) for row in rows] + down,
        "models": _rows(models),
        "problems": _problems(gateways, models, reported),
    }


async def gateway_overview(client: MeshClient) -> dict[str, Any]:
    """Like `overview`, but from one gateway alone; rows have no pid. Raises: MeshError."""
    instances, models = await asyncio.gather(client.mesh_status(), client.list_models())
    rows = [_reported_row(to_dict(one)) for one in instances]
    return {"instances": rows, "models": [to_dict(model) for model in models], "problems": []}


def _reported_row(one: dict[str, Any]) -> dict[str, Any]:
    """The row of an instance that a gateway reports."""
    keys = ("service", "instance_id", "address", "outstanding", "breaker", "load")
    fields = {key: one[key] for key in keys if key in one}
    state = "not_asked" if one["health"] == "unspecified" else one["health"]
    return {**one["metadata"], **fields, "pid": 0, "state": state}


def _rows(answer: Answer) -> list[dict[str, Any]]:
    return answer if isinstance(answer, list) else []


def _problems(gateways: list[str], models: Answer, reported: Answer) -> list[str]:
    """Sentences about missing data."""
    if not gateways:
        return ["no gateway is registered: calls and models are not shown"]
    if isinstance(reported, ServiceUnavailable | DeadlineExceeded):
        return [f"no gateway responded within {GATEWAY_TIMEOUT_S:g} s; see `mlxmesh logs gateway`"]
    if isinstance(reported, MeshError):
        return [f"calls and models are not shown: {reported.message}"]
    if isinstance(models, MeshError):
        limit = f"within {GATEWAY_TIMEOUT_S:g} s"
        return [f"the model service did not respond {limit}; see `mlxmesh logs model`"]
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


async def _query(
    gateways: list[str],
    open_: Callable[[str], AbstractAsyncContextManager[MeshClient]],
    query: Callable[[MeshClient], Awaitable[Sequence[Message]]],
) -> Answer:
    """The response of the first gateway that responds, or the last one's error."""
    answer: Answer = []
    for address in gateways:
        try:
            async with open_(address) as client:
                return [to_dict(message) for message in await query(client)]
        except MeshError as error:
            answer = error
    return answer


def _reported(row: dict[str, Any], reported: list[dict[str, Any]]) -> dict[str, Any]:
    """Calls, breaker and engine load of a row, as the gateway reports them."""
    for one in reported:
        if (one["service"], one["instance_id"]) == (row["service"], row["instance_id"]):
            return {key: one[key] for key in ("outstanding", "breaker", "load") if key in one}
    return {}
