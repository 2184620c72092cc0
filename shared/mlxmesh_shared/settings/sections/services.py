"""The settings of each service."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mlxmesh_shared.settings.fields import (
    MIB,
    Amount,
    Count,
    Dynamic,
    FullPath,
    HostName,
    Names,
    Origin,
    Ratio,
    Seconds,
    split_texts,
)
from mlxmesh_shared.settings.listen import HttpListen, Listen
from mlxmesh_shared.settings.sections.mesh import MeshSettings
from mlxmesh_shared.settings.sinks import Sinks, SinkSettings, check_webhook

Webhook = Annotated[str, AfterValidator(check_webhook)]
MAX_GROUP_SIZE = 16
"""Ranks of a group."""


class GatewaySettings(MeshSettings):
    """The public process."""

    listen: Listen = "127.0.0.1:50051"
    """Where clients connect, host:port; port 0 chooses a free one."""
    http_listen: HttpListen = "auto"
    """Where HTTP clients connect, host:port; port 0 chooses a free one, empty disables HTTP.
    auto is 127.0.0.1:8051, or a free port if listen has port 0."""
    http_hosts: Annotated[tuple[HostName, ...], BeforeValidator(split_texts)] = ()
    """Host names at which HTTP is answered, besides localhost, those of http_listen and
    advertise_host, and every IP address; a list, or one text separated by commas."""
    cors_origins: Annotated[tuple[Origin, ...], BeforeValidator(split_texts)] = ()
    """Origins of web pages that may use the HTTP API, such as https://app.example.org, or * for
    all; a list, or one text separated by commas. By default none may."""
    console: bool = True
    """Whether the HTTP port serves the console, the web pages of the mesh."""
    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    """What is done with fields of HTTP requests that no protocol has: ignore tells them in the
    header mlxmesh-ignored-fields of the response; in the Open Inference Protocol over gRPC, in its
    parameter of that name."""
    default_deadline_s: Annotated[Seconds, Dynamic()] = 300
    """The deadline of a call that has none."""
    max_deadline_s: Annotated[Seconds, Dynamic()] = 3600
    """The longest deadline; a longer one is shortened to it."""
    max_tool_calls: Annotated[Count, Field(le=64)] = 32
    """Calls of MCP tools that one response makes at most, unless its request says how many."""
    max_tool_result_characters: Count = 65_536
    """What the model is given of the result of such a call at most; the rest is cut off."""
    max_concurrent_rpcs: Annotated[Count, Dynamic()] = 1024
    """Concurrent calls; more are refused with RESOURCE_EXHAUSTED."""
    max_rpcs_per_caller: Count | None = None
    """Concurrent calls of one caller; default seven eighths of max_concurrent_rpcs."""
    max_streams_per_connection: Count = 256
    """Concurrent calls on one connection; its client queues the others."""
    max_message_bytes: Annotated[Count, Field(le=64 * MIB)] = 48 * MIB
    """The largest request; images take most, a third more in JSON."""
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
    http_client_certificates: Literal["auto", "required", "optional", "off"] = "auto"
    """With TLS: whether HTTP clients must present certificates, may, or are not asked for them;
    auto is optional while callers must authenticate, and else as client_certificates."""
    authentication: Literal["auto", "required", "off"] = "auto"
    """Whether callers must authenticate, by an API key, an access token or a certificate; auto
    requires it once the mesh has had a user, or when a listener is beyond loopback."""
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
    recent_requests: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Requests that have ended and are listed by `mlxmesh requests`; the oldest is dropped
    first."""
    event_webhooks: Annotated[tuple[Webhook, ...], BeforeValidator(split_texts)] = ()
    """URLs to which events are posted, each followed by the names that it wants, such as model.*;
    a list, or one text separated by commas."""
    drain_grace_s: Seconds = 30
    """How long running calls may continue after a stop was requested."""
    trace_sample_ratio: Ratio = 1.0
    """The part of the requests that are traced, if the client does not decide that."""


