"""A service's process inside a test: without certificates, telemetry or logs of its own."""

from typing import TypeVar

from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.settings import LiveSettings, MeshSettings
from mlxmesh_shared.telemetry.setup import ProcessTelemetry

S = TypeVar("S", bound=MeshSettings)


def quiet_process(settings: S, service: str, instance_id: str) -> ServiceProcess[S]:
    """The process of an instance whose settings never change."""
    return ServiceProcess(
        LiveSettings(lambda _: settings),
        service,
        instance_id,
        telemetry=ProcessTelemetry(MeshSettings(telemetry=False), service, instance_id),
    )
