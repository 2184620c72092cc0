"""Finds what an agent needs of the mesh: its URL, a model, and whether it needs a key."""

from __future__ import annotations

from pathlib import Path

from mlxmesh.model.v1.model_pb2 import Model
from mlxmesh_cli.agents.agents import NO_KEY, MeshAddress
from mlxmesh_cli.commands.session import connect, gateway_address, tls_of
from mlxmesh_cli.mesh.access_start import sign_in_options
from mlxmesh_cli.mesh.console_address import http_url
from mlxmesh_cli.mesh.location import resolve_data_dir
from mlxmesh_client import MeshClient
from mlxmesh_launcher.record import read_record
from mlxmesh_shared.errors import InvalidArgument


async def agent_address(
    model: str | None,
    key: str,
    url: str,
    address: str | None,
    data_dir: Path | None,
    *,
    needs_key: bool,
) -> MeshAddress:
    """The mesh for an agent; `needs_key`: whether a mesh with users needs one here.

    Raises: MeshError.
    """
    gateway = gateway_address(address, data_dir)
    tls = tls_of(resolve_data_dir(data_dir), gateway)
    async with connect(address, data_dir) as client:
        reached = url or _url(gateway, data_dir, is_tls=tls is not None)
        if needs_key and not key and await _has_users(client):
            raise InvalidArgument(
                "the mesh has users, so the agent needs a key: give one by --key, or create one by"
                " --create-key",
                field="key",
            )
        chosen = chosen_model(model, await client.list_models())
    ca = tls.ca.resolve() if tls is not None and reached.startswith("https:") else None
    return MeshAddress(reached.rstrip("/").removesuffix("/v1"), chosen, key or NO_KEY, ca)


def _url(gateway: str, data_dir: Path | None, *, is_tls: bool) -> str:
    record = read_record(resolve_data_dir(data_dir))
    if record is None or record.gateway != gateway or not record.http:
        raise InvalidArgument(
            f"the HTTP address of {gateway} is not known here; name it, such as --url"
            " http://mesh.example:8051",
            field="url",
        )
    return http_url(record.http, tls=is_tls)


async def _has_users(client: MeshClient) -> bool:
    options = await sign_in_options(client)
    return options is not None and options.has_users


def chosen_model(wanted: str | None, models: list[Model]) -> str:
    """The reference of the model to use."""
    names = [model.name for model in models]
    if wanted is not None:
        if wanted.partition(":")[0].partition("@")[0] not in names:
            raise InvalidArgument(
                f"there is no model {wanted!r}; there are {', '.join(names) or 'none'}",
                field="model",
            )
        return wanted
    loaded = [model.name for model in models if any(each.ready_replicas for each in model.versions)]
    for found in (loaded, names):
        if len(found) == 1:
            return found[0]
    raise InvalidArgument(
        f"choose a model by --model: {', '.join(names) or 'there is none yet; see `mlxmesh pull`'}",
        field="model",
    )
