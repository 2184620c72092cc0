"""Loads the models of a mesh that has just started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlxmesh.model.v1.model_pb2 import Model, ModelVersion, VersionState
from mlxmesh_client import MeshClient
from mlxmesh_launcher.options import DEFAULT_MODEL, ModelSource, bundled_models
from mlxmesh_shared.errors import NoRuntime

Report = Callable[[str], None]
"""Receives one line of progress for the reader."""

REMEMBERED_WAIT_S = 60.0


async def load_initial_models(
    client: MeshClient, named: Sequence[ModelSource], replicas: int | None, report: Report
) -> None:
    """Load what was named, in a fresh catalogue `pocket`, and wait for what was loaded before.

    A named model that cannot be loaded raises MeshError. A remembered one is only reported: the
    mesh must come up so that it can be unloaded or fixed.
    """
    known = await client.list_models()
    bundled = bundled_models()
    for model in (*bundled_to_register(known, bundled.values()), *named):
        await add_model(client, model, report)
    options = {model.name: model.load for model in named}
    references = [*options]
    if not known and not named:
        references = [DEFAULT_MODEL]
    elif not named and replicas is not None:
        references = remembered(known)
    for reference in references:
        await load(client, reference, replicas or 1, report, options.get(reference, {}))
    await wait_for_remembered(client, remembered(known), report)


def bundled_to_register(
    known: Sequence[Model], bundled: Iterable[ModelSource]
) -> list[ModelSource]:
    """All of them in a fresh catalogue; later those whose directory moved away."""
    if not known:
        return list(bundled)
    moved = {
        model.name
        for model in known
        for version in model.versions
        if Path(version.source).is_absolute() and not Path(version.source).is_dir()
    }
    return [model for model in bundled if model.name in moved]


def remembered(known: Sequence[Model]) -> list[str]:
    """References of the versions that should be loaded."""
    return [
        f"{model.name}@{version.version}"
        for model in known
        for version in model.versions
        if version.desired_replicas
    ]


async def add_model(client: MeshClient, model: ModelSource, report: Report) -> None:
    """Put a model into the catalogue; one that is already there is not added twice."""
    if model.directory is not None:
        await client.register_model(name=model.name, directory=str(model.directory))
        return
    if model.file is not None:
        verb, steps = "converting", client.import_model(name=model.name, file=str(model.file))
    else:
        verb, steps = "pulling", client.pull_model(model.repo_id, name=model.name)
    async for progress in steps:
        done, total = progress.done_bytes / 1e6, progress.total_bytes / 1e6
        report(f"{verb} {model.name}: {done:,.0f} of {total:,.0f} MB")


async def load(
    client: MeshClient,
    reference: str,
    replicas: int,
    report: Report,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Load a model and wait for its replicas. Raises MeshError when they cannot be loaded."""
    report(f"loading {reference}")
    async for _ in client.load_model(reference, replicas=replicas, **options):
        pass


async def wait_for_remembered(
    client: MeshClient, references: Sequence[str], report: Report
) -> None:
    """Wait until these serve again; what fails, or takes too long, is reported and left."""
    waiting = set(references)
    for reference in references:
        report(f"loading {reference}, as before")
    try:
        async with asyncio.timeout(REMEMBERED_WAIT_S):
            await _wait_for_all(client, waiting, report)
    except TimeoutError:
        for reference in sorted(waiting):
            report(f"{reference} does not serve: it is still loading")


async def _wait_for_all(client: MeshClient, waiting: set[str], report: Report) -> None:
    """Follow the catalogue, and take out of `waiting` what serves, or was reported to fail."""
    if not waiting:
        return
    async with aclosing(client.watch_models()) as changes:
        async for change in changes:
            for version in change.model.versions:
                reference = f"{change.model.name}@{version.version}"
                if reference not in waiting or _loads(version):
                    continue
                waiting.remove(reference)
                if version.state == VersionState.VERSION_STATE_FAILED:
                    why = version.failure.message or "its engines failed"
                    report(f"{reference} does not serve: {why}")
            if not waiting:
                return


def _loads(version: ModelVersion) -> bool:
    # The runtime is up, but the model service may have seen the catalogue before it saw that.
    failed = version.state == VersionState.VERSION_STATE_FAILED
    return version.ready_replicas < version.desired_replicas and not (
        failed and version.failure.reason != NoRuntime.reason
    )
