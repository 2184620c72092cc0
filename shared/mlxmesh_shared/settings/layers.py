"""Loads settings from their layers: default, mlxmesh.toml, stored keys, environment, flags.

An unknown name is an error that names the nearest known one.
"""

import argparse
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from mlxmesh_shared.settings.names import (
    PREFIX,
    SHARED_TABLES,
    by_table,
    flag,
    nearest,
    right_place,
    setting_fields,
    setting_value,
    table_fields,
    variable,
)
from mlxmesh_shared.settings.sections import SETTINGS, MeshSettings

CONFIG = "MLXMESH_CONFIG"
# Variables that are not settings.
_OTHER_VARIABLES = {
    CONFIG,
    "MLXMESH_EXIT_WITH_PARENT",
    # For clients and the examples.
    "MLXMESH_ADDRESS",
    "MLXMESH_EXAMPLE_MODEL",
    "MLXMESH_CA",
    "MLXMESH_CERT",
    "MLXMESH_KEY",
    "MLXMESH_API_KEY",
    "MLXMESH_INSECURE_KEY",
}

S = TypeVar("S", bound=MeshSettings)


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it and says what is valid."""


class Sourced(NamedTuple):
    """A setting's value and its source."""

    name: str
    value: Any
    source: str


class _Raw(NamedTuple):
    value: Any
    source: str


def load_settings(
    cls: type[S],
    argv: Sequence[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    stored: Mapping[str, str] | None = None,
) -> S:
    """Loads a section's settings; argv None means no flags. Raises: SettingsError.

    `stored`: the configuration store's content, setting name to text.
    """
    env = os.environ if env is None else env
    return _validated(cls, _layered(cls, argv or (), env, stored or {}))


def load_with_sources(
    cls: type[S], argv: Sequence[str], *, stored: Mapping[str, str]
) -> tuple[S, dict[str, str]]:
    """As load_settings, with the source of each setting that has not its default."""
    layered = _layered(cls, argv, os.environ, stored)
    settings = _validated(cls, layered)
    return settings, {name: raw.source for name, raw in layered.items()}


def sources(
    cls: type[MeshSettings],
    argv: Sequence[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    stored: Mapping[str, str] | None = None,
) -> list[Sourced]:
    """Each setting of a section, with its value and its source. Raises: SettingsError."""
    layered = _layered(cls, argv or (), os.environ if env is None else env, stored or {})
    settings = _validated(cls, layered)
    return [
        Sourced(name, setting_value(settings, name), _source(layered, name))
        for name in setting_fields(cls)
    ]


def _source(layered: Mapping[str, _Raw], name: str) -> str:
    return layered[name].source if name in layered else "default"


def _layered(
    cls: type[MeshSettings], argv: Sequence[str], env: Mapping[str, str], stored: Mapping[str, str]
) -> dict[str, _Raw]:
    section = next(name for name, known in SETTINGS.items() if known is cls)
    from_env, from_flags = _environment(section, env), _flags(section, argv)
    upper = {**from_env, **from_flags}
    from_store = {name: _Raw(text, "configuration store") for name, text in stored.items()}
    return {**_file(section, _config_path(upper, env)), **from_store, **upper}


def _validated(cls: type[S], layered: Mapping[str, _Raw]) -> S:
    try:
        return cls(**by_table({name: raw.value for name, raw in layered.items()}))
    except ValidationError as error:
        problem = error.errors()[0]
        where = [str(part) for part in problem["loc"]]
        name = ".".join(where[: 2 if where[0] in SHARED_TABLES else 1])
        text = problem["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{_source(layered, name)}: {'.'.join(where)}: {text}") from None


def _environment(section: str, env: Mapping[str, str]) -> dict[str, _Raw]:
    known = {variable(s, name) for s, cls in SETTINGS.items() for name in setting_fields(cls)}
    for name in env:
        if name.startswith(PREFIX) and name not in known | _OTHER_VARIABLES:
            raise SettingsError(f"unknown variable {name}{nearest(name, known)}")
    return {
        name: _Raw(env[variable(section, name)], f"environment {variable(section, name)}")
        for name in setting_fields(SETTINGS[section])
        if variable(section, name) in env
    }


def _config_path(upper: Mapping[str, _Raw], env: Mapping[str, str]) -> Path:
    if CONFIG in env:
        path = Path(env[CONFIG]).expanduser()
        if not path.is_file():
            raise SettingsError(f"{CONFIG} names {path}, which is not a file")
        return path
    data_dir = upper["data_dir"].value if "data_dir" in upper else _default_data_dir()
    return Path(data_dir).expanduser() / "mlxmesh.toml"


def _default_data_dir() -> Path:
    return MeshSettings().data_dir


def _file(section: str, path: Path) -> dict[str, _Raw]:
    if not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None
    for table, content in tables.items():
        _check_table(path, table, content)
    wanted = {**tables.get("mesh", {}), **tables.get(section, {})}
    for table in SHARED_TABLES:
        wanted |= {f"{table}.{name}": value for name, value in tables.get(table, {}).items()}
    return {name: _Raw(value, f"file {path}") for name, value in wanted.items()}


def _check_table(path: Path, table: str, content: Any) -> None:
    tables = [*SETTINGS, *SHARED_TABLES]
    if table not in tables:
        raise SettingsError(f"{path}: unknown table [{table}]{nearest(table, tables)}")
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: {table} must be a table: write [{table}]")
    known = table_fields(table)
    for name in cast("dict[str, Any]", content):
        if name not in known:
            hint = right_place(name) or nearest(name, known)
            raise SettingsError(f"{path}: unknown setting {name} in [{table}]{hint}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise SettingsError(message)


def _flags(section: str, argv: Sequence[str]) -> dict[str, _Raw]:
    parser = _Parser(prog=f"python -m mlxmesh_{section}", allow_abbrev=False)
    fields = setting_fields(SETTINGS[section])
    for name, field in fields.items():
        _add_flag(parser, name, field)
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        raise SettingsError(f"unknown flag {unknown[0]}{nearest(unknown[0], map(flag, fields))}")
    return {name: _Raw(value, f"flag {flag(name)}") for name, value in vars(parsed).items()}


def _add_flag(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    text = (field.description or "").replace("%", "%%")
    default = field.get_default(call_default_factory=True)
    if bool in (field.annotation, *get_args(field.annotation)):
        action = argparse.BooleanOptionalAction
        parser.add_argument(
            flag(name), dest=name, action=action, default=argparse.SUPPRESS, help=text
        )
        return
    shown = f"{text} Default: {default}." if default not in (None, "", ()) else text
    parser.add_argument(
        flag(name), dest=name, default=argparse.SUPPRESS, metavar="VALUE", help=shown
    )
