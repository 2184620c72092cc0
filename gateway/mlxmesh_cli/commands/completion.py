"""Shell completion of model names."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import redirect_stderr, suppress
from io import StringIO
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from mlxmesh.model.v1.model_pb2 import Model

COMPLETION_TIMEOUT_S = 1.0


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """Model references with this prefix; none when the mesh does not respond in time."""
    # Completion must not print errors.
    with suppress(Exception, SystemExit), redirect_stderr(StringIO()):
        return sorted(each for each in _known_references(ctx) if each.startswith(incomplete))
    return []


def _known_references(ctx: typer.Context) -> Iterable[str]:
    import asyncio

    from mlxmesh_cli.commands.session import gateway_address, tls_of
    from mlxmesh_cli.mesh.location import resolve_data_dir
    from mlxmesh_client import MeshClient

    data_dir = ctx.params.get("data_dir")
    gateway = gateway_address(ctx.params.get("address"), data_dir)
    tls = tls_of(resolve_data_dir(data_dir), gateway)

    async def models() -> list[Model]:
        async with (
            asyncio.timeout(COMPLETION_TIMEOUT_S),
            MeshClient(gateway, tls=tls, timeout_s=COMPLETION_TIMEOUT_S, attempts=1) as client,
        ):
            return await client.list_models()

    return references(asyncio.run(models()))


def references(models: Iterable[Model]) -> set[str]:
    """Every way to write a model: NAME, NAME:ALIAS, NAME@VERSION."""
    return {
        reference
        for model in models
        for reference in (
            model.name,
            *(f"{model.name}:{alias}" for alias in model.aliases),
            *(f"{model.name}@{version.version}" for version in model.versions),
        )
    }
