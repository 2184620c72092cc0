"""The values of the settings for telemetry sinks and for webhooks."""

import re
from typing import Annotated, Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mlxmesh_shared.settings.fields import MIB, Count, FullPath, split_texts

_NAME = re.compile(r"[a-z]{1,32}\.([a-z_]{1,32}|\*)")


def check_webhook(text: str) -> str:
    """Checks a URL and the names of the events that it wants. Raises: ValueError."""
    url, *names = text.split() or [""]
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "each webhook must begin with a URL, for example http://127.0.0.1:9000/events model.*"
        )
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name} is not the name of an event; write model.loaded, or model.*")
    return text


SIGNALS = ("traces", "metrics", "logs")

Signal = Literal["traces", "metrics", "logs"]
Signals = Annotated[tuple[Signal, ...], BeforeValidator(split_texts), Field(min_length=1)]
Service = Literal[
    "gateway", "generation", "model", "access", "jobs", "worker", "tools", "runtime", "engine"
]
Services = Annotated[tuple[Service, ...], BeforeValidator(split_texts)]


class SinkSettings(BaseModel):
    """One sink."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, defer_build=True
    )

    kind: Literal["prometheus", "otlp", "file", "console"]
    """prometheus: /metrics on the gateway's HTTP port; otlp: a collector, over gRPC; file: JSON
    lines; console: readable lines on stdout."""
    target: str = ""
    """The collector's host:port, or the file's path."""
    signals: Signals = SIGNALS
    """The signals that it receives: traces, metrics, logs."""
    services: Services = ()
    """The services whose telemetry it receives; none for all."""
    severity: Literal["debug", "info", "warning", "error"] = "debug"
    """The lowest severity of the log records that it receives."""
    queue_bytes: Count = 8 * MIB
    """The capacity of its queue; what no longer fits is dropped and counted."""
    tls: bool = False
    """otlp: whether to connect with TLS."""
    ca: FullPath | None = None
    """otlp: the authority of the collector's certificate; default the system's authorities."""
    cert: FullPath | None = None
    """otlp: the client certificate for the collector; needs key."""
    key: FullPath | None = None
    """otlp: the key of cert."""
    headers_file: FullPath | None = None
    """otlp: a file with metadata for each call, such as `authorization: Bearer ...`, one a line."""
    max_bytes: Count = 64 * MIB
    """file: the size at which the file is rotated to FILE.1."""
    keep_files: Count = 4
    """file: the number of rotated files that are kept."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "SinkSettings":
        if self.kind == "otlp" and not _is_address(self.target):
            raise ValueError("an otlp sink needs the collector's host:port: otlp:localhost:4317")
        if self.kind == "file" and not self.target:
            raise ValueError("a file sink needs a path: file:/var/log/mlxmesh/telemetry.jsonl")
        if self.kind in ("prometheus", "console") and self.target:
            raise ValueError(f"a {self.kind} sink has no target; write {self.kind}")
        if self.kind == "prometheus" and set(self.signals) not in ({"metrics"}, set(SIGNALS)):
            raise ValueError("a prometheus sink accepts metrics only")
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key need each other")
        if (self.ca or self.cert) and not self.tls:
            raise ValueError("ca, cert and key are for TLS: add tls=true")
        return self

    @property
    def name(self) -> str:
        """Its name in metrics, status and logs."""
        return f"{self.kind}:{self.target}" if self.target else self.kind

    def __repr__(self) -> str:
        return self.name


def _is_address(target: str) -> bool:
    host, _, port = target.rpartition(":")
    return bool(host) and port.isdigit()


def _parsed(value: Any) -> Any:
    """Each sink as a table, if it is given as text."""
    if isinstance(value, str):
        value = [part for part in value.split(";") if part.strip()]
    if not isinstance(value, list):
        return value
    sinks = cast("list[Any]", value)
    return tuple(_table(sink.strip()) if isinstance(sink, str) else sink for sink in sinks)


def _table(text: str) -> dict[str, str]:
    head, separator, options = text.partition("?")
    kind, _, target = head.partition(":")
    try:
        pairs = parse_qsl(options, keep_blank_values=True, strict_parsing=bool(separator))
    except ValueError:
        raise ValueError(f"{text}: write options as ?name=value&name=value") from None
    return {"kind": kind, "target": target, **dict(pairs)}


def _named_once(sinks: tuple[SinkSettings, ...]) -> tuple[SinkSettings, ...]:
    names = [sink.name for sink in sinks]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"there are two sinks {name}; name each kind and target once")
    return sinks


Sinks = Annotated[tuple[SinkSettings, ...], BeforeValidator(_parsed), AfterValidator(_named_once)]
