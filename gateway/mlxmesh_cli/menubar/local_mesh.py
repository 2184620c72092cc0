"""The Mesh of a data directory on this host: by the client, the launcher's record and its start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from mlxmesh.model.v1.model_pb2 import Model, VersionState
from mlxmesh.telemetry.v1.telemetry_pb2 import HEALTH_SERVING
from mlxmesh_cli.menubar.ports import MeshState, ModelState
from mlxmesh_cli.mesh.console_address import console_address
from mlxmesh_cli.mesh.credentials import CredentialFile
from mlxmesh_cli.mesh.sign_in import signed_in_client
from mlxmesh_client import MeshClient
from mlxmesh_launcher.detach import start_detached, stop_detached
from mlxmesh_launcher.record import LauncherRecord, read_record
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.tls import CertificateFiles

T = TypeVar("T")

STATE_TIMEOUT_S = 3.0
LOAD_TIMEOUT_S = 1800.0
TRAFFIC_WINDOW_S = 60.0


class LocalMesh:
    """As of Mesh."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def state(self) -> MeshState:
        """As of Mesh."""
        record = read_record(self._data_dir)
        if record is None or not record.gateway:
            return MeshState(is_running=record is not None)
        return self._call(record, _read, STATE_TIMEOUT_S)

    def load(self, model: str) -> None:
        """As of Mesh."""

        async def load(client: MeshClient) -> None:
            async for _ in client.load_model(model):
                pass

        self._call(self._running(), load, LOAD_TIMEOUT_S)

    def unload(self, model: str) -> None:
        """As of Mesh."""

        async def unload(client: MeshClient) -> None:
            await client.unload_model(model)

        self._call(self._running(), unload, LOAD_TIMEOUT_S)

    def start(self) -> None:
        """As of Mesh."""
        start = start_detached(self._data_dir, (), lambda _: None, timeout_s=LOAD_TIMEOUT_S)
        asyncio.run(start)

    def stop(self) -> None:
        """As of Mesh."""
        asyncio.run(stop_detached(self._data_dir))

    def console(self) -> str | None:
        """As of Mesh."""
        return console_address(self._running())

    def _running(self) -> LauncherRecord:
        record = read_record(self._data_dir)
        if record is None or not record.gateway:
            raise ServiceUnavailable("the mesh does not run; start it first")
        return record

    def _call(
        self, record: LauncherRecord, work: Callable[[MeshClient], Awaitable[T]], timeout_s: float
    ) -> T:
        async def connected() -> T:
            tls_dir = Path(record.tls_dir) if record.tls_dir else None
            tls = CertificateFiles.of_role(tls_dir, "admin") if tls_dir is not None else None
            file = CredentialFile.of_data_dir(self._data_dir)
            async with signed_in_client(record.gateway, tls, file, timeout_s=timeout_s) as client:
                return await work(client)

        return asyncio.run(connected())


async def _read(client: MeshClient) -> MeshState:
    mesh, models = await asyncio.gather(client.mesh_state(), client.list_models())
    total = next((one for one in mesh.traffic if not one.model), None)
    unhealthy = [one for one in mesh.instances if one.health != HEALTH_SERVING]
    return MeshState(
        is_running=True,
        models=tuple(map(model_state, models)),
        tokens_per_s=total.completion_tokens / TRAFFIC_WINDOW_S if total else 0.0,
        running=total.running if total else 0,
        processes_down=len(unhealthy),
    )


def model_state(model: Model) -> ModelState:
    """What the menu says of a model: the state of its version with the most replicas."""
    if not model.versions:
        return ModelState(model.name, is_wanted=False, words="ensemble")
    best = max(model.versions, key=lambda one: (one.desired_replicas, one.version))
    words = VersionState.Name(best.state).removeprefix("VERSION_STATE_").lower()
    return ModelState(model.name, is_wanted=best.desired_replicas > 0, words=words)
