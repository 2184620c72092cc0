"""Where a setting's value comes from: default, mlxmesh.toml, stored keys, environment, flags.

A name that nobody knows is an error that names the nearest known one.
"""

import argparse
import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from mlxmesh_shared.settings.sections import SETTINGS, MeshSettings

PREFIX = "MLXMESH_"
CONFIG = "MLXMESH_CONFIG"
# Variables that are no section's field.
_OTHER_VARIABLES = {
    CONFIG,
    "MLXMESH_EXIT_WITH_PARENT",
    # What clients and the examples read.
    "MLXMESH_ADDRESS",
    "MLXMESH_EXAMPLE_MODEL",
    "MLXMESH_CA",
    "MLXMESH_CERT",
    "MLXMESH_KEY",
}

S = TypeVar("S", bound=MeshSettings)


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it and says what would be right."""


class Sourced(NamedTuple):
    """A setting's value and where it came from."""

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
    """The section's settings; argv None means no flags. Raises: SettingsError.

    `stored` is what a key-value store says, setting name to text.
    """
    env = os.environ if env is None else env
    return _validated(cls, _layered(cls, argv or (), env, stored or {}))


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
        Sourced(
            name, getattr(settings, name), layered[name].source if name in layered else "default"
        )
        for name in cls.model_fields
    ]


def variable(section: str, name: str) -> str:
    """The environment variable of a section's field."""
    if section == "mesh" or name in MeshSettings.model_fields:
        return f"{PREFIX}{name}".upper()
    return f"{PREFIX}{section}_{name}".upper()


def _layered(
    cls: type[MeshSettings], argv: Sequence[str], env: Mapping[str, str], stored: Mapping[str, str]
) -> dict[str, _Raw]:
    section = next(name for name, known in SETTINGS.items() if known is cls)
    from_env, from_flags = _environment(section, env), _flags(section, argv)
    upper = {**from_env, **from_flags}
    from_store = {name: _Raw(text, "Consul KV") for name, text in stored.items()}
    return {**_file(section, _config_path(upper, env)), **from_store, **upper}


def _validated(cls: type[S], layered: Mapping[str, _Raw]) -> S:
    try:
        return cls(**{name: raw.value for name, raw in layered.items()})
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        where = ".".join(map(str, problem["loc"]))
        says = problem["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{layered[name].source}: {where}: {says}") from None


def _environment(section: str, env: Mapping[str, str]) -> dict[str, _Raw]:
    known = {variable(s, name) for s, cls in SETTINGS.items() for name in cls.model_fields}
    for name in env:
        if name.startswith(PREFIX) and name not in known | _OTHER_VARIABLES:
            raise SettingsError(f"unknown variable {name}{_nearest(name, known)}")
    return {
        name: _Raw(env[variable(section, name)], f"environment {variable(section, name)}")
        for name in SETTINGS[section].model_fields
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
    wanted = {**tables.get("mesh", {}), **(tables.get(section, {}))}
    return {name: _Raw(value, f"file {path}") for name, value in wanted.items()}


def _check_table(path: Path, table: str, content: Any) -> None:
    if table not in SETTINGS:
        raise SettingsError(f"{path}: unknown table [{table}]{_nearest(table, SETTINGS)}")
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: {table} must be a table: write [{table}]")
    own = set(SETTINGS[table].model_fields)
    known = own if table == "mesh" else own - set(MeshSettings.model_fields)
    for name in cast("dict[str, Any]", content):
        if name not in known:
            hint = " (it belongs in [mesh])" if name in own else _nearest(name, known)
            raise SettingsError(f"{path}: unknown setting {name} in [{table}]{hint}")


class _Parser(argparse.ArgumentParser):
    known: frozenset[str] = frozenset()

    def error(self, message: str) -> Any:
        raise SettingsError(message)


def _flags(section: str, argv: Sequence[str]) -> dict[str, _Raw]:
    parser = _Parser(prog=f"python -m mlxmesh_{section}", allow_abbrev=False)
    for name, field in SETTINGS[section].model_fields.items():
        _add_flag(parser, name, field)
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [_flag(name) for name in SETTINGS[section].model_fields]
        raise SettingsError(f"unknown flag {unknown[0]}{_nearest(unknown[0], known)}")
    return {name: _Raw(value, f"flag {_flag(name)}") for name, value in vars(parsed).items()}


def _add_flag(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    text = (field.description or "").replace("%", "%%")
    default = field.get_default(call_default_factory=True)
    if bool in (field.annotation, *get_args(field.annotation)):
        action = argparse.BooleanOptionalAction
        parser.add_argument(_flag(name), action=action, default=argparse.SUPPRESS, help=text)
        return
    shown = f"{text} Default: {default}." if default not in (None, "", ()) else text
    parser.add_argument(_flag(name), default=argparse.SUPPRESS, metavar="VALUE", help=shown)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
