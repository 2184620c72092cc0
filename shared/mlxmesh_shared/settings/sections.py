"""The one list of settings: a section per process, all with the mesh's own settings first."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo

from mlxmesh_shared.settings.consul import ConsulSettings, FullPath, Seconds
from mlxmesh_shared.settings.listen import check_host, check_listen, check_reachable
from mlxmesh_shared.settings.sinks import Sinks, SinkSettings, check_webhook, split_texts

MIB = 2**20


class Dynamic:
    """Marks a setting that may change while its process runs."""


def dynamic_names(cls: type["MeshSettings"]) -> frozenset[str]:
    """The settings of a section that may change while its process runs."""
    return frozenset(
        name
        for name, field in cls.model_fields.items()
        if any(isinstance(mark, Dynamic) for mark in field.metadata)
    )


def _allowed(listen: str, info: ValidationInfo) -> str:
    # The mesh's own settings come first, so that this one is known here.
    secured = info.data.get("tls_dir") is not None
    check_listen(listen, allowed=secured or info.data.get("insecure_listen", False))
    return listen


def _told_to_others(listen: str, info: ValidationInfo) -> str:
    if info.data.get("registry") == "consul":
        check_reachable(listen, advertise_host=info.data.get("advertise_host", ""))
    return listen


def _http_listen(listen: str, info: ValidationInfo) -> str:
    if listen == "auto":
        anywhere = str(info.data.get("listen", "")).endswith(":0")
        return "127.0.0.1:0" if anywhere else "127.0.0.1:8051"
    return _allowed(listen, info) if listen else listen


Webhook = Annotated[str, AfterValidator(check_webhook)]
Listen = Annotated[str, AfterValidator(_allowed), AfterValidator(_told_to_others)]
HttpListen = Annotated[str, AfterValidator(_http_listen)]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,253}$")]
Names = Annotated[tuple[str, ...], BeforeValidator(split_texts)]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Chance = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class MeshSettings(ConsulSettings):
    """What every process needs to know."""

    # Plain pydantic: every process would pay for the import of pydantic-settings at its start.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        defer_build=True,
    )

    data_dir: FullPath = Path("~/.mlxmesh")
    """Where the mesh keeps its registry, logs, database and models."""
    registry: Literal["directory", "consul"] = "directory"
    """How instances find each other: "directory" on one machine, "consul" also across machines."""
    zone: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""
    """Where this host stands (a rack, a room): told to the registry with every instance."""
    advertise_host: Annotated[str, AfterValidator(check_host)] = ""
    """The name or address that others reach this process at; empty for the host of listen."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Dynamic()] = "info"
    """The least important record that is logged."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """How records look; auto is text on a terminal and JSON elsewhere."""
    log_file_bytes: Count = 16 * MIB
    """About how large a service's or engine's log file gets before it begins anew."""
    log_files: Annotated[int, Field(ge=1, le=1000)] = 4
    """Files of each log, the current one among them; the oldest is removed."""
    tls_dir: FullPath | None = None
    """Where the certificates are (`mlxmesh certs`): turns TLS on; every process needs the same."""
    insecure_listen: bool = False
    """Allows listening beyond this machine without TLS."""
    reflection: bool = True
    """Whether callers may ask for the contracts."""
    telemetry: bool = True
    """Whether traces, metrics and logs are sent to a gateway, or to otlp_endpoint."""
    otlp_endpoint: Annotated[str, Field(pattern=r"^$|^[^\s/]+:\d+$")] = ""
    """A collector that takes OTLP over gRPC, host:port; empty for the mesh's own gateway."""


