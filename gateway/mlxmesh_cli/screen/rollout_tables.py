"""Rollouts as tables and lines."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group
from rich.text import Text

from mlxmesh.model.v1 import rollout_pb2 as pb
from mlxmesh_cli.screen.grid import Column, Grid
from mlxmesh_client.guards import guard_text, value_text

_STYLES = {
    pb.ROLLOUT_STATE_PROMOTED: "green",
    pb.ROLLOUT_STATE_ROLLED_BACK: "red",
    pb.ROLLOUT_STATE_ABORTED: "red",
    pb.ROLLOUT_STATE_PAUSED: "yellow",
}


def rollouts_table(rollouts: Iterable[pb.Rollout]) -> Grid:
    """One row per rollout."""
    table = Grid(
        Column("rollout"),
        Column("alias"),
        Column("from", right=True),
        Column("to", right=True),
        Column("state"),
        Column("weight", right=True),
        Column("steps", drop=2),
        Column("started", drop=1),
    )
    for each in rollouts:
        table.add(
            each.rollout_id,
            f"{each.model}:{each.alias}",
            str(each.from_version),
            str(each.to_version),
            _state(each.state),
            f"{each.weight}%",
            ",".join(map(str, each.steps)),
            _time(each.create_time, "%Y-%m-%d %H:%M:%S"),
        )
    return table


def rollout_view(rollout: pb.Rollout) -> Group:
    """A rollout, what its guards read, and its history."""
    parts: list[Grid | Text | str] = [rollouts_table([rollout])]
    if rollout.readings:
        parts += ["", Text(_step(rollout)), _readings_table(rollout.readings)]
    parts += ["", *(change_line(change) for change in rollout.history)]
    return Group(*parts)


def change_line(change: pb.RolloutChange) -> Text:
    """One change of the history."""
    line = Text(f"{_time(change.time, '%H:%M:%S')} ", style="dim")
    line.append_text(_state(change.state, cells=11))
    line.append(f" {change.weight:3}%  {_shown(change.reason)}", style="default")
    if change.principal and change.principal not in change.reason:
        line.append(f" (by {_shown(change.principal)})", style="default")
    return line


def _step(rollout: pb.Rollout) -> str:
    return (
        f"step {rollout.step + 1} of {len(rollout.steps)}, since"
        f" {_time(rollout.step_time, '%H:%M:%S')}, holds {rollout.hold.seconds} s;"
        f" {rollout.requests} requests of at least {rollout.min_requests}"
    )


def _readings_table(readings: Iterable[pb.GuardReading]) -> Grid:
    table = Grid(
        Column("guard"), Column("new", right=True), Column("present", right=True), Column("kept")
    )
    for each in readings:
        value = value_text(each.guard, each.value) if each.HasField("value") else "-"
        baseline = value_text(each.guard, each.baseline) if each.HasField("baseline") else "-"
        kept = Text("yes", style="green") if each.kept else Text("no", style="red")
        table.add(guard_text(each.guard), value, baseline, kept)
    return table


def _state(state: pb.RolloutState.ValueType, cells: int = 0) -> Text:
    name = pb.RolloutState.Name(state).removeprefix("ROLLOUT_STATE_").lower()
    return Text(f"{name:{cells}}" if cells else name, style=_STYLES.get(state, ""))


def _time(at: Timestamp, form: str) -> str:
    return f"{at.ToDatetime(tzinfo=UTC).astimezone():{form}}"


def _shown(text: str) -> str:
    """The text with control characters replaced."""
    return "".join(each if each.isprintable() else "?" for each in text)
