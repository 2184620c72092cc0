"""The settings that every process has."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from mlxmesh_shared.settings.consul import ConsulSettings
from mlxmesh_shared.settings.fields import MIB, Count, Dynamic, FullPath
from mlxmesh_shared.settings.listen import check_host


def dynamic_names(cls: type["MeshSettings"]) -> frozenset[str]:
    """The settings of a section that may change while its process runs."""
    return frozenset(
        name
        for name, field in cls.model_fields.items()
        if any(isinstance(mark, Dynamic) for mark in field.metadata)
    )


def _config_store(chosen: str, info: ValidationInfo) -> str:
    if chosen != "auto":
        return chosen
    return "consul" if info.data.get("registry") == "consul" else "none"


class MeshSettings(BaseModel):
    """Every process has these; a section of its own adds to them."""

    # Plain pydantic: importing pydantic-settings would slow down the start of every process.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        defer_build=True,
    )

    data_dir: FullPath = Path("~/.mlxmesh")
    """The directory of the mesh's registry, logs, database and models."""
    registry: Literal["directory", "consul"] = "directory"
    """How instances find each other: "directory" on one machine, "consul" also across machines."""
    config_store: Annotated[Literal["auto", "none", "consul"], AfterValidator(_config_store)] = (
        "auto"
    )
    """Where settings that change while running are stored: "none" or "consul" (Consul's keys);
    "auto" is consul if the registry is consul, else none."""
    consul: ConsulSettings = ConsulSettings()
    """The Consul agent, for the registry and the configuration store."""
    zone: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""
    """The location of this host (a rack, a room); instances register with it."""
    advertise_host: Annotated[str, AfterValidator(check_host)] = ""
    """The name or address at which others reach this process; empty for the host of listen."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Dynamic()] = "info"
    """The lowest severity that is logged."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """The format of log records; auto is text on a terminal and JSON elsewhere."""
    log_file_bytes: Count = 16 * MIB
    """The approximate size at which the log file of a service or an engine is rotated."""
    log_files: Annotated[int, Field(ge=1, le=1000)] = 4
    """Files of each log, including the current one; rotation removes the oldest."""
    tls_dir: FullPath | None = None
    """The directory of the certificates (`mlxmesh certs`); setting it turns TLS on, and every
    process of the mesh needs it."""
    insecure_listen: bool = False
    """Allows listening beyond this machine without TLS."""
    reflection: bool = True
    """Whether clients may request the contracts by gRPC reflection."""
    telemetry: bool = True
    """Whether traces, metrics and logs are exported to a gateway, or to otlp_endpoint."""
    otlp_endpoint: Annotated[str, Field(pattern=r"^$|^[^\s/]+:\d+$")] = ""
    """A collector for OTLP over gRPC, host:port; empty for the mesh's own gateway."""
