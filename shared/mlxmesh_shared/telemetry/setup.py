"""The telemetry of a process, by its settings."""

import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from mlxmesh_shared.host.host_port import is_loopback
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.channels import QUIET_TIMEOUTS, open_channel
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.telemetry.metrics import Telemetry
from mlxmesh_shared.tls import CertificateSource

# Imported only when telemetry is on: the SDK is slow to import.
if TYPE_CHECKING:
    from mlxmesh_shared.telemetry.otlp import CollectingGateway, OtlpSink
    from mlxmesh_shared.telemetry.sdk import Recorder
    from mlxmesh_shared.telemetry.sink import TelemetrySink


class ProcessTelemetry:
    """Records from its construction on; exports while `exporting` is entered."""

    def __init__(
        self,
        settings: MeshSettings,
        service: str,
        instance_id: str,
        *,
        model: str = "",
        facts: Mapping[str, str] | None = None,
        sample_ratio: float = 1.0,
    ) -> None:
        """`model`: the model that the process serves; `facts`: more attributes of the resource."""
        self._settings = settings
        self._instance_id = instance_id
        self._recorder: Recorder | None = None
        self._records: logging.Handler | None = None
        self.of_process = Telemetry()
        """For the modules of the process."""
        if settings.telemetry:
            identity = _identity(settings, service, instance_id) | dict(facts or {})
            self._recorder = _open_recorder(identity, sample_ratio)
            self._records = _record_logs(self._recorder, model)
            self.of_process = self._recorder.telemetry

    @property
    def goes_to_gateway(self) -> bool:
        """Whether telemetry goes to a gateway, for which `exporting` needs a registry."""
        return self._recorder is not None and not self._settings.otlp_endpoint

    @contextlib.asynccontextmanager
    async def exporting(
        self,
        registry: Registry | None,
        certificates: CertificateSource | None,
        *,
        local: "TelemetrySink | None" = None,
    ) -> AsyncGenerator[None]:
        """Exports while the body runs: to `otlp_endpoint` if it is set, else to the collecting
        gateway; if this process is that gateway, to `local`.
        """
        if self._recorder is None or self._records is None:
            yield
            return
        from mlxmesh_shared.telemetry.exporter import Exporter

        sink = self._sink(registry, certificates, local)
        try:
            async with Exporter(self._recorder, sink).running():
                yield
        finally:
            logging.getLogger().removeHandler(self._records)
            await sink.close()

    def _sink(
        self,
        registry: Registry | None,
        certificates: CertificateSource | None,
        local: "TelemetrySink | None",
    ) -> "OtlpSink | CollectingGateway":
        from mlxmesh_shared.telemetry.otlp import CollectingGateway, OtlpSink

        endpoint = self._settings.otlp_endpoint
        if endpoint:
            # A collector on the loopback address is usually an agent without the mesh's TLS.
            near = is_loopback(endpoint.rpartition(":")[0])
            shown = None if near else certificates
            return OtlpSink(open_channel(endpoint, certificates=shown, pings=False))
        assert registry is not None, "needed to find the collecting gateway"
        open_ = partial(
            open_channel, role="gateway", certificates=certificates, timeouts=QUIET_TIMEOUTS
        )
        return CollectingGateway(registry, open_, own_id=self._instance_id, local=local)


def _open_recorder(identity: Mapping[str, str], sample_ratio: float) -> "Recorder":
    from mlxmesh_shared.telemetry.sdk import Recorder

    return Recorder(identity, sample_ratio=sample_ratio)


def _record_logs(recorder: "Recorder", model: str) -> logging.Handler:
    """Exports log records too, and adds the trace to each, also on stderr."""
    from mlxmesh_shared.telemetry.log_records import QueueingHandler, TraceFilter

    records = QueueingHandler(recorder.log_records)
    root = logging.getLogger()
    root.addHandler(records)
    for handler in root.handlers:
        handler.addFilter(TraceFilter(model))
    return records


def _identity(settings: MeshSettings, service: str, instance_id: str) -> dict[str, str]:
    """The resource's attributes, by OpenTelemetry's names."""
    identity = {
        "service.name": service,
        "service.namespace": "mlxmesh",
        "service.instance.id": instance_id,
        "host.name": socket.gethostname(),
    }
    return identity | ({"cloud.availability_zone": settings.zone} if settings.zone else {})
