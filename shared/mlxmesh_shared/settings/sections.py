"""The one list of settings: a section per process, all with the mesh's own settings first."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

MIB = 2**20

FullPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class MeshSettings(BaseSettings):
    """What every process needs to know. Made directly, only its arguments count."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    data_dir: FullPath = Path("~/.mlxmesh")
    """Where the mesh keeps its registry, logs, database and models."""
    registry: Literal["directory"] = "directory"
    """How instances find each other: "directory" is for one machine."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important record that is logged."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """How records look; auto is text on a terminal and JSON elsewhere."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class GatewaySettings(MeshSettings):
    """The public process."""

    listen: str = "127.0.0.1:50051"
    """Where clients connect, host:port; port 0 takes a free one."""
    insecure_listen: bool = False
    """Allows listening beyond this machine without TLS."""
    default_deadline_s: Seconds = 300
    """The deadline of a call that came without one."""
    max_deadline_s: Seconds = 3600
    """The longest deadline; a longer one is cut to it."""
    max_concurrent_rpcs: Count = 1024
    """Calls at one time; more are refused with RESOURCE_EXHAUSTED."""
    max_message_bytes: Count = 16 * MIB
    """The largest request."""
    reflection: bool = True
    """Whether clients may ask for the contracts."""
    drain_grace_s: Seconds = 30
    """How long running calls may go on after a stop was asked for."""


class GenerationSettings(MeshSettings):
    """Text in, text out."""

    listen: str = "127.0.0.1:0"
    """Where the gateway connects, host:port; port 0 takes a free one."""
    max_concurrent_rpcs: Count = 1024
    """Calls at one time; more are refused with RESOURCE_EXHAUSTED."""
    tokenizer_cache_models: Count = 16
    """Tokenizers kept in memory."""
    drain_grace_s: Seconds = 30
    """How long running generations may go on after a stop was asked for."""


class ModelSettings(MeshSettings):
    """The catalogue."""

    listen: str = "127.0.0.1:0"
    """Where other services connect, host:port; port 0 takes a free one."""
    database_url: str = ""
    """An SQLAlchemy URL; empty for model.db in the data directory."""
    models_dir: FullPath | None = None
    """Where pulled models are kept; default models in the data directory."""
    reconcile_interval_s: Seconds = 1.0
    """How often desired and running replicas are compared when nothing changes."""
    hub_endpoint: str = ""
    """The model hub to pull from; empty for HF_ENDPOINT, or else the hub library's own default."""
    drain_grace_s: Seconds = 5
    """How long running calls may go on after a stop was asked for."""


class RuntimeSettings(MeshSettings):
    """The supervisor of one host's engines."""

    listen: str = "127.0.0.1:0"
    """Where the model service connects, host:port; port 0 takes a free one."""
    heartbeat_interval_s: Seconds = 1.0
    """How often each engine is asked how it is."""
    heartbeat_timeout_s: Seconds = 2.0
    """How long an engine may take to answer that."""
    silent_after_s: Seconds = 10.0
    """An engine that has not answered for so long is restarted."""
    stuck_after_s: Seconds = 30
    """An engine whose loop has not turned for so long is restarted."""
    start_timeout_s: Seconds = 600
    """How long an engine may take to load its model."""
    restart_backoff_min_s: Seconds = 0.5
    """The first pause before a crashed engine is started again."""
    restart_backoff_max_s: Seconds = 30
    """The longest pause before a crashed engine is started again."""
    breaker_failures: Count = 5
    """So many crashes within breaker_window_s and the engine stays down."""
    breaker_window_s: Seconds = 120
    """The time over which crashes are counted."""
    stop_grace_s: Seconds = 30
    """How long a stopping engine may finish what it runs before it is killed."""
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The part of the available memory that a model may take."""


class EngineSettings(MeshSettings):
    """One loaded model; its runtime sets the first four."""

    listen: str = "127.0.0.1:0"
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
    context_tokens: Annotated[int, Field(ge=0)] = 0
    """Most tokens of prompt and output together; 0 for what the model allows."""
    dtype: Literal["auto", "as_shipped", "float32", "float16", "bfloat16"] = "auto"
    """The type of the weights; auto expands to float32 where that is faster and fits."""
    drain_grace_s: Seconds = 30
    """How long running sequences may go on after a stop was asked for."""


SETTINGS: dict[str, type[MeshSettings]] = {
    "mesh": MeshSettings,
    "gateway": GatewaySettings,
    "generation": GenerationSettings,
    "model": ModelSettings,
    "runtime": RuntimeSettings,
    "engine": EngineSettings,
}
