"""Tables of models, profiles and instances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from mlxmesh_cli.screen.ensembles import kind_of, models_of
from mlxmesh_cli.screen.grid import Column, Grid
from mlxmesh_cli.screen.output import to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.artifact_pb2 import Artifact
    from mlxmesh.model.v1.model_pb2 import Model
    from mlxmesh.model.v1.profile_pb2 import Profile

MIN_FAILURE_CELLS = 20


def models_table(models: Sequence[Model]) -> Grid:
    """One row per version, and one per ensemble."""
    table = Grid(
        Column("model"),
        Column("state"),
        Column("ready", right=True),
        Column("params", drop=3, right=True),
        Column("size", drop=4, right=True),
        Column("dtype", drop=6),
        Column("context", drop=5, right=True),
        Column("kind", drop=3, rare=True),
        Column("profile", drop=5, rare=True),
        Column("ranks", drop=3, rare=True),
        Column("aliases", drop=2),
        Column("source", drop=7),
        Column("failure", drop=1, min_cells=MIN_FAILURE_CELLS, rare=True),
    )
    for message in models:
        model = to_dict(message)
        for version in model["versions"]:
            table.add(*_model_row(model, version))
        if message.HasField("ensemble"):
            recipe = f"{kind_of(message.ensemble)} of {models_of(message.ensemble)}"
            table.add(message.name, "ensemble", *([""] * 9), recipe, "")
    return table


def profiles_table(profiles: Sequence[Profile]) -> Grid:
    """One row per profile."""
    table = Grid(
        Column("profile"),
        Column("sets", min_cells=MIN_FAILURE_CELLS),
        Column("used by", drop=1, min_cells=MIN_FAILURE_CELLS),
    )
    for profile in profiles:
        given = [f"{name}={value}" for name, value in profile_settings(profile).items()]
        if profile.settings.chat_template:
            given.append("chat_template")
        label = f"{profile.name}@{profile.revision}"
        table.add(label, " ".join(given) or "nothing", " ".join(profile.used_by))
    return table


def profile_settings(profile: Profile) -> dict[str, str]:
    """What a profile sets, but for its chat template, in the order of the contract."""
    return {
        field.name: str(value)
        for field, value in profile.settings.ListFields()
        if field.name != "chat_template"
    }


def _model_row(model: dict[str, Any], version: dict[str, Any]) -> Iterable[str]:
    number = version["version"]
    aliases = sorted(alias for alias, meant in model["aliases"].items() if meant == number)
    if version.get("upstream"):
        return (
            f"{model['name']}@{number}",
            version["state"],
            "upstream",
            *("", "", ""),
            f"{version['context_tokens']:,}" if version["context_tokens"] else "",
            *("", "", ""),
            " ".join(aliases),
            version["source"],
            _failure(version),
        )
    return (
        f"{model['name']}@{number}",
        version["state"],
        f"{version['ready_replicas']}/{version['desired_replicas']}",
        f"{int(version['parameters']) / 1e6:,.1f} M",
        f"{int(version['weights_bytes']) / 1e6:,.1f} MB",
        version["dtype"],
        f"{version['context_tokens']:,}",
        "" if version["kind"] in ("generation", "unspecified") else version["kind"],
        f"{version['profile']}@{version['profile_revision']}" if version["profile"] else "",
        _ranks(version),
        " ".join(aliases),
        version["source"],
        _failure(version),
    )


def _failure(version: dict[str, Any]) -> str:
    """The failure, the time of the next attempt, the runtimes that rejected a replica, and those
    that fetch the files.
    """
    failed = version.get("failure", {}).get("message", "")
    words = [failed + _next_attempt(version)] if failed else []
    for runtime, fetch in sorted(version.get("fetches", {}).items()):
        words.append(fetch_words(runtime, int(fetch["done_bytes"]), int(fetch["total_bytes"])))
    for runtime, why in sorted(version.get("rejections", {}).items()):
        message = why["message"]
        if message not in failed:
            words.append(message if runtime in message else f"{runtime}: {message}")
    return "; ".join(words)


def _ranks(version: dict[str, Any]) -> str:
    """The ranks of each replica that is a group, and where they run; `2 wanted` while none runs,
    `2` while none should.
    """
    size = version.get("group_size", 1)
    if size < 2:
        return ""
    wanted = f"{size} wanted" if version["desired_replicas"] else f"{size}"
    return "; ".join(group_words(version)) or wanted


def group_words(version: dict[str, Any]) -> list[str]:
    """For each replica that is a group, where its ranks run."""
    return [_group_words(group["ranks"]) for group in version.get("groups", ())]


def _group_words(ranks: Sequence[dict[str, Any]]) -> str:
    """Such as `ranks 0 and 2 on runtime-a (10.0.0.1), rank 1 on runtime-b (10.0.0.2, 0.4 ms)`:
    the time is a round trip from rank 0.
    """
    places: dict[str, list[str]] = {}
    for rank in ranks:
        round_trip_ms = rank.get("round_trip_us", 0) / 1000
        known = [rank["host"], f"{round_trip_ms:.1f} ms" if round_trip_ms else ""]
        about = ", ".join(filter(None, known))
        where = f"{rank['runtime_id']} ({about})" if about else rank["runtime_id"]
        places.setdefault(where, []).append(str(rank["rank"]))
    return ", ".join(
        f"{'ranks' if len(numbers) > 1 else 'rank'} {joined(numbers)} on {where}"
        for where, numbers in places.items()
    )


def joined(words: Sequence[str]) -> str:
    """Such as `0, 1 and 2`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def fetch_words(runtime: str, done_bytes: int, total_bytes: int) -> str:
    """How far a runtime is that fetches files; the total is 0 until it is known."""
    if not total_bytes:
        return f"{runtime} looks for the files"
    return f"{runtime} fetches {done_bytes / 1e6:,.1f} of {total_bytes / 1e6:,.1f} MB"