class GatewaySettings(MeshSettings):
    """The public process."""

    listen: Listen = "127.0.0.1:50051"
    """Where clients connect, host:port; port 0 takes a free one."""
    http_listen: HttpListen = "auto"
    """Where /metrics and /healthz are, host:port; port 0 takes a free one, empty means no HTTP.
    auto is 127.0.0.1:8051, or a free port where listen takes one."""
    http_hosts: Annotated[tuple[HostName, ...], BeforeValidator(split_texts)] = ()
    """Host names that /metrics is asked for by, besides localhost, those of http_listen and
    advertise_host, and every IP address; a list, or one text with commas in between."""
    default_deadline_s: Annotated[Seconds, Dynamic()] = 300
    """The deadline of a call that came without one."""
    max_deadline_s: Annotated[Seconds, Dynamic()] = 3600
    """The longest deadline; a longer one is cut to it."""
    max_concurrent_rpcs: Annotated[Count, Dynamic()] = 1024
    """Calls at one time; more are refused with RESOURCE_EXHAUSTED."""
    max_rpcs_per_caller: Count | None = None
    """Calls of one caller at one time; default seven eighths of max_concurrent_rpcs."""
    max_streams_per_connection: Count = 256
    """Calls at one time on one connection; its client holds back more."""
    max_message_bytes: Count = 16 * MIB
    """The largest request."""
    max_held_bytes: Count = 256 * MIB
    """What running calls' requests above 64 KiB may have in all, half of it for each caller; more
    are refused with RESOURCE_EXHAUSTED."""
    max_connections: Count = 1024
    """Connections at one time; more are closed at once."""
    max_connection_age_s: Seconds = 20
    """After so long a client is told to connect anew; its running calls go on. A gateway that is
    being replaced waits for it."""
    take_over: bool = False
    """Begins to listen beside the gateway that has the port, which is told to leave next."""
    client_certificates: Literal["required", "off"] = "required"
    """With TLS: off lets in everybody who can connect as a client, who may generate."""
    resume_wait_s: Seconds = 10
    """How long a stream whose generation instance was lost waits for another."""
    telemetry_sinks: Sinks = (SinkSettings(kind="prometheus"),)
    """Where telemetry goes, separated by semicolons: KIND[:TARGET][?OPTION=VALUE&...], of the kinds
    prometheus, otlp:HOST:PORT, file:PATH and console; docs/operations.md has the options."""
    trace_export_ratio: Chance = 1.0
    """The part of the traces that sinks get, besides those with errors and slow ones."""
    trace_slow_ms: Amount = 10_000
    """A request that took so long is slow: sinks get its trace in any case."""
    kept_traces: Count = 4096
    """Most recent traces kept for `mlxmesh trace`; the oldest goes first."""
    kept_trace_bytes: Count = 32 * MIB
    """Most memory for recent traces; the oldest goes first."""
    kept_trace_s: Seconds = 900
    """How long a trace is kept."""
    event_webhooks: Annotated[tuple[Webhook, ...], BeforeValidator(split_texts)] = ()
    """URLs that events are posted to, each followed by the names that it wants, such as model.*;
    a list, or one text with commas in between."""
    drain_grace_s: Seconds = 30
    """How long running calls may go on after a stop was asked for."""
    trace_sample_ratio: Chance = 1.0
    """The part of the requests that are traced, of those whose client does not decide it."""


class GenerationSettings(MeshSettings):
    """Text in, text out."""

    listen: Listen = "127.0.0.1:0"
    """Where the gateway connects, host:port; port 0 takes a free one."""
    max_concurrent_rpcs: Annotated[Count, Dynamic()] = 1024
    """Calls at one time; more are refused with RESOURCE_EXHAUSTED."""
    prefix_routing: Annotated[bool, Dynamic()] = True
    """Whether a prompt goes by preference to an engine that has read its beginning before."""
    max_generations: Count = 1024
    """Generations held at one time, read or not, and inputs whose tokens are being counted; more
    are refused with RESOURCE_EXHAUSTED."""
    max_held_bytes: Count = 256 * MIB
    """Bytes of the requests of all of these; more are refused with RESOURCE_EXHAUSTED."""
    max_unread_bytes: Count = 128 * MIB
    """Most memory for output that waits for slow readers; beyond it, the caller with the most
    loses its largest generation, with CANCELLED."""
    tokenizer_cache_models: Count = 16
    """Tokenizers kept in memory."""
    engine_wait_s: Seconds = 30
    """How long a generation without a deadline waits for another engine when it lost its own."""
    detached_timeout_s: Seconds = 60
    """How long a generation with a request_id of its caller goes on while nobody reads it."""
    retention_s: Seconds = 300
    """How long the messages of such a generation are kept after its end."""
    retained_generations: Count = 4096
    """Most generations whose messages are kept; the caller with the most loses its oldest first."""
    retained_bytes: Count = 64 * MIB
    """Most memory for kept messages; the caller with the most loses its oldest generation first."""
    drain_grace_s: Seconds = 30
    """How long running generations may go on after a stop was asked for."""
    log_content_models: Names = ()
    """Models whose prompts and outputs may stand in traces, separated by commas; else none do."""


class ModelSettings(MeshSettings):
    """The catalogue."""

    listen: Listen = "127.0.0.1:0"
    """Where other services connect, host:port; port 0 takes a free one."""
    database_url: str = ""
    """postgresql:// or sqlite:///, as docs/operations.md shows; empty for model.db in the data
    directory."""
    models_dir: FullPath | None = None
    """Where pulled models are kept; default models in the data directory."""
    reconcile_interval_s: Seconds = 1.0
    """How often desired and running replicas are compared when nothing changes."""
    runtime_grace_s: Seconds = 30
    """How long a runtime may be away from the registry before its replicas are placed elsewhere."""
    hub_endpoint: str = ""
    """The model hub to pull from; empty for HF_ENDPOINT, or else the hub library's own default."""
    drain_grace_s: Seconds = 5
    """How long running calls may go on after a stop was asked for."""