class GenerationSettings(MeshSettings):
    """Text in, text out."""

    listen: Listen = "127.0.0.1:0"
    """Where the gateway connects, host:port; port 0 chooses a free one."""
    max_concurrent_rpcs: Annotated[Count, Dynamic()] = 1024
    """Concurrent calls; more are refused with RESOURCE_EXHAUSTED."""
    prefix_routing: Annotated[bool, Dynamic()] = True
    """Whether a prompt is preferably sent to an engine that has its prefix cached."""
    max_generations: Count = 1024
    """Concurrent generations, attached or detached, and inputs whose tokens are being counted; more
    are refused with RESOURCE_EXHAUSTED."""
    max_held_bytes: Count = 256 * MIB
    """Memory for the requests of all of these; more are refused with RESOURCE_EXHAUSTED."""
    max_unread_bytes: Count = 128 * MIB
    """Memory for output that slow readers have not received; beyond it, the largest generation of
    the caller with the most is CANCELLED."""
    tokenizer_cache_models: Count = 16
    """Tokenizers cached in memory."""
    engine_wait_s: Seconds = 30
    """How long a generation without a deadline that lost its engine waits for another one."""
    detached_timeout_s: Seconds = 60
    """How long a generation with a request_id of its caller continues without a reader."""
    retention_s: Seconds = 300
    """How long the messages of such a generation are retained after its end."""
    retained_generations: Count = 4096
    """Generations whose messages are retained; the caller with the most loses its oldest first."""
    retained_bytes: Count = 64 * MIB
    """Memory for retained messages; the caller with the most loses its oldest generation first."""
    shadow_bytes: Count = 64 * MIB
    """Memory for requests that are to be repeated for a shadow; more are dropped and counted."""
    shadow_wait_s: Seconds = 30
    """How long such a request waits until no caller's request runs on the host of the shadow's
    version; then it is dropped and counted."""
    shadow_timeout_s: Seconds = 120
    """How long a repetition may take."""
    drain_grace_s: Seconds = 30
    """How long running generations may continue after a stop was requested."""
    log_content_models: Names = ()
    """Models whose prompts and outputs may appear in traces, separated by commas; default none."""


class ModelSettings(MeshSettings):
    """The catalogue."""

    listen: Listen = "127.0.0.1:0"
    """Where other services connect, host:port; port 0 chooses a free one."""
    database_url: str = ""
    """postgresql:// or sqlite:///, as in docs/operations.md; empty for model.db in the data
    directory."""
    models_dir: FullPath | None = None
    """The directory of pulled models; default models in the data directory."""
    reconcile_interval_s: Seconds = 1.0
    """How often desired and running replicas are compared while they differ; every change starts
    a comparison at once, and without changes there is one in 30 intervals."""
    runtime_grace_s: Seconds = 30
    """How long a runtime may be missing from the registry before its replicas are placed
    elsewhere."""
    hourly_history_days: Count = 14
    """How long the history of models is kept by the hour; then by the day."""
    daily_history_days: Count = 400
    """How long the history of models is kept by the day."""
    load_on_demand: bool = True
    """Whether a request for a version that is not loaded loads it, if its model's policy does not
    say."""
    max_engines_per_runtime: Annotated[int, Field(ge=0)] = 0
    """Engines on one runtime; for another one, the least recently used model is unloaded. 0 for as
    many as fit into its memory."""
    hub_endpoint: str = ""
    """The model hub to pull from; empty for HF_ENDPOINT, or else the hub library's own default."""
    drain_grace_s: Seconds = 5
    """How long running calls may continue after a stop was requested."""


