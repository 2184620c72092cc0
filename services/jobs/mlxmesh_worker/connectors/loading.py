"""Finds connectors by the entry points of installed packages."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_worker.connectors.port import ConnectorType

GROUP = "mlxmesh.connectors"
PROTOCOLS = ("http", "websocket", "grpc")
_NAME = re.compile(rf"[a-z][a-z0-9]*(_[a-z0-9]+)*_({'|'.join(PROTOCOLS)})")
_OPERATION = re.compile(r"[a-z][a-z0-9_-]{0,63}")
MAX_NAME_LENGTH = 64


def load_connectors(names: Sequence[str] = ()) -> Mapping[str, ConnectorType]:
    """The connectors of these names, or all that are installed.

    Raises: InvalidArgument for a name that is not installed, with those that are; for one that
        cannot be loaded or breaks the rules of connectors.
    """
    found = _installed()
    for name in names:
        if name not in found:
            raise _illegal(f"there is no connector {name}; there are {', '.join(sorted(found))}")
    return {name: _loaded(found[name]) for name in (names or sorted(found))}


def connector_names() -> Sequence[str]:
    """The names of all installed connectors, sorted."""
    return sorted(_installed())


def _installed() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        # The same distribution may be on the path twice, such as a checkout and its wheel.
        if entry.value != found.setdefault(entry.name, entry).value:
            values = f"{found[entry.name].value} and {entry.value}"
            raise _illegal(f"two packages have a connector {entry.name}: {values}; remove one")
    return found


def _loaded(entry: EntryPoint) -> ConnectorType:
    if not _NAME.fullmatch(entry.name) or len(entry.name) > MAX_NAME_LENGTH:
        raise _illegal(
            f"the connector {entry.name} must be named WHAT_PROTOCOL, such as comfyui_http: "
            f"a-z 0-9 _, at most {MAX_NAME_LENGTH}, the protocol one of {', '.join(PROTOCOLS)}"
        )
    try:
        loaded: Any = entry.load()
    # A foreign package may raise anything when it is imported.
    except Exception as error:
        kind = type(error).__name__
        raise _illegal(
            f"the connector {entry.name} ({entry.value}) cannot be loaded: {kind}: {error}"
        ) from error
    if getattr(loaded, "name", None) != entry.name:
        raise _illegal(f"{entry.value} must have the name {entry.name} of its entry point")
    operations: Sequence[str] = getattr(loaded, "operations", ())
    if not operations or not all(_OPERATION.fullmatch(name) for name in operations):
        raise _illegal(
            f"the connector {entry.name} must list its operations, each 1 to 64 of a-z 0-9 _ -, "
            "beginning with a letter"
        )
    if not callable(loaded):
        raise _illegal(f"{entry.value} must be callable with a Target")
    return cast("ConnectorType", loaded)


def _illegal(what: str) -> InvalidArgument:
    return InvalidArgument(what, field="connectors")