class RuntimeSettings(MeshSettings):
    """The supervisor of one host's engines."""

    listen: Listen = "127.0.0.1:0"
    """Where the model service connects, host:port; port 0 takes a free one."""
    heartbeat_interval_s: Seconds = 1.0
    """How often each engine is asked how it is."""
    heartbeat_timeout_s: Seconds = 2.0
    """How long an engine may take to answer that."""
    liveness_timeout_s: Seconds = 10.0
    """An engine that has not answered for so long is restarted."""
    step_stall_timeout_s: Seconds = 30
    """An engine whose loop has not turned for so long is restarted."""
    start_timeout_s: Seconds = 600
    """How long an engine may take to load its model."""
    spare_engine: bool = True
    """Keeps one process that has imported MLX, so that an engine starts sooner; about 70 MB."""
    restart_backoff_min_s: Seconds = 0.5
    """The first pause before a crashed engine is started again."""
    restart_backoff_max_s: Seconds = 30
    """The longest pause before a crashed engine is started again."""
    breaker_failures: Count = 5
    """So many failures in a row, without a steady run between, and the engine stays down."""
    failure_reset_s: Seconds = 120
    """An engine that was ready for so long ran steadily; its failures count afresh."""
    stop_grace_s: Seconds = 30
    """How long a stopping engine may finish what it runs before it is killed."""
    hand_over_s: Seconds = 300
    """How long a leaving runtime waits for its engines to be replaced on another runtime."""
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The part of the available memory that a model may take."""


class EngineSettings(MeshSettings):
    """One loaded model; its runtime sets the first four."""

    listen: Listen = "127.0.0.1:0"
    """Where generation services connect, host:port; port 0 takes a free one."""
    engine_id: str = ""
    """The engine's id."""
    model: str = ""
    """The name of the model it serves."""
    model_version: int = 0
    """The version of the model it serves."""
    model_dir: FullPath | None = None
    """The directory of the model's files."""
    max_running: Count = 64
    """Sequences decoded at one time."""
    max_waiting: Annotated[int, Field(ge=0)] = 256
    """Sequences that may wait; more are refused with RESOURCE_EXHAUSTED."""
    prefill_tokens_per_step: Count = 512
    """Most prompt tokens read between two decode steps."""
    prefill_slowdown: Annotated[float, Field(gt=1, le=1000)] = 1.7
    """How many times as long a decode step may take while prompts above 256 tokens are read."""
    token_interval_ms: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """Tokens of steps faster than this go out several at a time; 0 for each at once."""
    prefix_cache_bytes: Annotated[int, Field(ge=0)] | None = None
    """Memory to keep beginnings of prompts in; 0 for none, default 10%, at most 1 GiB."""
    kv_cache_bytes: Count | None = None
    """Memory that keys and values of running sequences may take; default half of what is free."""
    context_tokens: Annotated[int, Field(ge=0)] = 0
    """Most tokens of prompt and output together; 0 for what the model allows."""
    dtype: Literal["auto", "as_shipped", "float32", "float16", "bfloat16"] = "auto"
    """The type of the weights; auto expands to float32 where that is faster and fits."""
    drain_grace_s: Seconds = 30
    """How long running sequences may go on after a stop was asked for."""
    spare: bool = False
    """Whether to import all that is needed and then wait on stdin for the command line."""
    backend: Literal["mlx", "simulated"] = "mlx"
    """What makes the tokens; simulated reads no weights, for measuring and testing the mesh."""
    simulated_step_ms: Amount = 5.0
    """How long a simulated decode step takes."""
    simulated_prefill_us_per_token: Amount = 50.0
    """How long reading one prompt token takes, simulated."""
    simulated_jitter: Amount = 0.0
    """The part by which a simulated step may take longer."""
    simulated_failure_rate: Chance = 0.0
    """The chance of a running sequence to fail, in each simulated step."""
    simulated_stall_rate: Chance = 0.0
    """The chance of a simulated step to hang for simulated_stall_s."""
    simulated_stall_s: Seconds = 1.0
    """How long a simulated step hangs when it does."""


SETTINGS: dict[str, type[MeshSettings]] = {
    "mesh": MeshSettings,
    "gateway": GatewaySettings,
    "generation": GenerationSettings,
    "model": ModelSettings,
    "runtime": RuntimeSettings,
    "engine": EngineSettings,
}