class AccessSettings(MeshSettings):
    """Users, keys and quotas."""

    listen: Listen = "127.0.0.1:0"
    """Where gateways connect, host:port; port 0 chooses a free one."""
    database_url: str = ""
    """postgresql:// or sqlite:///, as in docs/operations.md; empty for access.db in the data
    directory."""
    sign_up: bool = False
    """Whether anyone may ask for a user, which an admin must approve."""
    audit_retention_days: Count = 365
    """How long entries of the audit log are kept."""
    usage_retention_days: Count = 730
    """How long usage is kept."""
    access_token_s: Annotated[Seconds, Field(le=86_400)] = 600
    """How long an access token of a session is valid; at most a day."""
    session_idle_s: Seconds = 1_209_600
    """How long a session may be idle; then its refresh token expires."""
    session_lifetime_s: Seconds = 7_776_000
    """How long a session lasts at most."""
    signing_key_s: Annotated[Seconds, Field(ge=3600)] = 2_592_000
    """How long a key signs access tokens; then a new one does. At least an hour."""
    oidc_issuer: str = ""
    """The URL of an OpenID Connect issuer with which users may sign in; empty for none."""
    oidc_client_id: str = ""
    """The client that this mesh is at the issuer."""
    oidc_client_secret_file: FullPath | None = None
    """The file with the client's secret; default none, for a client without one."""
    oidc_redirect_uris: Names = ()
    """URIs to which the issuer may send browsers back, with what is below them; a list, or one text
    separated by commas. https, or http on a loopback host, without a port for any port."""
    oidc_approve: bool = False
    """Whether users of the issuer are active at once; else an admin must approve them."""
    oidc_name_claim: str = "preferred_username"
    """The claim of the issuer that is the name of a new user."""
    oidc_timeout_s: Seconds = 5
    """How long a request to the issuer may take."""
    drain_grace_s: Seconds = 5
    """How long running calls may continue after a stop was requested."""


class JobsSettings(MeshSettings):
    """Jobs, batches and their files."""

    listen: Listen = "127.0.0.1:0"
    """Where gateways and workers connect, host:port; port 0 chooses a free one."""
    database_url: str = ""
    """postgresql:// or sqlite:///, as in docs/operations.md; empty for jobs.db in the data
    directory."""
    lease_s: Annotated[Seconds, Field(ge=1, le=300)] = 10
    """A worker that was silent for this long is lost: its jobs run elsewhere."""
    reconnect_s: Annotated[Seconds, Field(ge=0.1, le=60)] = 2
    """How long a worker may be without a stream; one that the registry does not list any more is
    lost at once."""
    stall_timeout_s: Annotated[Seconds, Field(ge=1)] = 600
    """An attempt without any news for this long is stopped, and its job runs elsewhere."""
    max_file_bytes: Count = 200 * MIB
    """The largest file."""
    max_files_bytes_per_principal: Count = 4096 * MIB
    """The largest size of all files of one principal."""
    max_output_bytes: Count = 64 * MIB
    """The largest size of all files that one job makes."""
    drain_grace_s: Seconds = 5
    """How long running calls may continue after a stop was requested."""


class WorkerSettings(MeshSettings):
    """Runs jobs."""

    listen: Listen = "127.0.0.1:0"
    """Where health checks connect, host:port; port 0 chooses a free one."""
    slots: Annotated[int, Field(ge=1, le=4096)] = 64
    """Jobs that it runs at once."""
    slots_per_connector: Annotated[int, Field(ge=1, le=4096)] = 4
    """Jobs of one connector that it runs at once, for each of its back ends."""
    queues: Names = ()
    """Only jobs of these queues; a list, or one text separated by commas. Default: of all."""
    connectors: Names = ()
    """Only these connectors; a list, or one text separated by commas. Default: all that are
    installed."""
    back_ends: Names = ()
    """Back ends of connectors, CONNECTOR=ADDRESS, such as
    comfyui_websocket=http://127.0.0.1:8188; a list, or one text separated by commas. Others are
    found in the registry, as services that are named like the connector."""
    probe_interval_s: Annotated[Seconds, Field(ge=0.1)] = 5
    """How often the health of back ends is checked."""
    stop_grace_s: Seconds = 30
    """How long running jobs may go on after a stop was requested; then they run elsewhere."""


class ToolsSettings(MeshSettings):
    """MCP servers, and calls of their tools."""

    listen: Listen = "127.0.0.1:0"
    """Where gateways connect, host:port; port 0 chooses a free one."""
    database_url: str = ""
    """postgresql:// or sqlite:///, as in docs/operations.md; empty for tools.db in the data
    directory."""
    stdio_servers: bool = True
    """Whether administrators may add MCP servers that are commands. They run with the rights of the
    tools service."""
    stdio_without_users: bool = False
    """Whether such servers may also be added where nobody has to authenticate. Every account of the
    host can then run programs as the owner of the mesh."""
    connect_timeout_s: Annotated[Seconds, Field(ge=0.1, le=600)] = 30
    """How long an MCP server may take to start and to list its tools."""
    call_retention_days: Count = 30
    """How long records of calls are kept."""
    drain_grace_s: Seconds = 5
    """How long running calls may continue after a stop was requested."""


