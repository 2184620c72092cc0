"""The names of settings: in mlxmesh.toml, in the environment and on command lines.

A setting in a table that all processes share is named TABLE.SETTING, as `consul.address`: in the
file `address` under `[consul]`, else MLXMESH_CONSUL_ADDRESS and --consul-address.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlxmesh_shared.settings.sections import SETTINGS, MeshSettings

PREFIX = "MLXMESH_"


def _table_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


SHARED_TABLES: Mapping[str, type[BaseModel]] = {
    name: table
    for name, field in MeshSettings.model_fields.items()
    if (table := _table_of(field)) is not None
}


def setting_fields(cls: type[MeshSettings]) -> dict[str, FieldInfo]:
    """Each setting of a section, with those of the shared tables, by name."""
    found: dict[str, FieldInfo] = {}
    for name, field in cls.model_fields.items():
        table = SHARED_TABLES.get(name)
        if table is None:
            found[name] = field
        else:
            found |= {f"{name}.{inner}": each for inner, each in table.model_fields.items()}
    return found


def setting_value(settings: MeshSettings, name: str) -> Any:
    """The value of the setting of that name."""
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def given_names(settings: MeshSettings) -> list[str]:
    """The mesh's settings that were given a value, in contrast to those with their default."""
    given = settings.model_fields_set & MeshSettings.model_fields.keys()
    inner = [f"{table}.{name}" for table in SHARED_TABLES for name in _given_in(settings, table)]
    return [*sorted(given - SHARED_TABLES.keys()), *inner]


def _given_in(settings: MeshSettings, table: str) -> list[str]:
    content: BaseModel = getattr(settings, table)
    return sorted(content.model_fields_set)


def by_table(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by setting name as a section's constructor expects them: tables as dictionaries."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        table, _, inner = name.rpartition(".")
        (nested.setdefault(table, {}) if table else nested)[inner] = value
    return nested


def variable(section: str, name: str) -> str:
    """The environment variable of a section's setting."""
    written = name.replace(".", "_")
    if section == "mesh" or name in setting_fields(MeshSettings):
        return f"{PREFIX}{written}".upper()
    return f"{PREFIX}{section}_{written}".upper()


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace(".", "-").replace("_", "-")


def table_fields(table: str) -> frozenset[str]:
    """The names that a table of mlxmesh.toml may have."""
    if table in SHARED_TABLES:
        return frozenset(SHARED_TABLES[table].model_fields)
    own = SETTINGS[table].model_fields.keys() - SHARED_TABLES.keys()
    return frozenset(own if table == "mesh" else own - MeshSettings.model_fields.keys())


def right_place(name: str) -> str:
    """A hint for a name in the wrong table; empty if no table has it."""
    if name in SHARED_TABLES:
        return f" (it belongs in [{name}])"
    if name in MeshSettings.model_fields:
        return " (it belongs in [mesh])"
    for table in SHARED_TABLES:
        inner = name.removeprefix(f"{table}_")
        if inner != name and inner in table_fields(table):
            return f" (write it as {inner} in [{table}])"
    return ""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like an unknown one, as a question; empty when none is."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
