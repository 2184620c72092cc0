"""Tables for people: models, and the instances of a mesh."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.table import Table

from mlxmesh.model.v1 import model_pb2

if TYPE_CHECKING:
    from mlxmesh.model.v1.model_pb2 import Model, ModelVersion


def print_models(models: Sequence[Model]) -> None:
    """One row a version."""
    console = Console()
    if not models:
        console.print("no models; add one with `mlxmesh register DIRECTORY` or `mlxmesh pull`")
        return
    console.print(models_table(models))


def models_table(models: Sequence[Model]) -> Table:
    """The models as a table."""
    table = _table("model", "state", "ready", "params", "size", "context", "aliases", "source")
    for model in models:
        for version in model.versions:
            table.add_row(*_model_row(model, version))
    return table


def _model_row(model: Model, version: ModelVersion) -> Iterable[str]:
    aliases = sorted(alias for alias, number in model.aliases.items() if number == version.version)
    state = model_pb2.VersionState.Name(version.state).removeprefix("VERSION_STATE_").lower()
    if version.HasField("failure"):
        state += f": {version.failure.message}"
    return (
        f"{model.name}@{version.version}",
        state,
        f"{version.ready_replicas}/{version.desired_replicas}",
        f"{version.parameters / 1e6:,.1f} M",
        f"{version.weights_bytes / 1e6:,.1f} MB {version.dtype}",
        str(version.context_tokens),
        " ".join(aliases),
        version.source,
    )


def overview_view(state: dict[str, Any]) -> Group:
    """The instances of a mesh and its models, one table above the other."""
    return Group(instances_table(state["instances"]), "", _states_table(state["models"]))


def instances_table(instances: Sequence[dict[str, Any]]) -> Table:
    """The instances of a mesh as a table; keys as `mlxmesh status --json` prints them."""
    table = _table("service", "instance", "address", "pid", "state", "calls", "breaker", "model")
    for row in instances:
        model = row.get("model", "")
        colour = "green" if row["state"] == "serving" else "red"
        table.add_row(
            row["service"],
            row["instance_id"],
            row["address"],
            str(row["pid"]),
            f"[{colour}]{row['state']}[/{colour}]",
            _calls(row),
            _breaker(row.get("breaker")),
            model,
        )
    return table


def _calls(row: dict[str, Any]) -> str:
    """Calls that run there; of an engine, sequences: running of at most, and waiting."""
    load = row.get("load")
    if load is None:
        return str(row.get("outstanding", ""))
    waiting = f" +{load['waiting']}" if load["waiting"] else ""
    return f"{load['running']}/{load['max_running']}{waiting}"


def _breaker(breaker: dict[str, Any] | None) -> str:
    """Empty where there is none; of an open one, how soon a call will try."""
    if breaker is None:
        return ""
    state = breaker["state"].removeprefix("BREAKER_STATE_").lower()
    if state == "closed":
        return state
    again = f", tries in {breaker['retry_in_ms'] / 1000:.1f} s" if breaker["retry_in_ms"] else ""
    return f"[red]{state}[/red] ({breaker['failures']} failed{again})"


def _states_table(models: Sequence[dict[str, Any]]) -> Table:
    table = _table("model", "state", "ready")
    for model in models:
        for version in model["versions"]:
            table.add_row(
                f"{model['name']}@{version['version']}",
                version["state"].removeprefix("VERSION_STATE_").lower(),
                f"{version['ready_replicas']}/{version['desired_replicas']}",
            )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        # Narrow terminals fold the other columns first: the name is what gets copied.
        table.add_column(column, overflow="fold", no_wrap=column == "model")
    return table