class RuntimeSettings(MeshSettings):
    """The supervisor of one host's engines."""

    listen: Listen = "127.0.0.1:0"
    """Where the model service connects, host:port; port 0 chooses a free one."""
    heartbeat_interval_s: Seconds = 1.0
    """The interval of a busy engine's health checks; an idle one is checked twice in each
    liveness_timeout_s."""
    heartbeat_timeout_s: Seconds = 2.0
    """How long an engine may take to answer a health check."""
    liveness_timeout_s: Seconds = 10.0
    """An engine that has not answered for this long is restarted."""
    step_stall_timeout_s: Seconds = 30
    """An engine whose step loop has not advanced for this long is restarted."""
    start_timeout_s: Seconds = 600
    """How long an engine may take to load its model."""
    prefix_disk_bytes: Annotated[int, Field(ge=0, le=2**50)] = 0
    """Cached prefixes that engines keep in the data directory, so that they survive restarts, in
    bytes of all models of the host together; 0 keeps none. A profile's setting precedes it."""
    spare_engine: bool = True
    """Keeps a process with MLX imported ready, so that an engine starts sooner; about 70 MB."""
    restart_backoff_min_s: Seconds = 0.5
    """The first delay before a crashed engine is restarted."""
    restart_backoff_max_s: Seconds = 30
    """The longest delay before a crashed engine is restarted."""
    breaker_failures: Count = 5
    """Consecutive failures after which an engine is not restarted any more."""
    failure_reset_s: Seconds = 120
    """An engine that was ready for this long has its count of failures reset."""
    stop_grace_s: Seconds = 30
    """How long a stopping engine may finish its sequences before it is killed."""
    hand_over_s: Seconds = 300
    """How long a stopping runtime waits for other runtimes to replace its engines."""
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The part of the memory that engines may use, of what is free and of the total."""
    engine_memory_bytes: Count | None = None
    """Most memory that all engines together may use; default no limit but memory_fraction."""
    shared_paths: bool = True
    """Whether a model's own path is used where this host has the same files there; otherwise all
    files are fetched into the data directory."""
    fetched_files_bytes: Count | None = None
    """Most bytes of fetched files on this host; default what the disk has."""
    fetch_stall_timeout_s: Seconds = 60
    """How long a fetch of files goes on while no process sends any."""


class EngineSettings(MeshSettings):
    """One loaded model; its runtime sets engine_id, model, model_version and model_dir."""

    listen: Listen = "127.0.0.1:0"
    """Where generation services connect, host:port; port 0 chooses a free one."""
    engine_id: str = ""
    """The engine's id."""
    model: str = ""
    """The name of the model that it serves."""
    model_version: int = 0
    """The version of the model that it serves."""
    model_dir: FullPath | None = None
    """The directory of the model's files."""
    kind: Literal["generation", "embedding", "rerank", "vision"] = "generation"
    """What it serves."""
    max_running: Count = 64
    """Sequences decoded concurrently."""
    max_waiting: Annotated[int, Field(ge=0)] = 256
    """Sequences in the queue; more are refused with RESOURCE_EXHAUSTED."""
    prefill_tokens_per_step: Count = 512
    """Most prompt tokens prefilled between two decode steps."""
    prefill_slowdown: Annotated[float, Field(gt=1, le=1000)] = 1.7
    """The factor by which prefills of prompts above 256 tokens may lengthen decode on average."""
    token_interval_ms: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """Tokens of faster steps are sent in groups at this interval; 0 sends each at once."""
    prefix_cache_bytes: Annotated[int, Field(ge=0)] | None = None
    """Memory of the prefix cache; 0 disables it, default 10% of the host's, at most 1 GiB."""
    prefix_disk_bytes: Annotated[int, Field(ge=0, le=2**50)] = 0
    """Cached prefixes that are kept in the data directory, in bytes of all models of the host
    together; 0 keeps none."""
    max_adapters: Annotated[int, Field(ge=0, le=64)] = 64
    """Slots for LoRA adapters; 0 refuses requests with adapters."""
    adapter_bytes: Annotated[int, Field(ge=2**20, le=2**50)] = 2**30
    """Memory of the adapters in slots; the least recently used makes room for others."""
    speculative: Literal["off", "ngram", "draft"] = "ngram"
    """The source of proposed tokens; the output is the same with each."""
    runtime_address: str = ""
    """Where its runtime listens, host:port, which fetches adapters that this host lacks; empty for
    none."""
    draft_model_dir: FullPath | None = None
    """The directory of the model that proposes tokens, with speculative draft."""
    kv_cache_bytes: Count | None = None
    """Memory for keys and values of running sequences; default half of what is free."""
    kv_cache_type: Literal["full", "8bit", "4bit"] = "full"
    """The form of keys and values; fewer bits hold more tokens and change the output a little."""
    context_tokens: Annotated[int, Field(ge=0)] = 0
    """Most tokens of prompt and output together; 0 for the model's own limit."""
    dtype: Literal["auto", "as_shipped", "float32", "float16", "bfloat16"] = "auto"
    """The type of the weights; auto expands to float32 if that is faster and fits."""
    forward: Literal["auto", "mlx"] = "auto"
    """The forward pass; auto prefers the one for CPUs where it supports the model, mlx does not."""
    cpu_threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads of the forward pass for CPUs; 0 for as many as speed it up, measured at start."""
    constraint_max_characters: Annotated[int, Field(ge=1, le=1_048_576)] = 262_144
    """The longest grammar of a constraint."""
    constraint_max_depth: Annotated[int, Field(ge=1, le=100)] = 64
    """How deeply a JSON schema of a constraint may be nested."""
    constraint_compile_timeout_s: Seconds = 5.0
    """How long the compilation of a constraint may take."""
    constraint_cache_bytes: Annotated[int, Field(ge=0)] = 268_435_456
    """Memory of compiled constraints that are kept for later sequences, estimated."""
    group_size: Annotated[int, Field(ge=1, le=MAX_GROUP_SIZE)] = 1
    """Ranks that compute the model together, each in a process of its own; 1: this one alone."""
    group_split: Literal["auto", "tensor", "pipeline"] = "auto"
    """A part of every layer for each rank, or some of the layers; auto prefers the former."""
    group_rank: Annotated[int, Field(ge=0, le=15)] = 0
    """Which of them this is; rank 0 serves requests."""
    group_leader: str = ""
    """Where rank 0 listens for the others, host:port; only for ranks above 0."""
    group_share_ppm: Annotated[int, Field(ge=0, lt=10**6)] = 0
    """With pipeline, the part of the layers of a rank above 0, in millionths; rank 0 has the rest.
    0: as many as other ranks."""
    group_listen: Listen = "127.0.0.1:0"
    """Where other ranks connect, host:port; tensors arrive at a free port of the same host."""
    group_silence_s: Annotated[float, Field(ge=0.5, le=600)] = 1.5
    """The group ends when a rank hears nothing from another one for so long."""
    group_start_silence_s: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """The same while the group starts: the host may be busy, and no sequence runs yet."""
    insecure_group: bool = False
    """Whether tensors may travel unencrypted between hosts."""
    drain_grace_s: Seconds = 30
    """How long running sequences may continue after a stop was requested."""
    spare: bool = False
    """Whether to import what an engine needs and then wait on stdin for the command line."""
    backend: Literal["mlx", "simulated"] = "mlx"
    """The source of tokens; simulated loads no weights, to measure and test the mesh."""
    simulated_step_ms: Amount = 5.0
    """The duration of a simulated decode step."""
    simulated_prefill_us_per_token: Amount = 50.0
    """The duration of a simulated prefill, for each prompt token."""
    simulated_jitter: Amount = 0.0
    """The part by which a simulated step may take longer."""
    simulated_failure_rate: Ratio = 0.0
    """The probability that a running sequence fails, in each simulated step."""
    simulated_stall_rate: Ratio = 0.0
    """The probability that a simulated step stalls for simulated_stall_s."""
    simulated_stall_s: Seconds = 1.0
    """How long a stalled simulated step lasts."""
