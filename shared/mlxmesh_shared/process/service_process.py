"""A service's own process before it joins the mesh: identity, settings, logs, certificates."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import grpc

from mlxmesh.control.v1.process_pb2_grpc import add_ProcessServiceServicer_to_server
from mlxmesh_shared.process import process_servicer
from mlxmesh_shared.process.process_servicer import ProcessServicer
from mlxmesh_shared.process.startup import check_data_dir
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.entrance import Entrance
from mlxmesh_shared.rpc.server import AddServicer, MeshServer, ServerOptions
from mlxmesh_shared.settings import LiveSettings, MeshSettings
from mlxmesh_shared.settings.described import described
from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json
from mlxmesh_shared.telemetry.calls import ServedCalls
from mlxmesh_shared.telemetry.log_ring import LogRing, keep_log
from mlxmesh_shared.telemetry.setup import ProcessTelemetry
from mlxmesh_shared.tls import CertificateSource, ServerTls, open_certificates

S = TypeVar("S", bound=MeshSettings)


class ServiceProcess(Generic[S]):
    """What all parts of a service's process share."""

    def __init__(
        self,
        live: LiveSettings[S],
        service: str,
        instance_id: str,
        *,
        telemetry: ProcessTelemetry,
        certificates: CertificateSource | None = None,
        log: LogRing | None = None,
        uses_data_dir: bool = True,
    ) -> None:
        """log: the last records of the process; by default none are kept."""
        self.live = live
        self.service = service
        self.instance_id = instance_id
        self.telemetry = telemetry
        self.certificates = certificates
        self._log = log or LogRing()
        self._uses_data_dir = uses_data_dir
        self.open_channel = partial(open_channel, certificates=certificates)
        """Opens channels with the certificates of this process."""

    @property
    def settings(self) -> S:
        """The settings as they are now."""
        return self.live.current

    def make_server(
        self,
        listen: str,
        *,
        service_names: Sequence[str],
        services: Sequence[tuple[AddServicer, Any]] = (),
        generic_handlers: Sequence[grpc.GenericRpcHandler] = (),
        options: ServerOptions,
        tls: ServerTls | None = None,
        traced_methods: Container[str] = (),
        entrance: Entrance | None = None,
        on_closing: Callable[[], None] = lambda: None,
    ) -> MeshServer:
        """A server that is not started, and whose calls are measured and traced.

        tls: where it is not given, the default for the certificates of this process.
        traced_methods: those that begin a trace where their caller brings none.
        entrance, on_closing: as of MeshServer.
        """
        if tls is None and self.certificates is not None:
            tls = ServerTls(self.certificates)
        return MeshServer(
            listen=listen,
            services=[*services, (add_ProcessServiceServicer_to_server, self._servicer())],
            service_names=[*service_names, process_servicer.SERVICE_NAME],
            generic_handlers=generic_handlers,
            options=options,
            name=self.service,
            tls=tls,
            watcher=ServedCalls(self.telemetry.of_process, begins=traced_methods),
            entrance=entrance,
            on_closing=on_closing,
        )

    def _servicer(self) -> ProcessServicer:
        return ProcessServicer(
            log=self._log,
            settings=partial(described, self.live, self.service),
            data_dir=self.settings.data_dir if self._uses_data_dir else None,
        )


def start_process(
    live: LiveSettings[S],
    service: str,
    *,
    instance_id: str = "",
    uses_data_dir: bool = True,
    sample_ratio: float = 1.0,
    model: str = "",
    facts: Mapping[str, str] | None = None,
) -> ServiceProcess[S]:
    """Checks the data directory, sets up logs and telemetry, and reads the certificates.

    instance_id: a new one where it is empty. The other arguments are those of ProcessTelemetry.
    Raises: IllegalState when the data directory or the certificates cannot be used.
    """
    settings = live.current
    if uses_data_dir:
        check_data_dir(settings.data_dir)
    instance_id = instance_id or new_instance_id(service)
    setup_logging(
        service=service,
        instance_id=instance_id,
        level=settings.log_level,
        json=wants_json(settings.log_format),
    )
    log = keep_log()
    telemetry = ProcessTelemetry(
        settings, service, instance_id, model=model, facts=facts, sample_ratio=sample_ratio
    )
    certificates = open_certificates(settings, service)
    return ServiceProcess(
        live,
        service,
        instance_id,
        telemetry=telemetry,
        certificates=certificates,
        log=log,
        uses_data_dir=uses_data_dir,
    )
