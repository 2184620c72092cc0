"""The settings of a process for people: values and defaults as TOML, sources, no secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from mlxmesh_shared.settings.dynamic import LiveSettings
from mlxmesh_shared.settings.names import SHARED_TABLES, setting_fields, setting_value
from mlxmesh_shared.settings.sections import MeshSettings, dynamic_names

MASK = "***"
_PASSWORD = re.compile(r"(://[^/@\s:]*):[^@/\s]*@")
_WEBHOOK = re.compile(r"(https?://)(?:[^/\s@]*@)?([^/\s?]+)\S*")
_SOURCES = {"file": "file", "environment": "environment", "flag": "command line"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedSetting:
    """One setting; value and default as TOML."""

    section: str
    """Its table in mlxmesh.toml."""
    name: str
    value: str
    default: str
    source: str
    """default, file, environment, command line or store."""
    source_name: str
    """The file, the variable, the flag or the key; empty for a default."""
    live: bool
    """Whether a change has effect without a restart."""
    description: str


def described(live: LiveSettings[Any], service: str) -> Iterator[DescribedSetting]:
    """Every setting of a process, in the order of the documentation."""
    settings = cast("MeshSettings", live.current)
    may_change = dynamic_names(type(settings))
    for name, field in setting_fields(type(settings)).items():
        source, source_name = _source(live.origins.get(name, ""), service, name)
        yield DescribedSetting(
            section=_section(name, service),
            name=name.rpartition(".")[2],
            value=_shown(name, setting_value(settings, name)),
            default=_shown(name, _default(field)),
            source=source,
            source_name=source_name,
            live=name in may_change,
            description=" ".join((field.description or "").split()),
        )


def _section(name: str, service: str) -> str:
    table = name.rpartition(".")[0]
    if table in SHARED_TABLES:
        return table
    return "mesh" if name in MeshSettings.model_fields else service


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _source(origin: str, service: str, name: str) -> tuple[str, str]:
    if not origin:
        return "default", ""
    if origin == "configuration store":
        return "store", f"{service}/{name} or mesh/{name}"
    kind, _, where = origin.partition(" ")
    return _SOURCES[kind], where


def _shown(name: str, value: Any) -> str:
    if isinstance(value, SecretStr):
        return f'"{MASK}"' if value.get_secret_value() else '""'
    return _toml(value, masked=_webhook if name == "event_webhooks" else _text)


def _toml(value: Any, *, masked: Any) -> str:
    """A value as in mlxmesh.toml; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(each, masked=masked) for each in cast('list[Any]', value))}]"
    # A sink's repr is its text in the settings.
    text = str(value) if isinstance(value, str | Path) else repr(value)
    return json.dumps(masked(text), ensure_ascii=False)


def _text(text: str) -> str:
    return _PASSWORD.sub(rf"\1:{MASK}@", text)


def _webhook(text: str) -> str:
    """The path and the query of a webhook's URL may be its secret."""
    return _WEBHOOK.sub(rf"\1\2/{MASK}", text)