def _next_attempt(version: dict[str, Any]) -> str:
    if not version["desired_replicas"]:
        return ""
    if version["retry_in_ms"]:
        return f" (next attempt within {version['retry_in_ms'] / 1000:g} s)"
    return " (retry with `mlxmesh load`)"


def artifacts_table(artifacts: Iterable[Artifact]) -> Grid:
    """One row per version's files."""
    table = Grid(
        Column("model"),
        Column("state"),
        Column("size", right=True),
        Column("shared", drop=3, right=True),
        Column("verified", drop=2),
        Column("damaged", drop=1, min_cells=MIN_FAILURE_CELLS, rare=True),
        Column("directory", drop=4),
    )
    for artifact in map(to_dict, artifacts):
        table.add(
            f"{artifact['model']}@{artifact['version']}",
            artifact["state"],
            f"{int(artifact['bytes']) / 1e6:,.1f} MB",
            f"{int(artifact['shared_bytes']) / 1e6:,.1f} MB",
            artifact.get("verify_time", "never")[:16].replace("T", " "),
            ", ".join(artifact["damaged_files"]),
            artifact["directory"],
        )
    return table


def overview_view(state: dict[str, Any]) -> Group:
    """The instances of a mesh and its models, one table above the other."""
    problems = [Text(problem, style="red") for problem in state.get("problems", ())]
    return Group(instances_table(state["instances"]), "", _states_table(state["models"]), *problems)


def instances_table(instances: Sequence[dict[str, Any]]) -> Grid:
    """Instances as a table; rows are those of `mlxmesh status --json`."""
    table = Grid(
        Column("service", drop=1),
        Column("instance"),
        Column("address", drop=4),
        Column("pid", drop=5, right=True),
        Column("state"),
        Column("calls", drop=3, right=True),
        Column("breaker", drop=6),
        Column("model", drop=7),
        Column("last exit", drop=2, min_cells=MIN_FAILURE_CELLS, rare=True),
    )
    for row in instances:
        table.add(
            row["service"],
            row["instance_id"],
            row["address"],
            str(row["pid"] or ""),
            _state(row),
            _calls(row),
            _breaker(row.get("breaker")),
            row.get("model", ""),
            row.get("last_exit", ""),
        )
    return table


def _state(row: dict[str, Any]) -> Text:
    """The state; for a service that is down, also the time until its restart."""
    again = f" in {row['restart_in_ms'] / 1000:.0f} s" if row["state"] == "restarting" else ""
    return Text(f"{row['state']}{again}", style="green" if row["state"] == "serving" else "red")


def _calls(row: dict[str, Any]) -> str:
    """Running calls; for an engine, its sequences: running, maximum, waiting, background."""
    load = row.get("load")
    if load is None:
        return str(row.get("outstanding", ""))
    waiting = f" +{load['waiting']}" if load["waiting"] else ""
    background = f", {load['background']} background" if load.get("background") else ""
    return f"{load['running']}/{load['max_running']}{waiting}{background}"


def _breaker(breaker: dict[str, Any] | None) -> Text:
    """The breaker's state; for an open one, also the time until its next attempt."""
    if breaker is None:
        return Text("")
    if breaker["state"] == "closed":
        return Text("closed")
    again = f", retries in {breaker['retry_in_ms'] / 1000:.1f} s" if breaker["retry_in_ms"] else ""
    return Text(breaker["state"], style="red") + f" ({breaker['failures']} failed{again})"


def _states_table(models: Sequence[dict[str, Any]]) -> Grid:
    table = Grid(
        Column("model"),
        Column("state"),
        Column("ready", right=True),
        Column("ranks", drop=2, rare=True),
        Column("failure", drop=1, min_cells=MIN_FAILURE_CELLS, rare=True),
    )
    for model in models:
        for version in model["versions"]:
            ready = f"{version['ready_replicas']}/{version['desired_replicas']}"
            ready = "upstream" if version.get("upstream") else ready
            label = f"{model['name']}@{version['version']}"
            table.add(label, version["state"], ready, _ranks(version), _failure(version))
        if model.get("ensemble"):
            table.add(model["name"], "ensemble", "", "", "")
    return table
