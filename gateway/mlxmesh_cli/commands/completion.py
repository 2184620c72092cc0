"""Shell completion of names that a mesh knows: models, profiles, users, keys, jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import redirect_stderr, suppress
from io import StringIO
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from mlxmesh.model.v1.model_pb2 import Model
    from mlxmesh_client import MeshClient

COMPLETION_TIMEOUT_S = 1.0
MAX_JOBS = 50

Query = Callable[["MeshClient"], Awaitable[Iterable[str]]]


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """Model references with this prefix."""
    return _complete(ctx, incomplete, _references)


def complete_profile(ctx: typer.Context, incomplete: str) -> list[str]:
    """Profiles with this prefix."""
    return _complete(ctx, incomplete, _profiles)


def complete_model_name(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of models with this prefix."""
    return _complete(ctx, incomplete, _model_names)


def complete_shadow(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of shadows with this prefix."""
    return _complete(ctx, incomplete, _shadow_ids)


def complete_user(ctx: typer.Context, incomplete: str) -> list[str]:
    """Users with this prefix."""
    return _complete(ctx, incomplete, _users)


def complete_key(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of keys with this prefix."""
    return _complete(ctx, incomplete, _key_ids)


def complete_tool_server(ctx: typer.Context, incomplete: str) -> list[str]:
    """MCP servers with this prefix."""
    return _complete(ctx, incomplete, _tool_servers)


def complete_tool_function(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of tools for models with this prefix."""
    return _complete(ctx, incomplete, _tool_functions)


def complete_subject(ctx: typer.Context, incomplete: str) -> list[str]:
    """Subjects of quotas with this prefix, such as user:ada."""
    return _complete(ctx, incomplete, _subjects) or [
        kind for kind in ("user:", "team:", "key:") if kind.startswith(incomplete)
    ]


def complete_job(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the newest jobs with this prefix."""
    return _complete(ctx, incomplete, _job_ids)


def complete_instance(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of instances with this prefix."""
    return _complete(ctx, incomplete, _instance_ids)


def _complete(ctx: typer.Context, incomplete: str, query: Query) -> list[str]:
    """Names with this prefix; none when the mesh does not respond in time."""
    # Completion must not print errors.
    with suppress(Exception, SystemExit), redirect_stderr(StringIO()):
        return sorted(each for each in _ask(ctx, query) if each.startswith(incomplete))
    return []


def _ask(ctx: typer.Context, query: Query) -> Iterable[str]:
    import asyncio

    from mlxmesh_cli.commands.session import credential_file, gateway_address, tls_of
    from mlxmesh_cli.mesh.location import resolve_data_dir
    from mlxmesh_cli.mesh.sign_in import signed_in_client

    address, data_dir = ctx.params.get("address"), ctx.params.get("data_dir")
    gateway = gateway_address(address, data_dir)
    tls = tls_of(resolve_data_dir(data_dir), gateway)
    file = credential_file(address, data_dir)

    async def answer() -> Iterable[str]:
        async with (
            asyncio.timeout(COMPLETION_TIMEOUT_S),
            signed_in_client(
                gateway, tls, file, timeout_s=COMPLETION_TIMEOUT_S, attempts=1
            ) as client,
        ):
            return await query(client)

    return asyncio.run(answer())


async def _references(client: MeshClient) -> Iterable[str]:
    return references(await client.list_models())


async def _profiles(client: MeshClient) -> Iterable[str]:
    return [profile.name for profile in await client.list_profiles()]


async def _users(client: MeshClient) -> Iterable[str]:
    return [user.name for user in await client.access.list_users()]


async def _key_ids(client: MeshClient) -> Iterable[str]:
    return [key.key_id for key in await client.access.list_keys()]


async def _subjects(client: MeshClient) -> Iterable[str]:
    users = await client.access.list_users()
    keys = await client.access.list_keys()
    return [
        *(f"user:{user.name}" for user in users),
        *(f"team:{team}" for team in {user.team for user in users} if team),
        *(f"key:{key.key_id}" for key in keys),
    ]


def references(models: Iterable[Model]) -> set[str]:
    """Every way to write a model: NAME, NAME:ALIAS, NAME@VERSION."""
    return {
        reference
        for model in models
        for reference in (
            model.name,
            *(f"{model.name}:{alias}" for alias in model.aliases),
            *(f"{model.name}:{adapter.name}" for adapter in model.adapters),
            *(f"{model.name}@{version.version}" for version in model.versions),
        )
    }


async def _model_names(client: MeshClient) -> Iterable[str]:
    return [model.name for model in await client.list_models()]


async def _shadow_ids(client: MeshClient) -> Iterable[str]:
    return [shadow.shadow_id for shadow in await client.list_shadows()]


async def _job_ids(client: MeshClient) -> Iterable[str]:
    return [job.job_id for job in await client.jobs.list(limit=MAX_JOBS)]


async def _instance_ids(client: MeshClient) -> Iterable[str]:
    return [instance.instance_id for instance in await client.mesh_status()]


async def _tool_servers(client: MeshClient) -> Iterable[str]:
    return [server.name for server in await client.tools.servers()]


async def _tool_functions(client: MeshClient) -> Iterable[str]:
    return [tool.function for tool in await client.tools.list()]
