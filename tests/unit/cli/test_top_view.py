"""A screen of `mlxmesh top`: everything that matters fits into 80 columns and any height."""

from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from mlxmesh.telemetry.v1 import telemetry_pb2 as t
from mlxmesh.telemetry.v1.events_pb2 import Event, InstanceDeregistered
from mlxmesh.telemetry.v1.traffic_pb2 import Percentiles, Traffic
from mlxmesh_cli.screen.top_view import BAR_CELLS, Screen, frame
from mlxmesh_shared.events import make_event

NOW = datetime(2026, 11, 21, 16, 0, tzinfo=UTC)
CLOSED = t.Breaker(state=t.BREAKER_STATE_CLOSED)
LOAD = t.Load(
    running=31,
    waiting=2,
    max_running=64,
    kv_bytes=120_000_000,
    kv_capacity_bytes=11_000_000_000,
    tokens_per_second=1234.4,
    prompt_tokens=100,
    cached_prompt_tokens=83,
)
ENGINE = t.Instance(
    service="engine",
    instance_id="pocket-v1-1fe099",
    health=t.HEALTH_SERVING,
    breaker=CLOSED,
    load=LOAD,
)
GENERATION = t.Instance(
    service="generation",
    instance_id="generation-f69e0d35",
    address="127.0.0.1:36717",
    health=t.HEALTH_UNREACHABLE,
    outstanding=5,
    breaker=t.Breaker(state=t.BREAKER_STATE_OPEN),
)
TRAFFIC = Traffic(
    running=3,
    requests=1204,
    errors=7,
    time_to_first_token=Percentiles(count=9, p50_ms=12.34, p90_ms=99.94, p99_ms=1234.5),
    between_messages=Percentiles(count=9, p50_ms=7.3, p90_ms=35.8, p99_ms=79.9),
)


def event(number: int) -> Event:
    return make_event(
        InstanceDeregistered(), service="gateway", instance_id="g", correlation_id=f"e-{number}"
    )


def shown(*, width: int = 80, height: int = 40, **known: Any) -> list[str]:
    status = t.GetMeshStatusResponse(instances=[GENERATION, ENGINE], traffic=[TRAFFIC])
    screen = Screen("127.0.0.1:50051", NOW, **{"status": status, **known})
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(frame(screen, height))
    return capture.get().splitlines()


def line_of(lines: list[str], word: str) -> str:
    [line] = [line for line in lines if word in line]
    return line


def test_an_engine_shows_batch_queue_memory_prefix_hits_and_breaker() -> None:
    line = line_of(shown(), "pocket-v1-1fe099")
    assert line.split()[1:] == ["████░░░░", "31/64", "2", "1,234", "120/11,000", "83%", "closed"]


def test_an_engine_shows_its_background_sequences_apart() -> None:
    engine = t.Instance()
    engine.CopyFrom(ENGINE)
    engine.load.background = 88
    lines = shown(width=120, status=t.GetMeshStatusResponse(instances=[engine]))
    assert "31/64  2, 88 background" in line_of(lines, "pocket-v1-1fe099")


def test_traffic_shows_percentiles() -> None:
    line = line_of(shown(), "all models")
    numbers = ["3", "1,204", "7", "12.3", "99.9", "1,234", "7.3", "35.8", "79.9"]
    assert line.split()[2:] == numbers


def test_a_service_shows_its_health_calls_and_breaker() -> None:
    line = line_of(shown(), "generation-f69e0d35")
    assert line.split()[1:] == ["127.0.0.1:36717", "unreachable", "5", "open"]


def test_all_engines_together_are_in_the_headline() -> None:
    assert shown()[0].startswith("mlxmesh top 127.0.0.1:50051  16:00:00  1,234 tokens/s")


def test_nothing_is_wider_than_80_columns() -> None:
    lines = shown(events=[event(number) for number in range(3)])
    assert max(len(line.rstrip()) for line in lines) <= 80


@pytest.mark.parametrize(("height", "expected"), [(24, 11), (16, 3), (5, 3), (100, 30)])
def test_the_height_decides_how_many_of_the_last_events_are_shown(
    height: int, expected: int
) -> None:
    lines = shown(height=height, events=[event(number) for number in range(30)])
    told = [line for line in lines if "instance.deregistered" in line]
    assert len(told) == expected
    assert "e-29" in told[-1]
    assert height < 16 or len(lines) <= height


def test_a_gateway_that_is_away_leaves_what_was_known_and_says_so() -> None:
    lines = shown(problem="the gateway is away (SERVICE_UNAVAILABLE)")
    assert "the gateway is away" in lines[0]
    assert line_of(lines, "pocket-v1-1fe099")
    assert len(shown(status=None, problem="the gateway is away")) == 1


def test_who_may_not_see_events_is_told_why() -> None:
    assert "no events: the role client may not" in "".join(
        shown(no_events="the role client may not call this method")
    )


def test_an_empty_mesh_is_a_screen_too() -> None:
    lines = shown(status=t.GetMeshStatusResponse(traffic=[Traffic()]))
    assert "no events yet" in "".join(lines)


@pytest.mark.parametrize(("running", "filled"), [(0, 0), (1, 1), (32, 4), (64, 8), (70, 8)])
def test_the_bar_of_a_batch(running: int, filled: int) -> None:
    load = t.Load(running=running, max_running=64)
    engine = t.Instance(service="engine", instance_id="e-1", load=load)
    lines = shown(status=t.GetMeshStatusResponse(instances=[engine]))
    line = line_of(lines, f"{running}/64")
    assert line.count("█") == filled
    assert line.count("░") == BAR_CELLS - filled
