"""The settings of a gateway."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from mlxmesh_shared.settings.fields import (
    MIB,
    Amount,
    Count,
    Dynamic,
    HostName,
    Ratio,
    Seconds,
    split_texts,
)
from mlxmesh_shared.settings.listen import HttpListen, Listen
from mlxmesh_shared.settings.sections.mesh import MeshSettings
from mlxmesh_shared.settings.sinks import Sinks, SinkSettings, check_webhook

Webhook = Annotated[str, AfterValidator(check_webhook)]


class GatewaySettings(MeshSettings):
    """The public process."""

    listen: Listen = "127.0.0.1:50051"
    """Where clients connect, host:port; port 0 chooses a free one."""
    http_listen: HttpListen = "auto"
    """Where /metrics and /healthz are, host:port; port 0 chooses a free one, empty disables HTTP.
    auto is 127.0.0.1:8051, or a free port if listen has port 0."""
    http_hosts: Annotated[tuple[HostName, ...], BeforeValidator(split_texts)] = ()
    """Host names at which /metrics may be requested, besides localhost, those of http_listen and
    advertise_host, and every IP address; a list, or one text separated by commas."""
    default_deadline_s: Annotated[Seconds, Dynamic()] = 300
    """The deadline of a call that has none."""
    max_deadline_s: Annotated[Seconds, Dynamic()] = 3600
    """The longest deadline; a longer one is shortened to it."""
    max_concurrent_rpcs: Annotated[Count, Dynamic()] = 1024
    """Concurrent calls; more are refused with RESOURCE_EXHAUSTED."""
    max_rpcs_per_caller: Count | None = None
    """Concurrent calls of one caller; default seven eighths of max_concurrent_rpcs."""
    max_streams_per_connection: Count = 256
    """Concurrent calls on one connection; its client queues the others."""
    max_message_bytes: Count = 16 * MIB
    """The largest request."""
    max_held_bytes: Count = 256 * MIB
    """Memory for the requests above 64 KiB of all running calls, half of it for each caller; more
    are refused with RESOURCE_EXHAUSTED."""
    max_connections: Count = 1024
    """Concurrent connections; more are closed at once."""
    max_connection_age_s: Seconds = 20
    """The age at which a client is asked to reconnect; its running calls continue. A gateway that
    is being replaced waits for that."""
    take_over: bool = False
    """Listens on the port beside the gateway that has it, which is asked to stop afterwards."""
    client_certificates: Literal["required", "off"] = "required"
    """With TLS: off accepts clients without a certificate, which may generate."""
    resume_wait_s: Seconds = 10
    """How long a stream that lost its generation instance waits for another one."""
    telemetry_sinks: Sinks = (SinkSettings(kind="prometheus"),)
    """Where telemetry is sent, separated by semicolons: KIND[:TARGET][?OPTION=VALUE&...], of the
    kinds prometheus, otlp:HOST:PORT, file:PATH and console; see docs/operations.md."""
    trace_export_ratio: Ratio = 1.0
    """The part of the traces that sinks get, in addition to those with errors and slow ones."""
    trace_slow_ms: Amount = 10_000
    """The duration from which a request is slow; sinks always get its trace."""
    kept_traces: Count = 4096
    """Recent traces stored for `mlxmesh trace`; the oldest is dropped first."""
    kept_trace_bytes: Count = 32 * MIB
    """Memory for recent traces; the oldest is dropped first."""
    kept_trace_s: Seconds = 900
    """How long a trace is stored."""
    event_webhooks: Annotated[tuple[Webhook, ...], BeforeValidator(split_texts)] = ()
    """URLs to which events are posted, each followed by the names that it wants, such as model.*;
    a list, or one text separated by commas."""
    drain_grace_s: Seconds = 30
    """How long running calls may continue after a stop was requested."""
    trace_sample_ratio: Ratio = 1.0
    """The part of the requests that are traced, if the client does not decide that."""
