"""One screen of `mlxmesh top`. Pure; readable at any width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from mlxmesh.telemetry.v1 import telemetry_pb2 as t
from mlxmesh.telemetry.v1.events_pb2 import Event
from mlxmesh.telemetry.v1.traffic_pb2 import Traffic
from mlxmesh_cli.screen.event_lines import event_line
from mlxmesh_cli.screen.grid import Column, Grid, WholeWords

BAR_CELLS = 8
MIN_EVENTS = 3
_MB = 1e6

_HEALTH = {
    t.HEALTH_SERVING: ("serving", "green"),
    t.HEALTH_NOT_SERVING: ("not_serving", "yellow"),
    t.HEALTH_UNREACHABLE: ("unreachable", "red"),
}


@dataclass(frozen=True)
class Screen:
    """The data of one screen."""

    gateway: str
    now: datetime
    status: t.GetMeshStatusResponse | None = None
    """The last status; None before the first response."""
    events: Sequence[Event] = ()
    """The last ones, oldest first."""
    problem: str = ""
    """Why the screen is out of date."""
    no_events: str = ""
    """Why there are no events."""


def frame(screen: Screen, height: int = 40) -> RenderableType:
    """The whole screen, with as many recent events as fit into the height."""
    parts: list[RenderableType] = [_headline(screen)]
    if screen.status is not None:
        instances = screen.status.instances
        engines = [one for one in instances if one.service == "engine"]
        services = [one for one in instances if one.service != "engine"]
        traffic = screen.status.traffic
        parts += ["", _traffic(traffic), "", _engines(engines), "", _services(services)]
        used = 10 + len(instances) + len(traffic)
        parts += ["", *_events(screen, max(MIN_EVENTS, height - used))]
    return Group(*parts)


def _headline(screen: Screen) -> Text:
    line = Text("mlxmesh top ", style="bold")
    line.append(f"{screen.gateway}  {screen.now:%H:%M:%S}", style="default")
    engines = [one.load for one in screen.status.instances] if screen.status else []
    line.append(f"  {sum(load.tokens_per_second for load in engines):,.0f} tokens/s", style="bold")
    if screen.problem:
        line.append(f"  {screen.problem}", style="bold red")
    return line


def _traffic(traffic: Iterable[Traffic]) -> Grid:
    """Times in milliseconds: to the first token, and between messages."""
    table = Grid(
        Column("last minute"),
        Column("runs", right=True),
        Column("ended", drop=2, right=True),
        Column("errors", right=True),
        Column("ttft p50", drop=1, right=True),
        Column("p90", drop=5, right=True),
        Column("p99", drop=3, right=True),
        Column("gap p50", drop=4, right=True),
        Column("p90", drop=7, right=True),
        Column("p99", drop=6, right=True),
    )
    for one in traffic:
        first, between = one.time_to_first_token, one.between_messages
        table.add(
            one.model or "all models",
            str(one.running),
            f"{one.requests:,}",
            Text(f"{one.errors:,}", style="red" if one.errors else ""),
            *(_ms(each) for each in (first.p50_ms, first.p90_ms, first.p99_ms)),
            *(_ms(each) for each in (between.p50_ms, between.p90_ms, between.p99_ms)),
        )
    return table


def _engines(engines: Iterable[t.Instance]) -> Grid:
    table = Grid(
        Column("engine"),
        Column("batch", drop=5),
        Column("", right=True),
        Column("queue", drop=1, right=True),
        Column("tok/s", drop=2, right=True),
        Column("KV MB", drop=4, right=True),
        Column("prefix", drop=6, right=True),
        Column("breaker", drop=3),
    )
    for one in engines:
        load = one.load
        table.add(
            _health(one, one.instance_id),
            _bar(load.running, load.max_running),
            f"{load.running}/{load.max_running}",
            _queue(load),
            f"{load.tokens_per_second:,.0f}",
            _of(load.kv_bytes, load.kv_capacity_bytes),
            _part(load.cached_prompt_tokens, load.prompt_tokens),
            _breaker(one),
        )
    return table


def _queue(load: t.Load) -> Text:
    """Those that wait for a place; background sequences run or wait and are in nobody's way."""
    waiting = Text(str(load.waiting), style="yellow" if load.waiting else "")
    return waiting + f", {load.background} background" if load.background else waiting


def _services(services: Iterable[t.Instance]) -> Grid:
    table = Grid(
        Column("instance"),
        Column("address", drop=3),
        Column("state"),
        Column("calls", drop=1, right=True),
        Column("breaker", drop=2),
    )
    for one in services:
        words, _ = _HEALTH.get(one.health, ("not_asked", ""))
        state = "draining" if one.metadata.get("state") == "draining" else words
        calls = str(one.outstanding) if one.HasField("breaker") else ""
        table.add(one.instance_id, one.address, _health(one, state), calls, _breaker(one))
    return table


def _events(screen: Screen, limit: int) -> list[RenderableType]:
    if screen.no_events:
        return [Text(f"no events: {screen.no_events}", style="dim")]
    lines = [WholeWords(event_line(event)) for event in screen.events[-limit:]]
    return [Text("last events" if lines else "no events yet", style="dim"), *lines]


def _health(one: t.Instance, words: str) -> Text:
    return Text(words, style=_HEALTH.get(one.health, ("", ""))[1])


def _breaker(one: t.Instance) -> Text:
    if not one.HasField("breaker"):
        return Text("")
    state = t.BreakerState.Name(one.breaker.state).removeprefix("BREAKER_STATE_").lower()
    return Text(state, style="" if state == "closed" else "red")


def _bar(part: int, whole: int) -> Text:
    filled = min(BAR_CELLS, -(-part * BAR_CELLS // whole)) if whole else 0
    return Text("█" * filled, style="green") + Text("░" * (BAR_CELLS - filled), style="dim")


def _of(used_bytes: int, capacity_bytes: int) -> str:
    capacity = f"/{capacity_bytes / _MB:,.0f}" if capacity_bytes else ""
    return f"{used_bytes / _MB:,.0f}{capacity}"


def _part(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _ms(value: float) -> str:
    return f"{value:.1f}" if 0 < value < 100 else f"{value:,.0f}"
